"""Which engine answers a request. Pure: the same route, volume and table give the same decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from supervisor.routing.states import State

if TYPE_CHECKING:
    from supervisor.routing.registry import Route
    from supervisor.routing.table import Table


class Engine(Enum):
    """Who can execute a request: this process, or the managed backend."""

    NATIVE = "native"
    BACKEND = "backend"


@dataclass(frozen=True, slots=True)
class Decision:
    """`is_absent`: the native engine is meant and has no handler; answer 501 or UNIMPLEMENTED with `why`."""

    route: Route
    engine: Engine
    why: str
    is_absent: bool = False


def decide(route: Route, volume_id: int | None, table: Table) -> Decision:
    """The engine for `route` on `volume_id` (None where no volume is named) under `table`.

    No state of today picks by volume; the argument is part of the function because the states between forward and
    native do.
    """
    name = route.name
    if table.states[name] is State.FORWARD:
        return Decision(route, Engine.BACKEND, table.reasons[name])
    if name in table.absent:
        return Decision(route, Engine.NATIVE, f"{table.reasons[name]}, but it has no native handler yet", True)
    return Decision(route, Engine.NATIVE, table.reasons[name])
