"""The body of a request that is being served, and the channel it is read from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from native_handlers.http.message import BodyError
from supervisor.net.errors import PeerError
from supervisor.net.transport import RECEIVE_BYTES
from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1_events import NO_HEADERS, Data, EndOfMessage, Event, RequestHead, ResponseHead, Signal

if TYPE_CHECKING:
    from supervisor.net.transport import Transport
    from supervisor.wire.http1 import ServerConnection

_CONTINUE = ResponseHead(100, NO_HEADERS, body_length_bytes=0)
_MAX_READ_AHEAD_BYTES = 64 * 1024
"""What a client may pipeline while its request is running and we watch for its end."""


class HttpChannel:
    """A client's connection: the codec, and the transport that feeds it. Owned by one task, see ServerBody."""

    __slots__ = ("codec", "transport")

    def __init__(self, codec: ServerConnection, transport: Transport) -> None:
        self.codec = codec
        self.transport = transport

    async def next_event(self) -> Event | Signal:
        """The codec's next event; never NEED_DATA.

        Raises:
            PeerError, RemoteProtocolError: the connection is done for.
        """
        while True:
            event = self.codec.next_event()
            if event is not Signal.NEED_DATA:
                return event
            self.codec.receive_data(await self.transport.receive_some(RECEIVE_BYTES))


class ServerBody:
    """Implements `RequestBody` over a channel. Used by one task at a time, the one that answers the request.

    Args:
        head: the request that this is the body of.
    """

    __slots__ = ("_ahead", "_awaits_continue", "_channel", "_is_over", "_length_bytes", "received_bytes", "trailers")

    def __init__(self, channel: HttpChannel, head: RequestHead) -> None:
        self._channel = channel
        self._length_bytes = head.body_length_bytes
        self._is_over = head.body_length_bytes == 0 and isinstance(channel.codec.next_event(), EndOfMessage)
        self._awaits_continue = head.expects_continue
        self._ahead = b""
        self.received_bytes = 0
        self.trailers = NO_HEADERS

    @property
    def length_bytes(self) -> int | None:
        return self._length_bytes

    @property
    def awaits_continue(self) -> bool:
        """Whether the client holds the body back until it is asked for, which the first receive does."""
        return self._awaits_continue

    @property
    def is_over(self) -> bool:
        """Whether the end has been read."""
        return self._is_over

    async def receive_some(self) -> bytes:
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        if self._is_over:
            return b""
        try:
            if self._awaits_continue:
                await self._ask_for_body()
            event = await self._channel.next_event()
        except (PeerError, RemoteProtocolError) as error:
            raise BodyError(f"the request body broke off: {error}") from error
        if isinstance(event, Data):
            self.received_bytes += len(event.data)
            return event.data
        assert isinstance(event, EndOfMessage), f"{event} in a body"
        self.trailers = event.trailers
        self._is_over = True
        return b""

    async def receive_into(self, buffer: memoryview) -> int:
        """A body of a declared length goes from the socket to `buffer`, past the codec, which only counts it."""
        codec = self._channel.codec
        left_bytes = codec.uncopied_body_bytes
        if self._ahead or self._awaits_continue or not left_bytes:
            piece = await self.receive_some()
            count = min(len(piece), len(buffer))
            buffer[:count] = piece[:count]
            self._ahead = piece[count:]
            return count
        try:
            count = await self._channel.transport.receive_into(buffer[:left_bytes])
            codec.received_out_of_band(count)
        except (PeerError, RemoteProtocolError) as error:
            raise BodyError(f"the request body broke off: {error}") from error
        self.received_bytes += count
        return count

    async def _ask_for_body(self) -> None:
        self._awaits_continue = False
        if self._channel.codec.buffered_bytes == 0:
            await self._channel.transport.send_all(self._channel.codec.send(_CONTINUE))

    async def on_interim(self, head: ResponseHead) -> None:
        """Sends a 1xx head ahead of the answer. A 100 is left out where the client does not wait for one.

        Raises:
            PeerError: the client is gone.
        """
        if head.status != 100:
            await self._channel.transport.send_all(self._channel.codec.send(head))
        elif self._awaits_continue:
            await self._ask_for_body()

    async def wait_end(self) -> None:
        """Returns when the client has closed its sending side, after which it may still want the answer.

        For the time between the end of the body and the answer. Cancelling it is safe.

        Raises:
            PeerError: the client is gone for good.
        """
        codec = self._channel.codec
        while not codec.is_eof:
            if codec.buffered_bytes > _MAX_READ_AHEAD_BYTES:
                await trio.sleep_forever()
            codec.receive_data(await self._channel.transport.receive_some(is_patient=True))
