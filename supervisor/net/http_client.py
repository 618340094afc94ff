"""A pool of client connections. What goes over them is the business of `http_exchange`."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import trio

from supervisor.net.http_link import ClientLink, LinkBroken
from supervisor.net.pace import Pace, PaceLimits
from supervisor.net.transport import SocketTransport, StreamTransport
from supervisor.wire.http1 import ClientConnection

if TYPE_CHECKING:
    import ssl


class Address(NamedTuple):
    """Where a server is. `host` has no brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Bounds of one pool.

    Args:
        max_connections: in use at once over all servers; more requests wait.
        max_idle: kept open per server.
        max_idle_s: older ones are not used again; shorter than the servers' own idle time-out, so that they are not
            the ones to close just as a request goes out.
        connect_timeout_s: for the connection alone, TLS included; the answer takes as long as it takes.
        idle_timeout_s: how long a server may say and take nothing; inf leaves that to whoever watches the server.
    """

    max_connections: int = 4096
    max_idle: int = 128
    max_idle_s: float = 10.0
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = inf


class CannotConnect(LinkBroken):
    """There is no connection, so nothing can have been executed."""

    def __init__(self, reason: str, *, is_refused: bool = False) -> None:
        super().__init__(reason)
        self.is_refused = is_refused


class HttpPool:
    """Connections to HTTP servers, kept for reuse. For the tasks of one event loop.

    Args:
        tls: how to speak to the servers; None is plain TCP.
        source_host: the local address to connect from, "" leaves it to the kernel. Loopback servers and those of
            the other address family are connected to without. Source: weed/util/outbound_dial.go.
    """

    def __init__(
        self, limits: PoolLimits | None = None, *, tls: ssl.SSLContext | None = None, source_host: str = ""
    ) -> None:
        self._limits = limits or PoolLimits()
        self._tls = tls
        self._source_host = source_host
        self._idle: dict[Address, list[ClientLink]] = {}
        self._slots = trio.Semaphore(self._limits.max_connections)
        self._pruned_at_s = -inf

    async def acquire(self, address: Address, *, is_fresh: bool = False) -> ClientLink:
        """A connection to `address`, a kept one unless `is_fresh`. Give it back with `release`.

        Raises:
            CannotConnect: nobody listens there, or no route leads there.

        Cancellation: safe.
        """
        await self._slots.acquire()
        try:
            link = None if is_fresh else await self._take_idle(address)
            if link is not None:
                return link
            with trio.fail_after(self._limits.connect_timeout_s):
                return await self._connect(address)
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
            await link.abort()
        if now_s - self._pruned_at_s > self._limits.max_idle_s:
            self._pruned_at_s = now_s
            await self._prune(now_s - self._limits.max_idle_s)

    async def drop_idle(self) -> None:
        """Closes every connection that is not in use."""
        kept, self._idle = self._idle, {}
        for links in kept.values():
            for link in links:
                await link.abort()

    async def _prune(self, oldest_s: float) -> None:
        """Closes what is too old, of every server: a backend that was restarted listens elsewhere now."""
        for address, links in list(self._idle.items()):
            old = [link for link in links if link.idle_since_s < oldest_s]
            self._idle[address] = [link for link in links if link.idle_since_s >= oldest_s]
            if not self._idle[address]:
                del self._idle[address]
            for link in old:
                await link.abort()

    async def _take_idle(self, address: Address) -> ClientLink | None:
        kept = self._idle.get(address)
        oldest_s = trio.current_time() - self._limits.max_idle_s
        while kept:
            link = kept.pop()
            if link.idle_since_s >= oldest_s and link.is_quiet:
                return link
            await link.abort()
        return None

    async def _connect(self, address: Address) -> ClientLink:
        pace = Pace(PaceLimits(self._limits.idle_timeout_s))
        try:
            stream = await trio.open_tcp_stream(
                address.host, address.port, local_address=source_address(self._source_host, address.host)
            )
        except OSError as error:
            raise CannotConnect(_reason(error), is_refused=_is_refused(error)) from error
        if self._tls is None:
            sock = socket.socket(fileno=stream.socket.detach())
            sock.setblocking(False)
            return ClientLink(SocketTransport(sock, pace), ClientConnection())
        tls_stream = trio.SSLStream(stream, self._tls, server_hostname=address.host, https_compatible=True)
        try:
            await tls_stream.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error, trio.BrokenResourceError):
                raise CannotConnect(f"no TLS: {error.__cause__ or error}") from error
            raise
        return ClientLink(StreamTransport(tls_stream, pace), ClientConnection())


def source_address(source_host: str, target_host: str) -> str | None:
    """The local address to bind before connecting, None to leave it to the kernel."""
    try:
        source, target = ip_address(source_host), ip_address(target_host)
    except ValueError:
        return None
    is_usable = not (source.is_unspecified or source.is_loopback or target.is_loopback)
    return source_host if is_usable and source.version == target.version else None


def _is_refused(error: OSError) -> bool:
    causes = (
        error.__cause__.exceptions if isinstance(error.__cause__, BaseExceptionGroup) else (error.__cause__ or error,)
    )
    return any(isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED for cause in causes)


def _reason(error: OSError) -> str:
    return "connection refused" if _is_refused(error) else str(error)
