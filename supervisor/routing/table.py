"""A routing table that was checked as a whole: what every route does now, and why.

Three ways to one: `load_table` for a file, `table_forwarding_all` for proxy mode and `table_native` for native
mode. A table with any problem is refused; all its problems are reported at once.

Where both engines work on volumes, a volume is handed over whenever the other engine needs it (docs/authority.md).
`Table.warnings` says what such a table costs. What tells of the whole store must then be native: only this process
knows what both engines have.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from supervisor.routing.errors import Problem, TableError
from supervisor.routing.registry import MAX_PHASE, ROUTES, AccessKind, Route
from supervisor.routing.states import State
from supervisor.routing.table_file import MAX_TABLE_BYTES, Override, parse_table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["State", "Table", "default_table_path", "load_table", "table_forwarding_all", "table_native"]


@dataclass(frozen=True, slots=True)
class Table:
    """What every route does now. `states` and `reasons` have every route's name.

    `absent` holds native routes that have no handler: they are answered 501 or UNIMPLEMENTED. There are some only
    where nothing is forwarded (phase 4 and native mode). `held_back` holds those that the preset says are native and
    that are forwarded all the same, because the native engine cannot do them yet (phases 2 and 3).
    """

    phase: int
    states: Mapping[str, State]
    reasons: Mapping[str, str]
    absent: frozenset[str]
    source: Path | None
    held_back: tuple[str, ...] = ()

    def state_of(self, route: Route) -> State:
        return self.states[route.name]

    @property
    def forwards_anything(self) -> bool:
        """Whether a backend is needed."""
        return State.FORWARD in self.states.values()

    @property
    def is_data_native(self) -> bool:
        """Whether this process works on volumes: all of them, or those that it is handed."""
        return any(route.is_data and self.states[route.name] is State.NATIVE for route in ROUTES)

    @property
    def shares_volumes(self) -> bool:
        """Whether both engines work on volumes, so that these have to be handed over."""
        return self.is_data_native and self.forwards_anything

    @property
    def warnings(self) -> list[str]:
        """What is allowed and costs: volumes that go back and forth between routes of one kind."""
        if not self.shares_volumes:
            return []
        sides: dict[State, list[str]] = {State.NATIVE: [], State.FORWARD: []}
        for route in ROUTES:
            if route.is_data and route.name not in self.absent:
                sides[self.states[route.name]].append(route.name)
        if not sides[State.FORWARD]:
            return []
        text = (
            f"{_some(sides[State.NATIVE])} are native while {_some(sides[State.FORWARD])} are forwarded: a volume that "
            "both are used on goes back and forth, a few milliseconds each time"
        )
        split = [(pair, why) for pair, why in _PAIRS if len({self.states[name] for name in pair}) > 1]
        return [
            text,
            *(f"flip together: {', '.join(pair)} are used on the same volumes {why}" for pair, why in split),
            *self._held_back_text,
        ]

    @property
    def _held_back_text(self) -> list[str]:
        if not self.held_back:
            return []
        return [f"forwarded although phase {self.phase} says native, until they can be: {', '.join(self.held_back)}"]


_PAIRS = (
    (("http.read", "http.public.read", "http.write", "http.delete"), "all the time"),
    (("http.delete", "grpc.BatchDelete"), "by filers, which delete with both"),
    (("grpc.CopyFile", "grpc.VolumeTailSender"), "when one is moved away"),
    (("grpc.VolumeCopy", "grpc.VolumeTailReceiver"), "when one is moved here"),
)
"""Routes that come in each other's company."""
_FALLING_BACK = (2, 3)
"""Phases in which a data route without a native handler is forwarded. Before, there is none; after, no backend."""
_VACUUM = ("grpc.VacuumVolumeCompact", "grpc.VacuumVolumeCommit", "grpc.VacuumVolumeCleanup")
_WHOLE_COLLECTION = "grpc.DeleteCollection"
_MERGED = frozenset({"http.status", "http.ui"})
"""Answers over all volumes, which this process puts together."""


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
    held_back = _held_back(phase, states, overrides, native_names) if phase in _FALLING_BACK else {}
    for name, why in held_back.items():
        states[name], reasons[name] = State.FORWARD, f"phase {phase} of {source} would serve it natively, but {why}"
    absent = frozenset(
        name for name, state in states.items() if state is State.NATIVE and not _is_served(name, native_names)
    )
    return Table(phase, MappingProxyType(states), MappingProxyType(reasons), absent, source, tuple(held_back))


def _held_back(
    phase: int, states: Mapping[str, State], overrides: Mapping[str, Override], native_names: Collection[str]
) -> dict[str, str]:
    """The routes that the preset makes native and that must be forwarded, with the reason: see `Table.held_back`."""
    free = [route.name for route in ROUTES if route.is_data and route.phase <= phase and route.name not in overrides]
    found = {name: "it has no native handler yet" for name in free if name not in native_names}
    vacuum = [name for name in _VACUUM if states[name] is State.FORWARD or name in found]
    if vacuum:
        found |= {name: f"the engine that does {vacuum[0]} must do it too" for name in _VACUUM if name in free} | found
    forwards = found or any(state is State.FORWARD for state in states.values())
    if forwards and _WHOLE_COLLECTION in free:
        found.setdefault(_WHOLE_COLLECTION, "erasure-coded volumes are the backend's")
    return found


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
    return [*problems, *(_sharing_problems(table, overrides) if has_backend else ())]


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


def _sharing_problems(table: Table, overrides: Mapping[str, Override]) -> list[Problem]:
    """What must not be forwarded where both engines have volumes: see the module's docstring."""
    if not table.shares_volumes:
        return []
    problems = []
    whole = [route.name for route in ROUTES if route.access.kind is AccessKind.STORE and not route.is_data]
    hidden = [name for name in whole if name in _MERGED and table.states[name] is State.FORWARD]
    if hidden:
        line = next((overrides[name].line for name in hidden if name in overrides), None)
        text = f"{_some(hidden)} would be forwarded, and the backend does not know of the volumes that are native"
        problems.append(Problem(table.source, line, text, f"set {', '.join(hidden)} to native"))
    torn = [name for name in _VACUUM if table.states[name] is not table.states[_VACUUM[0]]]
    if torn:
        line = next((overrides[name].line for name in _VACUUM if name in overrides), None)
        text = f"{', '.join(_VACUUM)} must be in one state: the engine that compacted a volume must commit it"
        problems.append(Problem(table.source, line, text, "flip them together"))
    if table.states[_WHOLE_COLLECTION] is State.NATIVE:
        line = overrides[_WHOLE_COLLECTION].line if _WHOLE_COLLECTION in overrides else None
        text = f"{_WHOLE_COLLECTION} would be native, and erasure-coded volumes are the backend's"
        problems.append(Problem(table.source, line, text, f"set {_WHOLE_COLLECTION} to forward"))
    return problems


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
