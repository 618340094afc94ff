"""Forwards a request to the backend and hands its answer back as a response, both ways with backpressure."""

from __future__ import annotations

import json
import logging
from math import inf
from typing import TYPE_CHECKING

import trio

from native_handlers.http.headers import Headers
from native_handlers.http.message import Request, Response, StreamBody
from supervisor.net.http_body import ServerBody
from supervisor.net.http_exchange import Answer, Exchange
from supervisor.net.http_link import LinkBroken
from supervisor.wire.forwarding import end_to_end, forwarded_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.net.http_client import Address, HttpPool

log = logging.getLogger(__name__)

GATHER_BYTES = 64 * 1024
"""Declared bodies up to here are read whole before the backend sees anything of the request: a slow client then holds
no backend connection, and head and body go out in one call."""


NOTE_INTERVAL_S = 5.0


class Forwarder:
    """Forwards to one backend.

    Args:
        address: where the backend listens now; None while there is none.
    """

    def __init__(self, pool: HttpPool, address: Callable[[], Address | None]) -> None:
        self._pool = pool
        self._address = address
        self._noted_at_s = -inf
        self._unnoted = 0

    async def forward(self, request: Request) -> Response:
        """The backend's answer; 502 with a JSON error that says why when there is none.

        Raises:
            BodyError, PeerError: the client broke off; the backend saw its connection close.

        Cancellation: closes the backend connection, which is how the backend learns of it.
        """
        address = self._address()
        if address is None:
            return bad_gateway("the backend is not running")
        try:
            answer = await self._exchange(request, address)
        except LinkBroken as error:
            self._note_failure(request, address, error)
            return bad_gateway(f"the backend at {address} failed: {error}")
        return _response(answer)

    def _note_failure(self, request: Request, address: Address, error: LinkBroken) -> None:
        """Logs a failure, but no more than one each NOTE_INTERVAL_S: a dead backend fails every request."""
        now_s = trio.current_time()
        if now_s - self._noted_at_s < NOTE_INTERVAL_S:
            self._unnoted += 1
            return
        more = f" ({self._unnoted} failures since the last such line)" if self._unnoted else ""
        self._noted_at_s, self._unnoted = now_s, 0
        log.warning("%s %s: the backend at %s failed: %s%s", request.method, request.target, address, error, more)

    async def _exchange(self, request: Request, address: Address) -> Answer:
        body = request.body
        server_body = body if isinstance(body, ServerBody) else None
        exchange = Exchange(self._pool, address, server_body)
        length = body.length_bytes
        if length == 0:
            return await exchange.send_whole(forwarded_request(request, keeps_expect=False), b"")
        awaits_continue = server_body is not None and server_body.awaits_continue
        if length is not None and length <= GATHER_BYTES and not awaits_continue:
            whole = await _gather(request)
            return await exchange.send_whole(forwarded_request(request, keeps_expect=False), whole)
        source = server_body or _PlainSource(request)
        return await exchange.send_stream(forwarded_request(request, keeps_expect=awaits_continue), source)


class _PlainSource:
    """A body that knows no trailers."""

    def __init__(self, request: Request) -> None:
        self.receive_some = request.body.receive_some
        self.trailers = Headers()


def bad_gateway(reason: str) -> Response:
    """The answer for a backend that gave none, in the form of upstream's own errors."""
    body = json.dumps({"error": reason}).encode()
    headers = Headers([("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")])
    return Response(502, headers, body)


async def _gather(request: Request) -> bytes:
    pieces = []
    while data := await request.body.receive_some():
        pieces.append(data)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _response(answer: Answer) -> Response:
    head = answer.head
    headers = end_to_end(head.headers)
    if isinstance(answer.body, bytes):
        return Response(head.status, headers, answer.body, head.reason)
    return Response(head.status, headers, StreamBody(answer.body, head.body_length_bytes), head.reason)
