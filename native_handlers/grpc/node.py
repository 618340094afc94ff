"""What native RPC handlers know of the server that they are part of: the seams to everything that is not a call."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from native_handlers.grpc.memory import own_memory_status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from native_handlers.pb.master_pb2 import VolumeMarkReadonlyRequest
    from native_handlers.pb.methods import ServiceClient
    from native_handlers.pb.volume_server_pb2 import MemStatus, VolumeServerState
    from native_handlers.storage.store import Store


class StateKeeper(Protocol):
    """Who holds this server's flags (maintenance) and their version. Thread-safe."""

    def state(self) -> VolumeServerState:
        """The flags now.

        Raises:
            RpcFailure: they cannot be had.
        """
        ...

    def update(self, state: VolumeServerState) -> VolumeServerState:
        """Replaces the flags and counts their version up; returns what holds now.

        Raises:
            RpcFailure: the version in `state` is not the present one, or they cannot be kept; nothing has changed.
        """
        ...


class Masters(Protocol):
    """The masters that this server was told of, and the one that it follows. Thread-safe; calls block."""

    def is_known(self, target: str) -> bool:
        """Whether `target` (host:port, with or without a gRPC port) is one of them."""
        ...

    def ping(self, target: str, timeout_s: float | None) -> int:
        """Asks `target` for its time, in ns since the epoch.

        Raises:
            RpcFailure: it did not answer; the message is what Go says of the call's error.
        """
        ...

    def mark_readonly(self, request: VolumeMarkReadonlyRequest, timeout_s: float | None) -> None:
        """Tells the present master of a volume's read-only state; asks who leads and retries when it does not.

        Raises:
            RpcFailure: with upstream's text; the master may or may not have heard.
        """
        ...


class Peers(Protocol):
    """Other volume servers. Thread-safe; calls block."""

    def open_volume_server(self, address: str) -> AbstractContextManager[ServiceClient]:
        """A client of the volume server at `address` (host:port, or host:port.grpcPort) on a connection of its own.

        The connection is closed on leaving, and calls on it that are under way end.

        Raises:
            RpcFailure: `address` is none, or (UNAVAILABLE) our own certificate cannot be used now.
        """
        ...


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What does not change while the server runs. `directories` are absolute paths.

    `version` is upstream's text: the volume size limit, the version and the commit, "30GB 4.44 ".
    `maintenance_bytes_per_s` is the pace of copies whose request names none; 0 is no bound.
    """

    id: str
    ip: str
    port: int
    version: str
    data_center: str
    rack: str
    directories: tuple[Path, ...]
    maintenance_bytes_per_s: int = 0


@dataclass(frozen=True, slots=True)
class GrpcNode:
    """Everything that handlers need. `store` is None where this process has no volumes of its own.

    Args:
        leave: stops the heartbeats for good; harmless when repeated.
        memory: the memory figures of this server, over both engines where there are two.
        can_compact: whether either engine serves VacuumVolumeCompact.
        coded_disk_ids: the disks on which shards of an erasure-coded volume are mounted, whichever engine did it.
    """

    store: Store | None
    state: StateKeeper
    facts: NodeFacts
    masters: Masters
    peers: Peers
    leave: Callable[[], None]
    memory: Callable[[], MemStatus] = field(default=own_memory_status)
    clock_ns: Callable[[], int] = time.time_ns
    can_compact: bool = True
    coded_disk_ids: Callable[[int], Sequence[int]] = field(default=lambda _volume_id: ())
