"""What tests of the source's shape look at. Each process reads and parses a file once, and keeps no tree."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("native_handlers", "supervisor")


@dataclass(frozen=True)
class SourceFacts:
    """What one source has, each with its line."""

    imports: list[tuple[int, str]] = field(default_factory=list)
    """Whole dotted names: `package.name` for `from package import name`. Imports for type checkers and inside functions
    count. A relative import begins with as many dots as it has."""
    classes: list[tuple[int, str]] = field(default_factory=list)
    names: list[tuple[int, str]] = field(default_factory=list)
    """Every name that the source gives to something: a class, a function, an argument, a variable, an alias."""
    texts: list[tuple[int, str]] = field(default_factory=list)
    """Literal texts, also of bytes. Docstrings are none, nor is the name of a type for `cast`."""


def is_generated(path: Path) -> bool:
    return path.name.endswith("_pb2.py")


@cache
def sources() -> tuple[Path, ...]:
    """The product's modules, without generated ones."""
    return tuple(
        path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) if not is_generated(path)
    )


@cache
def text_of(path: Path) -> str:
    return path.read_text("utf-8")


@cache
def facts_of(path: Path) -> SourceFacts:
    return read_facts(text_of(path))


def read_facts(source: str) -> SourceFacts:
    facts = SourceFacts()
    passed_over: set[int] = set()
    constants: list[ast.Constant] = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        kind = type(node)
        if kind is ast.Constant:
            constants.append(node)
        elif kind is ast.Name:
            if type(node.ctx) is ast.Store:
                facts.names.append((node.lineno, node.id))
        elif kind is ast.arg:
            facts.names.append((node.lineno, node.arg))
        elif kind is ast.Expr:
            passed_over.add(id(node.value))
        elif kind is ast.Call:
            if isinstance(node.func, ast.Name) and node.func.id == "cast":
                passed_over.add(id(node.args[0]))
        elif kind in _NAMED:
            _add_named(facts, node)
    for node in constants:
        value = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
        if isinstance(value, str) and id(node) not in passed_over:
            facts.texts.append((node.lineno, value))
    return facts


_NAMED = {
    *(ast.Import, ast.ImportFrom, ast.alias, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef),
    *(ast.ExceptHandler, ast.MatchAs, ast.MatchStar),
}


def _add_named(facts: SourceFacts, node: ast.AST) -> None:
    if isinstance(node, ast.Import):
        facts.imports.extend((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = "." * node.level + (node.module or "")
        facts.imports.extend((node.lineno, f"{package}.{alias.name}") for alias in node.names)
    elif node.name is not None:
        facts.names.append((node.lineno, node.name))
    if isinstance(node, ast.ClassDef):
        facts.classes.append((node.lineno, node.name))
