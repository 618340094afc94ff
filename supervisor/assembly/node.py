"""What every part of one running server shares, made from the configuration before anything is started."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from native_handlers.version import UPSTREAM_COMPATIBLE_VERSION, size_limit_text
from supervisor.backend.version import BackendVersion, OffsetWidth, ask_version, resolve_offset_width
from supervisor.cli.load import reload_security
from supervisor.cluster.identity import NodeIdentity
from supervisor.cluster.master_view import MasterView
from supervisor.cluster.node_model import NodeModel
from supervisor.net.channel import open_channel
from supervisor.routing.live import open_live_table
from supervisor.routing.native import native_names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import grpc

    from supervisor.cli.config import Config, SecurityConfig
    from supervisor.cluster.heartbeat import HeartbeatHandle
    from supervisor.lifecycle import StopRequest
    from supervisor.routing.live import LiveTable
    from supervisor.routing.table import Table
    from supervisor.wire.server_address import ServerAddress

NATIVE_SOURCE = "native"
CHILD_SOURCE = "child"


class SecurityHolder:
    """The security configuration in force: one snapshot, replaced as a whole: no reader sees half a change."""

    def __init__(self, security: SecurityConfig) -> None:
        self._security = security
        self._listeners: list[Callable[[SecurityConfig], None]] = []

    def current(self) -> SecurityConfig:
        return self._security

    def add_listener(self, callback: Callable[[SecurityConfig], None]) -> None:
        """Calls `callback` with each later snapshot."""
        self._listeners.append(callback)

    def replace(self, security: SecurityConfig) -> None:
        self._security = security
        for listener in self._listeners:
            listener(security)


@dataclass(slots=True)
class Node:
    """One server: facts that hold while it runs, and the few things that all its parts look at.

    `heartbeat` is None until the node has begun to register.
    """

    config: Config
    stop: StopRequest
    table: LiveTable
    security: SecurityHolder
    identity: NodeIdentity
    model: NodeModel
    masters: MasterView
    offset_width: OffsetWidth
    backend_version: BackendVersion | None
    heartbeat: HeartbeatHandle | None = None
    is_serving: bool = False
    started_at_s: float = field(default_factory=time.time)
    reload_callbacks: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    """What else SIGHUP is to do, after the security files and the table were read."""

    def dial(self, address: ServerAddress) -> grpc.Channel:
        """A new channel to a master or peer, with the client certificates in force now."""
        return open_channel(address, self.security.current().grpc)

    @property
    def version_text(self) -> str:
        """Size limit and version as the Server header shows them."""
        return f"{size_limit_text(self.offset_width.width_bytes)} {UPSTREAM_COMPATIBLE_VERSION}"

    @property
    def commit_text(self) -> str:
        """What upstream puts behind its version: the backend's commit where there is one."""
        return self.backend_version.commit if self.backend_version is not None else ""

    @property
    def is_heartbeating(self) -> bool:
        return self.heartbeat is None or self.heartbeat.is_heartbeating

    def leave(self) -> bool:
        """Says good-bye to the master for good; False when that was done before (or there was nothing to leave)."""
        return self.heartbeat is not None and self.heartbeat.leave()

    def reload_security(self) -> None:
        """Reads the files again. Raises UsageError where they are wrong; the old snapshot then stays."""
        self.security.replace(reload_security(self.config, os.environ, Path.cwd()))


def _sources(table: Table) -> list[str]:
    """By rank: what is native is so whatever a restarted backend says it has."""
    if table.shares_volumes:
        return [NATIVE_SOURCE, CHILD_SOURCE]
    return [NATIVE_SOURCE] if table.is_data_native else [CHILD_SOURCE]


def make_node(config: Config, stop: StopRequest) -> Node:
    """The node that `config` describes. Asks the backend for its version (may take a second); starts nothing.

    Raises:
        TableError: the routing table is refused.
        BackendVersionUnknown, OffsetWidthMismatch: the engines do not fit each other or the volumes on disk.
    """
    table = open_live_table(config.mode, config.routes_file, native_names=native_names())
    program = config.backend if isinstance(config.backend, Path) and table.current().forwards_anything else None
    version = ask_version(program, os.environ) if program is not None else None
    directories = [directory.path for directory in config.directories]
    width = resolve_offset_width(config.offset_width_bytes, program, version, directories)
    return Node(
        config=replace(config, offset_width_bytes=width.width_bytes),
        stop=stop,
        table=table,
        security=SecurityHolder(config.security),
        identity=NodeIdentity(
            ip=config.ip,
            port=config.port,
            grpc_port=config.port_grpc,
            public_url=config.public_url,
            id=config.id,
            data_center=config.data_center,
            rack=config.rack,
        ),
        model=NodeModel(_sources(table.current())),
        masters=MasterView(config.masters),
        offset_width=width,
        backend_version=version,
    )
