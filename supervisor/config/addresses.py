"""Ports and addresses, and their defaults, which depend on one another.

Source: weed/command/volume.go (runVolume, startVolumeServer), weed/util/network.go, weed/pb/server_address.go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from supervisor.wire.server_address import (
    GRPC_PORT_DELTA,
    MAX_PORT,
    BadServerAddress,
    ServerAddress,
    join_host_port,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config.values import FlagValues

_HOST = re.compile(r"\[?[0-9A-Za-z_.:%-]+\]?")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where this server listens, and the names under which others reach it. No port is 0."""

    ip: str
    port: int
    port_grpc: int
    port_public: int
    bind_ip: str
    public_url: str
    id: str
    metrics_ip: str


def read_addresses(values: FlagValues, detect: Callable[[], str]) -> Addresses:
    """The addresses. `detect` is called only when -ip is empty. Problems are noted in `values`."""
    ip = _host(values, "ip") or detect()
    bind_ip = _host(values, "ip.bind") or ip
    port = values.integer("port")
    port_public = values.integer("port.public") or port
    addresses = Addresses(
        ip=ip,
        port=port,
        port_grpc=read_grpc_port(values, "port", "port.grpc"),
        port_public=port_public,
        bind_ip=bind_ip,
        public_url=values.text("publicUrl") or join_host_port(ip, port_public),
        id=values.text("id").strip() or join_host_port(ip, port),
        metrics_ip=_host(values, "metricsIp") or bind_ip,
    )
    _check_distinct(values, addresses)
    return addresses


def read_grpc_port(values: FlagValues, port_flag: str, grpc_flag: str) -> int:
    """The gRPC port; by default the HTTP port + 10000."""
    port, given = values.integer(port_flag), values.integer(grpc_flag)
    if given:
        return given
    if port + GRPC_PORT_DELTA > MAX_PORT:
        values.note(
            port_flag,
            f"the default gRPC port, {port} + {GRPC_PORT_DELTA}, is above {MAX_PORT}; set -{grpc_flag} as well",
        )
    return port + GRPC_PORT_DELTA


def read_masters(values: FlagValues) -> tuple[ServerAddress, ...]:
    """The addresses of -mserver if it is set, else of -master; each address once, in order."""
    name = "mserver" if values.text("mserver") else "master"
    masters = []
    for text in values.text(name).split(","):
        if not text.strip():
            continue
        try:
            masters.append(ServerAddress.parse(text))
        except BadServerAddress as error:
            values.note(name, str(error))
    if not masters and not values.problems:
        values.note(name, "there is no master; expected host:port[,host:port] such as localhost:9333")
    return tuple(dict.fromkeys(masters))


def _host(values: FlagValues, name: str) -> str:
    text = values.text(name).strip()
    if text and not _HOST.fullmatch(text):
        values.note(name, f"{text!r} is no address; expected an IP address or a host name, without scheme and port")
    return text


def _check_distinct(values: FlagValues, addresses: Addresses) -> None:
    """Notes ports that two listeners would share. Only the public port may equal the HTTP port."""
    owners = {addresses.port: "port"}
    if addresses.port_public != addresses.port:
        owners[addresses.port_public] = "port.public"
    others = [("port.grpc", addresses.port_grpc)]
    if addresses.metrics_ip == addresses.bind_ip:
        others.append(("metricsPort", values.integer("metricsPort")))
    for name, port in others:
        if port and port in owners:
            values.note(name, f"port {port} is -{owners[port]} already; choose another")
        owners[port] = name
