"""What the native RPC handlers of one node are given."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from native_handlers.grpc.handlers import GRPC_HANDLERS
from native_handlers.grpc.memory import own_memory_status
from native_handlers.grpc.node import GrpcNode, NodeFacts
from native_handlers.grpc.state_keeper import StoreStateKeeper
from supervisor.gateway.grpc_backend_state import BackendStateKeeper, memory_with_backend
from supervisor.gateway.grpc_masters import ClusterMasters
from supervisor.gateway.grpc_volume_servers import VolumeServerPeers

if TYPE_CHECKING:
    from native_handlers.storage.store import Store
    from supervisor.assembly.backend import ManagedBackend
    from supervisor.assembly.node import Node


def make_grpc_node(node: Node, store: Store | None, backend: ManagedBackend | None) -> GrpcNode:
    """The seams for native RPCs: over the store where the volumes are here, else over the backend.

    Where there is a backend it owns state.pb, also where both have volumes.
    """
    config = node.config
    facts = NodeFacts(
        id=config.id,
        ip=config.ip,
        port=config.port,
        version=f"{node.version_text} {node.commit_text}",
        data_center=config.data_center,
        rack=config.rack,
        directories=tuple(directory.path for directory in config.directories),
        maintenance_bytes_per_s=config.maintenance_bytes_per_s,
    )
    masters, peers = ClusterMasters(node.masters, node.dial), VolumeServerPeers(node.dial)

    def leave() -> None:
        node.leave()

    if store is not None and backend is None:
        can_compact = "VacuumVolumeCompact" in GRPC_HANDLERS
        keeper = StoreStateKeeper(store)
        return GrpcNode(store, keeper, facts, masters, peers, leave, own_memory_status, can_compact=can_compact)
    assert backend is not None, "a node has a store or a backend"
    channel = backend.channel.get
    return GrpcNode(
        store,
        BackendStateKeeper(channel),
        facts,
        masters,
        peers,
        leave,
        partial(memory_with_backend, channel),
        coded_disk_ids=partial(_coded_disk_ids, node),
    )


def _coded_disk_ids(node: Node, volume_id: int) -> list[int]:
    """Erasure-coded volumes are the backend's; what it has mounted it has reported."""
    shards = node.model.snapshot().ec_shards
    return sorted(message.disk_id for key, message in shards.items() if key[1] == volume_id)
