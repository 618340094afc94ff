"""The way of a HTTP request: name its route, guard it, decide the engine, have it answered, count it.

Which engine answers is decided by `supervisor.routing` alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from native_handlers.http.read_elsewhere import hand_over
from native_handlers.http.reply import dress, json_error, without_body
from native_handlers.http.unrouted import answer_unrouted
from supervisor.authority.errors import AccessRefused, ServedElsewhere
from supervisor.net.http_forward import bad_gateway
from supervisor.routing.decision import Decision, Engine, decide
from supervisor.routing.match import match_http, match_object
from supervisor.routing.paths import volume_id_in_path
from supervisor.routing.registry import AccessKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from native_handlers.http.context import HttpContext, HttpHandler
    from native_handlers.http.message import Request, Response
    from supervisor.gateway.guard import Guard
    from supervisor.gateway.http_authority import HttpAuthority
    from supervisor.gateway.throttle import Throttle
    from supervisor.net.http_forward import Forwarder
    from supervisor.routing.live import LiveTable
    from supervisor.routing.registry import Route

_UPLOADS = frozenset({"POST", "PUT"})
RETRY_AFTER_S = "1"
"""A hand-over takes milliseconds, a restart of the backend a second or so."""

access_log = logging.getLogger("supervisor.access")
"""One line for each answer, at debug level."""


class HttpGateway:
    """Answers every request of the HTTP listeners.

    Args:
        native: handlers by route name.
        forwarder: None where there is no backend; then a route that is to be forwarded gets a 502.
        throttle: bounds what is in flight natively; None bounds nothing.
        authority: asked for the volume before an engine works on it; None where one engine has them all.

    Attributes:
        counts: answers so far by (route name, engine).
    """

    def __init__(
        self,
        table: LiveTable,
        native: Mapping[str, HttpHandler],
        context: HttpContext,
        forwarder: Forwarder | None,
        guard: Guard,
        throttle: Throttle | None = None,
        authority: HttpAuthority | None = None,
    ) -> None:
        self._table = table
        self._authority = authority
        self._native = native
        self._context = context
        self._forwarder = forwarder
        self._guard = guard
        self._throttle = throttle
        self.counts: Counter[tuple[str, Engine]] = Counter()

    @property
    def limits_downloads(self) -> bool:
        """Whether a read may have to wait for others, and counts as in flight itself."""
        return self._throttle is not None and self._throttle.downloads.is_bounded

    async def handle(self, request: Request) -> Response:
        """The answer to `request`.

        Raises:
            BodyError, PeerError: the client broke off while its request was read.
        """
        started_at_s = monotonic()
        route = self._route(request)
        volume_id = _volume_id(route, request)
        decision = decide(route, volume_id, self._table.current())
        if self._authority is not None and volume_id is not None:
            decision = self._authority.where_it_can_be_done(decision, volume_id)
        self.counts[route.name, decision.engine] += 1
        response = await self._answer(decision, request)
        if access_log.isEnabledFor(logging.DEBUG):
            self._log(request, decision, response, monotonic() - started_at_s)
        return response

    def _route(self, request: Request) -> Route:
        route = match_http(request.listener, request.method, request.raw_path)
        if route.name == "http.ui" and not self._context.settings.has_ui:
            return match_object(request.listener, request.method)
        return route

    async def _answer(self, decision: Decision, request: Request) -> Response:
        if decision.engine is not Engine.BACKEND:
            if self._throttle is None:
                return await self._answer_natively(decision, request)
            return await self._answer_throttled(self._throttle, decision, request)
        refusal = self._guard.refuse_host(decision.route, request)
        if refusal is not None:
            return self._refused(request, refusal)
        if self._forwarder is None:
            return bad_gateway(f"{decision.route.name} is to be forwarded, and there is no backend")
        return await self._with_access(decision, request, partial(self._forwarder.forward, request))

    async def _with_access(
        self, decision: Decision, request: Request, answer: Callable[[], Awaitable[Response]]
    ) -> Response:
        """The answer, made while the engine has the volume; the backend's where it keeps that for now, 503 where the
        engine does not get it.
        """
        volume_id = _volume_id(decision.route, request)
        if self._authority is None or volume_id is None:
            return await answer()
        try:
            return await self._authority.answer(decision, volume_id, answer)
        except ServedElsewhere as elsewhere:
            self.counts[decision.route.name, Engine.BACKEND] += 1
            return await self._answer(replace(decision, engine=Engine.BACKEND, why=str(elsewhere)), request)
        except AccessRefused as refusal:
            response = json_error(request, 503, str(refusal))
            response.headers = response.headers.plus(("Retry-After", RETRY_AFTER_S))
            return self._dressed(request, response)

    async def _answer_natively(self, decision: Decision, request: Request) -> Response:
        refusal = self._guard.refuse_host(decision.route, request) or self._guard.refuse_token(decision.route, request)
        if refusal is not None:
            return self._refused(request, refusal)
        handler = self._native.get(decision.route.name)
        if handler is None or decision.is_absent:
            return self._dressed(request, json_error(request, 501, f"{decision.route.name}: {decision.why}"))
        return await self._with_access(decision, request, partial(handler, self._context, request))

    async def _answer_throttled(self, throttle: Throttle, decision: Decision, request: Request) -> Response:
        """Waits for room before anything else is asked, as upstream does: who may not write waits as well."""
        access = decision.route.access.kind
        if access is AccessKind.VOLUME_READ:
            refusal = await self._refuse_download(throttle, request)
            if refusal is not None:
                return self._dressed(request, refusal)
            return throttle.count_download(await self._answer_natively(decision, request))
        if request.method not in _UPLOADS or access is not AccessKind.VOLUME_WRITE:
            return await self._answer_natively(decision, request)
        refusal = await throttle.refuse_upload(request)
        if refusal is not None:
            return self._dressed(request, refusal)
        with throttle.counting_upload(request) as counted:
            return await self._answer_natively(decision, counted)

    async def _refuse_download(self, throttle: Throttle, request: Request) -> Response | None:
        """Another replica's answer, or 429 after the wait, for a read that finds no room; None lets it begin."""
        if not throttle.downloads.is_over:
            return None
        self._context.metrics.count_handler("downloadLimitCondition")
        answer = await hand_over(self._context, request)
        return answer if answer is not None else await throttle.refuse_download(request)

    def _refused(self, request: Request, refusal: Response) -> Response:
        """What a request gets that the guard refuses: the refusal, if there is a handler that it would reach."""
        return answer_unrouted(request) or self._dressed(request, refusal)

    def _dressed(self, request: Request, response: Response) -> Response:
        response = dress(self._context.settings, request, response, with_cors=True)
        return without_body(response) if request.method == "HEAD" else response

    def _log(self, request: Request, decision: Decision, response: Response, duration_s: float) -> None:
        access_log.debug(
            "%s:%d %s %s %d %s %s %.6f",
            request.peer_host,
            request.peer_port,
            request.method,
            request.target,
            response.status,
            decision.route.name,
            decision.engine.value,
            duration_s,
        )


def _volume_id(route: Route, request: Request) -> int | None:
    return volume_id_in_path(request.path) if route.access.volume_id_in == "path" else None
