"""A pool of client connections to HTTP servers. `http_exchange` sends the requests."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio

from native_handlers.records import dataclass
from supervisor.net.http_client_connection import ClientHttpConnection
from supervisor.net.http_connect import Address, CannotConnect, TcpConnector
from supervisor.wire.http1 import ClientConnection

if TYPE_CHECKING:
    from supervisor.net.http_connect import Connect

__all__ = ["Address", "CannotConnect", "HttpPool", "PoolLimits", "TcpConnector"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Bounds of one pool.

    Args:
        max_connections: open at once over all servers, kept connections included. Further requests wait.
        max_idle: connections that are kept per server.
        max_idle_s: a connection that was kept for longer is not used again. The value is shorter than the servers' idle
            timeout, so that a server does not close a connection just as a request is sent.
        connect_timeout_s: the time for connecting, TLS included. Waiting for an answer has no limit here.
    """

    max_connections: int = 4096
    max_idle: int = 128
    max_idle_s: float = 10.0
    connect_timeout_s: float = 10.0


class HttpPool:
    """Connections to HTTP servers, kept for reuse. Only the tasks of one event loop may use a pool.

    Args:
        connect: makes a new connection; plain TCP by default.
    """

    def __init__(self, limits: PoolLimits | None = None, *, connect: Connect | None = None) -> None:
        self._limits = limits or PoolLimits()
        self._connect = connect or TcpConnector()
        self._idle: dict[Address, list[ClientHttpConnection]] = {}
        self._slots = trio.Semaphore(self._limits.max_connections)
        self._idle_count = 0
        self._pruned_at_s = -inf

    @property
    def idle_count(self) -> int:
        """How many connections are kept for reuse, over all servers."""
        return self._idle_count

    def idle_connections(self, address: Address) -> tuple[ClientHttpConnection, ...]:
        """The kept connections to one server, the longest kept first."""
        return tuple(self._idle.get(address, ()))

    async def acquire(self, address: Address, *, is_fresh: bool = False) -> ClientHttpConnection:
        """A connection to `address`: a kept one unless `is_fresh`. The caller gives it back with `release`.

        Raises:
            CannotConnect: no server listens there, or no route leads there. The pool is unchanged.

        Cancellation: safe.
        """
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            # The slow path: acquire always goes through the scheduler, which costs more than the rest of this call.
            await self._slots.acquire()
        try:
            connection = None if is_fresh else await self._take_idle(address)
            if connection is not None:
                return connection
            # Kept and used connections together stay within max_connections: the free slots bound the kept ones.
            if self._idle_count > self._slots.value:
                await self._close_one_idle()
            with trio.fail_after(self._limits.connect_timeout_s):
                return ClientHttpConnection(await self._connect(address), ClientConnection())
        except trio.TooSlowError as error:
            self._slots.release()
            raise CannotConnect(f"no connection within {self._limits.connect_timeout_s:g} s") from error
        except BaseException:
            self._slots.release()
            raise

    async def release(self, address: Address, connection: ClientHttpConnection) -> None:
        """Takes a connection back: keeps it when it can serve another request, closes it otherwise."""
        self._slots.release()
        kept = self._idle.setdefault(address, [])
        now_s = trio.current_time()
        if connection.can_reuse and len(kept) < self._limits.max_idle:
            connection.idle_since_s = now_s
            connection.is_reused = True
            kept.append(connection)
            self._idle_count += 1
        else:
            await connection.close()
        if now_s - self._pruned_at_s > self._limits.max_idle_s:
            self._pruned_at_s = now_s
            await self._prune(now_s - self._limits.max_idle_s)

    # ---- without waiting: for exchanges that no task makes

    def acquire_kept(self, address: Address) -> ClientHttpConnection | None:
        """A kept plain connection to `address`. The caller gives it back with `keep` or `discard`.

        None where `acquire` would have to do more than take one: connect, close, wait, or look for old connections.
        """
        kept = self._idle.get(address)
        now_s, max_idle_s = trio.current_time(), self._limits.max_idle_s
        if not kept or now_s - self._pruned_at_s > 2 * max_idle_s:
            return None
        connection = kept[-1]
        if connection.idle_since_s < now_s - max_idle_s or not self._slots.value:
            return None
        if connection.plain_socket is None or not connection.is_idle:
            return None
        self._slots.acquire_nowait()
        self._idle_count -= 1
        return kept.pop()

    def keep(self, address: Address, connection: ClientHttpConnection) -> None:
        """Takes back a connection of `acquire_kept` that can serve another request."""
        kept = self._idle.setdefault(address, [])
        if len(kept) >= self._limits.max_idle:
            self.discard(connection)
            return
        self._slots.release()
        connection.idle_since_s = trio.current_time()
        self._idle_count += 1
        kept.append(connection)

    def discard(self, connection: ClientHttpConnection) -> None:
        """Takes back a connection of `acquire_kept` and closes it by a reset, so that its server notices at once."""
        self._slots.release()
        connection.abort()

    async def drop_idle(self) -> None:
        """Closes every connection that is not in use."""
        kept, self._idle, self._idle_count = self._idle, {}, 0
        for connections in kept.values():
            for connection in connections:
                await connection.close()

    async def _prune(self, oldest_s: float) -> None:
        """Closes too old connections to every server: a restarted backend listens on other ports."""
        for address, connections in list(self._idle.items()):
            old = [connection for connection in connections if connection.idle_since_s < oldest_s]
            self._idle[address] = [connection for connection in connections if connection.idle_since_s >= oldest_s]
            self._idle_count -= len(old)
            if not self._idle[address]:
                del self._idle[address]
            for connection in old:
                await connection.close()

    async def _close_one_idle(self) -> None:
        """Closes one kept connection: the oldest one of some server."""
        for connections in self._idle.values():
            if connections:
                self._idle_count -= 1
                await connections.pop(0).close()
                return

    async def _take_idle(self, address: Address) -> ClientHttpConnection | None:
        oldest_s = trio.current_time() - self._limits.max_idle_s
        # The list is looked up again in each round: during `close` other tasks may take, keep or prune connections.
        while kept := self._idle.get(address):
            connection = kept.pop()
            self._idle_count -= 1
            if connection.idle_since_s >= oldest_s and connection.is_idle:
                return connection
            await connection.close()
        return None
