"""Listening sockets as Go's net.Listen opens them, and what is accepted from them.

Source: Go net, favoriteAddrFamily: no host, `0.0.0.0` and `::` all mean every address of both families; of a name
with several addresses the first IPv4 one is taken.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from native_handlers.http.message import Listener
from supervisor.net.errors import BadCertificate, CannotListen
from supervisor.net.tls import TlsContextSource, TlsSettings

if TYPE_CHECKING:
    from typing import Any

__all__ = ["BadCertificate", "BoundListener", "TlsContextSource", "TlsSettings", "accept", "open_listener", "peer_of"]

log = logging.getLogger(__name__)

BACKLOG = 4096
_WILDCARDS = frozenset({"", "0.0.0.0", "::"})
_MAPPED_PREFIX = "::ffff:"
_OVERLOAD_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_GONE_ERRNOS = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.ENETDOWN, errno.EHOSTUNREACH})
"""The one connection is lost, the listener is well. Linux passes pending network errors on from accept."""

_OVERLOAD_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class BoundListener:
    """One listening socket. `tls` None is plain TCP."""

    sock: socket.socket
    kind: Listener = Listener.ADMIN
    tls: TlsContextSource | None = None

    @property
    def host(self) -> str:
        return str(self.sock.getsockname()[0])

    @property
    def port(self) -> int:
        """The port, also where 0 was asked for."""
        return int(self.sock.getsockname()[1])

    def close(self) -> None:
        """Stops listening; what was accepted goes on."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()


def open_listener(
    host: str, port: int, kind: Listener = Listener.ADMIN, tls: TlsContextSource | None = None
) -> BoundListener:
    """Listens on `host`, a name or an address with or without brackets, and `port` (0: any free one).

    Raises:
        CannotListen: the port is taken, the address is not ours, the name unknown.
    """
    host = host.removeprefix("[").removesuffix("]")
    try:
        sock = _bind_wildcard(port) if host in _WILDCARDS else _bind(*_resolve(host, port))
    except OSError as error:
        raise CannotListen(host, port, _reason(error)) from error
    sock.setblocking(False)
    return BoundListener(sock, kind, tls)


def hold_port(host: str, port: int) -> socket.socket:
    """A socket that is bound like that of `open_listener` and never listens: nobody else is given the port meanwhile.

    Linux lets a second socket listen there all the same, as long as both set SO_REUSEADDR.

    Raises:
        CannotListen: somebody listens there already, or the address cannot be had.
    """
    open_listener(host, port).close()
    host = host.removeprefix("[").removesuffix("]")
    try:
        return (
            _bind_wildcard(port, listens=False) if host in _WILDCARDS else _bind(*_resolve(host, port), listens=False)
        )
    except OSError as error:
        raise CannotListen(host, port, _reason(error)) from error


async def accept(listener: BoundListener) -> socket.socket:
    """The next connection, non-blocking, with small segments sent at once.

    When the process or the system is out of descriptors or memory this waits and tries again, for the connections
    that are being served will end.

    Cancellation: safe, no connection is lost.
    """
    while True:
        try:
            sock, _ = listener.sock.accept()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(listener.sock)
        except OSError as error:
            if error.errno in _GONE_ERRNOS:
                continue
            if error.errno not in _OVERLOAD_ERRNOS:
                raise
            log.error("cannot accept on port %d: %s; trying again", listener.port, error)
            await trio.sleep(_OVERLOAD_PAUSE_S)
        else:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock


def peer_of(sock: socket.socket) -> tuple[str, int]:
    """The peer's address as Go shows it: an IPv4 client of a dual-stack socket has its IPv4 address.

    A peer that is gone already is ("", 0), which no white list allows.
    """
    try:
        name = sock.getpeername()
    except OSError:
        return "", 0
    if not isinstance(name, tuple):
        return "", 0
    host = str(name[0])
    return (host.removeprefix(_MAPPED_PREFIX) if "." in host else host), int(name[1])


def _bind_wildcard(port: int, *, listens: bool = True) -> socket.socket:
    try:
        return _bind(socket.AF_INET6, ("::", port), is_dual_stack=True, listens=listens)
    except OSError as error:
        if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            raise
    return _bind(socket.AF_INET, ("0.0.0.0", port), listens=listens)


def _bind(
    family: socket.AddressFamily, address: tuple[Any, ...], *, is_dual_stack: bool = False, listens: bool = True
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if is_dual_stack else 1)
        sock.bind(address)
        if listens:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    found.sort(key=lambda row: row[0] is not socket.AF_INET)
    family, _, _, _, address = found[0]
    return family, address


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name is not known ({error.strerror})"
    match error.errno:
        case errno.EADDRINUSE:
            return "the port is in use by another process"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
        case errno.EACCES:
            return "permission denied; ports below 1024 need a privilege"
        case _:
            return os.strerror(error.errno) if error.errno else str(error)
