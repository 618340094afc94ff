"""Asks the child whether it serves: readiness is what it answers, never how long it has been running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from supervisor.backend.ports import LOOPBACK

if TYPE_CHECKING:
    from supervisor.backend.ports import BackendPorts

_HEAD_LIMIT_BYTES = 4096
_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def is_serving(ports: BackendPorts) -> bool:
    """Whether /healthz of the child's admin port says 200 and its gRPC port accepts a connection.

    Cancellation: safe; give it a deadline, for a child that accepts and says nothing keeps it waiting.
    """
    try:
        return await _healthz_status(ports.http) == 200 and await _accepts(ports.grpc)
    except (OSError, trio.BrokenResourceError):
        return False


async def _healthz_status(port: int) -> int | None:
    async with await _connect(port) as stream:
        await stream.send_all(_REQUEST)
        head = b""
        while b"\r\n" not in head and len(head) < _HEAD_LIMIT_BYTES:
            piece = await stream.receive_some(_HEAD_LIMIT_BYTES)
            if not piece:
                return None
            head += piece
    words = head.split(b"\r\n", 1)[0].split()
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1].isdigit() else None


async def _accepts(port: int) -> bool:
    await (await _connect(port)).aclose()
    return True


async def _connect(port: int) -> trio.SocketStream:
    made = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_STREAM)
    try:
        await made.connect((LOOPBACK, port))
    except BaseException:
        made.close()
        raise
    return trio.SocketStream(made)
