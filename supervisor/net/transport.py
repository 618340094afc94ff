"""Byte transports under HTTP: a plain socket, used directly, or any trio stream (TLS, tests).

A plain socket is tried first, and waited for only where the kernel has no bytes. This spares two trips through the
scheduler for each request whose bytes are there. Every few such calls give other tasks a turn all the same.

Cancellation: a cancelled receive has taken nothing and may be repeated. A cancelled send makes the connection unusable.
"""

from __future__ import annotations

import select
import socket
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Protocol

import trio

from native_handlers.http_model.message import HeldAnswer, PendingAnswer
from supervisor.net.awaiting_connection import Arrival
from supervisor.net.delivery import RESET_ON_CLOSE, leave_to_the_kernel, unacknowledged_bytes
from supervisor.net.errors import ConnectionLost
from supervisor.net.file_pieces import SEND_WINDOW_BYTES, is_paced, read_some, shared_window
from supervisor.net.idle_poller import IdleConnection, leave_unanswered
from supervisor.net.rest_of_answer import RestOfAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.http_model.message import Answer, FastAnswer, FileSlice
    from supervisor.net.idle_poller import Begin, IdlePoller
    from supervisor.net.timeouts import ConnectionTimeouts

RECEIVE_BYTES = 64 * 1024
"""The most that one receive takes. Measured: for chunked bodies twice as fast as 256 KiB, for which the allocator asks
the kernel for fresh pages each time; for plain bodies a tenth slower."""

HEAD_BYTES = 32 * 1024
"""The same where a head is expected. A smaller buffer is cheaper, because it is allocated for each receive."""

CLEANUP_S = 2.0
"""The most that a polite close may take."""

_UNYIELDING_CALLS = 16


class Transport(Protocol):
    """The protocol of a connection, as the HTTP drivers use it. All waits keep the limits of `timeouts`."""

    timeouts: ConnectionTimeouts
    sent_bytes: int
    """How many bytes the kernel, or the stream, has taken since the connection began."""

    def answered_at(self) -> float:
        """When `receive_unanswered` has last sent an answer, in trio time; -inf before the first answer."""
        ...

    async def receive_some(self, max_bytes: int = HEAD_BYTES, *, waits_without_limit: bool = False) -> bytes:
        """The bytes that have arrived, at least one; b"" at the end of the stream.

        No time limit holds with `waits_without_limit`.

        Raises:
            ConnectionFailed: see supervisor.net.errors.
        """
        ...

    async def receive_into(self, buffer: memoryview) -> int:
        """As `receive_some`, but puts the bytes at the front of `buffer` and returns their count; 0 at the end."""
        ...

    async def receive_unanswered(self, answer: Callable[[bytes], FastAnswer], begin: Begin | None = None) -> Arrival:
        """The first bytes that `answer` declines, b"" at the end of the stream.

        `answer` gets all bytes that have arrived, and must not wait. It is called only between two messages. The
        transport sends the result of `answer` and goes on waiting. A plain socket gives bytes that `answer` declines to
        `begin`, which may begin an exchange with another server.

        Raises:
            ConnectionFailed: as `receive_some` and `send_all`.
        """
        ...

    async def receive_in_turn(self) -> bytes:
        """As `receive_some`. When many connections have bytes at once, the poller wakes few of them in one turn."""
        ...

    async def send_all(self, data: bytes | memoryview, *, more: bool = False) -> None:
        """Returns when all of `data` is taken, so the caller may reuse its memory. `more`: more follows at once.

        Raises:
            ConnectionFailed: see supervisor.net.errors. It is unknown how much was sent.
        """
        ...

    async def send_file(self, part: FileSlice) -> None:
        """Sends a part of a file. `part` reads in a thread where the page cache does not hold the bytes.

        Raises:
            EOFError: the file ends early. Less was sent than was asked for.
            ConnectionFailed: the other end's fault.
            Exception: what `part` raises where its disk fails.
        """
        ...

    async def send_eof(self) -> None:
        """Ends the sending direction, where the transport can do that. The other direction stays open."""
        ...

    async def aclose(self) -> None:
        """Closes politely, within CLEANUP_S. The kernel delivers what was sent, while the other end takes it."""
        ...

    async def abort(self) -> None:
        """Closes at once, even when cancelled.

        The other end sees a reset, so it takes no torn message for a whole one.
        """
        ...


class SendWait(IdleConnection):
    """A connection that waits until its client takes more. `sleep` returns an empty arrival, in turn."""

    __slots__ = ()

    EVENTS = select.EPOLLOUT

    def __init__(self, poller: IdlePoller, sock: socket.socket) -> None:
        super().__init__(poller, sock, leave_unanswered)

    def take(self) -> bool:
        self.taken = b""
        return True


class SocketTransport:
    """A connected, non-blocking TCP socket, which this object owns.

    Args:
        idle_poller: the poller in which `receive_unanswered` sleeps; that call needs one.
    """

    __slots__ = ("_calls", "_idle_connection", "_idle_poller", "_sock", "sent_bytes", "timeouts")

    def __init__(
        self, sock: socket.socket, timeouts: ConnectionTimeouts, idle_poller: IdlePoller | None = None
    ) -> None:
        self._sock = sock
        self._idle_poller = idle_poller
        self._idle_connection: IdleConnection | None = None
        self._calls = 0
        self.timeouts = timeouts
        self.timeouts.unacknowledged = partial(unacknowledged_bytes, sock)
        self.sent_bytes = 0

    def answered_at(self) -> float:
        connection = self._idle_connection
        return connection.answered_at if connection is not None and connection.answered_bytes else -inf

    async def receive_some(self, max_bytes: int = HEAD_BYTES, *, waits_without_limit: bool = False) -> bytes:
        await self._breathe()
        while True:
            try:
                data = self._sock.recv(max_bytes)
            except BlockingIOError:
                await self._wait_readable(waits_without_limit=waits_without_limit)
            except OSError as error:
                raise ConnectionLost(str(error)) from error
            else:
                self.timeouts.moved(self.timeouts.receiving, len(data))
                return data

    async def receive_into(self, buffer: memoryview) -> int:
        await self._breathe()
        while True:
            try:
                count = self._sock.recv_into(buffer)
            except BlockingIOError:
                await self._wait_readable(waits_without_limit=False)
            except OSError as error:
                raise ConnectionLost(str(error)) from error
            else:
                self.timeouts.moved(self.timeouts.receiving, count)
                return count

    async def receive_unanswered(self, answer: Callable[[bytes], FastAnswer], begin: Begin | None = None) -> Arrival:
        assert self._idle_poller is not None, "made without a poller to sleep in"
        connection = self._idle_connection = IdleConnection(self._idle_poller, self._sock, answer, begin)
        while True:
            sent_before = connection.sent_bytes
            try:
                arrival = await self.timeouts.wait_served(connection)
            except OSError as error:
                raise ConnectionLost(str(error)) from error
            finally:
                self.sent_bytes += connection.sent_bytes - sent_before
            if arrival.data is not None:
                return arrival
            unsent = arrival.unsent
            if isinstance(unsent, PendingAnswer):
                await unsent.wait()
                outcome = unsent.outcome()
                if outcome is None:
                    return Arrival(unsent.data)
                unsent = outcome
            self.timeouts.sending.start_message()
            await send_answer(self, unsent)

    async def receive_in_turn(self) -> bytes:
        if self._idle_poller is None:
            return await self.receive_some()
        try:
            arrival = await self.timeouts.wait_served(IdleConnection(self._idle_poller, self._sock, leave_unanswered))
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        assert arrival.data is not None, "nothing was answered"
        self.timeouts.moved(self.timeouts.receiving, len(arrival.data))
        return arrival.data

    async def send_all(self, data: bytes | memoryview, *, more: bool = False) -> None:
        flags = socket.MSG_MORE if more else 0
        rest = data
        while True:
            window = rest if len(rest) <= SEND_WINDOW_BYTES else memoryview(rest)[:SEND_WINDOW_BYTES]
            sent = self._send_now(window, flags)
            if sent == len(rest):
                return
            rest = memoryview(rest)[sent:]
            # The kernel took the whole window, so it may take the next one at once.
            if sent == len(window):
                await self._breathe()
            else:
                await self.wait_writable()

    async def send_file(self, part: FileSlice) -> None:
        at_bytes, window_bytes = 0, SEND_WINDOW_BYTES
        goes_straight = not is_paced(self._sock)
        await self._breathe()
        while at_bytes < part.length_bytes:
            wanted = min(window_bytes, part.length_bytes - at_bytes)
            straight = self._send_straight_now(part, at_bytes, wanted) if goes_straight else None
            if straight is not None:
                sent = straight
            else:
                # No await may stand between filling the window and sending it: all connections share this memory.
                window = shared_window.view[:wanted]
                if not part.read_cached_into(window, at_bytes):
                    window = memoryview(await read_some(part, at_bytes, wanted))
                wanted = len(window)
                sent = self._send_now(window)
            at_bytes += sent
            if sent == wanted:
                window_bytes = min(2 * window_bytes, SEND_WINDOW_BYTES)
                if at_bytes < part.length_bytes:
                    await trio.lowlevel.checkpoint()
            else:
                # Bytes that the kernel did not take are read again later: a slow client holds no memory, and gets small
                # pieces.
                window_bytes = max(sent, RECEIVE_BYTES)
                await self.wait_writable()

    def _send_straight_now(self, part: FileSlice, at_bytes: int, length_bytes: int) -> int | None:
        """As `_send_now`, by sendfile from the page cache. None where the bytes must be read first."""
        try:
            sent = part.send_cached(self._sock.fileno(), length_bytes, at_bytes)
        except BlockingIOError:
            return 0
        except ConnectionError as error:
            raise ConnectionLost(str(error)) from error
        if sent is not None:
            self.has_sent(sent)
        return sent

    def _send_now(self, data: bytes | memoryview, flags: int = 0) -> int:
        """Sends what the kernel takes without waiting. Returns how many bytes that were."""
        try:
            sent = self._sock.send(data, flags)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        self.has_sent(sent)
        return sent

    async def send_eof(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise ConnectionLost(str(error)) from error

    async def aclose(self) -> None:
        if self._sock.fileno() >= 0:
            leave_to_the_kernel(self._sock)
        self._close()

    async def abort(self) -> None:
        self.abort_now()

    def abort_now(self) -> None:
        """As `abort`, which has nothing to wait for here."""
        if self._sock.fileno() >= 0:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._close()

    @property
    def sock(self) -> socket.socket:
        """The socket. Code that moves its bytes itself notes them by `has_sent` and `has_received`."""
        return self._sock

    @property
    def is_idle(self) -> bool:
        """Whether the other end has neither sent anything nor closed. An unused connection must be so."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _close(self) -> None:
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def has_sent(self, count: int) -> None:
        """Notes that the kernel has taken `count` bytes."""
        self.sent_bytes += count
        self.timeouts.moved(self.timeouts.sending, count)

    def has_received(self, count: int) -> None:
        """Notes that `count` bytes have arrived."""
        self.timeouts.moved(self.timeouts.receiving, count)

    async def wait_readable(self) -> None:
        """Returns when bytes have arrived, or the end. Raises ConnectionFailed."""
        await self._wait_readable(waits_without_limit=False)

    async def _wait_readable(self, *, waits_without_limit: bool) -> None:
        if waits_without_limit:
            await trio.lowlevel.wait_readable(self._sock)
        else:
            await self.timeouts.wait(self.timeouts.receiving, trio.lowlevel.wait_readable, self._sock)

    async def wait_writable(self) -> None:
        """Returns when the kernel takes bytes again. Raises ConnectionFailed."""
        if self._idle_poller is not None and self._idle_poller.is_crowded:
            await self.timeouts.wait(self.timeouts.sending, SendWait(self._idle_poller, self._sock).sleep)
        else:
            await self.timeouts.wait(self.timeouts.sending, trio.lowlevel.wait_writable, self._sock)

    async def _breathe(self) -> None:
        self._calls += 1
        if self._calls % _UNYIELDING_CALLS == 0:
            await trio.lowlevel.checkpoint()


class StreamTransport:
    """Any trio stream as a transport."""

    __slots__ = ("_answered_at", "_stream", "sent_bytes", "timeouts")

    def __init__(self, stream: trio.abc.Stream, timeouts: ConnectionTimeouts) -> None:
        self._stream = stream
        self._answered_at = -inf
        self.timeouts = timeouts
        self.sent_bytes = 0

    def answered_at(self) -> float:
        return self._answered_at

    async def receive_some(self, max_bytes: int = HEAD_BYTES, *, waits_without_limit: bool = False) -> bytes:
        try:
            return await self._receive(max_bytes, waits_without_limit=waits_without_limit)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost(str(error) or "the connection broke") from error

    async def _receive(self, max_bytes: int, *, waits_without_limit: bool) -> bytes:
        if waits_without_limit:
            data = await self._stream.receive_some(max_bytes)
        else:
            data = await self.timeouts.wait(self.timeouts.receiving, self._stream.receive_some, max_bytes)
        self.timeouts.moved(self.timeouts.receiving, len(data))
        return bytes(data)

    async def _send(self, piece: memoryview) -> None:
        await self.timeouts.wait(self.timeouts.sending, self._stream.send_all, piece)
        self.timeouts.moved(self.timeouts.sending, len(piece))

    async def receive_into(self, buffer: memoryview) -> int:
        data = await self.receive_some(min(RECEIVE_BYTES, len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    async def receive_unanswered(self, answer: Callable[[bytes], FastAnswer], begin: Begin | None = None) -> Arrival:  # noqa: ARG002
        while True:
            self.timeouts.receiving.start_message()
            data = await self.receive_some()
            reply = answer(data)
            if isinstance(reply, PendingAnswer):
                if not reply.try_finish():
                    await reply.wait()
                reply = reply.outcome()
            if reply is None:
                return Arrival(data)
            self._answered_at = trio.current_time()
            self.timeouts.sending.start_message()
            await send_answer(self, reply)

    async def receive_in_turn(self) -> bytes:
        return await self.receive_some()

    async def send_all(self, data: bytes | memoryview, *, more: bool = False) -> None:  # noqa: ARG002
        view = memoryview(data)
        while view:
            # In pieces, so that a slow reader counts as making progress.
            piece = view[:RECEIVE_BYTES]
            try:
                await self._send(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionLost(str(error) or "the connection broke") from error
            self.sent_bytes += len(piece)
            view = view[len(piece) :]

    async def send_file(self, part: FileSlice) -> None:
        at_bytes = 0
        # A buffer of its own, not the shared window: the stream may keep it while it waits.
        buffer = memoryview(bytearray(min(RECEIVE_BYTES, part.length_bytes)))
        while at_bytes < part.length_bytes:
            piece = buffer[: part.length_bytes - at_bytes]
            if not part.read_cached_into(piece, at_bytes):
                piece = memoryview(await read_some(part, at_bytes, len(piece)))
            await self.send_all(piece)
            at_bytes += len(piece)

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            try:
                await self.timeouts.wait(self.timeouts.sending, self._stream.send_eof)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionLost(str(error) or "the connection broke") from error

    async def aclose(self) -> None:
        with trio.move_on_after(CLEANUP_S, shield=True):
            try:
                await self._stream.aclose()
            except trio.BrokenResourceError:
                return  # the stream is closed all the same, only not politely

    async def abort(self) -> None:
        with trio.move_on_after(CLEANUP_S, shield=True):
            await trio.aclose_forcefully(self._stream)


async def send_answer(transport: Transport, answer: Answer | RestOfAnswer) -> None:
    """Sends the rest of an answer, and releases its memory, or the exchange that it comes from, in any case."""
    if isinstance(answer, RestOfAnswer):
        await answer.finish(transport)
        return
    head, body, release = answer if isinstance(answer, HeldAnswer) else (answer, None, None)
    try:
        if head:
            await transport.send_all(head, more=body is not None)
        if body is not None:
            await transport.send_all(body)
    finally:
        if release is not None:
            release()
