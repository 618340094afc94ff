"""Who is really at the other end of a gRPC call that reached grpcio through the byte relay.

grpcio sees the relay as its peer. The relay therefore writes down, before it passes the first byte, which client its
own local port stands for; a call from a port that is not written down came past the relay.
"""

from __future__ import annotations

import ipaddress
import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """The client of one connection. `common_name` is that of its certificate; None without mutual TLS."""

    host: str
    port: int
    common_name: str | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class PeerRegistry:
    """Relay's local port -> client. Thread-safe: the relay writes from trio's thread, gRPC threads read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects _peers
        self._peers: dict[int, Peer] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, local_port: int, peer: Peer) -> None:
        with self._lock:
            if local_port in self._peers:
                raise ValueError(f"port {local_port} already stands for {self._peers[local_port]}")
            self._peers[local_port] = peer

    def remove(self, local_port: int) -> None:
        """Forgets `local_port`. To be called while its socket is still open: until then it is nobody else's."""
        with self._lock:
            del self._peers[local_port]

    def find(self, grpc_peer: str) -> Peer | None:
        """The client behind what grpcio's ``ServicerContext.peer()`` says (``ipv4:127.0.0.1:41234``).

        None when the relay did not open that connection, or has closed it.
        """
        _, _, port = grpc_peer.rpartition(":")
        return self._peers.get(int(port)) if port.isascii() and port.isdigit() else None


def normal_host(host: str) -> str:
    """`host` as white lists spell it: without a zone, and an IPv4 address in IPv6 clothes as IPv4 (as Go prints it)."""
    bare = host.partition("%")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return bare
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
