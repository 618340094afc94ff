"""Serves HTTP on listening sockets, and ends that in good order. See docs/policy/closing.md."""

from __future__ import annotations

import logging
import ssl
from contextlib import closing
from typing import TYPE_CHECKING

import trio

from supervisor.net.errors import PeerError
from supervisor.net.http_connection import Client, HttpConnection
from supervisor.net.listeners import BoundListener, accept, peer_of
from supervisor.net.pace import Pace
from supervisor.net.quick_loop import QuickLoop
from supervisor.net.transport import SocketTransport, StreamTransport, Transport

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from native_handlers.http.message import Answer, Listener, Request, Response
    from supervisor.net.http_limits import HttpLimits

    Handle = Callable[[Request], Awaitable[Response]]
    Quick = Callable[[Listener, bytes], Answer | None]

log = logging.getLogger(__name__)


async def serve_http(
    listeners: Sequence[BoundListener],
    handle: Handle,
    *,
    limits: HttpLimits,
    quick: Quick | None = None,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until the reported scope is cancelled, then drains and returns.

    `started` gives the accept scope. Cancelling it closes the listeners and the idle connections at once; running
    requests get `limits.drain_s` to finish, what then still runs is cut.

    `quick` is shown what arrives on an idle connection, before it is parsed. The bytes that it returns are sent as the
    whole answer to a whole request that leaves the connection open; with None the request goes to `handle`.

    Cancellation: cuts everything at once.
    """
    with closing(QuickLoop()) as quick_loop:
        server = _Server(handle, limits, quick, quick_loop)
        async with trio.open_nursery() as background:
            background.start_soon(quick_loop.run)
            async with trio.open_nursery() as connections:
                try:
                    with trio.CancelScope() as accept_scope:
                        async with trio.open_nursery() as acceptors:
                            for listener in listeners:
                                acceptors.start_soon(server.accept_from, listener, connections)
                            task_status.started(accept_scope)
                finally:
                    for listener in listeners:
                        listener.close()
                connections.cancel_scope.deadline = trio.current_time() + limits.drain_s
                server.drain()
            background.cancel_scope.cancel()
    if connections.cancel_scope.cancelled_caught:
        log.warning("requests were still running after %g s and have been cut", limits.drain_s)


class _Server:
    """What the listeners of one server share. Used by the tasks of one `serve_http` only."""

    def __init__(self, handle: Handle, limits: HttpLimits, quick: Quick | None, quick_loop: QuickLoop) -> None:
        self._handle = handle
        self._quick = quick
        self._quick_loop = quick_loop
        self._limits = limits
        self._connections: set[HttpConnection] = set()
        self._is_draining = False
        self._slots = trio.Semaphore(limits.max_connections)

    async def accept_from(self, listener: BoundListener, connections: trio.Nursery) -> None:
        while True:
            await self._slots.acquire()
            try:
                sock = await accept(listener)
            except BaseException:
                self._slots.release()
                raise
            connections.start_soon(self._serve, sock, listener)

    def drain(self) -> None:
        self._is_draining = True
        for connection in self._connections:
            connection.drain()

    async def _serve(self, sock: socket.socket, listener: BoundListener) -> None:
        try:
            await self._serve_connection(sock, listener)
        except (PeerError, trio.BrokenResourceError, trio.TooSlowError, ssl.SSLError) as error:
            log.debug("a connection to port %d failed before its first request: %s", listener.port, error)
        except Exception:
            log.exception("a connection broke by a bug of ours")
        finally:
            self._slots.release()
            sock.close()

    async def _serve_connection(self, sock: socket.socket, listener: BoundListener) -> None:
        host, port = peer_of(sock)
        client = Client(host, port, listener.kind, listener.tls is not None)
        transport = await self._transport_for(sock, listener)
        connection = HttpConnection(transport, client, self._handle, self._limits, self._quick)
        self._connections.add(connection)
        if self._is_draining:
            connection.drain()
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)

    async def _transport_for(self, sock: socket.socket, listener: BoundListener) -> Transport:
        pace = Pace(self._limits.pace)
        if listener.tls is None:
            return SocketTransport(sock, pace, self._quick_loop)
        inner = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        stream = trio.SSLStream(inner, listener.tls.current(), server_side=True, https_compatible=True)
        try:
            with trio.fail_after(self._limits.head_timeout_s):
                await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(inner)
            raise
        return StreamTransport(stream, pace)
