"""Helpers for sending files over a socket: a window of memory, reads that do not block the loop, when sendfile pays."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from native_handlers.http_model.message import FileSlice

SEND_WINDOW_BYTES = 1024 * 1024
"""How much of a file is sent in one step. A look into the page cache or a copy from there takes 100 us at most.

Measured: 256 KiB costs a fifth more processor time, because each system call has a fixed cost."""

_CONGESTION_NAME_BYTES = 16


def is_paced(sock: socket.socket) -> bool:
    """Whether the kernel spreads sending over time (BBR).

    With pacing each 64 KiB of a sendfile wait for a timer, and sendfile costs twice the processor time of a copy.
    """
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_NAME_BYTES).startswith(b"bbr")


async def read_some(part: FileSlice, at_bytes: int, length_bytes: int) -> bytes:
    """Some bytes of a file, at least one, read in a thread that may wait for the disk.

    Raises:
        EOFError: the file ends before `part` does.
    """
    data = await part.read(length_bytes, at_bytes)
    if not data:
        raise EOFError(f"the file ends {part.length_bytes - at_bytes} bytes before the end of the body")
    return data


class _SendWindow(threading.local):
    """Memory of each thread for bytes on their way from the page cache to a socket.

    Reused memory stays in the cache.
    """

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SEND_WINDOW_BYTES))


shared_window = _SendWindow()
