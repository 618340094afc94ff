"""New connections to servers, as a client."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import trio

from supervisor.net.http_link import LinkBroken
from supervisor.net.pace import Pace, PaceLimits
from supervisor.net.transport import SocketTransport, StreamTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from supervisor.net.transport import Transport

    Connect = Callable[["Address"], Awaitable[Transport]]


LOOPBACK_RECEIVE_BYTES = 256 * 1024
"""What the kernel may hold of a backend's answer before we read it. Left alone it grows to megabytes, and a backend
that limits its downloads in flight would take an answer for delivered that no client has read."""


class Address(NamedTuple):
    """Where a server is. `host` has no brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class CannotConnect(LinkBroken):
    """There is no connection, so nothing can have been executed."""

    def __init__(self, reason: str, *, is_refused: bool = False) -> None:
        super().__init__(reason)
        self.is_refused = is_refused


class TcpConnector:
    """Connects over TCP, with TLS where there is a context for it.

    Args:
        source_host: the local address to connect from, "" leaves it to the kernel. Loopback servers and those of
            the other address family are connected to without. Source: weed/util/outbound_dial.go.
        idle_timeout_s: how long a server may neither say nor take anything; inf leaves that to whoever watches it.
    """

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, source_host: str = "", idle_timeout_s: float = inf
    ) -> None:
        self._tls = tls
        self._source_host = source_host
        self._pace = PaceLimits(idle_timeout_s)

    async def __call__(self, address: Address) -> Transport:
        """A connection to `address`.

        Raises:
            CannotConnect: nobody listens there, no route leads there, or TLS comes to nothing.
        """
        try:
            stream = await trio.open_tcp_stream(
                address.host, address.port, local_address=source_address(self._source_host, address.host)
            )
        except OSError as error:
            raise CannotConnect(_reason(error), is_refused=_is_refused(error)) from error
        if self._tls is not None:
            return StreamTransport(await _with_tls(stream, self._tls, address.host), Pace(self._pace))
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        if ip_address(sock.getpeername()[0]).is_loopback:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LOOPBACK_RECEIVE_BYTES)
        return SocketTransport(sock, Pace(self._pace))


async def _with_tls(stream: trio.SocketStream, tls: ssl.SSLContext, host: str) -> trio.SSLStream[trio.SocketStream]:
    tls_stream = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
    try:
        await tls_stream.do_handshake()
    except BaseException as error:
        await trio.aclose_forcefully(stream)
        if isinstance(error, trio.BrokenResourceError):
            raise CannotConnect(f"no TLS: {error.__cause__ or error}") from error
        raise
    return tls_stream


def source_address(source_host: str, target_host: str) -> str | None:
    """The local address to bind before connecting, None to leave it to the kernel."""
    try:
        source, target = ip_address(source_host), ip_address(target_host)
    except ValueError:
        return None
    is_usable = not (source.is_unspecified or source.is_loopback or target.is_loopback)
    return source_host if is_usable and source.version == target.version else None


def _causes(error: OSError) -> tuple[BaseException, ...]:
    """What went wrong for each address that was tried; trio puts that into a group."""
    cause = error.__cause__
    return cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause or error,)


def _is_refused(error: OSError) -> bool:
    return any(isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED for cause in _causes(error))


def _reason(error: OSError) -> str:
    return "connection refused" if _is_refused(error) else str(_causes(error)[-1])
