"""The bytes that the kernel has still to deliver to the other end of a socket: their count, and a close before them."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios

LEFT_TO_THE_KERNEL_S = 30
"""How long the other end may acknowledge nothing after the close, before the kernel throws the rest away."""

_DISCARDED_BYTES = 64 * 1024
_DISCARDS = 16
_NOTHING = bytes(4)


def unacknowledged_bytes(sock: socket.socket) -> int:
    """How many sent bytes the other end has not acknowledged; 0 where the kernel does not say."""
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, _NOTHING), sys.byteorder)
    except OSError:
        return 0


def leave_to_the_kernel(sock: socket.socket) -> None:
    """Prepares a polite close: after the close the kernel goes on delivering what was sent, while the other end reads.

    A close with unread input makes the kernel send a reset and throw away undelivered bytes. So unread input is read
    and thrown away first, 1 MiB at most.
    """
    if not unacknowledged_bytes(sock):
        return
    try:
        for _ in range(_DISCARDS):
            if not sock.recv(_DISCARDED_BYTES):
                break
    except OSError:
        pass  # There is no more input, or the connection is broken and nothing can be delivered.
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LEFT_TO_THE_KERNEL_S * 1000)


RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""The SO_LINGER value of a close by reset: the other end sees a failure, and undelivered bytes are thrown away."""
