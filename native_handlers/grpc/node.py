"""What native RPC handlers know of the server that they are part of: the seams to everything that is not a call."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from native_handlers.grpc.memory import own_memory_status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import grpc

    from native_handlers.pb.master_pb2 import VolumeMarkReadonlyRequest
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

    def update(self, state: VolumeServerState | None) -> VolumeServerState:
        """Replaces the flags and counts their version up; None changes nothing. Returns what holds now.

        Raises:
            RpcFailure: the version in `state` is not the present one, or they cannot be kept; nothing has changed.
        """
        ...


class KnownMasters(Protocol):
    """The masters that this server was told of, and the one that it follows."""

    def is_known(self, http_address: str) -> bool:
        """Whether `http_address` (host:port, no gRPC suffix) is one of them."""
        ...

    def mark_readonly(self, request: VolumeMarkReadonlyRequest) -> None:
        """Tells the present master of a volume's read-only state; asks who leads and retries when it does not.

        Raises:
            RpcFailure: with upstream's text; the master may or may not have heard.
        """
        ...


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What does not change while the server runs. `version` is upstream's text, "30GB 4.44 <commit>"."""

    id: str
    version: str
    data_center: str
    rack: str
    directories: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class GrpcNode:
    """Everything that handlers need. `store` is None where this process has no volumes of its own.

    Args:
        leave: stops the heartbeats for good; harmless when repeated.
        dial: a channel to a gRPC address (host:port); the caller closes it.
    """

    store: Store | None
    state: StateKeeper
    facts: NodeFacts
    masters: KnownMasters
    leave: Callable[[], None]
    dial: Callable[[str], grpc.Channel]
    memory: Callable[[], MemStatus] = field(default=own_memory_status)
    clock_ns: Callable[[], int] = time.time_ns
