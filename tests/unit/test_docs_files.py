"""The documents name files that exist, and the bench, which no other test runs, can be loaded."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACES = ("", "native_handlers/", "native_handlers/storage/", "supervisor/", "tests/", "tests/contract/")
"""Where a path in a page may begin."""
PATHS = re.compile(r"`([a-z0-9_]+(?:/[a-z0-9_]+)*/?(?:\.py)?)(?:::\w+)?`")
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
    """What the page names in backticks that has a slash, or ends in .py."""
    found = set(PATHS.findall(page.read_text()))
    return {path for path in found if ("/" in path or path.endswith(".py")) and not path.startswith(FOREIGN)}


def is_there(path: str, page: Path) -> bool:
    if "/" not in path:
        return any(
            found for folder in ("native_handlers", "supervisor", "tests") for found in (ROOT / folder).rglob(path)
        )
    places = [ROOT / place / path for place in PLACES] + [page.parent / path]
    return any(place.exists() or place.with_suffix(".py").exists() for place in places)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page):
    assert not [path for path in sorted(named_paths(page)) if not is_there(path, page)]


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
