"""docs/parity.md names tests that exist, each behind the file that holds it."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "parity.md"
FILES = {path.stem: path for path in TESTS.rglob("test_*.py")}
DEFINITION = re.compile(r"`([A-Z]{1,2})`: (?:\w+/)*(test_[\w*]+)\.py")
"""`C`: test_contract_*.py, which makes "C tls" the file test_contract_tls.py in this section."""
WORD = re.compile(
    r"(?P<place>(?:\w+/)*)(?P<file>\btest_\w+)(?:\.py\b|(?=::))"
    r"|(?<![\w`\[/-])(?P<letters>[A-Z]{1,2})(?![\w\]-])(?: (?P<part>[a-z_]+))?"
    r"|(?<![\w*])(?P<name>(?:Test[A-Z]\w*(?:::test_\w+)?|test_\w+|\*\w+)[…*]?)"
)


@cache
def names_in(file: str) -> set[str]:
    """The tests and the classes of a file. A test of a class has two names: `TestC::test_f` and `test_f`."""
    names = set()
    for node in ast.parse(FILES[file].read_text()).body:
        names.add(getattr(node, "name", ""))
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            name = getattr(inner, "name", "")
            names |= {name, f"{node.name}::{name}"}
    return names


@cache
def classes() -> set[str]:
    return {name for file in FILES for name in names_in(file) if name.startswith("Test")}


def wrong_names(page: str) -> list[str]:
    """The names in the rows of a page that lead to nothing, each with its line."""
    wrong, files_by_letters = [], {}
    for number, line in enumerate(page.splitlines(), 1):
        if line.startswith("## "):
            files_by_letters = {}
        files_by_letters |= dict(DEFINITION.findall(line))
        if line.startswith("|"):
            cells = line.partition(" | ")[2]
            wrong += [f"line {number}: {why}" for why in wrong_names_of_row(cells, files_by_letters)]
    return wrong


def wrong_names_of_row(cells: str, files_by_letters: dict[str, str]) -> list[str]:
    wrong, file = [], ""
    for word in WORD.finditer(cells):
        place, letters, name = word["place"], word["letters"], word["name"]
        if word["file"] or name in FILES:
            file = word["file"] or name
            if file not in FILES or not str(FILES[file]).endswith(f"/{place or ''}{file}.py"):
                wrong.append(f"{word[0]} is no file")
        elif letters in files_by_letters:
            file = files_by_letters[letters].replace("*", word["part"] or "")
            if file not in FILES:
                wrong.append(f"{word[0]} stands for no file")
        elif letters:
            if cells.startswith(" `test_", word.end()):
                wrong.append(f"{letters} has no meaning in this section")
        elif name.startswith("Test") and "::" not in name and name not in classes():
            if "upstream's" not in cells:
                wrong.append(f"{name} is no class of ours")
        elif not file:
            wrong.append(f"no file stands before {name}")
        elif file in FILES and not any(fnmatchcase(known, name.replace("…", "*")) for known in names_in(file)):
            wrong.append(f"{name} is not in {file}.py")
    return wrong


@pytest.mark.slow
def test_every_test_named_in_the_page_is_in_its_file():
    """Slow: parses hundreds of tests."""
    page = PAGE.read_text()
    assert len(set(re.findall(r"\btest_\w+", page))) > 300
    assert not wrong_names(page)


HERE = "test_docs_parity"
OTHER = "test_docs_files"


@pytest.mark.parametrize(
    "row",
    [
        f"{HERE}.py::test_a_name_in_its_file_is_right, ::test_a_name_elsewhere_is_wrong",
        f"tests/unit/{HERE}.py `test_a_name_in_its_file_is_right`; {OTHER}.py (whole)",
        f"`{HERE}::test_a_name…`, `*_in_its_file_*`",
        "A `test_a_name_in_its_file_is_right`, upstream's TestOfGo…",
        "B parity `test_a_name_*`, B files `test_named_files_exist`",
    ],
)
def test_a_name_in_its_file_is_right(row):
    assert not wrong_names(f"## S\n`A`: tests/unit/{HERE}.py. `B`: test_docs_*.py.\n| behaviour | {row} |")


@pytest.mark.parametrize(
    "row",
    [
        f"{OTHER}.py::test_a_name_elsewhere_is_wrong",
        f"{OTHER}.py `test_named_files_exist`, `test_a_name_elsewhere_is_wrong`",
        f"{HERE}.py::test_a_name_else",
        f"{HERE}.py::TestNothing::test_a_name_elsewhere_is_wrong",
        f"tests/unit/net/{HERE}.py",
        "test_of_nothing.py",
        "`test_a_name_elsewhere_is_wrong`",
        f"{HERE}.py; TestOfGo",
        "A `test_named_files_exist`",
        "B nothing",
        f"{HERE}.py; C `test_a_name_elsewhere_is_wrong`",
    ],
)
def test_a_name_elsewhere_is_wrong(row):
    assert len(wrong_names(f"## S\n`A`: tests/unit/{HERE}.py. `B`: test_docs_*.py.\n| behaviour | {row} |")) == 1
