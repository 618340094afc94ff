"""The three listeners with everything behind them: HTTP server and gateway, gRPC byte relay and gateway."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.grpc.handlers import GRPC_HANDLERS
from native_handlers.http.handlers import HTTP_HANDLERS
from native_handlers.http.message import Listener
from supervisor.assembly.grpc_node import make_grpc_node
from supervisor.assembly.http_context import backend_alone, make_http_authority, make_http_context
from supervisor.assembly.node import CHILD_SOURCE
from supervisor.backend.ports import LOOPBACK
from supervisor.control.metrics import HttpCountCollector
from supervisor.gateway.grpc import GrpcGateway
from supervisor.gateway.grpc_authority import GrpcAuthority
from supervisor.gateway.grpc_backend_state import BackendStateKeeper
from supervisor.gateway.grpc_forward import BackendEngine, ForwardedCall
from supervisor.gateway.grpc_gate import AdminGate
from supervisor.gateway.grpc_native import native_engines
from supervisor.gateway.grpc_new_shards import wait_until_reported
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.gateway.http_quick import QuickReads
from supervisor.gateway.throttle import FlightLimit, Throttle
from supervisor.lifecycle import DRAIN_GRPC_S, DRAIN_HTTP_S
from supervisor.net.byte_relay import RelaySettings, serve_byte_relay
from supervisor.net.errors import BackendUnavailable, BadCertificate
from supervisor.net.grpc_client_names import ClientNames
from supervisor.net.grpc_peers import PeerRegistry
from supervisor.net.http_client import Address, HttpPool
from supervisor.net.http_forward import Forwarder, bad_gateway
from supervisor.net.http_limits import HttpLimits
from supervisor.net.http_server import serve_http
from supervisor.net.listeners import BoundListener, hold_port, open_listener
from supervisor.net.tls import TlsContextSource, TlsSettings
from supervisor.routing.match import match_http

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from prometheus_client import CollectorRegistry

    from native_handlers.grpc.node import GrpcNode
    from native_handlers.http.context import HttpContext
    from native_handlers.http.message import Request, Response
    from supervisor.assembly.backend import ManagedBackend
    from supervisor.assembly.engines import Engines
    from supervisor.assembly.node import Node
    from supervisor.assembly.tasks import Tasks
    from supervisor.cli.config import Config, SecurityConfig, TlsFiles
    from supervisor.net.http_server import Handle, Quick

log = logging.getLogger(__name__)
HEALTH_ROUTES = frozenset({"http.healthz", "http.readyz"})
DRAIN_MARGIN_S = 5.0
"""What taking the front down may take beyond its drain times."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """The listening sockets: bound, and serving once the front is open. `public` is None on a shared port."""

    admin: BoundListener
    public: BoundListener | None
    grpc: BoundListener


@contextmanager
def hold_ports(config: Config) -> Iterator[None]:
    """Keeps our ports ours while the rest is started: the child's free ports are asked of the same kernel.

    Raises:
        CannotListen: one is taken, before anything else was started.
    """
    with ExitStack() as held:
        for port in {config.port, config.port_public, config.port_grpc}:
            held.enter_context(hold_port(config.bind_ip, port))
        yield


@asynccontextmanager
async def open_sockets(node: Node) -> AsyncIterator[Sockets]:
    """The sockets, before the cluster hears of them. Closed on leaving.

    Raises:
        CannotListen: a port is taken.
        BadCertificate: https.volume.* is configured and cannot be used.
    """
    config = node.config
    opened: list[BoundListener] = []

    def listen(port: int, kind: Listener, tls: TlsContextSource | None = None) -> BoundListener:
        opened.append(open_listener(config.bind_ip, port, kind, tls))
        return opened[-1]

    try:
        admin = listen(config.port, Listener.ADMIN, https_source(config.security))
        public = listen(config.port_public, Listener.PUBLIC) if config.port_public != config.port else None
        grpc = listen(config.port_grpc, Listener.ADMIN)
        yield Sockets(admin, public, grpc)
    finally:
        for listener in opened:
            listener.close()


@asynccontextmanager
async def open_front(node: Node, sockets: Sockets, engines: Engines, tasks: Tasks) -> AsyncIterator[None]:
    """Serves while inside. On leaving, what is in flight is drained, for half a minute at most."""
    guard = Guard(node.security.current())
    node.security.add_listener(guard.update)
    context = make_http_context(node, engines, guard)
    handle, quick = make_http_handle(node, engines, context, guard, tasks.registry)
    limits = HttpLimits(idle_timeout_s=node.config.idle_timeout_s, drain_s=DRAIN_HTTP_S)
    peers = PeerRegistry()
    grpc_gateway = make_grpc_gateway(node, engines, tasks, guard, peers)
    relay = make_relay_settings(node, grpc_gateway.start(), peers)
    async with trio.open_nursery() as relayed:
        relayed.start_soon(_hurry, node, grpc_gateway, relayed.cancel_scope)
        async with trio.open_nursery() as servers:
            listeners = [listener for listener in (sockets.admin, sockets.public) if listener]
            http_scope = await servers.start(partial(serve_http, listeners, handle, limits=limits, quick=quick))
            grpc_scope = await servers.start(_serve_relay, sockets.grpc, relay, relayed)
            try:
                yield
            finally:
                http_scope.cancel()
                grpc_scope.cancel()
                await _drain_grpc(grpc_gateway)
        relayed.cancel_scope.cancel()


async def _serve_relay(
    listener: BoundListener,
    settings: RelaySettings,
    connections: trio.Nursery,
    *,
    task_status: trio.TaskStatus[trio.CancelScope],
) -> None:
    """Relays connections in `connections`; started(scope) gives what to cancel to accept no more of them."""
    with trio.CancelScope() as scope:
        sockets = [trio.SocketListener(trio.socket.from_stdlib_socket(listener.sock))]
        async with trio.open_nursery() as accepting:
            await accepting.start(partial(serve_byte_relay, sockets, settings, handler_nursery=connections))
            task_status.started(scope)


async def _drain_grpc(gateway: GrpcGateway) -> None:
    with trio.move_on_after(DRAIN_GRPC_S + DRAIN_MARGIN_S, shield=True):
        await trio.to_thread.run_sync(gateway.drain, DRAIN_GRPC_S)


async def _hurry(node: Node, gateway: GrpcGateway, scope: trio.CancelScope) -> None:
    """A second stop signal cuts what is in flight."""
    await node.stop.wait_hurried()
    await trio.to_thread.run_sync(gateway.drain, 0.0)
    scope.cancel()


def https_source(security: SecurityConfig) -> TlsContextSource | None:
    """TLS of the admin port, None where https.volume.* names no certificate. Source: weed/command/volume.go."""
    https = security.https
    if https.cert is None or https.key is None:
        return None
    return TlsContextSource(_tls_settings(security, https, alpn=("http/1.1",)), time.monotonic)


def grpc_source(security: SecurityConfig) -> TlsContextSource | None:
    """Mutual TLS of the gRPC port. Files that cannot be used leave it in plaintext with a warning, as upstream does.

    Source: weed/security/tls.go, LoadServerTLS.
    """
    tls = security.grpc
    if tls.cert is None or tls.key is None or tls.ca is None:
        return None
    try:
        return TlsContextSource(_tls_settings(security, tls, alpn=("h2",)), time.monotonic)
    except BadCertificate as error:
        log.warning("gRPC is served in PLAINTEXT: %s", error)
        return None


def _tls_settings(security: SecurityConfig, files: TlsFiles, alpn: tuple[str, ...]) -> TlsSettings:
    assert files.cert is not None
    assert files.key is not None
    return TlsSettings(
        cert=files.cert,
        key=files.key,
        ca=files.ca,
        min_version=security.tls_min_version,
        max_version=security.tls_max_version,
        cipher_suites=security.tls_cipher_suites,
        alpn=alpn,
    )


def make_http_handle(
    node: Node, engines: Engines, context: HttpContext, guard: Guard, registry: CollectorRegistry
) -> tuple[Handle, Quick | None]:
    """What answers every HTTP request: one gateway per listener, for the child has two ports as well. And what
    answers before it, see `QuickReads`: None where the store is the child's.
    """
    pool, authority = HttpPool(), make_http_authority(node, engines)
    throttle = make_throttle(node.config)
    gateways = {
        listener: HttpGateway(
            node.table,
            HTTP_HANDLERS,
            context,
            make_forwarder(engines.backend, pool, listener),
            guard,
            throttle,
            authority=authority,
        )
        for listener in Listener
    }

    registry.register(HttpCountCollector(gateway.counts for gateway in gateways.values()))

    async def handle(request: Request) -> Response:
        if node.stop.is_asked and match_http(request.listener, request.method, request.raw_path).name in HEALTH_ROUTES:
            # Whoever answers these otherwise: the node as a whole is stopping, and the child does not know.
            return await HTTP_HANDLERS["http.healthz"](context, request)
        try:
            return await gateways[request.listener].handle(request)
        except BackendUnavailable as error:
            return bad_gateway(str(error))

    if context.store is None:
        return handle, None
    quick_reads = {
        listener: QuickReads(listener, node.table, context, guard, gateway) for listener, gateway in gateways.items()
    }
    return handle, lambda listener, data: quick_reads[listener].answer(data)


def make_throttle(config: Config) -> Throttle:
    """The bounds on bytes in flight that the flags set, for both listeners together."""
    return Throttle(
        upload=FlightLimit(config.concurrent_upload_limit_bytes, config.inflight_upload_timeout_s),
        download=FlightLimit(config.concurrent_download_limit_bytes, config.inflight_download_timeout_s),
    )


def make_forwarder(backend: ManagedBackend | None, pool: HttpPool, listener: Listener) -> Forwarder | None:
    """Forwards to the child's port for `listener`, wherever that is now; None without a child."""
    if backend is None:
        return None
    handle = backend.handle
    if listener is Listener.PUBLIC:
        return Forwarder(pool, lambda: Address(LOOPBACK, handle.ports.public))
    return Forwarder(pool, lambda: Address(LOOPBACK, handle.ports.http))


def make_grpc_gateway(node: Node, engines: Engines, tasks: Tasks, guard: Guard, peers: PeerRegistry) -> GrpcGateway:
    """The gRPC gateway over both engines."""
    backend = engines.backend
    grpc_node = make_grpc_node(node, engines.store, backend)
    engine = make_backend_engine(node, grpc_node, backend) if backend else None
    return GrpcGateway(
        table=node.table,
        native=native_engines(grpc_node, GRPC_HANDLERS),
        peers=peers,
        gate=AdminGate(guard.allows),
        backend=engine,
        count=tasks.metrics.count_rpc,
        authority=make_grpc_authority(node, engines, engine),
    )


def make_grpc_authority(node: Node, engines: Engines, backend: BackendEngine | None) -> GrpcAuthority | None:
    """What asks for the volumes of RPCs, where both engines have some."""
    if engines.authority is None or backend is None:
        return None
    return GrpcAuthority(engines.authority, node.model, backend_alone(node), backend)


def make_backend_engine(node: Node, grpc_node: GrpcNode, backend: ManagedBackend) -> BackendEngine:
    """Forwards to the child. A leave that it was told is a leave of the whole node, and a state that it was given is
    remembered for the time when it is away.
    """

    def leave_too(_call: ForwardedCall) -> None:
        node.leave()

    after: dict[str, Callable[[ForwardedCall], None]] = {"grpc.VolumeServerLeave": leave_too}
    if node.table.current().shares_volumes:
        after["grpc.VolumeEcShardsMount"] = wait_until_reported(node.model.feed(CHILD_SOURCE).has_ec_shards)
    if isinstance(grpc_node.state, BackendStateKeeper):
        after["grpc.SetState"] = grpc_node.state.note_forwarded
    return BackendEngine(backend.channel.get, after)


def make_relay_settings(node: Node, target_port: int, peers: PeerRegistry) -> RelaySettings:
    """The public gRPC port's byte relay, with mutual TLS where it is configured."""
    security = node.security.current()
    source = grpc_source(security)
    names = ClientNames(security.grpc.allowed_common_names, security.grpc.allowed_wildcard_domain)
    if source is None:
        return RelaySettings(target_port, peers)
    return RelaySettings(target_port, peers, source.current, names)
