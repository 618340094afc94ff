"""The body of a request that is being served, and the channel from which the body is read."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from native_handlers.http_model.message import BodyError, RequestBody
from supervisor.net.body_splice import SPLICED_FROM_BYTES, SourceFailed, splice_body
from supervisor.net.errors import ConnectionFailed
from supervisor.net.transport import RECEIVE_BYTES, SocketTransport
from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1_events import NO_HEADERS, Data, EndOfMessage, Event, RequestHead, ResponseHead, Signal

if TYPE_CHECKING:
    from native_handlers.http_model.headers import HeaderFields
    from supervisor.net.transport import Transport
    from supervisor.wire.http1 import ServerConnection

_CONTINUE = ResponseHead(100, NO_HEADERS, body_length_bytes=0)
_MAX_READ_AHEAD_BYTES = 64 * 1024
"""How much a client may pipeline while its request runs and this process watches for the client's end."""


class HttpChannel:
    """A client's connection: the codec, and the transport that feeds the codec. One task at a time uses it."""

    __slots__ = ("_has_more", "codec", "transport")

    def __init__(self, codec: ServerConnection, transport: Transport) -> None:
        self.codec = codec
        self.transport = transport
        self._has_more = False

    async def next_event(self) -> Event | Signal:
        """The codec's next event, never NEED_DATA. Cancelling the call is safe.

        Between two events that one read has brought, other tasks get a turn.

        Raises:
            ConnectionFailed, RemoteProtocolError: the connection is unusable.
        """
        if self._has_more:
            await trio.lowlevel.checkpoint()
        while True:
            event = self.codec.next_event()
            if event is not Signal.NEED_DATA:
                self._has_more = self.codec.buffered_bytes > 0
                return event
            self.codec.receive_data(await self.transport.receive_some(RECEIVE_BYTES))


class ServerBody(RequestBody):
    """The body of a request over a channel. Only the task that answers the request uses the body.

    Args:
        head: the head of the request.

    Attributes:
        received_bytes: how much of the body has been read.
    """

    __slots__ = ("_ahead", "_channel", "awaits_continue", "is_over", "length_bytes", "received_bytes", "trailers")

    def __init__(self, channel: HttpChannel, head: RequestHead) -> None:
        self._channel = channel
        self.length_bytes = head.body_length_bytes
        self.is_over = head.body_length_bytes == 0 and isinstance(channel.codec.next_event(), EndOfMessage)
        self.awaits_continue = head.expects_continue
        self._ahead = b""
        self.received_bytes = 0
        self.trailers = NO_HEADERS

    async def receive_some(self) -> bytes:
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        if self.is_over:
            return b""
        try:
            if self.awaits_continue:
                await self._ask_for_body()
            event = await self._channel.next_event()
        except (ConnectionFailed, RemoteProtocolError) as error:
            raise BodyError(f"the request body broke off: {error}") from error
        if isinstance(event, Data):
            self.received_bytes += len(event.data)
            if self.received_bytes == self.length_bytes:
                # The end event follows the last byte at once. Taking it here saves the caller one more call.
                end = self._channel.codec.next_event()
                assert isinstance(end, EndOfMessage), f"{end} behind a body of {self.length_bytes} bytes"
                self.is_over = True
            return event.data
        assert isinstance(event, EndOfMessage), f"{event} in a body"
        self.trailers = event.trailers
        self.is_over = True
        return b""

    async def receive_into(self, buffer: memoryview) -> int:
        """As `RequestBody.receive_into`. A body of a declared length is read straight into `buffer`.

        The codec only counts the bytes then.
        """
        codec = self._channel.codec
        left_bytes = codec.uncopied_body_bytes
        if self._ahead or self.awaits_continue or not left_bytes:
            piece = await self.receive_some()
            count = min(len(piece), len(buffer))
            buffer[:count] = piece[:count]
            self._ahead = piece[count:]
            return count
        try:
            count = await self._channel.transport.receive_into(buffer[:left_bytes])
            codec.received_out_of_band(count)
        except (ConnectionFailed, RemoteProtocolError) as error:
            raise BodyError(f"the request body broke off: {error}") from error
        self.received_bytes += count
        return count

    async def pass_rest_to(self, sink: object, /) -> int:
        """Moves the rest of a large body to `sink`. Returns how many bytes were moved: the whole rest, or none.

        Only bytes that have not been received yet are moved, between plain sockets.

        Raises:
            BodyError: as `receive_some`.
            ConnectionFailed: the fault of the other end of `sink`.
        """
        source, left_bytes = self._channel.transport, self._channel.codec.uncopied_body_bytes
        if not isinstance(source, SocketTransport) or not isinstance(sink, SocketTransport):
            return 0
        if self._ahead or self.awaits_continue or left_bytes < SPLICED_FROM_BYTES:
            return 0
        try:
            return await splice_body(source, sink, left_bytes, self._note_taken)
        except (SourceFailed, RemoteProtocolError) as error:
            raise BodyError(f"the request body broke off: {error}") from error

    def _note_taken(self, count: int) -> None:
        self._channel.codec.received_out_of_band(count)
        self.received_bytes += count

    async def _ask_for_body(self) -> None:
        self.awaits_continue = False
        if self._channel.codec.buffered_bytes == 0:
            await self._channel.transport.send_all(self._channel.codec.send(_CONTINUE))

    async def send_interim(self, status: int, headers: HeaderFields, reason: str = "") -> None:
        """Sends a 1xx head ahead of the answer. A 100 is not sent where the client does not wait for it.

        Raises:
            ConnectionFailed: the client is gone.
        """
        if status != 100:
            await self._channel.transport.send_all(self._channel.codec.send(ResponseHead(status, headers, reason, 0)))
        elif self.awaits_continue:
            await self._ask_for_body()

    async def wait_end(self) -> None:
        """Returns when the client has closed its sending side. The client may still want the answer.

        Call this only between the end of the body and the answer. Cancelling the call is safe.

        Raises:
            ConnectionFailed: the client's connection is broken.
        """
        codec = self._channel.codec
        while not codec.is_eof:
            if codec.buffered_bytes > _MAX_READ_AHEAD_BYTES:
                # The client pipelines without end. Reading stops, so the kernel's window slows the client down.
                await trio.sleep_forever()
            codec.receive_data(await self._channel.transport.receive_some(waits_without_limit=True))

    async def wait_gone(self) -> None:
        """As `wait_end`, but returns also when the client's connection is broken."""
        with suppress(ConnectionFailed):
            await self.wait_end()
