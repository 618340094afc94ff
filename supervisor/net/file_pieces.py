"""What sending files over a socket needs: a window of memory, reads that hold nobody up, whether sendfile pays."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from native_handlers.http.message import FileSlice

SEND_WINDOW_BYTES = 1024 * 1024
"""How much is sent in one go. Of a file: looked up in the page cache, or copied from there, some 100 us at most.

Measured: with 256 KiB a fifth more time of the processor, as each call has its price."""

_CONGESTION_NAME_BYTES = 16


def is_paced(sock: socket.socket) -> bool:
    """Whether the kernel spreads what is sent over time (BBR).

    Then each 64 KiB of a sendfile wait for a timer, and cost twice the time of the processor that a copy does.
    """
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_NAME_BYTES).startswith(b"bbr")


async def read_some(part: FileSlice, at_bytes: int, length_bytes: int) -> bytes:
    """Some of a file, at least a byte, by whoever may wait for its disk. Raises EOFError where it ends early."""
    data = await part.read(length_bytes, at_bytes)
    if not data:
        raise EOFError(f"the file ends {part.length_bytes - at_bytes} bytes before the end of the body")
    return data


class _Window(threading.local):
    """Memory of each thread for what goes from the page cache to a socket at once; warm, so that copying is cheap."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SEND_WINDOW_BYTES))


shared_window = _Window()
