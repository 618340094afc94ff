"""Moves bytes from one socket to another through a pipe in the kernel, without copying them into this process.

For large streams. 512 MiB of CopyFile take 0.55 s of a core this way, and 0.8 s where this process reads and writes
the bytes.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUIET_S = 1.0
"""After a silence of this length the stream gives the pipe back."""
PIPE_BYTES = 256 * 1024
MAX_PIPES = 64
"""Each pipe takes two descriptors. A stream that finds no pipe free is copied by this process."""


class PipePool:
    """Bounds the pipes of one relay."""

    def __init__(self, most: int = MAX_PIPES) -> None:
        self._left = most

    @contextmanager
    def borrowed(self) -> Iterator[tuple[int, int] | None]:
        """The reading and the writing end of a new non-blocking pipe; None where no pipe can be had."""
        if not self._left:
            yield None
            return
        try:
            reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            # No descriptors are left. The stream works without a pipe.
            yield None
            return
        self._left -= 1
        try:
            yield reading, writing
        finally:
            self._left += 1
            os.close(reading)
            os.close(writing)


async def splice(
    source: trio.SocketStream, sink: trio.SocketStream, pipes: PipePool, count_passed: Callable[[int], None]
) -> bool:
    """Moves bytes until `source` ends (returns True), or is quiet, or no pipe is free (returns False: copy instead).

    `count_passed` gets the number of bytes that have reached `sink`, piece by piece.
    More is taken only after all earlier bytes have reached `sink`, so a slow reader slows its writer.

    Raises:
        trio.BrokenResourceError: either side is broken.

    Cancellation: the connection is unusable afterwards, because the bytes in the pipe are lost.
    """
    with pipes.borrowed() as pipe:
        if pipe is None:
            await trio.lowlevel.checkpoint()
            return False
        reading, writing = pipe
        enlarge(writing)
        try:
            while (count := await _fill(source, writing)) is not None:
                if not count:
                    return True
                await _drain(reading, sink, count)
                count_passed(count)
        except OSError as error:
            raise trio.BrokenResourceError from error
    return False


class SharedPipe:
    """One pipe that many connections use in turn, within one call each: it is empty between two calls. To be closed.

    It is made at its first use.
    """

    def __init__(self) -> None:
        self._ends: tuple[int, int] | None = None

    def is_there(self) -> bool:
        """Whether there is a pipe. It is made here."""
        if self._ends is None:
            try:
                self._ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return False
            enlarge(self._ends[1])
        return True

    def fill(self, source_fd: int, most_bytes: int) -> int:
        """Takes bytes that have arrived on the socket `source_fd`. Returns how many; 0 at the end of the stream.

        Raises:
            BlockingIOError: nothing has arrived.
            OSError: the connection is broken.
        """
        assert self._ends is not None, "`is_there` came first"
        return os.splice(source_fd, self._ends[1], min(most_bytes, PIPE_BYTES), flags=os.SPLICE_F_NONBLOCK)

    def drain(self, sink_fd: int, count: int) -> bytes:
        """Gives the `count` bytes of `fill` to the socket `sink_fd`. Returns those that the socket did not take.

        Raises:
            OSError: the connection is broken. The bytes are lost.
        """
        assert self._ends is not None, "`fill` came first"
        reading = self._ends[0]
        try:
            while count:
                count -= os.splice(reading, sink_fd, count, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return _take(reading, count)
        except OSError:
            _take(reading, count)
            raise
        return b""

    def close(self) -> None:
        """Closes the pipe."""
        ends, self._ends = self._ends, None
        for end in ends or ():
            os.close(end)


def _take(reading: int, count: int) -> bytes:
    """Empties a pipe that holds `count` bytes."""
    pieces = []
    while count:
        pieces.append(os.read(reading, count))
        count -= len(pieces[-1])
    return b"".join(pieces)


def enlarge(writing: int) -> None:
    """Makes the pipe hold PIPE_BYTES, where the kernel allows it."""
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        # The user has too many large pipes; a small one works too.
        return


async def _fill(source: trio.SocketStream, writing: int) -> int | None:
    """How many bytes are in the pipe now; 0 at the end of `source`; None when `source` is quiet."""
    await trio.lowlevel.checkpoint()
    while True:
        try:
            return os.splice(source.socket.fileno(), writing, PIPE_BYTES, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            with trio.move_on_after(QUIET_S) as quiet:
                await trio.lowlevel.wait_readable(source.socket)
            if quiet.cancelled_caught:
                return None


async def _drain(reading: int, sink: trio.SocketStream, count: int) -> None:
    while count:
        try:
            count -= os.splice(reading, sink.socket.fileno(), count, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sink.socket)
