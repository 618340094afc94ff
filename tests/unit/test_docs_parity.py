"""docs/parity.md names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "parity.md"
NAME = re.compile(r"\btest_\w+(?:\.py)?")


def names_in_tests():
    names = {path.name for path in TESTS.rglob("*.py")} | {path.stem for path in TESTS.rglob("*.py")}
    for path in TESTS.rglob("test_*.py"):
        names |= set(re.findall(r"def (test_\w+)", path.read_text()))
    return names


def test_every_test_named_in_the_page_exists():
    known = names_in_tests()
    named = set(NAME.findall(PAGE.read_text()))
    assert len(named) > 300
    # A name that ends in an ellipsis or an asterisk on the page stands for every test that begins so.
    missing = {name for name in named if name not in known and not any(other.startswith(name) for other in known)}
    assert not missing, f"docs/parity.md names tests that are not there: {sorted(missing)}"
