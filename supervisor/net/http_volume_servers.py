"""Requests from this server to other volume servers: `http_model.volume_servers.VolumeServerHttp` over a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http_model.volume_servers import VolumeServerFailed, VolumeServerFailureKind, VolumeServerResponse
from supervisor.net.errors import BackendUnavailable
from supervisor.net.http_client import Address, CannotConnect
from supervisor.net.http_client_connection import HttpConnectionBroken, HttpConnectionSilent
from supervisor.net.http_exchange import AnswerBody, BackendResponse, Exchange
from supervisor.wire.forwarding import end_to_end
from supervisor.wire.http1_events import NO_HEADERS, RequestHead
from supervisor.wire.server_address import BadServerAddress, ServerAddress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from native_handlers.http_model.headers import Headers
    from supervisor.net.http_client import HttpPool


VOLUME_SERVER_TIMEOUT_S = 30.0
"""How long another volume server may take for the head of an answer after it has the request. Also how long its
connection may stand still at any other time. A server that hangs must not hold up a write. A write to a slow disk takes
less time. Source: weed/util/http/client/http_client.go (responseHeaderTimeout), which sets no limit on bodies."""


class VolumeServerClient:
    """Sends requests to volume servers by their host:port, over TLS where the pool has a TLS context.

    The connections of the pool limit how long a server may be silent within a body, or take nothing of a request.
    """

    def __init__(self, pool: HttpPool, *, answer_timeout_s: float = VOLUME_SERVER_TIMEOUT_S) -> None:
        self._pool = pool
        self._answer_timeout_s = answer_timeout_s

    async def drop_idle(self) -> None:
        """Closes the connections that are kept for reuse. Cancellation: the connections are closed all the same."""
        await self._pool.drop_idle()

    async def request(
        self, method: str, url_host_port: str, target: str, headers: Headers, body: bytes | AsyncIterator[bytes]
    ) -> VolumeServerResponse:
        """See `VolumeServerHttp.request`.

        A stream with a declared Content-Length is sent with that length, else in chunks.
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
        except HttpConnectionBroken as error:
            raise VolumeServerFailed(url_host_port, _kind_of(error), str(error)) from error
        return VolumeServerResponse(
            answer.head.status, end_to_end(answer.head.headers), VolumeServerBody(url_host_port, answer)
        )


class VolumeServerBody:
    """The body of another volume server's answer: an async iterator of its pieces."""

    def __init__(self, server: str, answer: BackendResponse) -> None:
        self._server = server
        self._rest: bytes | AnswerBody = answer.body

    def __aiter__(self) -> VolumeServerBody:
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
            raise VolumeServerFailed(self._server, _kind_of(error.__cause__), error.reason) from error

    async def aclose(self) -> None:
        """Closes the connection if the body has not been read to its end."""
        if isinstance(self._rest, AnswerBody):
            await self._rest.aclose()


class _IteratedBody:
    """An async iterator as a `BodySource`."""

    trailers = NO_HEADERS

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    async def pass_rest_to(self, _sink: object, /) -> int:
        """No bytes: they come from an iterator."""
        return 0

    async def receive_some(self) -> bytes:
        async for chunk in self._chunks:
            if chunk:
                return chunk
        return b""


def _with_host(headers: Headers, address: Address) -> Headers:
    return headers.without(["Host"]).plus(("Host", str(address)))


def _address(url_host_port: str) -> Address:
    """The address in `host:port`, also where a `.grpcPort` follows, as in server addresses.

    Raises:
        VolumeServerFailed: the text is no server address.
    """
    try:
        parsed = ServerAddress.parse(url_host_port)
    except BadServerAddress as error:
        raise VolumeServerFailed(url_host_port, VolumeServerFailureKind.SERVER_ERROR, str(error)) from error
    return Address(parsed.host, parsed.port)


def _kind_of(error: BaseException | None) -> VolumeServerFailureKind:
    if isinstance(error, CannotConnect):
        return VolumeServerFailureKind.CONNECTION_REFUSED if error.is_refused else VolumeServerFailureKind.TIMEOUT
    return (
        VolumeServerFailureKind.TIMEOUT
        if isinstance(error, HttpConnectionSilent)
        else VolumeServerFailureKind.SERVER_ERROR
    )
