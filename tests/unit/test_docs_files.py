"""The documents name files that exist, each so that it is the only one. The bench, which no other test runs, can be
loaded.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACES = ("", "native_handlers/", "native_handlers/storage/", "supervisor/", "tests/", "tests/contract/")
"""Where a path in a page may begin."""
PATHS = re.compile(r"`([a-z0-9_*]+(?:/[a-z0-9_*]+)*/?|[A-Za-z0-9_*-]+(?:/[A-Za-z0-9_*-]+)*\.(?:py|md|yaml))(?:::\w+)?`")
ENDS = (".py", ".md", ".yaml")
FOLDER_OF_NAMES = {"docs/authority.md": "supervisor/authority", "docs/testing.md": "tests/support"}
"""Pages with a table of one folder: a name without a folder that several files have means the one of that folder."""
FOREIGN = (
    "weed/",
    "test/volume_server/",
    "seaweed-volume/",
    "application/",
    "text/",
    "image/",
    "net/http",
    "contract/",
)
"""Upstream's paths, media types, packages of Go; the names of tests in `docs/parity.md` have a test of their own."""


def named_paths(page: Path) -> set[str]:
    """The names in backticks on the page that have a slash, or the end of a file of the project."""
    found = set(PATHS.findall(page.read_text()))
    return {path for path in found if ("/" in path or path.endswith(ENDS)) and not path.startswith(FOREIGN)}


@cache
def files_by_name() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in (
        *ROOT.glob("*.*"),
        *(
            path
            for folder in ("native_handlers", "supervisor", "tests", "docs")
            for path in (ROOT / folder).rglob("*.*")
        ),
    ):
        found.setdefault(path.name, []).append(path)
    return found


def why_unclear(path: str, page: Path) -> str:
    """Why a reader does not find the file or the folder; "" where there is exactly one."""
    if "*" in path:
        places = [ROOT / place for place in PLACES] if "/" in path else [ROOT / "tests" / "contract", page.parent]
        return "" if any(next(place.glob(path), None) for place in places) else f"{path} is no file's name"
    if "/" not in path:
        found = files_by_name().get(path, [])
        known = FOLDER_OF_NAMES.get(str(page.relative_to(ROOT)))
        if len(found) > 1 and known is not None:
            found = [one for one in found if one.parent == ROOT / known]
        return "" if len(found) == 1 else f"{path} is the name of {len(found)} files; name its folder"
    places = [ROOT / place / path for place in PLACES] + [page.parent / path]
    return (
        "" if any(place.exists() or place.with_suffix(".py").exists() for place in places) else f"{path} is not there"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page):
    assert not [why for path in sorted(named_paths(page)) if (why := why_unclear(path, page))]


def test_a_name_of_several_files_needs_its_folder():
    page = ROOT / "docs" / "architecture.md"
    assert why_unclear("volume_set.py", page) == ""
    assert why_unclear("storage/volume_set.py", page) == ""
    assert why_unclear("test_contract_cluster_*.py", page) == ""
    assert "name its folder" in why_unclear("read.py", page)
    assert "name its folder" in why_unclear("volume_sets.py", page)
    assert why_unclear("storage/volume_sets.py", page)
    assert why_unclear("native_handlers/http/images_of_*.py", page)


def test_links_between_pages_lead_somewhere():
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())]
    assert not [f"{page.relative_to(ROOT)}: {link}" for page, link in links if not (page.parent / link).exists()]


@pytest.mark.slow
def test_the_bench_can_be_loaded():
    """Slow: starts a program."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_page_on_tests_names_what_tests_share():
    page = (ROOT / "docs" / "testing.md").read_text()
    table = page[page.index("## What tests share") : page.index("## The contract suite")]
    modules = {path.name for path in (ROOT / "tests" / "support").glob("*.py")} - {"__init__.py"}
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+\.py)`", "\n".join(rows))) == modules
