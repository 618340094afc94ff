"""The way of an HTTP request: find its route, check the guard, decide the engine, get the answer, count it.

`supervisor.routing` alone decides which engine answers.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Protocol

from native_handlers.http.delete import delete_at_others
from native_handlers.http.read_elsewhere import proxy_to_replica
from native_handlers.http.reply import add_common_headers, json_error, redirect_to_canonical, with_fields, without_body
from native_handlers.http_model.message import BodyError, Listener
from native_handlers.runtime.server_counts import INVALID, METHODS
from supervisor.authority.errors import AccessRefused, ServedElsewhere
from supervisor.gateway.route_policy import RoutePolicy, access_log, log_answer
from supervisor.net.errors import BackendUnavailable, ConnectionFailed
from supervisor.net.http_forward import bad_gateway
from supervisor.net.http_send import release
from supervisor.routing.decision import Decision, Engine
from supervisor.routing.match import match_http, match_object
from supervisor.routing.registry import AccessKind, AfterForward
from supervisor.wire.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from native_handlers.http.context import HttpContext, HttpHandler
    from native_handlers.http_model.message import Request, Response
    from supervisor.authority.ledger import Ticket
    from supervisor.gateway.guard import Guard
    from supervisor.gateway.http_authority import HttpAuthority
    from supervisor.gateway.throttle import Throttle
    from supervisor.net.http_forward import Forwarder
    from supervisor.routing.live import LiveTable
    from supervisor.routing.registry import Route

RETRY_AFTER_S = "1"
"""A hand-over takes milliseconds; a restart of the backend takes about a second."""


class LeftToParent(Exception):
    """A handler of a worker leaves the request to the parent. The handler has done nothing that the client sees."""


class Stopping(Protocol):
    """Says whether the node was asked to stop."""

    is_asked: bool


class HttpGateway:
    """Answers every request of the HTTP listeners.

    Args:
        native: handlers by route name.
        forwarder: None where there is no backend. Then a route in state `forward` gets a 502.
        throttle: bounds the bytes in flight of native requests; None sets no bound.
        authority: asked for the volume before an engine works on it; None where one engine has all volumes.
        stop: says when the node is stopping, because the backend does not know; None where it never stops.

    Attributes:
        counts: answers so far by (route name, engine).
        policy: the checks before a route's handler runs. The fast path asks it too.
    """

    def __init__(  # noqa: PLR0913, PLR0917  every seam has its name
        self,
        table: LiveTable,
        native: Mapping[str, HttpHandler],
        context: HttpContext,
        forwarder: Forwarder | None,
        guard: Guard,
        throttle: Throttle | None = None,
        authority: HttpAuthority | None = None,
        stop: Stopping | None = None,
    ) -> None:
        self._stop = stop
        self._authority = authority
        self._native = native
        self._context = context
        self._forwarder = forwarder
        self._guard = guard
        self._throttle = throttle
        self.policy = RoutePolicy(table, guard, throttle)
        self.counts: Counter[tuple[str, Engine]] = Counter()

    async def handle(self, request: Request, route: Route | None = None) -> Response:
        """The answer to `request`.

        Args:
            route: the route of the request, where the caller has found it already.

        Raises:
            BodyError, ConnectionFailed: the client broke off while its request was read.
        """
        started_at_s = monotonic()
        route, target = route or self._route(request), request.parsed
        if target.raw_query and target.has_long_query:
            await self._context.content_threads.run(target.parse_long_query())
        if self._stop is not None and self._stop.is_asked and route.is_health:
            # Whichever engine has the route: the whole node is stopping, and the child does not know.
            return await self._native[route.name](self._context, request)
        volume_id = target.volume_id if route.access.is_volume_in_path else None
        decision = self.policy.decision(route)
        if self._authority is not None and volume_id is not None:
            decision = self._authority.where_it_can_be_done(decision, volume_id)
        self.counts[route.name, decision.engine] += 1
        return await self._respond(decision, request, self._answer, started_at_s)

    async def resume(
        self, decision: Decision, request: Request, forward: Callable[[], Awaitable[Response]], ticket: Ticket | None
    ) -> Response:
        """The answer to a request that the fast path has begun to forward, has checked and has counted.

        Args:
            forward: gives the backend's answer.
            ticket: the access to the request's volume, where one is needed. It is left with the answer.
        """

        async def answer(decision: Decision, request: Request) -> Response:
            volume_id = request.parsed.volume_id
            if self._authority is None or ticket is None or volume_id is None:
                response = await forward()
            else:
                response = await self._authority.answer(decision, volume_id, forward, ticket)
            return await self._after_forward(decision, request, response)

        return await self._respond(decision, request, answer, monotonic())

    async def _respond(
        self,
        decision: Decision,
        request: Request,
        answer: Callable[[Decision, Request], Awaitable[Response]],
        started_at_s: float,
    ) -> Response:
        """The response of `answer`. Counts it in the metrics and writes its line to the access log."""
        try:
            if decision.route.is_counted:
                response = await self._answer_counted(decision, request, answer)
            else:
                response = await answer(decision, request)
        except BackendUnavailable as error:
            return bad_gateway(str(error))
        if access_log.isEnabledFor(logging.DEBUG):
            client, duration_s = (request.client_host, request.client_port), monotonic() - started_at_s
            target, status = request.target, response.status
            log_answer(client, request.method, target, status, decision.route, decision.engine, duration_s)
        return response

    def enter_at_once(self, route: Route, volume_id: int) -> Callable[[], None] | None:
        """Gives the native engine the volume for a request of `route` that the fast path answers. The result ends that;
        None where the engine would have to wait, or may not have the volume.
        """
        if self._authority is None:
            return _nothing
        return self._authority.enter_at_once(volume_id, route.access.kind)

    async def _answer_counted(
        self, decision: Decision, request: Request, answer: Callable[[Decision, Request], Awaitable[Response]]
    ) -> Response:
        """Counts the request in upstream's metrics, unless the backend has answered, and so counted, it.

        Source: weed/server/volume_server_handlers.go (privateStoreHandler, publicReadOnlyHandler).
        """
        counts, started_at_s = self._context.metrics, perf_counter()
        label = request.method if request.method in METHODS else INVALID
        is_in_flight = request.listener is Listener.ADMIN and decision.engine is not Engine.BACKEND
        if is_in_flight:
            counts.begin(label)

        def finish(status: int | None) -> None:
            if is_in_flight:
                counts.end(label)
            if status is not None:
                counts.count_request(label, status, perf_counter() - started_at_s)

        try:
            response = await answer(decision, request)
        except BaseException as error:
            finish(_status_of(error))
            raise
        is_counted = not response.is_relayed and not _is_unrouted(request, response)
        status, close_before = response.status if is_counted else None, response.close

        def close() -> None:
            try:
                if close_before is not None:
                    close_before()
            finally:
                finish(status)

        response.close = close
        return response

    def _route(self, request: Request) -> Route:
        route = match_http(request.listener, request.method, request.parsed.raw_path)
        if route.is_status_page and not self._context.settings.has_ui:
            return match_object(request.listener, request.method)
        return route

    async def _answer(self, decision: Decision, request: Request) -> Response:
        if decision.engine is not Engine.BACKEND:
            if self._throttle is None:
                return await self._answer_natively(decision, request)
            return await self._answer_throttled(self._throttle, decision, request)
        refusal = self._refuse_to_forward(decision.route, request)
        if refusal is not None:
            return self._refused(request, refusal)
        if self._forwarder is None:
            return bad_gateway(f"{decision.route.name} is to be forwarded, and there is no backend")
        response = await self._with_access(decision, request, partial(self._forwarder.forward, request))
        return await self._after_forward(decision, request, response)

    async def _after_forward(self, decision: Decision, request: Request, response: Response) -> Response:
        """`response` of the backend, or what takes its place."""
        asks_others = decision.route.after_forward is AfterForward.ASK_OTHER_HOLDERS
        if asks_others and response.status == HTTPStatus.NOT_FOUND:
            return await self._looked_into(request, response)
        return response

    async def _looked_into(self, request: Request, absent: Response) -> Response:
        """The answer of the other holders for a needle that the backend does not have, or else the backend's answer."""
        if request.parsed.has_long_query:
            # The fast path has begun this request.
            await self._context.content_threads.run(request.parsed.parse_long_query())
        elsewhere = await delete_at_others(self._context, request)
        if elsewhere is None:
            return absent
        await release(absent)
        return self._with_common_headers(request, elsewhere)

    def _refuse_to_forward(self, route: Route, request: Request) -> Response | None:
        """The refusal for a request that the backend would accept or read in another way. None lets it be forwarded."""
        if route.access.is_volume_in_path and request.parsed.is_misread:
            return json_error(request, 400, f"the path {request.raw_path} names no file id")
        return self._guard.refuse_host(route, request) or self._guard.refuse_upload_of_another(route, request)

    async def _with_access(
        self, decision: Decision, request: Request, answer: Callable[[], Awaitable[Response]]
    ) -> Response:
        """The answer, made while the engine has the volume.

        Where the backend keeps the volume for now, the backend's answer. Where the engine does not get the volume, 503.
        """
        volume_id = request.parsed.volume_id
        if self._authority is None or volume_id is None or not decision.route.access.is_volume_in_path:
            return await answer()
        try:
            return await self._authority.answer(decision, volume_id, answer)
        except ServedElsewhere as elsewhere:
            self.counts[decision.route.name, Engine.BACKEND] += 1
            return await self._answer(replace(decision, engine=Engine.BACKEND, why=str(elsewhere)), request)
        except AccessRefused as refusal:
            response = with_fields(json_error(request, 503, str(refusal)), ("Retry-After", RETRY_AFTER_S))
            return self._with_common_headers(request, response)

    async def _answer_natively(self, decision: Decision, request: Request) -> Response:
        if not self.policy.is_open(decision.route):
            refusal = self._guard.refuse_host(decision.route, request)
            refusal = refusal or self._guard.refuse_token(decision.route, request)
            if refusal is not None:
                return self._refused(request, refusal)
        handler = self._native.get(decision.route.name)
        if self._authority is None and handler is not None and not decision.is_absent:
            return await handler(self._context, request)
        if handler is None or decision.is_absent:
            return self._with_common_headers(
                request, json_error(request, 501, f"{decision.route.name}: {decision.why}")
            )
        return await self._with_access(decision, request, partial(handler, self._context, request))

    async def _answer_throttled(self, throttle: Throttle, decision: Decision, request: Request) -> Response:
        """Waits for room before all other checks, as upstream does. So a client that may not write waits as well."""
        route = decision.route
        if route.access.kind is AccessKind.VOLUME_READ:
            if throttle.downloads.is_bounded and throttle.downloads.must_wait():
                return await self._download_later(throttle, decision, request)
            return throttle.count_download(await self._answer_natively(decision, request))
        if not route.is_upload:
            return await self._answer_natively(decision, request)
        if throttle.uploads.is_bounded and throttle.makes_wait(request):
            return await self._upload_later(throttle, decision, request)
        uploads, length = throttle.uploads, request.body.length_bytes
        if uploads.is_bounded or length is None:
            with throttle.counting_upload(request) as counted:
                return await self._answer_natively(decision, counted)
        # Without a bound no upload waits for room, so the bytes in flight are only summed up, for the metrics.
        uploads.bytes += length
        try:
            return await self._answer_natively(decision, request)
        finally:
            uploads.bytes -= length

    async def _download_later(self, throttle: Throttle, decision: Decision, request: Request) -> Response:
        """For a read that has to wait: another replica's answer, the answer after the wait, or 429."""
        self._context.metrics.count_handler("downloadLimitCondition")
        answer = await proxy_to_replica(self._context, request)
        if answer is not None:
            return self._with_common_headers(request, answer)
        with throttle.downloads.turn(None) as turn:
            refusal = await throttle.refuse_download(request, turn)
            if refusal is not None:
                return self._with_common_headers(request, refusal)
            return throttle.count_download(await self._answer_natively(decision, request))

    async def _upload_later(self, throttle: Throttle, decision: Decision, request: Request) -> Response:
        """For an upload that has to wait: the answer after the wait, or 429."""
        self._context.metrics.count_handler("uploadLimitCondition")
        with throttle.uploads.turn(request.body.length_bytes) as turn:
            refusal = await throttle.refuse_upload(request, turn)
            if refusal is not None:
                return self._with_common_headers(request, refusal)
            with throttle.counting_upload(request) as counted:
                throttle.uploads.end(turn)
                return await self._answer_natively(decision, counted)

    def _refused(self, request: Request, refusal: Response) -> Response:
        """The answer to a request that the guard refuses: a redirect where upstream's mux would redirect it first."""
        return redirect_to_canonical(request) or self._with_common_headers(request, refusal)

    def _with_common_headers(self, request: Request, response: Response) -> Response:
        response = add_common_headers(self._context.settings, request, response, with_cors=True)
        return without_body(response) if request.method == "HEAD" else response


def _nothing() -> None:
    """Ends the access to a volume that only one engine has."""


def _status_of(error: BaseException) -> int | None:
    """The status that the client gets where an answer failed; None where the client gets none."""
    if isinstance(error, BodyError):
        cause = error.__cause__
        return cause.status if isinstance(cause, RemoteProtocolError) else 400
    if isinstance(error, BackendUnavailable):
        return 502
    has_answer = isinstance(error, Exception) and not isinstance(error, ConnectionFailed | LeftToParent)
    return 500 if has_answer else None


def _is_unrouted(request: Request, response: Response) -> bool:
    """Whether upstream's HTTP library answers this request before any handler, and so before any counter."""
    return response.status in {307, 400} and redirect_to_canonical(request) is not None
