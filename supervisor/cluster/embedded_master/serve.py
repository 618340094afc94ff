"""Running an embedded master: both listeners, and how they stop."""

from __future__ import annotations

import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import grpc
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve as serve_asgi

from supervisor.cluster.embedded_master.assign import Assigner
from supervisor.cluster.embedded_master.service import MasterService
from supervisor.cluster.embedded_master.state_file import MasterState
from supervisor.cluster.embedded_master.topology import Topology
from supervisor.cluster.embedded_master.web import WHAT_IT_IS, MasterWeb
from supervisor.gateway.grpc_limits import SERVER_OPTIONS
from supervisor.net.errors import CannotListen
from supervisor.wire.server_address import ServerAddress, join_host_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypercorn.typing import ASGIFramework

    from supervisor.cluster.embedded_master.config import EmbeddedMasterConfig

_log = logging.getLogger(__name__)
_MAX_CALLS = 128  # each heartbeat and each watching client holds a thread
_BACKLOG = 128
_STOP_S = 2.0
_GRACE_S = 0.2  # for calls under way; streams never end by themselves


@dataclass(frozen=True, slots=True)
class EmbeddedMasterAddresses:
    """Where it listens. `address` is what a volume server's -master should say."""

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
    """Runs a single-node master until cancelled; started with its addresses once both listeners are open.

    Raises:
        MasterDirectoryInUse, BadMasterState: from its directory.
        CannotListen: a port cannot be had.

    Cancellation: safe; streams are ended within about two seconds.
    """
    state = await trio.to_thread.run_sync(MasterState, config.directory)
    try:
        with _listener(config) as http_socket:
            await _serve(config, state, http_socket, task_status)
    finally:
        state.close()


async def _serve(
    config: EmbeddedMasterConfig,
    state: MasterState,
    http_socket: socket.socket,
    task_status: trio.TaskStatus[EmbeddedMasterAddresses],
) -> None:
    topology = Topology()
    assigner = Assigner(config, state, topology)
    executor = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="embedded-master")
    server = grpc.server(executor, options=SERVER_OPTIONS, maximum_concurrent_rpcs=_MAX_CALLS)
    try:
        grpc_port = _bind(server, config)
        address = ServerAddress(config.ip, http_socket.getsockname()[1], grpc_port)
        leader = f"{address.http}.{address.grpc_port}"
        server.add_generic_rpc_handlers((MasterService(config, state, topology, assigner, leader),))
        server.start()
        app = cast("ASGIFramework", MasterWeb(config, state, topology, assigner, leader).app())
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_asgi, app, _hypercorn_config(http_socket), mode="asgi"))
            _log.warning("%s, on %s", WHAT_IT_IS, leader)
            task_status.started(EmbeddedMasterAddresses(address))
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * _STOP_S):
            await trio.to_thread.run_sync(_stop, server, executor)
        assigner.close()


def _bind(server: grpc.Server, config: EmbeddedMasterConfig) -> int:
    target = join_host_port(config.bind_ip, config.grpc_port)
    try:
        return server.add_insecure_port(target)
    except RuntimeError as error:
        raise CannotListen(config.bind_ip, config.grpc_port, f"for the embedded master: {error}") from error


def _stop(server: grpc.Server, executor: ThreadPoolExecutor) -> None:
    server.stop(_GRACE_S).wait(_STOP_S)
    executor.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _listener(config: EmbeddedMasterConfig) -> Iterator[socket.socket]:
    """A listening socket for HTTP. Opened here, for hypercorn would tell its port too late for the other answers."""
    family = socket.AF_INET6 if ":" in config.bind_ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.bind_ip, config.port))
            listener.listen(_BACKLOG)
        except OSError as error:
            raise CannotListen(config.bind_ip, config.port, f"for the embedded master: {error}") from error
        yield listener


def _hypercorn_config(http_socket: socket.socket) -> HypercornConfig:
    config = HypercornConfig()
    duplicate = http_socket.dup()  # hypercorn closes what it is given
    config.bind = [f"fd://{duplicate.detach()}"]
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("supervisor.cluster.embedded_master.http")
    config.graceful_timeout = _STOP_S
    config.shutdown_timeout = _STOP_S
    return config
