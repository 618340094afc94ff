"""Makes the argument of the native RPC handlers of one node."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from native_handlers.grpc.fetched_memory import FetchedMemory
from native_handlers.grpc.memory import own_memory_status
from native_handlers.grpc.node import GrpcNode, NodeFacts
from native_handlers.grpc.state_keeper import StoreStateKeeper
from supervisor.gateway.grpc_backend_state import BackendStateKeeper, memory_with_backend

if TYPE_CHECKING:
    from native_handlers.runtime.server_counts import ServerCounts
    from native_handlers.storage.store import Store
    from supervisor.assembly.backend import ManagedBackend
    from supervisor.assembly.node import Node
    from supervisor.gateway.grpc_masters import ClusterMasters
    from supervisor.gateway.grpc_volume_servers import DialledVolumeServers


def make_grpc_node(  # noqa: PLR0913, PLR0917  every seam has its name
    node: Node,
    store: Store | None,
    backend: ManagedBackend | None,
    masters: ClusterMasters,
    volume_servers: DialledVolumeServers,
    counts: ServerCounts,
) -> GrpcNode:
    """The node for native RPCs: over the store where this process has the volumes, else over the backend.

    Where there is a backend, the backend owns state.pb, also where both engines have volumes.
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
        compaction_bytes_per_s=config.compaction_bytes_per_s,
    )

    def leave() -> None:
        node.leave()

    if store is not None and backend is None:
        keeper = StoreStateKeeper(store)
        return GrpcNode(
            store,
            keeper,
            facts,
            masters,
            volume_servers,
            leave,
            FetchedMemory(),
            own_memory_status,
            coded_disk_ids=lambda volume_id: [volume.place.disk_id for volume in store.ec.copies(volume_id)],
            counts=counts,
            is_stopping=lambda: node.stop.is_asked,
            allows_any_endpoint=config.allow_untrusted_remote_endpoints,
        )
    assert backend is not None, "a node has a store or a backend"
    channel = backend.channel.get
    return GrpcNode(
        store,
        BackendStateKeeper(channel),
        facts,
        masters,
        volume_servers,
        leave,
        FetchedMemory(),
        partial(memory_with_backend, channel),
        coded_disk_ids=partial(coded_disk_ids, node),
        counts=counts,
        is_stopping=lambda: node.stop.is_asked,
        allows_any_endpoint=config.allow_untrusted_remote_endpoints,
    )


def coded_disk_ids(node: Node, volume_id: int) -> list[int]:
    """Whichever engine has the shards open has reported them."""
    shards = node.model.snapshot().ec_shards
    return sorted(message.disk_id for key, message in shards.items() if key[1] == volume_id)
