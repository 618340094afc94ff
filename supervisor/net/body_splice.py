"""Large bodies on their way from one plain socket to another: the kernel moves the bytes through a pipe.

The bytes never enter this process. The waits keep the limits of both connections, as other sends and receives do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from supervisor.net.errors import ConnectionFailed, ConnectionLost
from supervisor.net.splice import PIPE_BYTES, PipePool, enlarge

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.net.transport import SocketTransport

SPLICED_FROM_BYTES = 256 * 1024
"""A shorter rest of a body is copied: a pipe costs some system calls."""
_FILLS_IN_A_ROW = 4

_pipes = PipePool()


class SourceFailed(Exception):
    """The connection from which the body comes is broken by `failure`."""

    def __init__(self, failure: ConnectionFailed) -> None:
        super().__init__(str(failure))
        self.failure = failure


async def splice_body(
    source: SocketTransport, sink: SocketTransport, length_bytes: int, note_taken: Callable[[int], None]
) -> int:
    """Moves `length_bytes` from `source` to `sink`. Returns how many were moved: all, or 0 where no pipe is free.

    `note_taken` gets the number of bytes of each piece that was taken from `source`. Where `source` ends too early,
    `note_taken` gets 0, and raises.

    Raises:
        SourceFailed: the fault of the other end of `source`.
        ConnectionFailed: the fault of the other end of `sink`.

    Cancellation: bytes are lost. `sink` is unusable afterwards.
    """
    with _pipes.borrowed() as pipe:
        if pipe is None:
            return 0
        reading, writing = pipe
        enlarge(writing)
        left_bytes, fills = length_bytes, 0
        while left_bytes:
            count = await _fill(source, writing, min(left_bytes, PIPE_BYTES))
            note_taken(count)
            left_bytes -= count
            await _drain(reading, sink, count, has_more=left_bytes > 0)
            fills += 1
            if fills % _FILLS_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
    return length_bytes


async def _fill(source: SocketTransport, writing: int, most_bytes: int) -> int:
    while True:
        try:
            count = os.splice(source.sock.fileno(), writing, most_bytes, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            try:
                await source.wait_readable()
            except ConnectionFailed as error:
                raise SourceFailed(error) from error
        except OSError as error:
            raise SourceFailed(ConnectionLost(str(error))) from error
        else:
            source.has_received(count)
            return count


async def _drain(reading: int, sink: SocketTransport, count: int, *, has_more: bool) -> None:
    flags = os.SPLICE_F_NONBLOCK | (os.SPLICE_F_MORE if has_more else 0)
    while count:
        try:
            sent = os.splice(reading, sink.sock.fileno(), count, flags=flags)
        except BlockingIOError:
            await sink.wait_writable()
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        else:
            count -= sent
            sink.has_sent(sent)
