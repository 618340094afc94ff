"""Runs an embedded master: both listeners, and how they stop."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import trio

from native_handlers.records import dataclass
from supervisor.embedded_master.assign import Assigner
from supervisor.embedded_master.calls import MasterCalls
from supervisor.embedded_master.service import MasterService
from supervisor.embedded_master.state_file import MasterState
from supervisor.embedded_master.topology import Topology
from supervisor.embedded_master.web import WHAT_IT_IS, MasterWeb
from supervisor.net.byte_relay import RelaySettings, serve_byte_relay
from supervisor.net.errors import CannotListen
from supervisor.net.grpc_clients import ClientRegistry
from supervisor.net.grpc_limits import SERVER_OPTIONS
from supervisor.net.http_limits import HttpLimits
from supervisor.net.http_server import serve_http
from supervisor.net.listeners import open_listener
from supervisor.net.private_socket import private_socket
from supervisor.net.seats import Seats
from supervisor.wire.server_address import ServerAddress

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.embedded_master.config import EmbeddedMasterConfig
    from supervisor.net.grpc_clients import GrpcClient
    from supervisor.net.listeners import BoundListener

_log = logging.getLogger(__name__)
_STOP_S = 2.0
_GRACE_S = 0.2  # for running calls; streams never end by themselves
_GRPC_PART = 3
"""A relayed connection takes as many descriptors as three HTTP connections."""


@dataclass(frozen=True, slots=True)
class EmbeddedMasterAddresses:
    """Where the master listens. `address` is the value for a volume server's -master."""

    address: ServerAddress

    @property
    def http(self) -> str:
        return self.address.http

    @property
    def grpc(self) -> str:
        return self.address.grpc


async def serve_embedded_master(
    config: EmbeddedMasterConfig,
    *,
    task_status: trio.TaskStatus[EmbeddedMasterAddresses] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs a single-node master until cancelled. `started` gets its addresses when both listeners are open.

    Raises:
        MasterDirectoryInUse, BadMasterState: its directory cannot be used.
        CannotListen: a port cannot be bound.
        NoPrivateSocket: the temporary directory cannot be written.
        In each case no listener and no lock is left.

    Cancellation: safe; streams end within about two seconds.
    """
    state = await trio.to_thread.run_sync(MasterState, config.directory)
    try:
        with ExitStack() as stack:
            http, rpc = (_listen(config, port, stack) for port in (config.port, config.grpc_port))
            await _serve(config, state, http, rpc, task_status)
    finally:
        state.close()


def _listen(config: EmbeddedMasterConfig, port: int, stack: ExitStack) -> BoundListener:
    try:
        listener = open_listener(config.bind_ip, port)
    except CannotListen as error:
        raise CannotListen(config.bind_ip, port, f"for the embedded master: {error.reason}") from error
    stack.callback(listener.close)
    return listener


async def _serve(
    config: EmbeddedMasterConfig,
    state: MasterState,
    http: BoundListener,
    rpc: BoundListener,
    task_status: trio.TaskStatus[EmbeddedMasterAddresses],
) -> None:
    topology = Topology()
    assigner = Assigner(config, state, topology)
    address = ServerAddress(config.ip, http.port, rpc.port)
    leader = f"{address.http}.{address.grpc_port}"
    clients = ClientRegistry()

    def is_of_cluster(client: GrpcClient) -> bool:
        return any(node.identity.ip == client.host for node in topology.nodes())

    calls = MasterCalls(clients, is_of_cluster)
    service = MasterService(config, state, topology, assigner, leader, calls)
    server = grpc.server(calls.pool, handlers=[service], options=SERVER_OPTIONS)
    web = MasterWeb(config, state, topology, assigner, leader)
    with private_socket(lambda path: _start(server, path)) as target:
        calls.start()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(_serve_web, config, web, http)
                await nursery.start(_serve_relay, config, rpc, RelaySettings(target, clients))
                _log.warning("%s, on %s", WHAT_IT_IS, leader)
                task_status.started(EmbeddedMasterAddresses(address))
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * _STOP_S):
                await trio.to_thread.run_sync(_stop, server, calls)
            assigner.close()


def _start(server: grpc.Server, path: Path) -> None:
    server.add_insecure_port(f"unix:{path}")
    server.start()


def _stop(server: grpc.Server, calls: MasterCalls) -> None:
    server.stop(_GRACE_S).wait(_STOP_S)
    calls.stop()


async def _serve_web(
    config: EmbeddedMasterConfig,
    web: MasterWeb,
    listener: BoundListener,
    *,
    task_status: trio.TaskStatus[trio.CancelScope],
) -> None:
    seats = Seats("embedded master's HTTP", lambda: config.max_connections)
    limits = HttpLimits(drain_s=_STOP_S)
    await serve_http([listener], web.handle, limits=limits, seats=seats, task_status=task_status)


async def _serve_relay(
    config: EmbeddedMasterConfig,
    listener: BoundListener,
    settings: RelaySettings,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    seats = Seats("embedded master's gRPC", lambda: config.max_connections // _GRPC_PART)
    sockets = [trio.SocketListener(trio.socket.from_stdlib_socket(listener.sock))]
    async with trio.open_nursery() as connections:
        relay = replace(settings, seats=seats)
        await serve_byte_relay(sockets, relay, handler_nursery=connections, task_status=task_status)
