"""The three listeners and what serves them: HTTP server and gateway, gRPC byte relay and gateway."""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.grpc.checks import check_maintenance
from native_handlers.grpc.handlers import BYTES_HANDLERS, GRPC_HANDLERS
from native_handlers.http_model.message import Listener
from native_handlers.records import dataclass
from native_handlers.storage.transfer.received_files import MountedVolume, RemoteObject
from supervisor.assembly.grpc_node import make_grpc_node
from supervisor.assembly.http_context import backend_alone, make_http_authority, make_http_context
from supervisor.assembly.http_service import HEALTH_REQUESTS, turn_away
from supervisor.assembly.lifecycle import DRAIN_GRPC_S, DRAIN_HTTP_S
from supervisor.backend.child_flags import FRONT_VARIABLE, is_named_in
from supervisor.backend.ports import LOOPBACK
from supervisor.cluster.master_client import MasterClient
from supervisor.control.metrics import HttpCountCollector, SeatCollector
from supervisor.fast_path.fast_path import FastPath
from supervisor.fast_path.forwards import FastPathForwards
from supervisor.fast_path.long_requests import LONG_REQUESTS
from supervisor.gateway.grpc import GrpcGateway
from supervisor.gateway.grpc_authority import GrpcAuthority
from supervisor.gateway.grpc_backend_state import BackendStateKeeper
from supervisor.gateway.grpc_cluster import ClusterHosts
from supervisor.gateway.grpc_ec_shards import ClusterShards
from supervisor.gateway.grpc_forward import BackendEngine, ForwardedCall
from supervisor.gateway.grpc_gate import AdminGate
from supervisor.gateway.grpc_masters import ClusterMasters
from supervisor.gateway.grpc_native import native_engines
from supervisor.gateway.grpc_pools import BEHIND_A_FRONT
from supervisor.gateway.grpc_sources import CheckedBackend, NodePorts
from supervisor.gateway.grpc_volume_servers import DialledVolumeServers
from supervisor.gateway.guard import Guard
from supervisor.gateway.handed_on import HandedOnRequests, NativeSource
from supervisor.gateway.http import HttpGateway
from supervisor.net.byte_relay import RelaySettings, serve_byte_relay
from supervisor.net.errors import BadCertificate
from supervisor.net.grpc_client_names import ClientNames
from supervisor.net.grpc_clients import ClientRegistry
from supervisor.net.http_client import Address, HttpPool, PoolLimits
from supervisor.net.http_forward import Forwarder
from supervisor.net.http_limits import HttpLimits
from supervisor.net.http_server import serve_http
from supervisor.net.listeners import BoundListener, hold_port, open_listener
from supervisor.net.seats import Seats
from supervisor.net.tls import TlsContextSource, TlsSettings
from supervisor.routing.native import NATIVE_HTTP
from supervisor.routing.registry import AfterForward
from supervisor.wire.server_address import ServerAddress, join_host_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from native_handlers.grpc.node import GrpcNode
    from native_handlers.http.context import HttpContext
    from supervisor.assembly.backend import ManagedBackend
    from supervisor.assembly.engines import Engines
    from supervisor.assembly.node import Node
    from supervisor.assembly.tasks import Tasks
    from supervisor.backend.handle import BackendHandle
    from supervisor.config.config import Config, SecurityConfig, TlsFiles
    from supervisor.control.metrics import SeatNumbers
    from supervisor.gateway.grpc_call import CallEngine
    from supervisor.net.http_server import TryForward

    StartHttp = Callable[[trio.Nursery], Awaitable[Callable[[], None]]]
    # Starts the service of HTTP in a nursery. The result stops it: it drains.

log = logging.getLogger(__name__)
DRAIN_MARGIN_S = 5.0
"""How much longer than its drain times the end of the front may take."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """The bound listening sockets. They serve after the front is open. `public` is None where the ports are equal."""

    admin: BoundListener
    public: BoundListener | None
    grpc: BoundListener


@contextmanager
def hold_ports(config: Config) -> Iterator[None]:
    """Reserves this server's ports while the rest starts: the child's free ports come from the same kernel.

    Raises:
        CannotListen: a port is taken. Nothing else was started.
    """
    with ExitStack() as held:
        for port in {config.port, config.port_public, config.port_grpc}:
            held.enter_context(hold_port(config.bind_ip, port))
        yield


@asynccontextmanager
async def open_sockets(node: Node) -> AsyncIterator[Sockets]:
    """The sockets. They are opened before the cluster hears of the server, and closed at the end of the block.

    Raises:
        CannotListen: a port is taken. No socket is left open.
        BadCertificate: https.volume.* is configured and cannot be used. No socket is left open.
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
    """Serves inside the block. At its end running requests are drained, for half a minute at most."""
    with closing(MasterClient(node.masters, node.dial)) as lookup, ExitStack() as at_end:
        async with _open_front(node, sockets, engines, tasks, lookup, at_end):
            yield


@asynccontextmanager
async def _open_front(  # noqa: PLR0913, PLR0917  a part of `open_front`
    node: Node, sockets: Sockets, engines: Engines, tasks: Tasks, lookup: MasterClient, at_end: ExitStack
) -> AsyncIterator[None]:
    guard = Guard(node.security.current())
    node.security.add_listener(guard.update)
    listeners = [listener for listener in (sockets.admin, sockets.public) if listener]
    http_seats, start_http = _prepare_http(node, listeners, engines, tasks, guard, lookup, at_end)
    grpc_seats = Seats("gRPC", lambda: node.descriptors.grpc_connections(engines.open_volumes))
    tasks.registry.register(SeatCollector({"http": http_seats, "grpc": grpc_seats}))
    clients = ClientRegistry()
    masters = ClusterMasters(node.masters, node.dial)
    cluster = ClusterHosts(node.masters, masters.filers, guard.names)
    lookup.listen(cluster.note)
    grpc_gateway = make_grpc_gateway(node, engines, tasks, guard, clients, masters, cluster)
    relay = replace(make_relay_settings(node, grpc_gateway.start(), clients), seats=grpc_seats)
    async with trio.open_nursery() as relayed:
        relayed.start_soon(cluster.keep_fresh)
        relayed.start_soon(_cut_at_second_stop, node, grpc_gateway, relayed.cancel_scope)
        async with trio.open_nursery() as servers:
            stop_http = await start_http(servers)
            grpc_scope = await servers.start(_serve_relay, sockets.grpc, relay, relayed)
            try:
                yield
            finally:
                # First nothing new comes, then running calls end. Their connections stay in `relayed` until all bytes
                # are out.
                stop_http()
                grpc_scope.cancel()
                await _drain_grpc(grpc_gateway)
        relayed.cancel_scope.cancel()


def _prepare_http(  # noqa: PLR0913, PLR0917  a part of `open_front`
    node: Node,
    listeners: Sequence[BoundListener],
    engines: Engines,
    tasks: Tasks,
    guard: Guard,
    lookup: MasterClient,
    at_end: ExitStack,
) -> tuple[SeatNumbers, StartHttp]:
    """The seats of both HTTP ports together, and the function that starts the service: here, or in workers."""
    has_workers = bool(node.config.workers)
    if has_workers and engines.backend is not None:
        return _prepare_workers(node, listeners, engines.backend.handle, tasks, lookup, at_end)
    context = make_http_context(node, engines, guard, tasks.counts, lookup)
    gateway, fast_path, forward = make_http_gateway(node, engines, context, guard, tasks)
    handle = gateway.handle
    at_end.callback(fast_path.close)
    if has_workers:
        assert engines.store is not None, "nothing is forwarded"
        volumes = NativeSource(HandedOnRequests(handle, fast_path.answer), engines.store, gateway.counts)
        return _prepare_workers(node, listeners, volumes, tasks, lookup, at_end)
    tasks.registry.register(HttpCountCollector([gateway.counts]))
    seats = Seats("HTTP", lambda: node.descriptors.http_connections(engines.open_volumes))
    serve = partial(
        serve_http,
        limits=HttpLimits(idle_timeout_s=node.config.idle_timeout_s, drain_s=DRAIN_HTTP_S),
        fast_path=None if engines.store is None else fast_path.answer,
        forward=forward,
        seats=seats,
        turn_away=partial(turn_away, handle),
        urgent=HEALTH_REQUESTS,
        long_requests=LONG_REQUESTS,
    )

    async def start(servers: trio.Nursery) -> Callable[[], None]:
        scope: trio.CancelScope = await servers.start(serve, listeners, handle)
        return scope.cancel

    return seats, start


def _prepare_workers(  # noqa: PLR0913, PLR0917  a part of `_prepare_http`
    node: Node,
    listeners: Sequence[BoundListener],
    source: BackendHandle | NativeSource,
    tasks: Tasks,
    lookup: MasterClient,
    at_end: ExitStack,
) -> tuple[SeatNumbers, StartHttp]:
    from supervisor.assembly.http_workers import prepare_workers  # noqa: PLC0415  (only with -workers)

    prepared = prepare_workers(node, listeners, source, tasks, lookup, at_end)
    return prepared.seats, prepared.start


async def _serve_relay(
    listener: BoundListener,
    settings: RelaySettings,
    connections: trio.Nursery,
    *,
    task_status: trio.TaskStatus[trio.CancelScope],
) -> None:
    """Relays connections in `connections`. `started` gives a scope; cancelling it ends the accepting."""
    with trio.CancelScope() as scope:
        sockets = [trio.SocketListener(trio.socket.from_stdlib_socket(listener.sock))]
        async with trio.open_nursery() as accepting:
            await accepting.start(partial(serve_byte_relay, sockets, settings, handler_nursery=connections))
            task_status.started(scope)


async def _drain_grpc(gateway: GrpcGateway) -> None:
    with trio.move_on_after(DRAIN_GRPC_S + DRAIN_MARGIN_S, shield=True):
        await trio.to_thread.run_sync(gateway.drain, DRAIN_GRPC_S)


async def _cut_at_second_stop(node: Node, gateway: GrpcGateway, scope: trio.CancelScope) -> None:
    """Cuts running calls at a second stop signal."""
    await node.stop.wait_forced()
    await trio.to_thread.run_sync(gateway.drain, 0.0)
    scope.cancel()


def https_source(security: SecurityConfig) -> TlsContextSource | None:
    """TLS of the admin port; None where https.volume.* names no certificate. Source: weed/command/volume.go."""
    https = security.https
    if https.cert is None or https.key is None:
        return None
    return TlsContextSource(_tls_settings(security, https, alpn=("http/1.1",)), time.monotonic)


def grpc_source(security: SecurityConfig) -> TlsContextSource | None:
    """Mutual TLS of the gRPC port. As in upstream, unusable files mean plaintext, with a warning.

    Source: weed/security/tls.go (LoadServerTLS).
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


def make_http_gateway(
    node: Node, engines: Engines, context: HttpContext, guard: Guard, tasks: Tasks
) -> tuple[HttpGateway, FastPath, TryForward | None]:
    """Makes the gateway that answers every HTTP request, and the fast paths before it. The caller closes the gateway.

    The last one is None where there is no backend.
    """
    pool = HttpPool(PoolLimits(max_connections=node.descriptors.links))
    forwarder = make_forwarder(engines.backend, pool)
    authority = make_http_authority(node, engines)
    gateway = HttpGateway(
        node.table,
        NATIVE_HTTP,
        context,
        forwarder,
        guard,
        tasks.throttle,
        authority=authority,
        stop=node.stop,
    )
    forward = None if forwarder is None else FastPathForwards(gateway, forwarder, authority).begin
    return gateway, FastPath(context, gateway), forward


def make_forwarder(backend: ManagedBackend | None, pool: HttpPool) -> Forwarder | None:
    """Forwards to the child's port for the request's listener, through restarts; None without a child."""
    if backend is None:
        return None
    handle, public = backend.handle, Listener.PUBLIC

    def address(listener: Listener) -> Address:
        return Address(LOOPBACK, handle.ports.public if listener is public else handle.ports.http)

    return Forwarder(pool, address)


def make_grpc_gateway(  # noqa: PLR0913, PLR0917  every seam has its name
    node: Node,
    engines: Engines,
    tasks: Tasks,
    guard: Guard,
    clients: ClientRegistry,
    masters: ClusterMasters,
    cluster: ClusterHosts,
) -> GrpcGateway:
    """The gRPC gateway over both engines."""
    backend = engines.backend
    volume_servers = DialledVolumeServers(node.dial, node.self_mark)
    if engines.store is not None:
        own = ServerAddress(node.config.ip.removeprefix("[").removesuffix("]"), node.config.port, 0)
        engines.store.ec_reader.remote = ClusterShards(node.masters, node.dial, own, node.self_mark, cluster.note)
    grpc_node = make_grpc_node(node, engines.store, backend, masters, volume_servers, tasks.counts)
    engine = make_backend_engine(node, grpc_node, backend) if backend else None
    return GrpcGateway(
        table=node.table,
        native=native_engines(grpc_node, GRPC_HANDLERS, BYTES_HANDLERS),
        clients=clients,
        gate=AdminGate(guard.allows),
        backend=engine,
        count=tasks.metrics.count_rpc,
        limits=BEHIND_A_FRONT if is_named_in(os.environ, FRONT_VARIABLE, os.getppid()) else None,
        authority=make_grpc_authority(node, engines, engine, grpc_node),
        is_of_cluster=cluster.includes,
        mark=node.self_mark,
    )


def make_grpc_authority(
    node: Node, engines: Engines, backend: CallEngine | None, grpc_node: GrpcNode
) -> GrpcAuthority | None:
    """The gateway's access to volumes for RPCs, where both engines have volumes."""
    if engines.authority is None or engines.store is None or backend is None:
        return None
    is_bound = backend_alone(node, engines.store)
    return GrpcAuthority(engines.authority, node.model, is_bound, backend, partial(check_maintenance, grpc_node))


def make_backend_engine(node: Node, grpc_node: GrpcNode, backend: ManagedBackend) -> CallEngine:
    """Forwards to the child the calls that pass the checks.

    After a forwarded leave the whole node leaves. A state that was set is remembered while the child is away.
    """

    def leave_too(_call: ForwardedCall) -> None:
        node.leave()

    after: dict[AfterForward, Callable[[ForwardedCall], None]] = {AfterForward.LEAVE: leave_too}
    if isinstance(grpc_node.state, BackendStateKeeper):
        after[AfterForward.NOTE_STATE] = grpc_node.state.note_forwarded
    return CheckedBackend(
        BackendEngine(backend.channel.get, after),
        DialledVolumeServers(node.dial, node.self_mark),
        NodePorts(
            join_host_port(node.config.ip, node.config.port), node.config.port_grpc, lambda: backend.handle.ports.grpc
        ),
        partial(_mounted_volume, node),
        partial(check_maintenance, grpc_node),
        node.offset_width.width_bytes,
    )


def _mounted_volume(node: Node, volume_id: int) -> MountedVolume | None:
    """The facts of the volume, whichever engine has it; None where there is none."""
    snapshot = node.model.snapshot()
    keys = snapshot.keys_of.get(volume_id)
    if not keys:
        return None
    message = snapshot.volumes[keys[0]].message
    replication = str(ReplicaPlacement.from_byte(message.replica_placement))
    is_bare = message.size <= SUPER_BLOCK_BYTES and not message.compact_revision
    name = message.remote_storage_name
    remote = RemoteObject(name, message.remote_storage_key) if name else None
    return MountedVolume(message.collection, message.version, replication, message.read_only, is_bare, remote)


def make_relay_settings(node: Node, target: Path, clients: ClientRegistry) -> RelaySettings:
    """The public gRPC port's byte relay, with mutual TLS where it is configured."""
    security = node.security.current()
    source = grpc_source(security)
    names = ClientNames(security.grpc.allowed_common_names, security.grpc.allowed_wildcard_domain)
    if source is None:
        return RelaySettings(target, clients)
    return RelaySettings(target, clients, source.current, names)
