"""The true client of a gRPC call that reached grpcio through the byte relay.

grpcio sees the relay's Unix socket as its client. The kernel gives that socket an abstract name, and no other open
socket has the same name. The relay enters the true client under the name before it passes the first byte. A call from a
socket without an entry did not come through the relay.
"""

from __future__ import annotations

import ipaddress
import threading
from dataclasses import field
from urllib.parse import quote

from native_handlers.records import dataclass


class Traffic:
    """How many bytes of one connection the relay has passed on. Only the relay writes; any thread reads."""

    __slots__ = ("received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.received_bytes = 0
        self.sent_bytes = 0

    def add_received(self, count: int) -> None:
        self.received_bytes += count

    def add_sent(self, count: int) -> None:
        self.sent_bytes += count


@dataclass(frozen=True, slots=True)
class GrpcClient:
    """The client of one connection. `common_name` is the name in the client's certificate; None without mutual TLS.

    `traffic` belongs to this connection, so it tells two connections with equal addresses apart.
    """

    host: str
    port: int
    common_name: str | None = None
    traffic: Traffic = field(default_factory=Traffic, compare=False, repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ClientRegistry:
    """Name of the relay's own socket -> client. Thread-safe: trio's thread writes, gRPC threads read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects _clients
        self._clients: dict[str, GrpcClient] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, socket_name: bytes, client: GrpcClient) -> None:
        """Enters `client` for the relay's socket `socket_name` (an abstract name, as getsockname gives it).

        Raises:
            ValueError: `socket_name` is no abstract name, or already has a client. Nothing changes.
        """
        key = _grpcio_name(socket_name)
        with self._lock:
            if key in self._clients:
                raise ValueError(f"{key} already stands for {self._clients[key]}")
            self._clients[key] = client

    def remove(self, socket_name: bytes) -> None:
        """Forgets `socket_name`.

        Call this while the socket is still open: the kernel gives the name away after that.
        """
        with self._lock:
            del self._clients[_grpcio_name(socket_name)]

    def find(self, grpcio_name: str) -> GrpcClient | None:
        """The client whose connection has the text of grpcio's `ServicerContext.peer()` (`unix-abstract:0007f`).

        None when the relay did not open that connection, or has closed it.
        """
        return self._clients.get(grpcio_name)


def _grpcio_name(socket_name: bytes) -> str:
    """grpcio's text for a socket with an abstract name. Names from the kernel are five hexadecimal digits."""
    if socket_name[:1] != b"\0" or len(socket_name) < 2:
        raise ValueError(f"{socket_name!r} is not an abstract name")
    return f"unix-abstract:{quote(socket_name[1:])}"


def normal_host(host: str) -> str:
    """`host` as white lists spell it: without a zone, and an IPv4-mapped IPv6 address as IPv4, as Go prints it."""
    bare = host.partition("%")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return bare
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
