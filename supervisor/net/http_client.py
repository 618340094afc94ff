"""A pool of client connections. What goes over them is the business of `http_exchange`."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import trio

from supervisor.net.http_connect import Address, CannotConnect, TcpConnector
from supervisor.net.http_link import ClientLink
from supervisor.wire.http1 import ClientConnection

if TYPE_CHECKING:
    from supervisor.net.http_connect import Connect

__all__ = ["Address", "CannotConnect", "HttpPool", "PoolLimits", "TcpConnector"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Bounds of one pool.

    Args:
        max_connections: in use at once over all servers; more requests wait.
        max_idle: kept open per server.
        max_idle_s: older ones are not used again; shorter than the servers' own idle time-out, so that they are not
            the ones to close just as a request goes out.
        connect_timeout_s: for the connection alone, TLS included; the answer takes as long as it takes.
    """

    max_connections: int = 4096
    max_idle: int = 128
    max_idle_s: float = 10.0
    connect_timeout_s: float = 10.0


class HttpPool:
    """Connections to HTTP servers, kept for reuse. For the tasks of one event loop.

    Args:
        connect: makes a new connection; plain TCP unless told otherwise.
    """

    def __init__(self, limits: PoolLimits | None = None, *, connect: Connect | None = None) -> None:
        self._limits = limits or PoolLimits()
        self._connect = connect or TcpConnector()
        self._idle: dict[Address, list[ClientLink]] = {}
        self._slots = trio.Semaphore(self._limits.max_connections)
        self._pruned_at_s = -inf

    async def acquire(self, address: Address, *, is_fresh: bool = False) -> ClientLink:
        """A connection to `address`, a kept one unless `is_fresh`. Give it back with `release`.

        Raises:
            CannotConnect: nobody listens there, or no route leads there.

        Cancellation: safe.
        """
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            # Not tried first because it always goes through the scheduler, which costs more than all the rest here.
            await self._slots.acquire()
        try:
            link = None if is_fresh else await self._take_idle(address)
            if link is not None:
                return link
            with trio.fail_after(self._limits.connect_timeout_s):
                return ClientLink(await self._connect(address), ClientConnection())
        except trio.TooSlowError as error:
            self._slots.release()
            raise CannotConnect(f"no connection within {self._limits.connect_timeout_s:g} s") from error
        except BaseException:
            self._slots.release()
            raise

    async def release(self, address: Address, link: ClientLink) -> None:
        """Takes a connection back: kept when it can serve another request, else closed."""
        self._slots.release()
        kept = self._idle.setdefault(address, [])
        now_s = trio.current_time()
        if link.can_reuse and len(kept) < self._limits.max_idle:
            link.idle_since_s = now_s
            link.is_reused = True
            kept.append(link)
        else:
            await link.close()
        if now_s - self._pruned_at_s > self._limits.max_idle_s:
            self._pruned_at_s = now_s
            await self._prune(now_s - self._limits.max_idle_s)

    async def drop_idle(self) -> None:
        """Closes every connection that is not in use."""
        kept, self._idle = self._idle, {}
        for links in kept.values():
            for link in links:
                await link.close()

    async def _prune(self, oldest_s: float) -> None:
        """Closes what is too old, of every server: a backend that was restarted listens elsewhere now."""
        for address, links in list(self._idle.items()):
            old = [link for link in links if link.idle_since_s < oldest_s]
            self._idle[address] = [link for link in links if link.idle_since_s >= oldest_s]
            if not self._idle[address]:
                del self._idle[address]
            for link in old:
                await link.close()

    async def _take_idle(self, address: Address) -> ClientLink | None:
        kept = self._idle.get(address)
        oldest_s = trio.current_time() - self._limits.max_idle_s
        while kept:
            link = kept.pop()
            if link.idle_since_s >= oldest_s and link.is_quiet:
                return link
            await link.close()
        return None
