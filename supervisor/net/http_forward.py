"""Forwards a request to the backend and returns the backend's answer as a response, with backpressure both ways."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import trio

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Request, Response, StreamBody
from supervisor.net.http_client_connection import HttpConnectionBroken
from supervisor.net.http_exchange import BackendResponse, BegunExchange, Exchange
from supervisor.net.polled_exchange import SentRequest
from supervisor.wire.forwarding import end_to_end, forwarded_request

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from native_handlers.http_model.message import Listener
    from supervisor.net.http_client import Address, HttpPool
    from supervisor.wire.http1_events import RequestHead

log = logging.getLogger(__name__)

GATHER_BYTES = 64 * 1024
"""A declared body up to this size is read whole before the backend gets the request. So a slow client holds no backend
connection, and head and body go out in one system call."""


NOTE_INTERVAL_S = 5.0


class Forwarder:
    """Forwards to one backend.

    Args:
        address: returns where the backend listens now for requests of a listener; None while there is no backend.
        first_field: gives a field that is put before all fields of the request; None adds nothing.
        name: how errors and the log call the backend; "" for its address.
    """

    def __init__(
        self,
        pool: HttpPool,
        address: Callable[[Listener], Address | None],
        *,
        first_field: Callable[[Request], tuple[str, str]] | None = None,
        name: str = "",
    ) -> None:
        self._pool = pool
        self._address = address
        self._first_field = first_field
        self._name = name
        self._noted_at_s = -inf
        self._unnoted = 0

    async def forward(self, request: Request) -> Response:
        """The backend's answer. Without one, a 502 with a JSON error that names the reason.

        Raises:
            BodyError, ConnectionFailed: the client broke off. The backend's connection is closed.

        Cancellation: closes the backend's connection, so the backend notices.
        """
        address = self._address(request.listener)
        if address is None:
            return bad_gateway("the backend is not running")
        return await self._response_of(request, address, self._exchange(request, address))

    def begin(self, listener: Listener, raw: bytes) -> BegunExchange | None:
        """An exchange for the whole request `raw`, over a kept connection; nothing is sent yet.

        None where `forward` would have to wait, to connect for example. The caller closes the exchange, or gives it to
        `resume`.
        """
        address = self._address(listener)
        connection = None if address is None else self._pool.acquire_kept(address)
        return (
            None
            if address is None or connection is None
            else BegunExchange(self._pool, address, SentRequest(raw), connection)
        )

    async def resume(self, request: Request, begun: BegunExchange) -> Response:
        """As `forward`, for a request that was sent, and whose whole body has arrived."""
        return await self._response_of(request, begun.address, self._resumed(request, begun))

    async def _resumed(self, request: Request, begun: BegunExchange) -> BackendResponse:
        body = await _gather(request) if request.body.length_bytes else b""
        exchange = Exchange(self._pool, begun.address, request.body)
        return await exchange.resume(self._head_of(request), body, begun)

    def _head_of(self, request: Request, *, keeps_expect: bool = False) -> RequestHead:
        head = forwarded_request(request, keeps_expect=keeps_expect)
        if self._first_field is None:
            return head
        return replace(head, headers=Headers((self._first_field(request), *head.headers)))

    async def _response_of(
        self, request: Request, address: Address, exchange: Coroutine[object, object, BackendResponse]
    ) -> Response:
        try:
            answer = await exchange
        except HttpConnectionBroken as error:
            self._note_failure(request, address, error)
            return bad_gateway(f"{self._called(address)} failed: {error}")
        return _response(answer)

    def _note_failure(self, request: Request, address: Address, error: HttpConnectionBroken) -> None:
        """Logs a failure, at most one each NOTE_INTERVAL_S: with a dead backend every request fails."""
        now_s = trio.current_time()
        if now_s - self._noted_at_s < NOTE_INTERVAL_S:
            self._unnoted += 1
            return
        more = f" ({self._unnoted} failures since the last such line)" if self._unnoted else ""
        self._noted_at_s, self._unnoted = now_s, 0
        called = self._called(address)
        log.warning("%s %s: %s failed: %s%s", request.method, request.target, called, error, more)

    def _called(self, address: Address) -> str:
        return self._name or f"the backend at {address}"

    async def _exchange(self, request: Request, address: Address) -> BackendResponse:
        body, length = request.body, request.body.length_bytes
        is_whole = length == 0 or (length is not None and length <= GATHER_BYTES and not body.awaits_continue)
        head = self._head_of(request, keeps_expect=not is_whole and body.awaits_continue)
        exchange = Exchange(self._pool, address, body)
        if not is_whole:
            return await exchange.send_stream(head, body)
        return await exchange.send_whole(head, await _gather(request) if length else b"")


def bad_gateway(reason: str) -> Response:
    """The answer where the backend gave none, in the form of upstream's own errors."""
    body = json.dumps({"error": reason}).encode()
    headers = Headers([("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")])
    return Response(502, headers, body)


async def _gather(request: Request) -> bytes:
    pieces = []
    while data := await request.body.receive_some():
        pieces.append(data)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _response(answer: BackendResponse) -> Response:
    head = answer.head
    headers = end_to_end(head.headers)
    body = answer.body if isinstance(answer.body, bytes) else StreamBody(answer.body, head.body_length_bytes)
    return Response(head.status, headers, body, head.reason, is_relayed=True)
