"""New connections to HTTP servers."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import trio

from supervisor.net.errors import ConnectionFailed
from supervisor.net.http_client_connection import HttpConnectionBroken
from supervisor.net.timeouts import ConnectionTimeouts, TimeoutLimits
from supervisor.net.tls_transport import TlsTransport
from supervisor.net.transport import SocketTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from supervisor.net.transport import Transport

    Connect = Callable[["Address"], Awaitable[Transport]]


LOOPBACK_RECEIVE_BYTES = 256 * 1024
"""The most that the kernel holds of a backend's answer before this process reads it. Without the bound the kernel grows
its buffer to megabytes, and a backend that limits its downloads in flight would count unread bytes as delivered."""


class Address(NamedTuple):
    """The address of a server. `host` has no brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class CannotConnect(HttpConnectionBroken):
    """No connection was made, so the server cannot have executed anything."""

    def __init__(self, reason: str, *, is_refused: bool = False) -> None:
        super().__init__(reason)
        self.is_refused = is_refused


class TcpConnector:
    """Connects over TCP, and adds TLS where a context is given.

    Args:
        source_host: the local address to connect from; "" leaves the choice to the kernel. Loopback servers and
            servers of the other address family are connected to without it. Source: weed/util/outbound_dial.go.
        idle_timeout_s: how long a server may neither send nor acknowledge anything; inf sets no limit.
    """

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, source_host: str = "", idle_timeout_s: float = inf
    ) -> None:
        self._tls = tls
        self._source_host = source_host
        self._timeouts = TimeoutLimits(idle_timeout_s)

    async def __call__(self, address: Address) -> Transport:
        """A connection to `address`.

        Raises:
            CannotConnect: no server listens there, no route leads there, the address is none, or the TLS handshake
                fails. No socket is left open.
        """
        try:
            stream = await trio.open_tcp_stream(
                address.host, address.port, local_address=source_address(self._source_host, address.host)
            )
        except (OSError, UnicodeError) as error:  # the latter for a text that is no name of a host
            raise CannotConnect(_reason(error), is_refused=_is_refused(error)) from error
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        if ip_address(sock.getpeername()[0]).is_loopback:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LOOPBACK_RECEIVE_BYTES)
        plain = SocketTransport(sock, ConnectionTimeouts(self._timeouts))
        return plain if self._tls is None else await _with_tls(plain, self._tls, address.host)


class UnixConnector:
    """Connects to one Unix socket, whatever the address."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __call__(self, address: Address) -> Transport:
        """A connection. `address` is a name for the log.

        Raises:
            CannotConnect: no server listens there. No socket is left open.
        """
        try:
            stream = await trio.open_unix_socket(str(self._path))
        except OSError as error:
            raise CannotConnect(f"{address.host}: {_reason(error)}", is_refused=_is_refused(error)) from error
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        return SocketTransport(sock, ConnectionTimeouts(TimeoutLimits()))


async def _with_tls(plain: SocketTransport, tls: ssl.SSLContext, host: str) -> TlsTransport:
    secured = TlsTransport(plain, tls, server_hostname=host)
    try:
        await secured.handshake()
    except (trio.BrokenResourceError, ConnectionFailed) as error:
        raise CannotConnect(f"no TLS: {error.__cause__ or error}") from error
    return secured


def source_address(source_host: str, target_host: str) -> str | None:
    """The local address to bind before connecting, None to leave it to the kernel."""
    try:
        source, target = ip_address(source_host), ip_address(target_host)
    except ValueError:
        return None
    is_usable = not (source.is_unspecified or source.is_loopback or target.is_loopback)
    return source_host if is_usable and source.version == target.version else None


def _causes(error: OSError | UnicodeError) -> tuple[BaseException, ...]:
    """The error of each address that was tried. trio puts them into a group."""
    cause = error.__cause__
    return cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause or error,)


def _is_refused(error: OSError | UnicodeError) -> bool:
    return any(isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED for cause in _causes(error))


def _reason(error: OSError | UnicodeError) -> str:
    return "connection refused" if _is_refused(error) else str(_causes(error)[-1])
