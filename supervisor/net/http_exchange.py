"""One request and its answer over a pool. A request is sent again only where the server cannot have executed it.

docs/policy/closing.md has the rules. A request is sent again, once, on a fresh connection, in two cases: a kept
connection was dead before the kernel took a byte of the request, or a GET or HEAD got no byte of an answer on a kept
connection. No other request is sent twice.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from native_handlers.http_model.message import BodyError
from native_handlers.records import dataclass
from supervisor.net.errors import BackendUnavailable, ConnectionFailed
from supervisor.net.http_client_connection import (
    ClientHttpConnection,
    HttpConnectionBroken,
    HttpConnectionSilent,
    NotYet,
    receive_final_head,
)
from supervisor.wire.http1_events import NO_HEADERS, RequestHead, ResponseHead

if TYPE_CHECKING:
    from native_handlers.http_model.headers import Headers
    from native_handlers.http_model.message import RequestBody
    from supervisor.net.http_client import Address, HttpPool
    from supervisor.net.http_client_connection import OnInterim
    from supervisor.net.polled_exchange import SentRequest
    from supervisor.net.transport import SocketTransport

WATCH_AFTER_S = 0.25
"""After this time without an answer, a task watches whether the client is still there. A shorter wait needs no task."""

_REPEATABLE = frozenset({"GET", "HEAD"})

_WHOLE_BYTES = 64 * 1024
"""A body up to this size that has already arrived is returned as bytes, and its connection is free at once."""

log = logging.getLogger(__name__)


class BodySource(Protocol):
    """A request body that is sent piece by piece. `trailers` are valid after the end."""

    @property
    def trailers(self) -> Headers: ...

    async def receive_some(self) -> bytes: ...

    async def pass_rest_to(self, sink: object, /) -> int:
        """As `RequestBody.pass_rest_to`."""
        ...


class AnswerBody:
    """The body of an answer, piece by piece, as an async iterator. Its end, or `aclose`, gives the connection back."""

    __slots__ = ("_address", "_connection", "_pool", "trailers")

    def __init__(self, pool: HttpPool, address: Address, connection: ClientHttpConnection) -> None:
        self._pool = pool
        self._address = address
        self._connection: ClientHttpConnection | None = connection
        self.trailers = NO_HEADERS

    def __aiter__(self) -> AnswerBody:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise StopAsyncIteration
        try:
            data = await self._connection.receive_data()
        except HttpConnectionBroken as error:
            raise BackendUnavailable(str(self._address), f"the answer broke off: {error}") from error
        if data:
            return data
        self.trailers = self._connection.trailers
        await self.aclose()
        raise StopAsyncIteration

    async def pass_rest_to(self, sink: SocketTransport) -> int:
        """Moves the rest of a large body to `sink`. Returns how many bytes were moved: the whole rest, or none.

        Raises:
            BackendUnavailable: the server broke off.
            ConnectionFailed: the fault of the other end of `sink`.
        """
        if self._connection is None:
            return 0
        try:
            return await self._connection.pass_rest_to(sink)
        except HttpConnectionBroken as error:
            raise BackendUnavailable(str(self._address), f"the answer broke off: {error}") from error

    async def aclose(self) -> None:
        """Gives the connection back. A connection with an unread rest is closed, so the server stops sending."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._pool.release(self._address, connection)


class BackendResponse(NamedTuple):
    """A final head with its body. The body is bytes when all of it came with the head."""

    head: ResponseHead
    body: bytes | AnswerBody


@dataclass(eq=False, slots=True)
class BegunExchange:
    """An exchange over a connection of `pool` that was begun outside of `Exchange`; see `polled_exchange`.

    Attributes:
        connection: the connection to the server; None after `take_connection` or `close`.
    """

    pool: HttpPool
    address: Address
    sent: SentRequest
    connection: ClientHttpConnection | None

    @property
    def running_connection(self) -> ClientHttpConnection:
        """The connection, before `take_connection` and `close`."""
        assert self.connection is not None, "the exchange is over"
        return self.connection

    def take_connection(self) -> ClientHttpConnection:
        """The connection. From now on the caller gives it back to the pool."""
        connection, self.connection = self.running_connection, None
        return connection

    def put_back(self) -> None:
        """Gives the connection back to the pool: the exchange is complete, or nothing was sent."""
        self.pool.keep(self.address, self.take_connection())

    def close(self) -> None:
        """Closes the connection, unless it was taken. The server notices at once."""
        connection, self.connection = self.connection, None
        if connection is not None:
            self.pool.discard(connection)


class Exchange:
    """Makes exchanges with one server.

    Args:
        origin: the body of the client's request for which the exchange is made. Interim answers go to that client, and
            the exchange ends when the client goes. None for this server's own requests.
        answer_timeout_s: for this server's own requests: how long the answer's head may take after the request, and how
            long each piece of a streamed body may take. Where there is an origin, no limit applies: the client waits.
    """

    __slots__ = ("_address", "_answer_timeout_s", "_origin", "_pool")

    def __init__(
        self, pool: HttpPool, address: Address, origin: RequestBody | None = None, *, answer_timeout_s: float = inf
    ) -> None:
        self._pool = pool
        self._address = address
        self._origin = origin
        self._answer_timeout_s = answer_timeout_s

    async def send_whole(self, head: RequestHead, body: bytes) -> BackendResponse:
        """The answer to a request whose whole body is in memory.

        Raises:
            HttpConnectionBroken: there is no answer. CannotConnect: nothing was executed. HttpConnectionSilent: the
                server may still execute the request.
            ConnectionFailed: the origin is gone. The server's connection is closed.
        """
        try:
            return await self._whole_once(head, body, is_fresh=False)
        except _StaleConnection:
            return await self._whole_once(head, body, is_fresh=True)

    async def send_stream(self, head: RequestHead, source: BodySource) -> BackendResponse:
        """The answer to a request whose body is sent as it arrives. An early answer ends the sending.

        Raises:
            BodyError: the source broke off. The server's connection is closed.
            HttpConnectionBroken, ConnectionFailed: as for `send_whole`.
        """
        try:
            return await self._stream_once(head, source, is_fresh=False)
        except _StaleConnection:
            return await self._stream_once(head, source, is_fresh=True)

    async def resume(self, head: RequestHead, body: bytes, begun: BegunExchange) -> BackendResponse:
        """As `send_whole`, for a request that was sent already."""
        try:
            return await self._whole_once(head, body, is_fresh=False, begun=begun)
        except _StaleConnection:
            return await self._whole_once(head, body, is_fresh=True)

    async def _whole_once(
        self, head: RequestHead, body: bytes, *, is_fresh: bool, begun: BegunExchange | None = None
    ) -> BackendResponse:
        connection = (
            await self._pool.acquire(self._address, is_fresh=is_fresh) if begun is None else begun.take_connection()
        )
        try:
            if begun is None:
                await connection.send_request(head, body)
            else:
                await connection.resume(head, begun.sent)
            return await self._answer(connection, await self._head_in_time(connection))
        except HttpConnectionBroken as error:
            await self._give_up(connection)
            # The server may close a kept connection while the request is on its way. Then a read without any byte of an
            # answer, or a request of which no byte was sent, goes to a fresh connection. A silent server may still
            # execute the request.
            is_repeatable = not body and head.method in _REPEATABLE and not connection.received_bytes
            if (
                connection.is_reused
                and not isinstance(error, HttpConnectionSilent)
                and (is_repeatable or not connection.sent_bytes)
            ):
                raise _StaleConnection from error
            raise
        except BaseException:
            await self._give_up(connection)
            raise

    async def _stream_once(self, head: RequestHead, source: BodySource, *, is_fresh: bool) -> BackendResponse:
        connection = await self._pool.acquire(self._address, is_fresh=is_fresh)
        try:
            await connection.send_request(head, None)
        except BaseException as error:
            await self._give_up(connection)
            # Nothing was taken from `source` yet, so the request can be sent again as a whole.
            if isinstance(error, HttpConnectionBroken) and connection.is_reused and not connection.sent_bytes:
                raise _StaleConnection from error
            raise
        try:
            return await self._answer(connection, await self._uploaded(connection, head, source))
        except BaseException:
            await self._give_up(connection)
            raise

    async def _uploaded(self, connection: ClientHttpConnection, head: RequestHead, source: BodySource) -> ResponseHead:
        return await _Upload(connection, head, source, self._origin, self._answer_timeout_s).run()

    async def _answer(self, connection: ClientHttpConnection, head: ResponseHead) -> BackendResponse:
        length = head.body_length_bytes
        if length is not None and length <= _WHOLE_BYTES:
            # A short answer that has arrived frees the connection before the client reads it.
            body = connection.take_whole_body(length)
            if body is not None:
                await self._pool.release(self._address, connection)
                return BackendResponse(head, body)
        return BackendResponse(head, AnswerBody(self._pool, self._address, connection))

    async def _give_up(self, connection: ClientHttpConnection) -> None:
        connection.must_close = True
        await self._pool.release(self._address, connection)

    async def _head_in_time(self, connection: ClientHttpConnection) -> ResponseHead:
        limit_s = self._answer_timeout_s if self._origin is None else WATCH_AFTER_S
        pass_on = _to(self._origin)
        connection.expect_head_by(trio.current_time() + limit_s)
        try:
            return await receive_final_head(connection, pass_on)
        except NotYet as error:
            if self._origin is None:
                raise _no_answer_within(limit_s) from error
            connection.expect_head_by()
            return await _head_while_watching(connection, self._origin)
        finally:
            connection.expect_head_by()


class _StaleConnection(Exception):
    """A kept connection was dead before the server can have executed anything of the request."""


def _to(origin: RequestBody | None) -> OnInterim:
    """Passes interim answers on to the client. For this server's own requests interim answers are ignored."""

    async def pass_on(head: ResponseHead) -> None:
        if origin is not None:
            await origin.send_interim(head.status, head.headers, head.reason)

    return pass_on


def _no_answer_within(timeout_s: float) -> HttpConnectionSilent:
    return HttpConnectionSilent(f"no answer within {timeout_s:g} s")


async def _head_while_watching(connection: ClientHttpConnection, origin: RequestBody) -> ResponseHead:
    """The final head, unless the origin goes away first. A half-close of the origin is passed on to the server."""
    failure: HttpConnectionBroken | ConnectionFailed | None = None
    head: ResponseHead | None = None

    async def watch() -> None:
        nonlocal failure
        try:
            await origin.wait_end()
            await connection.send_eof()
        except ConnectionFailed as error:
            failure = error
            nursery.cancel_scope.cancel()
        except HttpConnectionBroken as error:
            log.debug("the server is gone, which the reading side will notice too: %s", error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            head = await receive_final_head(connection, _to(origin))
        except (HttpConnectionBroken, ConnectionFailed) as error:
            failure = error
        nursery.cancel_scope.cancel()
    if head is None:
        raise failure or HttpConnectionBroken("no answer")
    return head


class _Upload:
    """Sends a body as it arrives, and takes the answer, which may come before the body has ended."""

    def __init__(
        self,
        connection: ClientHttpConnection,
        head: RequestHead,
        source: BodySource,
        origin: RequestBody | None,
        answer_timeout_s: float,
    ) -> None:
        self._connection = connection
        self._source = source
        self._origin = origin
        self._answer_timeout_s = answer_timeout_s
        self._answer_scope = trio.CancelScope()
        self._failure: Exception | None = None
        self._may_send = trio.Event()
        if not head.expects_continue:
            self._may_send.set()

    async def run(self) -> ResponseHead:
        head: ResponseHead | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, nursery.cancel_scope)
            try:
                with self._answer_scope:
                    head = await receive_final_head(self._connection, self._on_interim)
            except (HttpConnectionBroken, ConnectionFailed) as error:
                self._failure = error
            nursery.cancel_scope.cancel()
        if self._answer_scope.cancelled_caught:
            raise _no_answer_within(self._answer_timeout_s)
        if head is None:
            raise self._failure or HttpConnectionBroken("no answer")
        return head

    def _set_answer_deadline(self) -> None:
        """Sets the deadline for one piece of the body, or for the answer. Waiting for the source has no limit."""
        if self._origin is None:
            self._answer_scope.deadline = trio.current_time() + self._answer_timeout_s

    async def _on_interim(self, head: ResponseHead) -> None:
        if head.status == 100:
            self._may_send.set()
        elif self._origin is not None:
            await self._origin.send_interim(head.status, head.headers, head.reason)

    async def _pump(self, whole: trio.CancelScope) -> None:
        try:
            await self._may_send.wait()
            while data := await self._source.receive_some():
                self._set_answer_deadline()
                await self._connection.send_data(data)
                await self._connection.send_moved(self._source.pass_rest_to)
                self._answer_scope.deadline = inf
            self._set_answer_deadline()
            await self._connection.send_end(self._source.trailers)
            if self._origin is not None:
                await self._origin.wait_end()
                await self._connection.send_eof()
        except HttpConnectionBroken as error:
            # The server takes no more. If it has answered, the reading side still gets the answer; else reading fails.
            log.debug("the server takes no more of the body: %s", error)
        except (BodyError, ConnectionFailed) as error:
            self._failure = error
            whole.cancel()
