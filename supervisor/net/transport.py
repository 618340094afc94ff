"""Byte transports under HTTP: a plain socket, driven without a layer between, or any trio stream (TLS, tests).

A plain socket is tried first and waited for only where the kernel has nothing, which spares two trips through the
scheduler for each request that finds its bytes there; every few such calls yield to other tasks all the same.

Cancellation: a cancelled receive has taken nothing and may be repeated; a cancelled send poisons the connection.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Protocol

import trio

from native_handlers.http.message import HeldAnswer
from supervisor.net.errors import PeerGone, PeerSilent
from supervisor.net.file_pieces import SEND_WINDOW_BYTES, is_paced, read_some, shared_window
from supervisor.net.quick_loop import QuickSleeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.http.message import Answer, FileSlice
    from supervisor.net.pace import Pace
    from supervisor.net.quick_loop import QuickLoop

RECEIVE_BYTES = 64 * 1024
"""The most that one receive takes. Measured: twice as fast for chunked bodies as 256 KiB, for which the allocator asks
the kernel for fresh pages each time; a tenth slower for plain ones."""

HEAD_BYTES = 32 * 1024
"""The same where a head is due; less is cheaper then, for the buffer is made anew each time."""

CLEANUP_S = 2.0
"""The most that a polite close may take."""

_UNYIELDING_CALLS = 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Transport(Protocol):
    """What the HTTP drivers need of a connection. All waits keep to `pace`."""

    pace: Pace
    sent_bytes: int
    """How many bytes the kernel, or the stream, has taken so far."""

    async def receive_some(self, max_bytes: int = HEAD_BYTES, *, is_patient: bool = False) -> bytes:
        """What has arrived, at least one byte; b"" at the end of the stream. `is_patient` waits without limit.

        Raises:
            PeerError: see supervisor.net.errors.
        """
        ...

    async def receive_into(self, buffer: memoryview) -> int:
        """The same, put at the front of `buffer`, with the same errors; 0 at the end of the stream."""
        ...

    async def receive_unanswered(self, answer: Callable[[bytes], Answer | None]) -> bytes:
        """What has arrived that `answer` does not answer; what it does is sent, and the wait goes on.

        `answer` is shown all that has arrived and must not wait; it is called between two messages only.

        Raises:
            PeerError: as `receive_some` and `send_all`.
        """
        ...

    async def send_all(self, data: bytes | memoryview, *, more: bool = False) -> None:
        """Returns when all of `data` is on its way and its memory free for other use. `more`: more follows at once.

        Raises:
            PeerError: see supervisor.net.errors; how much went out is unknown.
        """
        ...

    async def send_file(self, part: FileSlice) -> None:
        """Sends what lies on a disk: from memory what memory holds, else read by `part`, which holds up nobody else.

        Raises:
            EOFError: the file ends early; less went out than was asked for.
            PeerError: the peer's fault.
            Exception: what `part` raises where its disk fails.
        """
        ...

    async def send_eof(self) -> None:
        """Ends our direction where the transport can do that; the other stays open."""
        ...

    async def aclose(self) -> None:
        """Closes politely, within CLEANUP_S."""
        ...

    async def abort(self) -> None:
        """Closes at once, even when cancelled. The peer sees a reset, so it takes no torn message for a whole one."""
        ...


class SocketTransport:
    """A connected, non-blocking TCP socket, which this object owns.

    Args:
        quick_loop: where it sleeps in `receive_unanswered`, which cannot be called without.
    """

    __slots__ = ("_calls", "_quick_loop", "_sock", "pace", "sent_bytes")

    def __init__(self, sock: socket.socket, pace: Pace, quick_loop: QuickLoop | None = None) -> None:
        self._sock = sock
        self._quick_loop = quick_loop
        self._calls = 0
        self.pace = pace
        self.sent_bytes = 0

    async def receive_some(self, max_bytes: int = HEAD_BYTES, *, is_patient: bool = False) -> bytes:
        await self._breathe()
        while True:
            try:
                data = self._sock.recv(max_bytes)
            except BlockingIOError:
                await self._wait_readable(is_patient=is_patient)
            except OSError as error:
                raise PeerGone(str(error)) from error
            else:
                self.pace.moved(self.pace.receiving, len(data))
                return data

    async def receive_into(self, buffer: memoryview) -> int:
        await self._breathe()
        while True:
            try:
                count = self._sock.recv_into(buffer)
            except BlockingIOError:
                await self._wait_readable(is_patient=False)
            except OSError as error:
                raise PeerGone(str(error)) from error
            else:
                self.pace.moved(self.pace.receiving, count)
                return count

    async def receive_unanswered(self, answer: Callable[[bytes], Answer | None]) -> bytes:
        assert self._quick_loop is not None, "made without a loop to sleep in"
        sleeper = QuickSleeper(self._quick_loop, self._sock, answer)
        while True:
            sent_before = sleeper.sent_bytes
            try:
                arrival = await self.pace.wait_served(sleeper.sleep, lambda: sleeper.answered_at)
            except OSError as error:
                raise PeerGone(str(error)) from error
            finally:
                self.sent_bytes += sleeper.sent_bytes - sent_before
            if arrival.data is not None:
                self.pace.receiving.start_message()
                self.pace.moved(self.pace.receiving, len(arrival.data))
                return arrival.data
            self.pace.sending.start_message()
            await _send_answer(self, arrival.unsent)

    async def send_all(self, data: bytes | memoryview, *, more: bool = False) -> None:
        flags = socket.MSG_MORE if more else 0
        rest = data
        while True:
            window = rest if len(rest) <= SEND_WINDOW_BYTES else memoryview(rest)[:SEND_WINDOW_BYTES]
            sent = self._send_now(window, flags)
            if sent == len(rest):
                return
            rest = memoryview(rest)[sent:]
            if sent == len(window):
                await self._breathe()
            else:
                await self._wait_writable()

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
                # Nothing may wait between the filling of the window and its sending: all connections share its memory.
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
                # What was not taken is read again: a slow peer holds no memory, and is read for in small pieces.
                window_bytes = max(sent, RECEIVE_BYTES)
                await self._wait_writable()

    def _send_straight_now(self, part: FileSlice, at_bytes: int, length_bytes: int) -> int | None:
        """As `_send_now`, of what memory holds of a file; None where it has to be read first."""
        try:
            sent = part.send_cached(self._sock.fileno(), length_bytes, at_bytes)
        except BlockingIOError:
            return 0
        except ConnectionError as error:
            raise PeerGone(str(error)) from error
        if sent is not None:
            self._has_sent(sent)
        return sent

    def _send_now(self, data: bytes | memoryview, flags: int = 0) -> int:
        """How much of `data` the kernel takes without waiting."""
        try:
            sent = self._sock.send(data, flags)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise PeerGone(str(error)) from error
        self._has_sent(sent)
        return sent

    async def send_eof(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise PeerGone(str(error)) from error

    async def aclose(self) -> None:
        self._close()

    async def abort(self) -> None:
        if self._sock.fileno() >= 0:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._close()

    @property
    def is_quiet(self) -> bool:
        """Whether the peer has neither sent anything nor closed: what an unused connection must be."""
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

    def _has_sent(self, count: int) -> None:
        self.sent_bytes += count
        self.pace.moved(self.pace.sending, count)

    async def _wait_readable(self, *, is_patient: bool) -> None:
        if is_patient:
            await trio.lowlevel.wait_readable(self._sock)
        else:
            await self.pace.wait(self.pace.receiving, trio.lowlevel.wait_readable, self._sock)

    async def _wait_writable(self) -> None:
        await self.pace.wait(self.pace.sending, trio.lowlevel.wait_writable, self._sock)

    async def _breathe(self) -> None:
        self._calls += 1
        if self._calls % _UNYIELDING_CALLS == 0:
            await trio.lowlevel.checkpoint()


class StreamTransport:
    """Any trio stream. A TLS stream is one of these."""

    __slots__ = ("_stream", "pace", "sent_bytes")

    def __init__(self, stream: trio.abc.Stream, pace: Pace) -> None:
        self._stream = stream
        self.pace = pace
        self.sent_bytes = 0

    async def receive_some(self, max_bytes: int = HEAD_BYTES, *, is_patient: bool = False) -> bytes:
        try:
            if is_patient:
                data = await self._stream.receive_some(max_bytes)
            else:
                data = await self.pace.wait(self.pace.receiving, self._stream.receive_some, max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PeerGone(str(error) or "the connection broke") from error
        self.pace.moved(self.pace.receiving, len(data))
        return bytes(data)

    async def receive_into(self, buffer: memoryview) -> int:
        data = await self.receive_some(min(RECEIVE_BYTES, len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    async def receive_unanswered(self, answer: Callable[[bytes], Answer | None]) -> bytes:
        while True:
            self.pace.receiving.start_message()
            data = await self.receive_some()
            reply = answer(data)
            if reply is None:
                return data
            self.pace.sending.start_message()
            await _send_answer(self, reply)

    async def send_all(self, data: bytes | memoryview, *, more: bool = False) -> None:  # noqa: ARG002
        view = memoryview(data)
        while view:
            # In pieces, so that a slow peer counts as moving.
            piece = view[:RECEIVE_BYTES]
            try:
                await self.pace.wait(self.pace.sending, self._stream.send_all, piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise PeerGone(str(error) or "the connection broke") from error
            self.sent_bytes += len(piece)
            self.pace.moved(self.pace.sending, len(piece))
            view = view[len(piece) :]

    async def send_file(self, part: FileSlice) -> None:
        at_bytes = 0
        # Of its own: the stream may wait with it.
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
                await self.pace.wait(self.pace.sending, self._stream.send_eof)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise PeerGone(str(error) or "the connection broke") from error

    async def aclose(self) -> None:
        with trio.move_on_after(CLEANUP_S, shield=True):
            try:
                await self._stream.aclose()
            except trio.BrokenResourceError:
                return  # it is closed all the same, only not politely

    async def abort(self) -> None:
        inner = self._stream
        while isinstance(inner, trio.SSLStream):
            inner = inner.transport_stream
        if isinstance(inner, trio.SocketStream):
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        with trio.move_on_after(CLEANUP_S, shield=True):
            await trio.aclose_forcefully(self._stream)


async def _send_answer(transport: Transport, answer: Answer) -> None:
    """Sends what is left of an answer. A client that takes none of it is PeerGone: unlike an idle one it is cut."""
    head, body, release = answer if isinstance(answer, HeldAnswer) else (answer, None, None)
    try:
        if head:
            await transport.send_all(head, more=body is not None)
        if body is not None:
            await transport.send_all(body)
    except PeerSilent as error:
        raise PeerGone(f"the answer was not taken: {error}") from error
    finally:
        if release is not None:
            release()
