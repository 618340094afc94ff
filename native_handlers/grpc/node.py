"""The parts of the server that native RPC handlers use, as protocols."""

from __future__ import annotations

import time
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

from native_handlers.grpc.memory import own_memory_status
from native_handlers.records import dataclass
from native_handlers.runtime.server_counts import ServerCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from grpc import RpcError

    from native_handlers.pb.master_pb2 import VolumeMarkReadonlyRequest
    from native_handlers.pb.methods import ServiceClient
    from native_handlers.pb.volume_server_pb2 import MemStatus, VolumeServerState
    from native_handlers.storage.store import Store


class StateKeeper(Protocol):
    """Keeps this server's flags (maintenance) and their version. Thread-safe."""

    def state(self) -> VolumeServerState:
        """The flags now.

        Raises:
            RpcFailure: the flags cannot be read.
        """
        ...

    def update(self, state: VolumeServerState) -> VolumeServerState:
        """Replaces the flags, increments their version, and returns the result.

        Raises:
            RpcFailure: the version in `state` is not the present one, or the flags cannot be stored; nothing has
                changed.
        """
        ...


class Masters(Protocol):
    """The masters in this server's configuration, and the one that this server follows. Thread-safe; calls block."""

    def is_known(self, target: str) -> bool:
        """Whether `target` (host:port, with or without a gRPC port) is one of the masters."""
        ...

    def ping(self, target: str, timeout_s: float | None) -> int:
        """Asks `target` for its time, in ns since the epoch.

        Raises:
            RpcFailure: the target gave no answer; the message is Go's text for the call's error.
        """
        ...

    def holds(self, volume_id: int, ip: str, port: int, timeout_s: float) -> bool:
        """Whether the leader names the server at `ip` and `port` (HTTP) as a holder of the volume.

        Raises:
            RpcFailure: the master gave no answer.
        """
        ...

    def mark_readonly(self, request: VolumeMarkReadonlyRequest, timeout_s: float | None) -> None:
        """Tells the present master a volume's read-only state. Where that master does not lead, asks for the leader and
        retries.

        Raises:
            RpcFailure: with upstream's text; the master may or may not have received the call.
        """
        ...


class VolumeServers(Protocol):
    """Other volume servers. Thread-safe; calls block."""

    def open_volume_server(self, address: str) -> AbstractContextManager[ServiceClient]:
        """A client of the volume server at `address` (host:port, or host:port.grpcPort) on a connection of its own.

        Leaving the block closes the connection and ends calls under way.

        Raises:
            RpcFailure: `address` is no address, or (UNAVAILABLE) our own certificate cannot be used now.
        """
        ...

    def is_self(self, error: RpcError) -> bool:
        """Whether a call on such a connection failed because it came back to this server, however the address was
        spelled.
        """
        ...


class NeedleMemory(Protocol):
    """The memory of needles that calls fetch from elsewhere, all calls together. Thread-safe; calls block."""

    def holding(self, held_bytes: int, check: Callable[[], None]) -> AbstractContextManager[None]:
        """Has a share of the memory inside the block. The calling thread waits for it.

        Args:
            check: raises where the call has ended.

        Raises:
            RpcFailure: RESOURCE_EXHAUSTED: there was no room for long. The caller has no share.
        """
        ...


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Facts that do not change while the server runs. `directories` are absolute paths.

    `version` is upstream's text: the volume size limit, the version and the commit, "30GB 4.44 ".
    `maintenance_bytes_per_s` is the pace of copies whose request names none, `compaction_bytes_per_s` that of vacuums;
    0 means no bound.
    """

    id: str
    ip: str
    port: int
    version: str
    data_center: str
    rack: str
    directories: tuple[Path, ...]
    maintenance_bytes_per_s: int = 0
    compaction_bytes_per_s: int = 0


@dataclass(frozen=True, slots=True)
class GrpcNode:
    """Everything that handlers use. `store` is None where this process has no volumes of its own.

    Args:
        leave: stops the heartbeats for good; may be called again.
        memory: the memory figures of this server, over both engines where there are two.
        coded_disk_ids: the disks on which either engine has mounted shards of an erasure-coded volume.
        allows_any_endpoint: whether callers may name any host to fetch from; see `native_handlers.remote.endpoints`.
        fetched_memory: what calls have a share of while they hold needles that come from elsewhere.
        is_stopping: whether the server has been asked to end; operations that would take effect later are then refused.
        counts: the counts that the metrics port shows; HTTP handlers count there too.
    """

    store: Store | None
    state: StateKeeper
    facts: NodeFacts
    masters: Masters
    volume_servers: VolumeServers
    leave: Callable[[], None]
    fetched_memory: NeedleMemory
    memory: Callable[[], MemStatus] = field(default=own_memory_status)
    clock_ns: Callable[[], int] = time.time_ns
    coded_disk_ids: Callable[[int], Sequence[int]] = field(default=lambda _volume_id: ())
    counts: ServerCounts = field(default_factory=ServerCounts)
    is_stopping: Callable[[], bool] = field(default=lambda: False)
    allows_any_endpoint: bool = False
