"""Which engine answers a request. Pure: the same route, volume and table give the same decision."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from supervisor.routing.states import State

if TYPE_CHECKING:
    from supervisor.routing.registry import Route
    from supervisor.routing.table import Table


class Engine(Enum):
    """The two engines that can execute a request: this process, and the managed backend."""

    NATIVE = "native"
    BACKEND = "backend"

    __hash__ = object.__hash__  # the one of Enum is a function in Python, and counting hashes an engine per request


@dataclass(frozen=True, slots=True)
class Decision:
    """Which engine answers a request, and why.

    `is_absent`: the table says native, but there is no native handler. The answer is 501 or UNIMPLEMENTED, with `why`.
    """

    route: Route
    engine: Engine
    why: str
    is_absent: bool = False


def decide(route: Route, volume_id: int | None, table: Table) -> Decision:
    """The engine for `route` on `volume_id` (None where no volume is named) under `table`.

    No available state depends on the volume. The argument is here because the states between forward and native do.
    """
    name = route.name
    if table.states[name] is State.FORWARD:
        return Decision(route, Engine.BACKEND, table.reasons[name])
    if name in table.absent:
        return Decision(route, Engine.NATIVE, f"{table.reasons[name]}, but it has no native handler yet", True)
    return Decision(route, Engine.NATIVE, table.reasons[name])
