"""The one line that says what was started, where, and in which mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.cli.config import Mode, NativeBackend
from supervisor.wire.server_address import join_host_port

if TYPE_CHECKING:
    from supervisor.cli.config import Config


def start_line(config: Config, *, version: str, routing: str) -> str:
    """What an operator wants to see first. `routing` says which table decides, such as "phase 1 of FILE"."""
    parts = [
        f"weed-volume-py {version} in {config.mode.value} mode ({routing})",
        f"HTTP {join_host_port(config.bind_ip, config.port)}",
        f"gRPC {join_host_port(config.bind_ip, config.port_grpc)}",
    ]
    if config.port_public != config.port:
        parts.append(f"public HTTP {join_host_port(config.bind_ip, config.port_public)}")
    if config.metrics_port:
        parts.append(f"metrics {join_host_port(config.metrics_ip, config.metrics_port)}")
    parts.append(f"known to the cluster as {join_host_port(config.ip, config.port)}")
    parts.append(f"masters {', '.join(map(str, config.masters)) or 'none'}")
    parts.append(f"directories {', '.join(str(directory.path) for directory in config.directories)}")
    if config.mode is not Mode.NATIVE and config.backend is not None:
        is_own = config.backend is NativeBackend.NATIVE
        parts.append(f"backend {'this program' if is_own else config.backend}")
    return "; ".join(parts)
