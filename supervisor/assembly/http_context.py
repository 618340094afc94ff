"""Makes the argument of the native HTTP handlers of one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http.context import EcVolumeRow, HttpContext, NodeDetails, every_volume_is_ours
from native_handlers.http.ec_volumes import StoreEcVolumes
from native_handlers.http.node_view import NodeState, StoreNodeView
from native_handlers.http.settings import HttpSettings
from native_handlers.runtime.version import OWN_VERSION
from supervisor.assembly.http_service import volume_server_client
from supervisor.assembly.node import CHILD_SOURCE
from supervisor.gateway.backend_view import BackendNodeView, SharedNodeView
from supervisor.gateway.http_authority import HttpAuthority
from supervisor.net.http_client import HttpPool
from supervisor.net.http_volume_servers import VolumeServerClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.http.context import NodeView
    from native_handlers.runtime.server_counts import ServerCounts
    from native_handlers.storage.store import Store
    from supervisor.assembly.backend import ManagedBackend
    from supervisor.assembly.engines import Engines
    from supervisor.assembly.node import Node
    from supervisor.cluster.master_client import MasterClient
    from supervisor.gateway.guard import Guard


def make_http_authority(node: Node, engines: Engines) -> HttpAuthority | None:
    """The authority for HTTP requests; None unless both engines have volumes."""
    if engines.authority is None:
        return None
    assert engines.store is not None, "both engines have volumes"
    return HttpAuthority(engines.authority, backend_alone(node, engines.store))


def backend_alone(node: Node, store: Store) -> Callable[[int], bool]:
    """Returns whether only the backend can serve a volume: its data is in a tier that `store` does not know."""
    source, tiered = node.model.source(CHILD_SOURCE), store.tiers

    def is_alone(volume_id: int) -> bool:
        tier = source.tier_of(volume_id)
        return bool(tier) and (tiered is None or tiered.tiers.find(tier) is None)

    return is_alone


def make_http_settings(node: Node) -> HttpSettings:
    """The facts about this server that answers depend on."""
    config, security = node.config, node.security.current()
    return HttpSettings(
        version=node.version_text,
        commit=node.commit_text,
        self_url=node.identity.http,
        file_size_limit_bytes=config.file_size_limit_bytes,
        read_mode=config.read_mode,
        fix_jpg_orientation=config.fix_jpg_orientation,
        volume_server_scheme="https" if security.https_client.enabled else "http",
        has_ui=not security.write_key.key or security.ui_access,
    )


def make_http_context(
    node: Node, engines: Engines, guard: Guard, counts: ServerCounts, lookup: MasterClient
) -> HttpContext:
    """The context of handlers that run while the node serves. `lookup` belongs to the caller."""
    authority = make_http_authority(node, engines)
    return HttpContext(
        settings=make_http_settings(node),
        node=make_node_view(node, engines),
        store=engines.store,
        lookup=lookup,
        volume_servers=make_volume_server_client(node),
        token_scope=guard,
        metrics=counts,
        ec_volumes=StoreEcVolumes(engines.store) if engines.store is not None else None,
        changing=authority.changing if authority is not None else every_volume_is_ours,
    )


def make_node_view(node: Node, engines: Engines) -> NodeView:
    """The view of the engine that has the volumes, or of both engines joined."""
    state = NodeState(
        details=lambda: node_details(node, engines.store, engines.backend),
        is_heartbeating=lambda: node.is_heartbeating,
        is_stopping=lambda: node.stop.is_asked,
    )
    natively = StoreNodeView(engines.store, state) if engines.store is not None else None
    at_backend = make_backend_view(engines.backend, state) if engines.backend is not None else None
    if natively is not None and at_backend is not None:
        return SharedNodeView(natively, at_backend, state)
    view = natively or at_backend
    assert view is not None, "a node has a store or a backend"
    return view


def make_backend_view(backend: ManagedBackend, state: NodeState) -> BackendNodeView:
    """The view of the child."""
    return BackendNodeView(VolumeServerClient(HttpPool()), state, address=lambda: backend.handle.http_address)


def node_details(node: Node, store: Store | None, backend: ManagedBackend | None) -> NodeDetails:
    """The facts of the status page besides volumes and disks."""
    config, table = node.config, node.table.current()
    facts = [
        ("Mode", config.mode.value),
        ("Program", f"weed-volume-py {OWN_VERSION}"),
        ("Routing", f"phase {table.phase}" + (f" of {table.source}" if table.source else "")),
        ("Offsets", f"{node.offset_width.width_bytes} bytes ({node.offset_width.source})"),
    ]
    if backend is not None:
        handle = backend.handle
        name = str(node.backend_version or "native")
        facts.append(("Backend", f"{config.backend} ({name}): {handle.state.value}, restarts: {handle.restarts}"))
    return NodeDetails(
        ec_volumes=ec_rows(store) if store is not None else (),
        started_at_s=node.started_at_s,
        masters=tuple(str(master) for master in config.masters),
        facts=tuple(facts),
    )


def ec_rows(store: Store) -> tuple[EcVolumeRow, ...]:
    """The rows of the status page about erasure-coded volumes."""
    return tuple(
        EcVolumeRow(row.id, row.collection, sum(size for _, size in row.shard_sizes), row.shard_sizes, row.created_at_s)
        for row in store.ec.reports()
    )


def make_volume_server_client(node: Node) -> VolumeServerClient:
    """The client for other volume servers, over TLS where https.client.enabled is set."""
    config = node.config
    return volume_server_client(config.security.https_client, source_host=config.bind_ip, links=node.descriptors.links)
