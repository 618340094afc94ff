"""Whether a route is open: whether anything is to be checked before its native handler runs.

The ordinary way (`HttpGateway`) asks the guard unless the route is open. The fast paths take only requests of routes
that have terms, or that are only to be forwarded. All answers come from the same fields of the `Route`, so a changed
row holds for all ways.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from supervisor.routing.decision import Engine, decide
from supervisor.routing.registry import AccessKind

if TYPE_CHECKING:
    from supervisor.gateway.guard import Guard
    from supervisor.gateway.throttle import InflightBytes, Throttle
    from supervisor.routing.decision import Decision
    from supervisor.routing.live import LiveTable
    from supervisor.routing.registry import Route
    from supervisor.routing.table import Table

access_log = logging.getLogger("supervisor.access")
"""One line for each answer, at debug level."""


def log_answer(  # noqa: PLR0913, PLR0917  the fields of a line
    client: tuple[str, int], method: str, target: str, status: int, route: Route, engine: Engine, duration_s: float
) -> None:
    """Writes the line of one answer to the access log, if that is on."""
    if access_log.isEnabledFor(logging.DEBUG):
        line = (*client, method, target, status, route.name, engine.value, duration_s)
        access_log.debug("%s:%d %s %s %d %s %s %.6f", *line)


class FastTerms(NamedTuple):
    """The checks that the fast path makes for each request of a route.

    Attributes:
        is_guarded: whether the guard may refuse it; see `RoutePolicy.admits`.
        inflight: the counter of the bytes of uploads, or of downloads, in flight; None if nothing counts them. Where it
            makes the request wait for room, the fast path declines it.
        is_bounded: whether `inflight` has a bound.
    """

    is_guarded: bool
    inflight: InflightBytes | None
    is_bounded: bool


class RoutePolicy:
    """Knows what is true of each route under the table and the access rules in force.

    Each answer is worked out once, and again when the table or the access rules are replaced. Only the tasks of one
    event loop use it.

    Args:
        throttle: None where nothing bounds the bytes in flight.
    """

    def __init__(self, table: LiveTable, guard: Guard, throttle: Throttle | None) -> None:
        self._table = table
        self._guard = guard
        self._throttle = throttle
        self._known_table: Table = table.table
        self._known_rules: object = guard.rules
        self._open: dict[str, bool] = {}
        self._terms: dict[str, FastTerms | None] = {}
        self._decisions: dict[str, Decision] = {}

    def forwarded(self, route: Route, client_host: str) -> Decision | None:
        """The decision to forward, where nothing else is to be done with a request of the route from `client_host`
        whose path is simple: the white list has the host, and no line goes to the access log. Else None.
        """
        decision = self.decision(route)
        if decision.engine is not Engine.BACKEND or access_log.isEnabledFor(logging.DEBUG):
            return None
        return decision if self._guard.admits(route, client_host) else None

    def decision(self, route: Route) -> Decision:
        """The decision of the table in force for `route`, made once for each table: no state depends on the volume."""
        self._follow()
        decision = self._decisions.get(route.name)
        if decision is None:
            decision = self._decisions[route.name] = decide(route, None, self._table.table)
        return decision

    def is_open(self, route: Route) -> bool:
        """Whether the guard refuses no request of the route."""
        self._follow()
        known = self._open.get(route.name)
        if known is None:
            known = self._open[route.name] = not self._guard.checks(route)
        return known

    def fast_terms(self, route: Route) -> FastTerms | None:
        """The checks of the fast path before it answers a request of the route; None where it answers none.

        The fast path answers where the route reads volumes or writes to them, and the native engine serves the route.
        """
        if self._table.table is not self._known_table or self._guard.rules is not self._known_rules:
            self._follow()
        try:
            return self._terms[route.name]
        except KeyError:
            terms = self._terms[route.name] = self._find_terms(route)
            return terms

    def admits(self, route: Route, client_host: str, token: str, file_id: str) -> bool:
        """Whether the guard lets a request with `token` through, whose path is simple and names `file_id`."""
        return self._guard.admits(route, client_host) and self._guard.admits_token(route, token, file_id)

    def _follow(self) -> None:
        """Forgets all answers when the table or the access rules were replaced."""
        table, rules = self._table.table, self._guard.rules
        if table is not self._known_table or rules is not self._known_rules:
            self._known_table, self._known_rules = table, rules
            self._open, self._terms, self._decisions = {}, {}, {}

    def _find_terms(self, route: Route) -> FastTerms | None:
        decision, kind = self.decision(route), route.access.kind
        if decision.engine is not Engine.NATIVE or decision.is_absent:
            return None
        if kind not in {AccessKind.VOLUME_READ, AccessKind.VOLUME_WRITE}:
            return None
        inflight = None
        if self._throttle is not None:
            inflight = self._throttle.downloads if kind is AccessKind.VOLUME_READ else self._throttle.uploads
        return FastTerms(self._guard.checks(route), inflight, inflight is not None and inflight.is_bounded)
