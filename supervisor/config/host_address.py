"""The default of -ip: the first IPv4 address of an interface that is up and not loopback, else an IPv6 address.

Source: weed/util/network.go (DetectedHostAddress). This asks the Linux kernel by ioctl and /proc, and no name server.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFFLAGS = 0x8913
_SIOCGIFADDR = 0x8915
_IFF_UP = 0x1
_IFREQ = "16s24x"
_INET6_TABLE = Path("/proc/net/if_inet6")
_NO_ADDRESS = "localhost"


def detect_host_address() -> str:
    """An IPv4 address, else a global IPv6 address, else "localhost"."""
    up = [name for _, name in socket.if_nameindex() if _is_up(name)]
    for name in up:
        address = _ipv4_of(name)
        if address is not None and not address.is_loopback:
            return str(address)
    table = _INET6_TABLE.read_text("ascii") if _INET6_TABLE.exists() else ""
    return first_ipv6(table, up) or _NO_ADDRESS


def first_ipv6(table: str, interfaces: list[str]) -> str | None:
    """The first address of `interfaces` in the text of /proc/net/if_inet6 that is neither loopback nor link-local."""
    rows = [line.split() for line in table.splitlines()]
    for name in interfaces:
        for digits, *_, row_name in rows:
            address = ipaddress.IPv6Address(bytes.fromhex(digits))
            if row_name == name and not address.is_loopback and not address.is_link_local:
                return str(address)
    return None


def _is_up(name: str) -> bool:
    answer = _ask(_SIOCGIFFLAGS, name)
    return answer is not None and bool(struct.unpack_from("H", answer, 16)[0] & _IFF_UP)


def _ipv4_of(name: str) -> ipaddress.IPv4Address | None:
    answer = _ask(_SIOCGIFADDR, name)
    return None if answer is None else ipaddress.IPv4Address(answer[20:24])


def _ask(request: int, name: str) -> bytes | None:
    """The kernel's answer; None where the interface is gone or has no such property."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            return fcntl.ioctl(asking, request, struct.pack(_IFREQ, name.encode()))
        except OSError:
            return None
