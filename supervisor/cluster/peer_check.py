"""Whether a loopback connection was made by a process of our own user.

The relay speaks to the master with our credentials and believes what it is told about volumes, so it must not serve
whoever else has an account on this machine. Linux lists each TCP socket's owner in /proc/net/tcp.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LOCAL_ADDRESS_COLUMN = 1
_REMOTE_ADDRESS_COLUMN = 2
_UID_COLUMN = 7
_READS = 3  # the kernel writes the table in pieces, and a row may slip from one to the next in between


class _Peer(NamedTuple):
    host: str
    port: int


def is_own_user(peer: str, server_port: int) -> bool:
    """Whether the socket at the other end of a connection to `server_port` belongs to our user, or to root.

    Args:
        peer: as grpc gives it: ``ipv4:127.0.0.1:4711`` or ``ipv6:%5B::1%5D:4711``.

    Returns: True as well where the system has no such table; False for a peer that is not listed, or is not local.
    """
    parsed = _parse_peer(peer)
    if parsed is None or parsed.host not in {"127.0.0.1", "::1"}:
        return False
    tables = [table for table in _TABLES if table.exists()]
    for _ in range(_READS):
        owner = _owner_of([table.read_text() for table in tables], parsed.port, server_port)
        if owner is not None:
            return owner in {os.geteuid(), 0}
    return not tables


def _parse_peer(peer: str) -> _Peer | None:
    family, _, address = unquote(peer).partition(":")
    host, _, port = address.rpartition(":")
    if family not in {"ipv4", "ipv6"} or not port.isdigit():
        return None
    return _Peer(host.strip("[]"), int(port))


def _owner_of(tables: list[str], local_port: int, remote_port: int) -> int | None:
    """The uid of the socket that goes from `local_port` to `remote_port`. Ports are the last hex field of a column."""
    wanted = (f":{local_port:04X}", f":{remote_port:04X}")
    for table in tables:
        for line in table.splitlines()[1:]:
            columns = line.split()
            if len(columns) <= _UID_COLUMN:
                continue
            ends = (columns[_LOCAL_ADDRESS_COLUMN][-5:], columns[_REMOTE_ADDRESS_COLUMN][-5:])
            if ends == wanted:
                return int(columns[_UID_COLUMN])
    return None
