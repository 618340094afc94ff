"""The objects that all parts of one running server share, made from the configuration before anything is started."""

from __future__ import annotations

import os
import time
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from native_handlers.grpc.self_calls import SelfMark
from native_handlers.pb import master_pb2
from native_handlers.records import dataclass
from native_handlers.runtime.version import UPSTREAM_COMPATIBLE_VERSION, size_limit_text
from supervisor.assembly.descriptors import DescriptorPlan, current_limit
from supervisor.assembly.lifecycle import Reloads
from supervisor.backend.version import BackendVersion, OffsetWidth, ask_version, resolve_offset_width
from supervisor.cluster.heartbeat import HeartbeatHandle
from supervisor.cluster.identity import NodeIdentity
from supervisor.cluster.master_view import MasterView
from supervisor.cluster.node_model import NodeModel
from supervisor.config.security import reload_security
from supervisor.net.channel import open_channel
from supervisor.routing.live import open_live_table
from supervisor.routing.native import native_names
from supervisor.workers.spawn import EarlyWorkers

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from supervisor.assembly.lifecycle import StopRequest
    from supervisor.config.config import Config, SecurityConfig
    from supervisor.routing.live import LiveTable
    from supervisor.routing.table import Table
    from supervisor.wire.server_address import ServerAddress

NATIVE_SOURCE = "native"
CHILD_SOURCE = "child"


class SecurityHolder:
    """The security configuration in force. It is replaced as a whole, so no reader sees half a change."""

    def __init__(self, security: SecurityConfig) -> None:
        self._security = security
        self._listeners: list[Callable[[SecurityConfig], None]] = []

    def current(self) -> SecurityConfig:
        return self._security

    def add_listener(self, callback: Callable[[SecurityConfig], None]) -> None:
        """Calls `callback` with each later configuration."""
        self._listeners.append(callback)

    def replace(self, security: SecurityConfig) -> None:
        self._security = security
        for listener in self._listeners:
            listener(security)


@dataclass(frozen=True, slots=True)
class Node:
    """One server: facts that hold while it runs, and the objects that all its parts use.

    `make_node` makes it whole. Later changes happen inside the objects that it refers to.
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
    descriptors: DescriptorPlan
    heartbeat: HeartbeatHandle
    reloads: Reloads
    early_workers: EarlyWorkers
    """HTTP workers that run already, and wait to be taken."""
    self_mark: SelfMark = field(default_factory=SelfMark)
    """The mark by which this process recognises its own calls."""
    started_at_s: float = field(default_factory=time.time)

    def dial(self, address: ServerAddress) -> grpc.Channel:
        """A new channel to a master or volume server, with the client certificates in force now."""
        return open_channel(address, self.security.current().grpc)

    @property
    def version_text(self) -> str:
        """The size limit and version as in the Server header."""
        return f"{size_limit_text(self.offset_width.width_bytes)} {UPSTREAM_COMPATIBLE_VERSION}"

    @property
    def commit_text(self) -> str:
        """The text after upstream's version: the backend's commit where there is a backend."""
        return self.backend_version.commit if self.backend_version is not None else ""

    @property
    def is_heartbeating(self) -> bool:
        """False after the node has left its master. True also before the node has registered."""
        return self.heartbeat.is_heartbeating

    def leave(self) -> bool:
        """Leaves the master for good. False where the node had left before, or the heartbeat had not begun."""
        return self.heartbeat.leave()

    def reload_security(self) -> None:
        """Reads the files again. Raises UsageError where they are wrong; the old configuration stays."""
        self.security.replace(reload_security(self.config, os.environ, Path.cwd()))


def _sources(table: Table) -> list[str]:
    """The engines that report volumes, by rank. A native volume stays native whatever a restarted backend reports."""
    if table.shares_volumes:
        return [NATIVE_SOURCE, CHILD_SOURCE]
    return [NATIVE_SOURCE] if table.is_data_native else [CHILD_SOURCE]


def make_node(config: Config, stop: StopRequest, early_workers: EarlyWorkers | None = None) -> Node:
    """The node that `config` describes. Asks the backend for its version, which may take a second. Starts nothing.

    Raises:
        TableError: the routing table is refused.
        BackendVersionUnknown, BackendOffsetWidthMismatch, OffsetWidthUnknown: the backend's version or offset width is
            unknown, or does not fit the flag or the volumes on disk.
    """
    table = open_live_table(
        config.mode, config.routes_file, native_names=native_names(), has_workers=bool(config.workers)
    )
    program = config.backend if isinstance(config.backend, Path) and table.current().forwards_anything else None
    version = ask_version(program, os.environ) if program is not None else None
    directories = [directory.path for directory in config.directories]
    width = resolve_offset_width(config.offset_width_bytes, program, version, directories)
    masters = MasterView(config.masters, _own_tiers(config))
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
        masters=masters,
        offset_width=width,
        backend_version=version,
        descriptors=DescriptorPlan(
            current_limit(),
            is_forwarding=table.current().forwards_anything or bool(config.workers),
            is_sharing=table.current().is_data_native and bool(config.workers),
        ),
        heartbeat=HeartbeatHandle(masters),
        reloads=Reloads(),
        early_workers=early_workers or EarlyWorkers(),
    )


def _own_tiers(config: Config) -> list[master_pb2.StorageBackend]:
    return [
        master_pb2.StorageBackend(type=tier.kind, id=tier.id, properties=dict(tier.properties)) for tier in config.tiers
    ]
