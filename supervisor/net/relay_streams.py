"""Passes the bytes of a relayed connection on, one direction at a time, and never holds more than one chunk of it.

There are three ways. The chunks of small calls are passed by one task for all connections (`SmallChunks`): a chunk
costs a read and a write, and no trip of a connection's task through trio's scheduler. If the
sink is full or much comes at once, the connection's own task passes the bytes. Large streams go through a pipe in the
kernel (`splice`). With TLS the connection's own task passes everything.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

import trio

from supervisor.net.splice import PipePool, splice

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES = 64 * 1024
"""The most that the relay holds of one direction of one connection. A socket gives about this much at once."""
BULK_AFTER_CHUNKS = 8
"""After this many full chunks in a row the stream counts as a large one, and the kernel moves its bytes."""
_LOOKED_AT = 64
"""How many ready connections are served before other tasks get a turn: 4 MiB at most, some milliseconds."""


class SmallChunks:
    """Passes the small chunks of all connections without TLS, in one task. Only the trio thread of `run` uses it."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._directions: dict[int, _Direction] = {}
        # Where chunks are received. What a sink has not taken is copied before the next receive.
        self._window = bytearray(CHUNK_BYTES)

    @property
    def is_running(self) -> bool:
        """Whether `pass_on` may be called."""
        return self._epoll is not None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until cancelled. Each direction then goes on in its own task."""
        self._epoll = epoll = select.epoll()
        task_status.started()
        try:
            while True:
                await trio.lowlevel.wait_readable(epoll.fileno())
                for fd, _ in epoll.poll(0, _LOOKED_AT):
                    # An earlier chunk may have ended this direction.
                    direction = self._directions.get(fd)
                    if direction is not None:
                        direction.pass_chunk(self._window)
        finally:
            self._epoll = None
            for direction in list(self._directions.values()):
                direction.wake()
            epoll.close()

    async def pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, count: Callable[[int], None]
    ) -> bytes | None:
        """Passes chunks until one is not small, or `sink` does not take it at once. Returns the bytes that are still
        to be sent to `sink`, which may be none; None where `source` has ended.

        `count` gets the number of bytes of each chunk that have reached `sink`.

        Raises:
            trio.BrokenResourceError: either side is broken.
            trio.ClosedResourceError: `source` was closed before this call.
        """
        direction = _Direction(self, source.socket, sink.socket, count)
        if direction.fd < 0:
            raise trio.ClosedResourceError
        self._watch(direction)

        def abort(_: object) -> trio.lowlevel.Abort:
            self.forget(direction)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if direction.error is not None:
            raise trio.BrokenResourceError from direction.error
        return direction.unsent

    def _watch(self, direction: _Direction) -> None:
        assert self._epoll is not None
        self._epoll.register(direction.fd, select.EPOLLIN)
        self._directions[direction.fd] = direction

    def forget(self, direction: _Direction) -> None:
        """Watches `direction` no longer."""
        # A closed socket has left the epoll by itself, and another one may have its number by now.
        if self._directions.get(direction.fd) is not direction:
            return
        del self._directions[direction.fd]
        if self._epoll is not None and direction.is_open:
            self._epoll.unregister(direction.fd)


class _Direction:
    """One direction of a connection whose task sleeps.

    Attributes:
        fd: the descriptor of the source.
        unsent: see `SmallChunks.pass_on`.
        error: how either side broke; None while both work.
    """

    __slots__ = ("_chunks", "_count", "_sink", "_source", "_task", "error", "fd", "unsent")

    def __init__(
        self,
        chunks: SmallChunks,
        source: trio.socket.SocketType,
        sink: trio.socket.SocketType,
        count: Callable[[int], None],
    ) -> None:
        self._chunks = chunks
        self._count = count
        self._source = source
        self._sink = sink
        self._task = trio.lowlevel.current_task()
        self.fd = source.fileno()
        self.unsent: bytes | None = b""
        self.error: OSError | None = None

    @property
    def is_open(self) -> bool:
        """Whether the source is still open, and so has its descriptor."""
        return self._source.fileno() == self.fd

    def pass_chunk(self, window: bytearray) -> None:
        """Passes the bytes that have arrived. Wakes the task if it must go on. `window` is free after the call."""
        try:
            length = os.readv(self.fd, [window])
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        if not length:
            self.unsent = None
            self.wake()
            return
        with memoryview(window)[:length] as chunk:
            try:
                sent = os.write(self._sink.fileno(), chunk)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._fail(error)
                return
            if sent:
                self._count(sent)
            if sent < length or length == len(window):
                self.unsent = bytes(chunk[sent:])
                self.wake()

    def _fail(self, error: OSError) -> None:
        self.error = error
        self.wake()

    def wake(self) -> None:
        """Ends the watch, and has the task go on."""
        self._chunks.forget(self)
        trio.lowlevel.reschedule(self._task)


class RelayStreams:
    """Passes on the streams of one relay. `pipes` bounds what large streams take."""

    def __init__(self, pipes: PipePool | None = None) -> None:
        self._pipes = pipes or PipePool()
        self._small = SmallChunks()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Passes the chunks of small calls until cancelled. Before and after, each connection's task passes them."""
        await self._small.run(task_status=task_status)

    async def pass_one_way(
        self,
        source: trio.abc.ReceiveStream,
        sink: trio.abc.SendStream,
        count: Callable[[int], None],
        connection: trio.CancelScope,
    ) -> bool:
        """Copies until `source` ends (returns True) or either side breaks (returns False after cancelling
        `connection`). `count` gets how many bytes have reached `sink`, piece by piece.

        The next chunk is read after the last chunk is written. So a slow reader slows its writer, and no data piles up.
        """
        try:
            if isinstance(source, trio.SocketStream) and isinstance(sink, trio.SocketStream):
                await self._pass_sockets(source, sink, count)
            else:
                while chunk := await source.receive_some(CHUNK_BYTES):
                    await sink.send_all(chunk)
                    count(len(chunk))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            connection.cancel()
            return False
        return True

    async def _pass_sockets(
        self, source: trio.SocketStream, sink: trio.SocketStream, count: Callable[[int], None]
    ) -> None:
        full_chunks = 0
        while True:
            if not full_chunks and self._small.is_running:
                unsent = await self._small.pass_on(source, sink, count)
                if unsent is None:
                    return
                if unsent:
                    await sink.send_all(unsent)
                    count(len(unsent))
            chunk = await source.receive_some(CHUNK_BYTES)
            if not chunk:
                return
            await sink.send_all(chunk)
            count(len(chunk))
            full_chunks = full_chunks + 1 if len(chunk) == CHUNK_BYTES else 0
            if full_chunks >= BULK_AFTER_CHUNKS:
                full_chunks = 0
                if await splice(source, sink, self._pipes, count):
                    return
