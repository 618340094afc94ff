"""A routing table that was checked as a whole: what every route does now, and why.

Three ways to one: `load_table` for a file, `table_forwarding_all` for proxy mode and `table_native` for native
mode. A table with any problem is refused; all its problems are reported at once.

Until volumes can be handed from one engine to the other, all routes that work on volumes must be served by one
engine: the other has its own index of the same files in memory, so it would answer from the past and write over
what it does not know of.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from supervisor.routing.errors import Problem, TableError
from supervisor.routing.registry import MAX_PHASE, ROUTES, Route
from supervisor.routing.states import State
from supervisor.routing.table_file import MAX_TABLE_BYTES, Override, parse_table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["State", "Table", "default_table_path", "load_table", "table_forwarding_all", "table_native"]


@dataclass(frozen=True, slots=True)
class Table:
    """What every route does now. `states` and `reasons` have every route's name.

    `absent` holds native routes that have no handler: they are answered 501 or UNIMPLEMENTED. There are some only
    where nothing is forwarded (phase 4 and native mode), for otherwise a missing handler is an error.
    """

    phase: int
    states: Mapping[str, State]
    reasons: Mapping[str, str]
    absent: frozenset[str]
    source: Path | None

    def state_of(self, route: Route) -> State:
        return self.states[route.name]

    @property
    def forwards_anything(self) -> bool:
        """Whether a backend is needed."""
        return State.FORWARD in self.states.values()

    @property
    def is_data_native(self) -> bool:
        """Whether the volumes are open in this process rather than in the backend."""
        return any(route.is_data and self.states[route.name] is State.NATIVE for route in ROUTES)


def default_table_path() -> Path:
    """The table that is shipped: beside this module in an installed package, at the top of a checkout."""
    installed = Path(__file__).with_name("routing_table.yaml")
    return installed if installed.is_file() else Path(__file__).parents[2] / "routing_table.yaml"


def load_table(path: Path | None, *, native_names: Collection[str], has_backend: bool = True) -> Table:
    """The table in the file at `path`, or the shipped one.

    Args:
        native_names: the routes that have a native handler.
        has_backend: False where nothing can be forwarded.

    Raises:
        TableError: with everything that is wrong; an unreadable file is one problem.
    """
    file = path if path is not None else default_table_path()
    parsed = parse_table(_read_text(file), file)
    problems = parsed.problems
    table = _compile(parsed.phase if parsed.phase is not None else 0, parsed.overrides, native_names, file)
    if parsed.phase is not None:
        problems = [*problems, *_problems_of(table, parsed.overrides, native_names, has_backend)]
    if problems:
        raise TableError(sorted(problems, key=lambda problem: problem.line or 0))
    return table


def table_forwarding_all() -> Table:
    """Proxy mode: the backend answers everything but what is always native."""
    return _compile(0, {}, (), None)


def table_native(native_names: Collection[str]) -> Table:
    """Native mode: nothing is forwarded, and what has no handler yet is absent."""
    return _compile(MAX_PHASE, {}, native_names, None)


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_TABLE_BYTES + 1)
    except OSError as error:
        raise TableError([Problem(file, None, f"cannot be read: {error.strerror or error}")]) from error
    if len(content) > MAX_TABLE_BYTES:
        raise TableError([Problem(file, None, f"is larger than {MAX_TABLE_BYTES} bytes", "is this a routing table?")])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TableError([Problem(file, line, "is not UTF-8 text")]) from error


def _compile(
    phase: int, overrides: Mapping[str, Override], native_names: Collection[str], source: Path | None
) -> Table:
    states: dict[str, State] = {}
    reasons: dict[str, str] = {}
    for route in ROUTES:
        states[route.name], reasons[route.name] = _state_and_reason(route, phase, overrides.get(route.name), source)
    absent = frozenset(
        name for name, state in states.items() if state is State.NATIVE and not _is_served(name, native_names)
    )
    return Table(phase, MappingProxyType(states), MappingProxyType(reasons), absent, source)


def _is_served(name: str, native_names: Collection[str]) -> bool:
    return name == "grpc.reflection" or name in native_names


def _state_and_reason(route: Route, phase: int, override: Override | None, source: Path | None) -> tuple[State, str]:
    if override is not None:
        name = override.pattern or route.name
        return override.state, f"{source}:{override.line} says {name}: {override.state.value}"
    if route.is_always_native:
        return State.NATIVE, "this route is always native"
    state = State.NATIVE if phase >= route.phase else State.FORWARD
    where = f"phase {phase} of {source}" if source else ("native mode" if phase == MAX_PHASE else "proxy mode")
    if state is State.NATIVE:
        return state, f"{where} serves it natively"
    return state, f"{where} forwards it" + (f" (native from phase {route.phase} on)" if source else "")


def _problems_of(
    table: Table, overrides: Mapping[str, Override], native_names: Collection[str], has_backend: bool
) -> list[Problem]:
    problems = [
        *_handler_problems(table, overrides, native_names),
        *_forward_problems(table, overrides, has_backend),
    ]
    split = _split_problem(table, overrides)
    return [*problems, split] if split else problems


def _handler_problems(table: Table, overrides: Mapping[str, Override], native_names: Collection[str]) -> list[Problem]:
    """Routes said to be native that have no handler. Where nothing is forwarded the preset may leave routes absent."""
    may_be_absent = table.phase == MAX_PHASE and not table.forwards_anything
    problems = []
    unnamed = []
    for name in (name for name in table.states if name in table.absent):
        override = overrides.get(name)
        if override is not None and override.pattern is None:
            problems.append(
                Problem(table.source, override.line, f"{name} has no native handler", "it can only be forwarded")
            )
        elif not may_be_absent:
            unnamed.append(name)
    if unnamed:
        text = f"phase {table.phase} needs native handlers that are not there yet: {', '.join(unnamed)}"
        advice = f"set these to forward, or forward nothing: with phase {MAX_PHASE} they answer that they are absent"
        problems.append(Problem(table.source, None, text, advice))
    return problems


def _forward_problems(table: Table, overrides: Mapping[str, Override], has_backend: bool) -> list[Problem]:
    problems = []
    forwarded = [name for name, state in table.states.items() if state is State.FORWARD]
    if "grpc.reflection" in forwarded:
        reflection_line = overrides["grpc.reflection"].line
        problems.append(Problem(table.source, reflection_line, "grpc.reflection is always native", "remove the line"))
    if not has_backend and forwarded:
        line = next((overrides[name].line for name in forwarded if name in overrides), None)
        problems.append(
            Problem(
                table.source,
                line,
                f"{_some(forwarded)} would be forwarded, but there is no backend",
                f"name one with -backend, or use -mode=native (or phase: {MAX_PHASE})",
            )
        )
    return problems


def _split_problem(table: Table, overrides: Mapping[str, Override]) -> Problem | None:
    """One engine must own the volumes: see the module's docstring."""
    native = [route.name for route in ROUTES if route.is_data and table.states[route.name] is State.NATIVE]
    if not native:
        return None
    forwarded = [name for name, state in table.states.items() if state is State.FORWARD and name != "grpc.reflection"]
    if not forwarded:
        return None
    fewer = min(native, forwarded, key=len)
    target = State.FORWARD if fewer is native else State.NATIVE
    line = next((overrides[name].line for name in fewer if name in overrides), None)
    return Problem(
        table.source,
        line,
        f"{_some(native)} would be native while {_some(forwarded)} would be forwarded: both engines would have the "
        "same volumes open and write them, and volumes cannot be handed over yet",
        f"flip together: set {', '.join(fewer)} to {target.value}",
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
