"""Parses the text of a routing table into a phase and the state of each named route, with line numbers.

The whole grammar:

    phase: 1                    # 0 … 4, required
    routes:                     # optional
      http.status: forward      # a route's name, or a pattern with * or ?; a name wins over patterns
      "grpc.Get*": native

The parser takes only text and line numbers from the YAML, so tags and types in the YAML have no effect. All problems
are gathered, not only the first.
"""

from __future__ import annotations

import difflib
from dataclasses import field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import yaml

from native_handlers.records import dataclass
from supervisor.routing.errors import Problem
from supervisor.routing.registry import MAX_PHASE, ROUTES_BY_NAME
from supervisor.routing.states import AVAILABLE_STATES, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Override:
    """The state that the table gives one route, and the line that gives it."""

    state: State
    line: int
    pattern: str | None = None
    """The pattern that matched; None where the table names the route itself."""


@dataclass(slots=True)
class ParsedTable:
    """A table as written. Where `problems` has entries, the other fields hold what could be read."""

    phase: int | None = None
    overrides: dict[str, Override] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def parse_table(text: str, file: Path | None) -> ParsedTable:
    """The content of `text`. Bad content raises nothing: it is in `problems`. `file` only appears in the problems."""
    parsed = ParsedTable()
    reader = _Reader(file, parsed.problems)
    root = reader.compose(text)
    if root is None:
        return parsed
    sections = reader.mapping(root, "the table")
    for name, (key, _) in sections.items():
        if name not in {"phase", "routes"}:
            reader.problem(key, f"unknown key {name!r}", _did_you_mean(name, ("phase", "routes")))
    if "phase" in sections:
        parsed.phase = reader.phase(sections["phase"][1])
    else:
        reader.problem(root, "there is no phase", f"write `phase:` with a number from 0 to {MAX_PHASE}")
    if "routes" in sections:
        parsed.overrides = reader.overrides(sections["routes"][1])
    return parsed


class _Reader:
    """Walks YAML nodes, and notes problems with their lines."""

    def __init__(self, file: Path | None, problems: list[Problem]) -> None:
        self._file = file
        self._problems = problems

    def problem(self, node: yaml.Node, text: str, suggestion: str = "") -> None:
        self._problems.append(Problem(self._file, node.start_mark.line + 1, text, suggestion))

    def compose(self, text: str) -> yaml.Node | None:
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._problems.append(Problem(self._file, mark.line + 1 if mark else None, f"not YAML: {error.problem}"))
            return None
        except (yaml.YAMLError, RecursionError) as error:
            self._problems.append(Problem(self._file, None, f"not YAML: {error}"))
            return None
        if root is None:
            self._problems.append(Problem(self._file, None, "the file is empty", "write at least `phase: 0`"))
        return root

    def mapping(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """The entries of a mapping by key. If `node` is no mapping, notes a problem and returns no entries."""
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        if _is_null(node):
            return entries
        if not isinstance(node, yaml.MappingNode):
            self.problem(node, f"{what} must be `name: value` lines")
            return entries
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problem(key, f"a name in {what} must be plain text")
            elif key.value in entries:
                first = entries[key.value][0].start_mark.line + 1
                self.problem(key, f"{key.value!r} is there twice, first in line {first}", "keep one")
            else:
                entries[key.value] = (key, value)
        return entries

    def phase(self, node: yaml.Node) -> int | None:
        is_number = isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:int"
        if is_number and node.value in {str(phase) for phase in range(MAX_PHASE + 1)}:
            return int(node.value)
        self.problem(node, f"phase is {_shown(node)}", f"expected a number from 0 to {MAX_PHASE}")
        return None

    def overrides(self, node: yaml.Node) -> dict[str, Override]:
        named: dict[str, Override] = {}
        matched: dict[str, Override] = {}
        for name, (key, value) in self.mapping(node, "routes").items():
            is_pattern = "*" in name or "?" in name
            routes = _matching(name) if is_pattern else [name]
            if not is_pattern and name not in ROUTES_BY_NAME:
                self.problem(key, f"there is no route {name!r}", _did_you_mean(name, ROUTES_BY_NAME))
            elif not routes:
                self.problem(key, f"no route matches {name!r}", "`routes show` lists their names")
            state = self._state(name, value)
            if state is None:
                continue
            override = Override(state, key.start_mark.line + 1, name if is_pattern else None)
            if is_pattern:
                self._add_matches(key, override, routes, matched)
            elif name in ROUTES_BY_NAME:
                named[name] = override
        return {**matched, **named}

    def _add_matches(
        self, key: yaml.Node, override: Override, routes: Iterable[str], matched: dict[str, Override]
    ) -> None:
        """Adds a pattern's routes.

        Two patterns may match one route only with the same state, so order has no effect.
        """
        rivals: dict[str, Override] = {}
        for route in routes:
            other = matched.setdefault(route, override)
            if other.state is not override.state:
                rivals.setdefault(f"{other.pattern!r} in line {other.line}", Override(other.state, other.line, route))
        for rival, example in rivals.items():
            self.problem(
                key,
                f"{override.pattern!r} says {override.state.value} and {rival} says {example.state.value} of "
                f"{example.pattern}",
                "name the route itself or make the patterns disjoint",
            )

    def _state(self, route: str, node: yaml.Node) -> State | None:
        value = node.value if isinstance(node, yaml.ScalarNode) else None
        try:
            state = State(value)
        except ValueError:
            known = [known.value for known in AVAILABLE_STATES]
            hint = _did_you_mean(str(value), known) or f"expected {' or '.join(known)}"
            self.problem(node, f"{route}: {_shown(node)} is not a state", hint)
            return None
        if state not in AVAILABLE_STATES:
            self.problem(
                node, f"{route}: {state.value} comes with shadowing (not available yet)", "use forward or native"
            )
            return None
        return state


def _matching(pattern: str) -> list[str]:
    """The routes that `pattern` matches. A pattern never matches routes that are always native."""
    return [name for name, route in ROUTES_BY_NAME.items() if fnmatchcase(name, pattern) and not route.is_always_native]


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _shown(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return "a list or a mapping"
    return repr(node.value) if node.value else "empty"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest known word as advice. The part after the last dot is compared too, for a forgotten prefix."""
    names = list(known)
    by_tail: Mapping[str, str] = {name.rpartition(".")[2].lower(): name for name in names}
    near = difflib.get_close_matches(word, names, n=1)
    if not near:
        near = [by_tail[tail] for tail in difflib.get_close_matches(word.rpartition(".")[2].lower(), by_tail, n=1)]
    return f"did you mean {near[0]}?" if near else ""
