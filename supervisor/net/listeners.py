"""Listening sockets as Go's net.Listen opens them, and how connections are accepted from them.

Source: Go net (favoriteAddrFamily): no host, `0.0.0.0` and `::` all mean every address of both families. Of a name with
several addresses the first IPv4 address is used.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from typing import TYPE_CHECKING

import trio

from native_handlers.http_model.message import Listener
from native_handlers.records import dataclass
from supervisor.net.errors import BadCertificate, CannotListen
from supervisor.net.tls import TlsContextSource, TlsSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

__all__ = [
    "BadCertificate",
    "BoundListener",
    "SharedAccept",
    "TlsContextSource",
    "TlsSettings",
    "accept",
    "client_address",
    "listen_at",
    "open_listener",
]

log = logging.getLogger(__name__)

BACKLOG = 4096
_WILDCARDS = frozenset({"", "0.0.0.0", "::"})
_IPV6_PARTS = 4
_MAPPED_PREFIX = "::ffff:"
_OVERLOAD_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_GONE_ERRNOS = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.ENETDOWN, errno.EHOSTUNREACH})
"""This one connection is lost, but the listener works. On Linux accept also returns pending network errors."""

_OVERLOAD_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class BoundListener:
    """One listening socket. `tls` None means plain TCP."""

    sock: socket.socket
    kind: Listener = Listener.ADMIN
    tls: TlsContextSource | None = None

    @property
    def host(self) -> str:
        return str(self.sock.getsockname()[0])

    @property
    def port(self) -> int:
        """The bound port, also where port 0 was asked for; 0 for a Unix socket."""
        name = self.sock.getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def close(self) -> None:
        """Stops listening. Accepted connections go on."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()


@dataclass(frozen=True, slots=True)
class SharedAccept:
    """How a process accepts from sockets from which other processes accept too.

    Attributes:
        pause_s: returns how long the others may accept first.
        most_in_a_row: returns how many newcomers may be accepted before `pause_s` is asked again.
    """

    pause_s: Callable[[], float]
    most_in_a_row: Callable[[], int]


def open_listener(
    host: str, port: int, kind: Listener = Listener.ADMIN, tls: TlsContextSource | None = None
) -> BoundListener:
    """Listens on `host` (a name, or an address with or without brackets) and `port` (0: any free port).

    Raises:
        CannotListen: the port is taken, this machine does not have the address, or the name is unknown. No socket is
            left open.
    """
    host = host.removeprefix("[").removesuffix("]")
    try:
        sock = _bind_wildcard(port) if host in _WILDCARDS else _bind(*_resolve(host, port))
    except OSError as error:
        raise CannotListen(host, port, _reason(error)) from error
    sock.setblocking(False)
    return BoundListener(sock, kind, tls)


def listen_at(path: Path) -> BoundListener:
    """Listens on a Unix socket, which is made at `path`. Raises OSError: no socket is left open."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return BoundListener(sock)


def hold_port(host: str, port: int) -> socket.socket:
    """A socket bound as `open_listener` binds it, which never listens. The kernel gives its port to no other process.

    Linux still lets a second socket listen on the port, as long as both set SO_REUSEADDR.

    Raises:
        CannotListen: another socket listens on the port, or the address cannot be bound. No socket is left open.
    """
    open_listener(host, port).close()
    host = host.removeprefix("[").removesuffix("]")
    try:
        return (
            _bind_wildcard(port, listens=False) if host in _WILDCARDS else _bind(*_resolve(host, port), listens=False)
        )
    except OSError as error:
        raise CannotListen(host, port, _reason(error)) from error


async def accept(
    listener: BoundListener, make_room: Callable[[], bool] = lambda: False, shared: SharedAccept | None = None
) -> socket.socket:
    """The next connection, non-blocking, over TCP with TCP_NODELAY.

    When the process or the system is out of descriptors or memory, `make_room` is called. It returns whether room was
    made, or will be at once. Without room, the call waits and tries again, because other connections will end.

    Cancellation: safe, no connection is lost.
    """
    is_somebody_there = False
    while True:
        if shared is not None and (pause_s := shared.pause_s()):
            await trio.lowlevel.wait_readable(listener.sock)
            await trio.sleep(pause_s)
        try:
            sock, _ = listener.sock.accept()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(listener.sock)
        except OSError as error:
            if error.errno in _GONE_ERRNOS:
                continue
            if error.errno not in _OVERLOAD_ERRNOS:
                raise
            if not is_somebody_there:
                # The kernel looks for a descriptor first: accept fails with EMFILE even while no client waits.
                await trio.lowlevel.wait_readable(listener.sock)
                is_somebody_there = True
                continue
            is_somebody_there = False
            if make_room():
                await trio.lowlevel.checkpoint()
                continue
            log.error("cannot accept on port %d: %s; trying again", listener.port, error)
            await trio.sleep(_OVERLOAD_PAUSE_S)
        else:
            return _prepared(sock)


def accept_ready(listener: BoundListener, most: int) -> list[socket.socket]:
    """Up to `most` connections that wait already, as `accept` returns them.

    An error ends the list; `accept` meets it.
    """
    ready: list[socket.socket] = []
    while len(ready) < most:
        try:
            sock, _ = listener.sock.accept()
        except OSError:
            break
        ready.append(_prepared(sock))
    return ready


def _prepared(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    if sock.family is not socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class SpareDescriptors:
    """Descriptors held in reserve. When none is free, one of these lets a newcomer still be answered."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[int] = []
        self.refill()

    @property
    def is_short(self) -> bool:
        """Whether some of the reserve has been given out."""
        return len(self._held) < self._count

    def give(self) -> bool:
        """Frees one descriptor of the reserve; False where the reserve is empty."""
        if not self._held:
            return False
        os.close(self._held.pop())
        return True

    def refill(self) -> None:
        """Fills the reserve with as many descriptors as the system gives."""
        try:
            while self.is_short:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno not in _OVERLOAD_ERRNOS:
                raise

    def close(self) -> None:
        """Frees the whole reserve."""
        while self.give():
            pass


def client_address(sock: socket.socket) -> tuple[str, int]:
    """The client's address as Go shows it.

    An IPv4 client of a dual-stack socket has its IPv4 address. A link-local address has its zone (fe80::1%eth0),
    because the same address on two interfaces is two clients. A client that has gone is ("", 0), which no white list
    allows.
    """
    try:
        name = sock.getpeername()
    except OSError:
        return "", 0
    if not isinstance(name, tuple):
        return "", 0
    host = str(name[0])
    if len(name) == _IPV6_PARTS and name[3]:
        host = f"{host}%{_zone(int(name[3]))}"
    return (host.removeprefix(_MAPPED_PREFIX) if "." in host else host), int(name[1])


def _zone(index: int) -> str:
    """The name of the interface of a link-local address; its number where the interface is gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


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
