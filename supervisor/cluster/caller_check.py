"""Finds the owner of a loopback connection: this process's user, and the child.

The relay calls the master with this server's credentials, and believes what it is told about volumes. So it must not
serve other users of this machine. Linux lists each TCP socket with its owner in /proc/net/tcp, and the sockets of a
process in /proc/<pid>/fd.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
import threading
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

log = logging.getLogger(__name__)

RELAY_HOST = "127.0.0.1"
TABLE_V4 = Path("/proc/net/tcp")
TABLE_V6 = Path("/proc/net/tcp6")
_PROCESSES = Path("/proc")
_ESTABLISHED = b"01"
"""Rows in other states are no connections: a socket that is already closed has owner and inode 0 in the table."""
_UID_COLUMN = 3  # counted from the column after the state
_INODE_COLUMN = 5
_READS = 3  # the kernel writes the table in pieces, and a row may move between two pieces
_MAX_KNOWN = 64

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class SocketOwner(NamedTuple):
    """The user that made a socket, and the socket's inode number, which is unique on this machine."""

    uid: int
    inode: int


def owner_of(caller: str, server_port: int) -> SocketOwner | None:
    """The owner of the socket from which `caller` is connected to `server_port` of 127.0.0.1 now.

    Both addresses are compared whole: a socket at another loopback address with the same port is another socket.

    Args:
        caller: the client as grpcio names it: `ipv4:127.0.0.1:4711` or `ipv6:%5B::1%5D:4711`.

    Returns: None for a client that is not listed, or is not on this machine.
    """
    address = _parse_caller(caller)
    if address is None:
        return None
    for _ in range(_READS):
        for table, row in _rows(*address, server_port):
            owner = _find(table, row)
            if owner is not None:
                return owner
    return None


def is_own_user(caller: str, server_port: int) -> bool:
    """Whether the client's socket of a connection to `server_port` of 127.0.0.1 belongs to this process's user."""
    owner = owner_of(caller, server_port)
    return owner is not None and owner.uid == os.geteuid()


class ChildCheck:
    """Whether a connection is the child's: this process's user made it, and the child's process holds it. Thread-safe.

    A socket keeps its inode number as long as it exists. So the child's descriptors are searched once for each of its
    connections.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects everything below
        self._pid: int | None = None
        self._known: set[int] = set()
        self._is_warned = False

    def set_process(self, pid: int | None) -> None:
        """Sets the child's process id. With None there is no child, and no connection is accepted."""
        with self._lock:
            self._pid = pid
            self._known = set()

    def __call__(self, caller: str, server_port: int) -> bool:
        owner = owner_of(caller, server_port)
        if owner is None or owner.uid != os.geteuid():
            return False
        with self._lock:
            pid = self._pid
            if owner.inode in self._known:
                return True
        if pid is None or not self._holds(pid, owner.inode):
            return False
        with self._lock:
            if pid == self._pid:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known.add(owner.inode)
            return pid == self._pid

    def _holds(self, pid: int, inode: int) -> bool:
        """Whether the process has the socket open. Where its descriptors cannot be read, the right user is enough."""
        wanted = f"socket:[{inode}]"
        try:
            with os.scandir(_PROCESSES / str(pid) / "fd") as descriptors:
                return any(_target_of(one.path) == wanted for one in descriptors)
        except FileNotFoundError:
            return False
        except PermissionError as error:
            # The kernel hides the descriptors of a program with capabilities of its own, also from its own user.
            with self._lock:
                is_first, self._is_warned = not self._is_warned, True
            if is_first:
                log.warning("the backend's sockets cannot be told from those of its user's other programs: %s", error)
            return True


def _target_of(descriptor: str) -> str:
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:
        return ""  # closed meanwhile


def _parse_caller(caller: str) -> tuple[_Address, int] | None:
    family, _, address = unquote(caller).partition(":")
    host, _, port = address.rpartition(":")
    if family not in {"ipv4", "ipv6"} or not (port.isascii() and port.isdigit()):
        return None
    try:
        parsed: _Address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return (parsed, int(port)) if parsed.is_loopback else None


def _rows(host: _Address, port: int, server_port: int) -> list[tuple[Path, bytes]]:
    """The tables to search, with the row to find. A client with an IPv4 address may have a socket of either family."""
    server = ipaddress.IPv4Address(RELAY_HOST)
    if isinstance(host, ipaddress.IPv6Address):
        return []
    ends = (host, port), (server, server_port)
    return [
        (TABLE_V4, _row([(address.packed, number) for address, number in ends])),
        (TABLE_V6, _row([(b"\0" * 10 + b"\xff\xff" + address.packed, number) for address, number in ends])),
    ]


def _row(ends: list[tuple[bytes, int]]) -> bytes:
    """The part of an established connection's row that follows its number. Address words are in machine byte order."""
    words = [
        "".join(f"{int.from_bytes(packed[at : at + 4], sys.byteorder):08X}" for at in range(0, len(packed), 4))
        for packed, _ in ends
    ]
    local, remote = (f"{word}:{port:04X}" for word, (_, port) in zip(words, ends, strict=True))
    return f" {local} {remote} ".encode() + _ESTABLISHED + b" "


def _find(table: Path, row: bytes) -> SocketOwner | None:
    try:
        text = table.read_bytes()
    except FileNotFoundError:
        return None  # this machine does not have this address family
    at = text.find(row)
    if at < 0:
        return None
    columns = text[at + len(row) :].split(b"\n", 1)[0].split()
    if len(columns) <= _INODE_COLUMN:
        return None
    return SocketOwner(int(columns[_UID_COLUMN]), int(columns[_INODE_COLUMN]))
