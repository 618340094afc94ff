"""Requests of our own to other volume servers: implements `native_handlers.http.context.PeerHttp` over a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http.context import PeerFailed, PeerFailureKind, PeerResponse
from supervisor.net.errors import BackendUnavailable
from supervisor.net.http_client import Address, CannotConnect
from supervisor.net.http_exchange import Answer, AnswerBody, Exchange
from supervisor.net.http_link import LinkBroken, LinkSilent
from supervisor.wire.forwarding import end_to_end
from supervisor.wire.http1_events import NO_HEADERS, RequestHead
from supervisor.wire.server_address import BadServerAddress, ServerAddress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from native_handlers.http.headers import Headers
    from supervisor.net.http_client import HttpPool


PEER_TIMEOUT_S = 30.0
"""How long a peer may take for the head of an answer once it has the request, and how long its connection may stand
still at any other time: a peer that hangs must not hold a write, for another one can be read or written. A write that
reaches a slow disk takes less. Source: weed/util/http/client/http_client.go responseHeaderTimeout, which leaves bodies
unlimited."""


class PeerClient:
    """Talks to volume servers by their host:port, over TLS where the pool has it.

    How long one may be silent within a body, or not take a request, is the matter of the pool's connections.
    """

    def __init__(self, pool: HttpPool, *, answer_timeout_s: float = PEER_TIMEOUT_S) -> None:
        self._pool = pool
        self._answer_timeout_s = answer_timeout_s

    async def request(
        self, method: str, url_host_port: str, target: str, headers: Headers, body: bytes | AsyncIterator[bytes]
    ) -> PeerResponse:
        """See `PeerHttp.request`. A stream of a declared Content-Length is sent with it, any other in chunks.

        Cancellation: closes the connection.
        """
        address = _address(url_host_port)
        exchange = Exchange(self._pool, address, answer_timeout_s=self._answer_timeout_s)
        declared = headers.get("Content-Length")
        length = len(body) if isinstance(body, bytes) else None if declared is None else int(declared)
        head = RequestHead(
            method, target, _with_host(headers.without(["Transfer-Encoding"]), address), body_length_bytes=length
        )
        try:
            if isinstance(body, bytes):
                answer = await exchange.send_whole(head, body)
            else:
                answer = await exchange.send_stream(head, _IteratedBody(body))
        except LinkBroken as error:
            raise PeerFailed(url_host_port, _kind_of(error), str(error)) from error
        return PeerResponse(answer.head.status, end_to_end(answer.head.headers), PeerBody(url_host_port, answer))


class PeerBody:
    """The body of a peer's answer: an async iterator of its pieces."""

    def __init__(self, peer: str, answer: Answer) -> None:
        self._peer = peer
        self._rest: bytes | AnswerBody = answer.body

    def __aiter__(self) -> PeerBody:
        return self

    async def __anext__(self) -> bytes:
        if isinstance(self._rest, bytes):
            data, self._rest = self._rest, b""
            if not data:
                raise StopAsyncIteration
            return data
        try:
            return await self._rest.__anext__()
        except BackendUnavailable as error:
            raise PeerFailed(self._peer, _kind_of(error.__cause__), error.reason) from error

    async def aclose(self) -> None:
        """Gives up what was not read."""
        if isinstance(self._rest, AnswerBody):
            await self._rest.aclose()


class _IteratedBody:
    """An async iterator as a source of body pieces."""

    trailers = NO_HEADERS

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    async def receive_some(self) -> bytes:
        async for chunk in self._chunks:
            if chunk:
                return chunk
        return b""


def _with_host(headers: Headers, address: Address) -> Headers:
    return headers.without(["Host"]).plus(("Host", str(address)))


def _address(url_host_port: str) -> Address:
    """`host:port`, also with the `.grpcPort` that server addresses may carry."""
    try:
        parsed = ServerAddress.parse(url_host_port)
    except BadServerAddress as error:
        raise PeerFailed(url_host_port, PeerFailureKind.SERVER_ERROR, str(error)) from error
    return Address(parsed.host, parsed.port)


def _kind_of(error: BaseException | None) -> PeerFailureKind:
    if isinstance(error, CannotConnect):
        return PeerFailureKind.CONNECTION_REFUSED if error.is_refused else PeerFailureKind.TIMEOUT
    return PeerFailureKind.TIMEOUT if isinstance(error, LinkSilent) else PeerFailureKind.SERVER_ERROR
