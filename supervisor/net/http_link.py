"""One connection to a server, as a client: sends requests, receives answers, knows whether it can be used again."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio

from supervisor.net.errors import PeerError, PeerSilent, PeerTooSlow
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
    from collections.abc import Awaitable, Callable

    from native_handlers.http.headers import Headers
    from supervisor.net.transport import Transport
    from supervisor.wire.http1 import ClientConnection

    OnInterim = Callable[[ResponseHead], Awaitable[None]]

_JOINED_BYTES = 64 * 1024
_MAX_INTERIM = 32
"""No server means it well that sends more than this many 1xx heads for one request."""


class LinkBroken(Exception):
    """The exchange cannot be completed: the server closed, broke off, or does not speak HTTP/1."""


class LinkSilent(LinkBroken):
    """The server is connected and neither takes nor says anything, or not what it was given a deadline for."""


class NotYet(Exception):
    """What was waited for has not come by the deadline; nothing is lost."""


class ClientLink:
    """A connection and its codec. One task sends, one receives; either may be the other.

    Attributes:
        is_reused: whether it has served an exchange before.
        sent_bytes: how much of the current request the kernel has taken.
        received_bytes: how much of its answer has arrived.
    """

    __slots__ = (
        "_codec",
        "_sent_before",
        "_transport",
        "idle_since_s",
        "is_reused",
        "is_spent",
        "received_bytes",
        "trailers",
    )

    def __init__(self, transport: Transport, codec: ClientConnection) -> None:
        self._transport = transport
        self._codec = codec
        self._sent_before = 0
        self.idle_since_s = 0.0
        self.is_reused = False
        self.is_spent = False
        self.received_bytes = 0
        self.trailers = NO_HEADERS

    @property
    def sent_bytes(self) -> int:
        return self._transport.sent_bytes - self._sent_before

    @property
    def can_reuse(self) -> bool:
        return self._codec.can_reuse and not self.is_spent

    @property
    def is_quiet(self) -> bool:
        """Whether the server has neither closed nor said anything since the last exchange. A hint on TLS."""
        return not isinstance(self._transport, SocketTransport) or self._transport.is_quiet

    async def send_request(self, head: RequestHead, body: bytes | None) -> None:
        """Sends a head with a whole body, or, with None, the head alone: then the body goes by `send_data`.

        Raises:
            LinkBroken: `sent_bytes` says whether anything went out.
        """
        self._sent_before = self._transport.sent_bytes
        self.received_bytes = 0
        self.trailers = NO_HEADERS
        raw = self._codec.send(head)
        if body is None:
            await self._send(raw)
            return
        data = self._codec.send(Data(body)) if body else b""
        end = self._codec.send(EndOfMessage())
        if len(data) <= _JOINED_BYTES:
            await self._send(raw + data + end)
        else:
            await self._send(raw, more=True)
            await self._send(data + end if end else data)

    async def send_data(self, data: bytes) -> None:
        """Sends a piece of the body. Raises LinkBroken."""
        await self._send(self._codec.send(Data(data)))

    async def send_end(self, trailers: Headers = NO_HEADERS) -> None:
        """Ends the body. Raises LinkBroken."""
        if end := self._codec.send(EndOfMessage(trailers)):
            await self._send(end)

    async def send_eof(self) -> None:
        """Tells the server that nothing more will come; the answer still may. Raises LinkBroken."""
        self.is_spent = True
        try:
            await self._transport.send_eof()
        except PeerError as error:
            raise LinkBroken(str(error)) from error

    async def receive_head(self) -> ResponseHead:
        """The next head, which may be an interim one. Cancelling it is safe.

        Raises:
            LinkBroken: `received_bytes` says whether the answer had begun.
            NotYet: the deadline that `expect_head_by` has set is over; it may be asked for again.
        """
        event = await self._next_event(HEAD_BYTES)
        if not isinstance(event, ResponseHead):
            raise LinkBroken("the server closed the connection without an answer")
        return event

    def expect_head_by(self, deadline: float = inf) -> None:
        """Makes receiving end with NotYet at `deadline` (trio time). One timer then serves where two would be."""
        self._transport.pace.receiving.deadline = deadline

    async def receive_data(self) -> bytes:
        """The next piece of the body, b"" at its end, when `trailers` are complete. Raises LinkBroken."""
        event = await self._next_event(RECEIVE_BYTES)
        if isinstance(event, Data):
            return event.data
        if isinstance(event, EndOfMessage):
            self.trailers = event.trailers
        return b""

    def take_whole_body(self, length_bytes: int) -> bytes | None:
        """The body of `length_bytes` if all of it has arrived already, else None and nothing is taken.

        Raises:
            LinkBroken: the server broke the protocol.
        """
        if self._codec.buffered_bytes < length_bytes:
            return None
        pieces = []
        while isinstance(event := self._take_event(), Data):
            pieces.append(event.data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def close(self) -> None:
        """Closes the connection: politely after a complete exchange, else so that the server notices at once."""
        if self._codec.is_exchange_over and not self.is_spent:
            await self._transport.aclose()
        else:
            await self._transport.abort()

    async def _send(self, data: bytes, *, more: bool = False) -> None:
        try:
            await self._transport.send_all(data, more=more)
        except PeerError as error:
            self.is_spent = True
            raise _broken(error) from error
        except trio.Cancelled:
            self.is_spent = True
            raise

    async def _next_event(self, max_bytes: int) -> Event | Signal:
        while (event := self._take_event()) is Signal.NEED_DATA:
            try:
                data = await self._transport.receive_some(max_bytes)
            except PeerTooSlow as error:
                raise NotYet from error
            except PeerError as error:
                raise _broken(error) from error
            self.received_bytes += len(data)
            self._codec.receive_data(data)
        return event

    def _take_event(self) -> Event | Signal:
        try:
            return self._codec.next_event()
        except RemoteProtocolError as error:
            self.is_spent = True
            raise LinkBroken(error.why) from error


def _broken(error: PeerError) -> LinkBroken:
    return LinkSilent(str(error)) if isinstance(error, PeerSilent) else LinkBroken(str(error))


async def receive_final_head(link: ClientLink, on_interim: OnInterim) -> ResponseHead:
    """The answer's head; what comes before it goes to `on_interim`. Raises LinkBroken."""
    for _ in range(_MAX_INTERIM):
        head = await link.receive_head()
        if not head.is_interim:
            return head
        await on_interim(head)
    raise LinkBroken("the server sends interim answers without end")
