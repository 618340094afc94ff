"""What the native HTTP handlers of one node are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http.context import HttpContext, HttpSettings, NodeDetails, ReadMode, every_volume_is_ours
from native_handlers.http.node_view import NodeState, StoreNodeView
from native_handlers.version import own_version
from supervisor.assembly.node import CHILD_SOURCE
from supervisor.cluster.master_client import MasterClient
from supervisor.gateway.backend_view import BackendNodeView
from supervisor.gateway.http_authority import HttpAuthority
from supervisor.gateway.shared_view import SharedNodeView
from supervisor.net.http_client import HttpPool
from supervisor.net.http_connect import TcpConnector
from supervisor.net.http_peer import PEER_TIMEOUT_S, PeerClient
from supervisor.net.tls import client_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from native_handlers.http.context import NodeView
    from supervisor.assembly.backend import ManagedBackend
    from supervisor.assembly.engines import Engines
    from supervisor.assembly.node import Node
    from supervisor.cli.config import HttpsClientConfig
    from supervisor.gateway.guard import Guard


def make_http_authority(node: Node, engines: Engines) -> HttpAuthority | None:
    """What asks for the volumes of HTTP requests, where both engines have some."""
    if engines.authority is None:
        return None
    return HttpAuthority(engines.authority, backend_alone(node))


def backend_alone(node: Node) -> Callable[[int], bool]:
    """Says whether the backend alone can serve a volume: the native engine has no erasure coding and no tiers yet."""
    feed = node.model.feed(CHILD_SOURCE)
    return lambda volume_id: feed.has_ec_shards(volume_id) or feed.has_tiered(volume_id)


def make_http_context(node: Node, engines: Engines, guard: Guard) -> HttpContext:
    """The context for handlers that run while the node serves."""
    authority = make_http_authority(node, engines)
    security = node.security.current()
    return HttpContext(
        settings=HttpSettings(
            version=node.version_text,
            commit=node.commit_text,
            self_url=node.identity.http,
            file_size_limit_bytes=node.config.file_size_limit_bytes,
            read_mode=ReadMode(node.config.read_mode.value),
            fix_jpg_orientation=node.config.fix_jpg_orientation,
            peer_scheme="https" if security.https_client.enabled else "http",
            has_ui=not security.write_key.key or security.ui_access,
        ),
        node=make_node_view(node, engines),
        store=engines.store,
        lookup=MasterClient(node.masters, node.dial),
        peers=make_peer_client(node),
        auth=guard.auth_keys,
        changing=authority.changing if authority is not None else every_volume_is_ours,
    )


def make_node_view(node: Node, engines: Engines) -> NodeView:
    """What the engines say: the one that has the volumes, or both together."""
    state = NodeState(
        details=lambda: node_details(node, engines.backend),
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
    """The child's word."""
    return BackendNodeView(PeerClient(HttpPool()), state, address=lambda: backend.handle.http_address)


def node_details(node: Node, backend: ManagedBackend | None) -> NodeDetails:
    """What the status page shows beyond volumes and disks."""
    config, table = node.config, node.table.current()
    facts = [
        ("Mode", config.mode.value),
        ("Program", f"weed-volume-py {own_version()}"),
        ("Routing", f"phase {table.phase}" + (f" of {table.source}" if table.source else "")),
        ("Offsets", f"{node.offset_width.width_bytes} bytes ({node.offset_width.source})"),
    ]
    if backend is not None:
        handle = backend.handle
        name = str(node.backend_version or "native")
        facts.append(("Backend", f"{config.backend} ({name}): {handle.state.value}, restarts: {handle.restarts}"))
    return NodeDetails(
        started_at_s=node.started_at_s,
        masters=tuple(str(master) for master in config.masters),
        facts=tuple(facts),
    )


def make_peer_client(node: Node) -> PeerClient:
    """How this node talks to other volume servers: over TLS where https.client.enabled says so."""
    tls = https_client_context(node.config.security.https_client)
    connect = TcpConnector(tls=tls, source_host=node.config.bind_ip, idle_timeout_s=PEER_TIMEOUT_S)
    return PeerClient(HttpPool(connect=connect))


def https_client_context(https: HttpsClientConfig) -> ssl.SSLContext | None:
    """Raises BadCertificate where the configured files cannot be used."""
    if not https.enabled:
        return None
    return client_context(https.cert, https.key, https.ca, verifies=not https.insecure_skip_verify)
