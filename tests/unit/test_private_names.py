"""No test uses a private name of the product: ruff's SLF001 sees neither imports nor names in texts."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PACKAGES = ("native_handlers", "supervisor")
NAMES_IN_TEXTS = {"setattr", "getattr", "delattr", "patch"}
"""Functions that take the name of an attribute, or the path of one, as a text."""
SILENCED = "noqa: " + "SLF001"
CANDIDATE = re.compile(
    rf"""{SILENCED}|\b(?:from|import) [^#"'=]*[ .]_[A-Za-z]"""
    rf"""|(?:{"|".join(NAMES_IN_TEXTS)})\((?s:.{{0,300}}?)["'.]_[A-Za-z]"""
)
"""A mark of each text with a private name. Most texts have none, and need not be parsed."""


def is_private(path: str) -> bool:
    """Whether a part of the dotted path is private; a name like `__init__` is not."""
    return any(part.startswith("_") and not part.endswith("__") for part in path.split("."))


def private_names(source: str) -> list[str]:
    """The lines of a test that use a private name, each with the name."""
    if not CANDIDATE.search(source):
        return []
    found = [f"{number}: {SILENCED}" for number, line in enumerate(source.splitlines(), 1) if SILENCED in line]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith(PACKAGES)]
        elif isinstance(node, ast.ImportFrom):
            is_own = (node.module or "").startswith(PACKAGES)
            names = [f"{node.module}.{alias.name}" for alias in node.names] if is_own else []
        elif isinstance(node, ast.Call) and called_name(node) in NAMES_IN_TEXTS:
            names = [arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        else:
            continue
        found += [f"{node.lineno}: {name}" for name in names if is_private(name)]
    return found


def called_name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


@pytest.mark.slow
def test_no_test_uses_a_private_name_of_the_product():
    """Tests of private names hold the code still that they should leave free to change. Slow: parses many tests."""
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        for line in private_names(path.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "from supervisor.app import _run",
        "import supervisor._app",
        "from native_handlers._grpc import node",
        "monkeypatch.setattr(module, '_LIMIT', 3)",
        "monkeypatch.setattr('supervisor.app._LIMIT', 3)",
        "setattr(store, '_volumes', {})",
        "getattr(store, '_volumes')",
        f"store._volumes  # {SILENCED}",
    ],
)
def test_private_names_are_found(line):
    assert private_names(line)


@pytest.mark.parametrize(
    "line",
    [
        "from supervisor.app import run",
        "from _pytest import fixtures",
        "monkeypatch.setattr(Store, '__init__', remember)",
        "monkeypatch.setenv('_X', '1')",
    ],
)
def test_public_names_are_not(line):
    assert not private_names(line)
