"""An HTTP worker as a program: `python -m supervisor.assembly.worker DESCRIPTOR`. The parent starts it; see
docs/workers.md.

It makes the same objects that serve HTTP in the server's own process, out of the settings that the parent sends over
the socket with this descriptor. It loads neither grpcio nor numpy nor Pillow: a test holds that.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import trio

from native_handlers.http.context import HttpContext, NodeDetails
from native_handlers.http.health import handle_health
from native_handlers.http.node_view import NodeState
from native_handlers.http.reply import serve
from native_handlers.http_model.message import Listener
from native_handlers.runtime.server_counts import ServerCounts
from supervisor.assembly.collector import settled_objects
from supervisor.assembly.http_service import HEALTH_REQUESTS, turn_away, volume_server_client
from supervisor.backend.ports import LOOPBACK
from supervisor.fast_path.forwards import FastPathForwards
from supervisor.gateway.backend_view import BackendNodeView
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.logs.setup import set_up_logging
from supervisor.net.http_client import Address, HttpPool, PoolLimits
from supervisor.net.http_forward import Forwarder
from supervisor.net.http_limits import HttpLimits
from supervisor.net.http_server import serve_http
from supervisor.net.http_volume_servers import VolumeServerClient
from supervisor.net.listeners import BoundListener, SharedAccept
from supervisor.net.tls import TlsContextSource
from supervisor.routing.live import LiveTable
from supervisor.routing.registry import ROUTES
from supervisor.routing.table import table_forwarding_all
from supervisor.workers.board import ConnectionBoard, PublishedSeats
from supervisor.workers.channel import ControlChannel
from supervisor.workers.counts import WorkerCounts
from supervisor.workers.service import ParentLookup, WorkerService

if TYPE_CHECKING:
    from collections.abc import Mapping

    from native_handlers.http.context import HttpHandler
    from supervisor.workers.settings import AccessRules, BackendAddress, InheritedListener, WorkerSettings

PARENTS_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGHUP)
"""Signals that only the parent acts on. A service manager sends them to all processes of the service at once; the
workers must go on until the parent says how."""

CLOSE_S = 2.0
"""How long closing the kept connections may take."""

HEALTH_HANDLERS: Mapping[str, HttpHandler] = MappingProxyType(
    {route.name: partial(serve, handle_health, route.common_headers) for route in ROUTES if route.is_health}
)
"""Health checks are answered here once the server stops: the backend does not know of the stop."""


class _Stopping:
    """Says whether the server was asked to stop."""

    def __init__(self, *, is_asked: bool) -> None:
        self.is_asked = is_asked


class ForwardingWorker:
    """Serves HTTP of one worker, made from its settings. See `supervisor.workers.service.Serving`.

    Raises:
        BadCertificate: the certificate of the admin port, or of https.client, cannot be used now.
    """

    def __init__(self, settings: WorkerSettings, lookup: ParentLookup) -> None:
        self._settings = settings
        self._backend = settings.backend
        self._stopping = _Stopping(is_asked=settings.is_stopping)
        self._guard = Guard(settings.access.security)
        self._counts = ServerCounts()
        self._pool = HttpPool(PoolLimits(max_connections=settings.links))
        self._volume_servers = volume_server_client(
            settings.https_client, source_host=settings.source_host, links=settings.links
        )
        forwarder = Forwarder(self._pool, self._address)
        context = HttpContext(
            settings=settings.http,
            node=self._view(),
            lookup=lookup,
            volume_servers=self._volume_servers,
            token_scope=self._guard,
            metrics=self._counts,
        )
        self._gateway = HttpGateway(
            LiveTable(table_forwarding_all()), HEALTH_HANDLERS, context, forwarder, self._guard, stop=self._stopping
        )
        self._forward = FastPathForwards(self._gateway, forwarder, None).begin
        self._listeners = [_listener(one) for one in settings.listeners]
        self._board = ConnectionBoard(settings.board_descriptor)
        self._seats = PublishedSeats("HTTP", settings.seats, self._board, settings.count, settings.number)

    def set_access(self, rules: AccessRules) -> None:
        self._guard.update(rules.security)

    def set_backend(self, address: BackendAddress) -> None:
        self._backend = address

    def set_stopping(self) -> None:
        self._stopping.is_asked = True

    def counts(self) -> WorkerCounts:
        seats = self._seats
        return WorkerCounts(
            self._gateway.counts, self._counts.snapshot(), seats.open_count, seats.given_up, seats.refused
        )

    async def serve(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        limits = HttpLimits(idle_timeout_s=self._settings.idle_timeout_s, drain_s=self._settings.drain_s)
        try:
            await serve_http(
                self._listeners,
                self._gateway.handle,
                limits=limits,
                forward=self._forward,
                seats=self._seats,
                turn_away=partial(turn_away, self._gateway.handle),
                urgent=HEALTH_REQUESTS,
                shared=SharedAccept(self._seats.pause_s, self._seats.in_a_row),
                task_status=task_status,
            )
        finally:
            self._board.close()
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._pool.drop_idle()
                await self._volume_servers.drop_idle()

    def _address(self, listener: Listener) -> Address:
        backend = self._backend
        return Address(LOOPBACK, backend.public_port if listener is Listener.PUBLIC else backend.admin_port)

    def _view(self) -> BackendNodeView:
        started_at_s = time.time()
        state = NodeState(
            details=lambda: NodeDetails(started_at_s=started_at_s),
            is_heartbeating=lambda: not self._stopping.is_asked,
            is_stopping=lambda: self._stopping.is_asked,
        )
        http = VolumeServerClient(HttpPool())
        return BackendNodeView(http, state, address=lambda: f"{LOOPBACK}:{self._backend.admin_port}")


def _listener(inherited: InheritedListener) -> BoundListener:
    tls = None if inherited.tls is None else TlsContextSource(inherited.tls, time.monotonic)
    return BoundListener(socket.socket(fileno=inherited.descriptor), inherited.kind, tls)


async def serve_worker(descriptor: int) -> None:
    """Serves until the parent says that it is over, or is gone."""
    channel = ControlChannel(socket.socket(fileno=descriptor))

    def make(settings: WorkerSettings) -> ForwardingWorker:
        set_up_logging(settings.log)
        return ForwardingWorker(settings, ParentLookup(channel))

    token = trio.lowlevel.current_trio_token()
    with settled_objects(partial(token.run_sync_soon, idempotent=True)):
        await WorkerService(channel, make).run()


def main(arguments: list[str]) -> int:
    """Runs one worker. Returns the exit status: 0 after a drain, or when the parent has gone."""
    for number in PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(int(arguments[0]), False)
    trio.run(serve_worker, int(arguments[0]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
