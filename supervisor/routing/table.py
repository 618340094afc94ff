"""A routing table that was checked as a whole: the state of every route, and the reason.

There are three ways to get one: `load_table` for a file, `table_forwarding_all` for proxy mode and `table_native` for
native mode. A table with any problem is refused, and all its problems are reported at once.

Where both engines work on volumes, a volume is handed over whenever the other engine needs it (docs/authority.md).
`Table.warnings` says what such a table costs. Routes about the whole store must then be native: only this process knows
the volumes of both engines.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from supervisor.routing.errors import Problem, TableError
from supervisor.routing.registry import FLIP_GROUPS, MAX_PHASE, ROUTES, ROUTES_BY_NAME, Leaves, Route, Sharing
from supervisor.routing.states import State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from supervisor.routing.table_file import Override

__all__ = ["State", "Table", "default_table_path", "load_table", "table_forwarding_all", "table_native"]

MAX_TABLE_BYTES = 256 * 1024
"""Far above any table that a person writes. The bound keeps a wrong path (a log, a device) from being parsed."""


@dataclass(frozen=True, slots=True)
class Table:
    """The state of every route. `states` and `reasons` have an entry for every route's name.

    `absent` holds native routes without a handler. They are answered 501 or UNIMPLEMENTED. There are such routes only
    where nothing is forwarded (phase 4 and native mode). `held_back` holds routes that the preset makes native but that
    are forwarded, because the native engine cannot serve them yet (phases 2 and 3).
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
        """Whether this process works on volumes: on all, or on those that are handed to it."""
        return any(route.is_data and self.states[route.name] is State.NATIVE for route in ROUTES)

    @property
    def shares_volumes(self) -> bool:
        """Whether both engines work on volumes, so that volumes must be handed over."""
        return self.is_data_native and self.forwards_anything

    @property
    def warnings(self) -> list[str]:
        """Warnings about settings that are allowed but cost time: volumes are handed back and forth between routes."""
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
            "both are used on goes back and forth, for milliseconds each time, or a second with millions of needles"
        )
        split = [pair for pair in _COMPANY.items() if len({self.states[name] for name in pair[1]}) > 1]
        return [
            text,
            *self._long_work_text,
            *(f"flip together: {', '.join(names)} are used on the same volumes {one.why}" for one, names in split),
            *self._held_back_text,
        ]

    @property
    def _long_work_text(self) -> list[str]:
        """Says which native routes keep forwarded requests waiting for longer than a hand-over."""
        native = [
            route for route in ROUTES if self.states[route.name] is State.NATIVE and route.name not in self.absent
        ]
        long = [route.name for route in native if route.access.keeps_volume_long]
        if not long:
            return []
        texts = [
            f"{', '.join(long)} are native and may take minutes: forwarded requests for the volume wait meanwhile, and "
            "fail after half a minute"
        ]
        if any(route.leaves is Leaves.COMPACTION for route in native):
            texts.append(
                "a native vacuum of a volume fails where a forwarded request for the volume comes between its steps"
            )
        return texts

    @property
    def _held_back_text(self) -> list[str]:
        if not self.held_back:
            return []
        return [f"forwarded although phase {self.phase} says native, until they can be: {', '.join(self.held_back)}"]


_COMPANY = {group: names for group, names in FLIP_GROUPS.items() if not group.is_required}
_INSEPARABLE = {group: names for group, names in FLIP_GROUPS.items() if group.is_required}
_FALLING_BACK = (2, 3)
"""Phases in which a data route without a native handler is forwarded. Before, there is none; after, no backend."""


def default_table_path() -> Path:
    """The shipped table: beside this module in an installed package, at the top of a checkout."""
    installed = Path(__file__).with_name("routing_table.yaml")
    return installed if installed.is_file() else Path(__file__).parents[2] / "routing_table.yaml"


def load_table(path: Path | None, *, native_names: Collection[str], has_backend: bool = True) -> Table:
    """The table in the file at `path`, or the shipped table.

    Args:
        native_names: the routes that have a native handler.
        has_backend: False where nothing can be forwarded.

    Raises:
        TableError: with all faults. An unreadable file is one fault.
    """
    from supervisor.routing.table_file import parse_table  # noqa: PLC0415  (yaml, which a native server does without)

    file = path if path is not None else default_table_path()
    parsed = parse_table(_read_text(file), file)
    problems = parsed.problems
    table = _compile(parsed.phase if parsed.phase is not None else 0, parsed.overrides, native_names, file)
    if parsed.phase is not None:
        problems = [*problems, *_problems_of(table, parsed.overrides, has_backend)]
    if problems:
        raise TableError(sorted(problems, key=lambda problem: problem.line or 0))
    return table


def table_forwarding_all() -> Table:
    """The table of proxy mode: the backend answers every route that is not always native."""
    return _compile(0, {}, (), None)


def table_native(native_names: Collection[str]) -> Table:
    """The table of native mode: nothing is forwarded, and a route without a handler is absent."""
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
        route.name
        for route in ROUTES
        if states[route.name] is State.NATIVE and not (route.is_always_native or route.name in native_names)
    )
    return Table(phase, MappingProxyType(states), MappingProxyType(reasons), absent, source, tuple(held_back))


def _held_back(
    phase: int, states: Mapping[str, State], overrides: Mapping[str, Override], native_names: Collection[str]
) -> dict[str, str]:
    """The routes that the preset makes native but that must be forwarded, with reasons. See `Table.held_back`."""
    free = [route.name for route in ROUTES if route.is_data and route.phase <= phase and route.name not in overrides]
    found = {name: "it has no native handler yet" for name in free if name not in native_names}
    for names in _INSEPARABLE.values():
        away = [name for name in names if states[name] is State.FORWARD or name in found]
        if away:
            why = f"the engine that does {away[0]} must do it too"
            found |= {name: why for name in names if name in free} | found
    return found


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


def _problems_of(table: Table, overrides: Mapping[str, Override], has_backend: bool) -> list[Problem]:
    problems = [
        *_handler_problems(table, overrides),
        *_forward_problems(table, overrides, has_backend),
    ]
    return [*problems, *(_sharing_problems(table, overrides) if has_backend else ())]


def _handler_problems(table: Table, overrides: Mapping[str, Override]) -> list[Problem]:
    """Native routes without a handler. Where nothing is forwarded, the preset may leave routes absent."""
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
    forwarded = [name for name, state in table.states.items() if state is State.FORWARD]
    problems = [
        Problem(table.source, overrides[name].line, f"{name} is always native", "remove the line")
        for name in forwarded
        if ROUTES_BY_NAME[name].is_always_native
    ]
    if not has_backend and forwarded:
        line = _first_line(forwarded, overrides)
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
    """Routes in a state that is not allowed where both engines have volumes; see the module's docstring."""
    if not table.shares_volumes:
        return []
    problems = []
    hidden = [
        route.name for route in ROUTES if route.shared is Sharing.NATIVE and table.state_of(route) is State.FORWARD
    ]
    if hidden:
        text = f"{_some(hidden)} would be forwarded, and the backend does not know of the volumes that are native"
        problems.append(
            Problem(table.source, _first_line(hidden, overrides), text, f"set {', '.join(hidden)} to native")
        )
    for group, names in _INSEPARABLE.items():
        if len({table.states[name] for name in names}) > 1:
            text = f"{', '.join(names)} must be in one state: {group.why}"
            problems.append(Problem(table.source, _first_line(names, overrides), text, "flip them together"))
    return problems


def _first_line(names: Iterable[str], overrides: Mapping[str, Override]) -> int | None:
    """The line of the first of `names` that the table mentions; None where it mentions none."""
    return next((overrides[name].line for name in names if name in overrides), None)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
