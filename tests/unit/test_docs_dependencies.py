"""docs/dependencies.md gives the reason for each dependency of pyproject.toml, and for nothing else."""

from __future__ import annotations

import re
import sys
import tomllib
from typing import TYPE_CHECKING

from support.source_tree import PACKAGES, ROOT, facts_of

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGE = (ROOT / "docs" / "dependencies.md").read_text()
OWN = set(PACKAGES)
MODULES = {
    "grpc": "grpcio",
    "PIL": "pillow",
    "yaml": "PyYAML",
    "jwt": "PyJWT",
    "google": "protobuf",
    "grpc_reflection": "grpcio_reflection",
    "azure": "azure_storage_blob",
}
"""Import names that are not the distribution's name. google.protobuf, and Google's client, which is an extra;
google_crc32c is its own."""
RUN_TIME_EXTRAS = ("gcs", "azure")


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]


def sections() -> dict[str, str]:
    """Heading -> what is below it, up to the next heading."""
    parts = re.split(r"^### (.+)$", PAGE, flags=re.MULTILINE)
    return {title.strip(): text.split("\n## ")[0].strip() for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_each_dependency_has_its_reason_and_each_reason_its_dependency():
    extras = PROJECT["optional-dependencies"].values()
    declared = {name_of(item) for group in [PROJECT["dependencies"], *extras] for item in group}
    declared -= {PROJECT["name"]}
    documented = {name for title in sections() for name in title.split(", ")}
    assert documented == declared


def test_no_reason_is_empty():
    assert not [title for title, text in sections().items() if len(text) < 10]


def test_what_is_imported_is_declared_as_a_runtime_dependency():
    optional = [item for extra in RUN_TIME_EXTRAS for item in PROJECT["optional-dependencies"][extra]]
    declared = {name_of(item).replace("-", "_").lower() for item in [*PROJECT["dependencies"], *optional]}
    missing = {
        f"{path.relative_to(ROOT)} imports {top}"
        for package in OWN
        for path in (ROOT / package).rglob("*.py")
        for top in foreign_imports(path)
        if MODULES.get(top, top).lower() not in declared
    }
    assert not missing, "\n".join(sorted(missing))


def foreign_imports(path: Path) -> set[str]:
    """The first words of what `path` imports from outside the project and the standard library."""
    tops = {name.split(".")[0] for _, name in facts_of(path).imports}
    return tops - OWN - sys.stdlib_module_names
