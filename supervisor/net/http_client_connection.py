"""One connection to a server, seen from the client: sends requests, receives answers, says whether it can be reused."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio

from supervisor.net.body_splice import SPLICED_FROM_BYTES, SourceFailed, splice_body
from supervisor.net.errors import AnswerBrokeOff, ConnectionFailed, ConnectionSilent, ConnectionTooSlow
from supervisor.net.transport import HEAD_BYTES, RECEIVE_BYTES, SocketTransport
from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1_events import (
    NO_HEADERS,
    Data,
    EndOfMessage,
    Event,
    RequestHead,
    ResponseHead,
    Signal,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from native_handlers.http_model.headers import Headers
    from supervisor.net.polled_exchange import SentRequest
    from supervisor.net.rest_of_answer import AnswerSink
    from supervisor.net.transport import Transport
    from supervisor.wire.http1 import ClientConnection

    OnInterim = Callable[[ResponseHead], Awaitable[None]]

_JOINED_BYTES = 64 * 1024
_MAX_INTERIM = 32
"""A server that sends more 1xx heads than this for one request is faulty or hostile."""


class HttpConnectionBroken(Exception):
    """The exchange cannot be completed: the server closed the connection, broke off, or does not speak HTTP/1."""


class HttpConnectionSilent(HttpConnectionBroken):
    """The server is connected, but acknowledges and sends nothing, or does not answer within its deadline."""


class NotYet(Exception):
    """The deadline has passed before the head arrived. Nothing is lost: the caller may wait again."""


class ClientHttpConnection:
    """A connection and its codec. One task sends and one task receives; both may be the same task.

    Attributes:
        is_reused: whether the connection has served an exchange before.
        must_close: whether the connection is unfit for another exchange.
        sent_bytes: how much of the current request the kernel has taken.
        received_bytes: how much of the current answer has arrived.
        polled_in: the poller that has watched the socket, if any; see `polled_exchange`.
    """

    __slots__ = (
        "_codec",
        "_has_more",
        "_sent_before",
        "_transport",
        "idle_since_s",
        "is_reused",
        "must_close",
        "polled_in",
        "received_bytes",
        "trailers",
    )

    def __init__(self, transport: Transport, codec: ClientConnection) -> None:
        self._transport = transport
        self._codec = codec
        self._sent_before = 0
        self._has_more = False
        self.idle_since_s = 0.0
        self.is_reused = False
        self.must_close = False
        self.received_bytes = 0
        self.trailers = NO_HEADERS
        self.polled_in: object = None

    @property
    def plain_socket(self) -> socket.socket | None:
        """The socket, where its bytes are those of HTTP; None over TLS. Its owner is this object."""
        return self._transport.sock if isinstance(self._transport, SocketTransport) else None

    @property
    def sent_bytes(self) -> int:
        return self._transport.sent_bytes - self._sent_before

    @property
    def can_reuse(self) -> bool:
        return self._codec.can_reuse and not self.must_close

    @property
    def is_idle(self) -> bool:
        """Whether the server has neither closed nor sent anything since the last exchange. Over TLS always True."""
        return not isinstance(self._transport, SocketTransport) or self._transport.is_idle

    async def send_request(self, head: RequestHead, body: bytes | None) -> None:
        """Sends a head with its whole body. With `body` None sends the head alone; the body follows by `send_data`.

        Raises:
            HttpConnectionBroken: the connection must be closed. `sent_bytes` says whether the kernel took any of the
                request.
        """
        self._sent_before = self._transport.sent_bytes
        self.received_bytes = 0
        self.trailers = NO_HEADERS
        if body is None:
            await self._send(self._codec.send(head))
            return
        assert head.body_length_bytes == len(body), "the head says how long a whole body is"
        raw = self._codec.send_whole(head)
        if len(body) <= _JOINED_BYTES:
            await self._send(raw + body)
        else:
            await self._send(raw, more=True)
            await self._send(body)

    async def resume(self, head: RequestHead, sent: SentRequest) -> None:
        """As `send_request`, for a request that was sent without this object, wholly or in part.

        Raises:
            HttpConnectionBroken: as `send_request`; and where the connection broke meanwhile.
        """
        self._codec.send_whole(head)
        self._sent_before = self._transport.sent_bytes - sent.sent_bytes
        self.received_bytes = len(sent.received)
        self.trailers = NO_HEADERS
        if sent.received:
            self._codec.receive_data(sent.received)
        if sent.failure:
            self.must_close = True
            raise HttpConnectionBroken(sent.failure)
        if unsent := sent.raw[sent.sent_bytes :]:
            await self._send(unsent)

    async def send_data(self, data: bytes) -> None:
        """Sends a piece of the body. Raises HttpConnectionBroken."""
        await self._send(self._codec.send(Data(data)))

    async def send_moved(self, move: Callable[[Transport], Awaitable[int]]) -> None:
        """Sends the bytes of the body that `move` puts into the transport itself.

        Raises HttpConnectionBroken, BodyError.
        """
        try:
            if moved := await move(self._transport):
                self._codec.sent_out_of_band(moved)
        except ConnectionFailed as error:
            self.must_close = True
            raise _broken(error) from error
        except trio.Cancelled:
            self.must_close = True
            raise

    async def send_end(self, trailers: Headers = NO_HEADERS) -> None:
        """Ends the body. Raises HttpConnectionBroken."""
        if end := self._codec.send(EndOfMessage(trailers)):
            await self._send(end)

    async def send_eof(self) -> None:
        """Ends the sending direction; the answer may still come. Raises HttpConnectionBroken."""
        self.must_close = True
        try:
            await self._transport.send_eof()
        except ConnectionFailed as error:
            raise HttpConnectionBroken(str(error)) from error

    async def receive_head(self) -> ResponseHead:
        """The next head, which may be an interim one. Cancelling the call is safe.

        Raises:
            HttpConnectionBroken: the connection broke. `received_bytes` is 0 if nothing of the answer had arrived.
            NotYet: the deadline of `expect_head_by` has passed. The call may be repeated.
        """
        event = await self._next_event(HEAD_BYTES)
        if not isinstance(event, ResponseHead):
            raise HttpConnectionBroken("the server closed the connection without an answer")
        return event

    def expect_head_by(self, deadline: float = inf) -> None:
        """Makes receiving end with NotYet at `deadline` (trio time). This reuses the timer of the idle timeout."""
        self._transport.timeouts.receiving.deadline = deadline

    async def receive_data(self) -> bytes:
        """The next piece of the body; b"" at the end, when `trailers` are complete. Raises HttpConnectionBroken."""
        event = await self._next_event(RECEIVE_BYTES)
        if isinstance(event, Data):
            return event.data
        if isinstance(event, EndOfMessage):
            self.trailers = event.trailers
        return b""

    async def pass_rest_to(self, sink: SocketTransport) -> int:
        """Moves the rest of a large body to `sink`. Returns how many bytes were moved: the whole rest, or none.

        Raises:
            HttpConnectionBroken: as `receive_data`.
            ConnectionFailed: the fault of the other end of `sink`.
        """
        source, left_bytes = self._transport, self._codec.uncopied_body_bytes
        if not isinstance(source, SocketTransport) or left_bytes < SPLICED_FROM_BYTES:
            return 0
        try:
            moved = await splice_body(source, sink, left_bytes, self._codec.received_out_of_band)
        except SourceFailed as error:
            raise _broken(error.failure) from error
        except RemoteProtocolError as error:
            raise HttpConnectionBroken(error.why) from error
        self.received_bytes += moved
        return moved

    async def move_to(self, sink: AnswerSink, length_bytes: int) -> None:
        """Moves the next `length_bytes` that the server sends to `sink`, of an answer that this object does not follow:
        see `rest_of_answer`.

        Raises:
            AnswerBrokeOff: the server's fault.
            ConnectionFailed: the fault of the other end of `sink`.
        """
        source, left_bytes = self._transport, length_bytes
        assert isinstance(source, SocketTransport), "`acquire_kept` gives plain connections"
        source.timeouts.begin_exchange()
        while left_bytes:
            if isinstance(sink, SocketTransport) and left_bytes >= SPLICED_FROM_BYTES:
                try:
                    left_bytes -= await splice_body(source, sink, left_bytes, _refuse_the_end)
                except SourceFailed as error:
                    raise AnswerBrokeOff(str(error)) from error
                if not left_bytes:
                    return
            try:
                data = await source.receive_some(min(left_bytes, RECEIVE_BYTES))
            except ConnectionFailed as error:
                raise AnswerBrokeOff(str(error)) from error
            _refuse_the_end(len(data))
            await sink.send_all(data)
            left_bytes -= len(data)

    def take_whole_body(self, length_bytes: int) -> bytes | None:
        """The whole body of `length_bytes`, if all of it has arrived. Else None, and nothing is taken."""
        return self._codec.take_whole_body(length_bytes)

    async def close(self) -> None:
        """Closes the connection: politely after a complete exchange, else by a reset, so the server notices at once."""
        if self._codec.is_exchange_over and not self.must_close:
            await self._transport.aclose()
        else:
            await self._transport.abort()

    def abort(self) -> None:
        """Closes a plain connection by a reset, without waiting."""
        self.must_close = True
        assert isinstance(self._transport, SocketTransport), "over TLS a close takes a task"
        self._transport.abort_now()

    async def _send(self, data: bytes, *, more: bool = False) -> None:
        try:
            await self._transport.send_all(data, more=more)
        except ConnectionFailed as error:
            self.must_close = True
            raise _broken(error) from error
        except trio.Cancelled:
            self.must_close = True
            raise

    async def _next_event(self, max_bytes: int) -> Event | Signal:
        if self._has_more:
            # A server that sends tiny chunks must not keep other tasks from running; see `HttpChannel.next_event`.
            await trio.lowlevel.checkpoint()
        while (event := self._take_event()) is Signal.NEED_DATA:
            try:
                data = await self._transport.receive_some(max_bytes)
            except ConnectionTooSlow as error:
                raise NotYet from error
            except ConnectionFailed as error:
                raise _broken(error) from error
            self.received_bytes += len(data)
            self._codec.receive_data(data)
        self._has_more = isinstance(event, Data) and self._codec.buffered_bytes > 0
        return event

    def _take_event(self) -> Event | Signal:
        try:
            return self._codec.next_event()
        except RemoteProtocolError as error:
            self.must_close = True
            raise HttpConnectionBroken(error.why) from error


def _broken(error: ConnectionFailed) -> HttpConnectionBroken:
    return HttpConnectionSilent(str(error)) if isinstance(error, ConnectionSilent) else HttpConnectionBroken(str(error))


def _refuse_the_end(count: int) -> None:
    if not count:
        raise AnswerBrokeOff("the server closed the connection before the end of its answer")


async def receive_final_head(connection: ClientHttpConnection, on_interim: OnInterim) -> ResponseHead:
    """The final head of the answer. Heads before it go to `on_interim`. Raises HttpConnectionBroken."""
    for _ in range(_MAX_INTERIM):
        head = await connection.receive_head()
        if head.status >= 200:
            return head
        await on_interim(head)
    raise HttpConnectionBroken("the server sends interim answers without end")
