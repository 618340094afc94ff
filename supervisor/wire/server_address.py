"""Server addresses as SeaweedFS writes them: `host:port` or `host:port.grpcPort`.

Without a suffix the gRPC port is the HTTP port + 10000. IPv6 hosts are written in brackets.
Source: weed/pb/server_address.go.
"""

from __future__ import annotations

import ipaddress
from typing import Self

from native_handlers.records import dataclass

GRPC_PORT_DELTA = 10000
MAX_PORT = 65535
_PORT_DIGITS = 5
_SHOWN_CHARACTERS = 40


class BadServerAddress(ValueError):
    """The text is not `host:port` or `host:port.grpcPort`."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"{text!r} is not a server address ({why}); expected host:port or host:port.grpcPort")
        self.text = text


def join_host_port(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 host that has none."""
    if ":" in host and not host.startswith("["):
        return f"[{host}]:{port}"
    return f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """The HTTP and gRPC endpoints of one server. `host` has no brackets. Both forms of an address compare equal."""

    host: str
    port: int
    grpc_port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address in `text`.

        Raises:
            BadServerAddress: its text says what is wrong.
        """
        host, colon, ports = text.strip().rpartition(":")
        if not colon or not host:
            raise BadServerAddress(text, "there is no host or no port")
        host = host.removeprefix("[").removesuffix("]")
        port_text, dot, grpc_text = ports.partition(".")
        port = _parse_port(text, port_text)
        grpc_port = _parse_port(text, grpc_text) if dot else port + GRPC_PORT_DELTA
        return cls(host, port, grpc_port)

    @property
    def http(self) -> str:
        return join_host_port(self.host, self.port)

    @property
    def grpc(self) -> str:
        return join_host_port(self.host, self.grpc_port)

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        """`host:port`, with the `.grpcPort` suffix only where the gRPC port is not port + 10000."""
        return self.http if self.grpc_port == self.port + GRPC_PORT_DELTA else f"{self.http}.{self.grpc_port}"


def _parse_port(text: str, port_text: str) -> int:
    # int() refuses thousands of digits, also where they are zeros.
    digits = port_text.lstrip("0") or "0"
    if not (port_text.isascii() and port_text.isdigit()) or len(digits) > _PORT_DIGITS or int(digits) > MAX_PORT:
        raise BadServerAddress(text, f"{port_text[:_SHOWN_CHARACTERS]!r} is not a port")
    return int(digits)
