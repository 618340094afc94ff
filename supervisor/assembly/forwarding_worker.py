"""A worker of a server whose backend answers every HTTP request: the worker forwards."""

from __future__ import annotations

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
from supervisor.assembly.http_service import volume_server_client
from supervisor.assembly.worker_ports import WorkerPorts
from supervisor.backend.ports import LOOPBACK
from supervisor.fast_path.forwards import FastPathForwards
from supervisor.gateway.backend_view import BackendNodeView
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.net.http_client import Address, HttpPool, PoolLimits
from supervisor.net.http_forward import Forwarder
from supervisor.net.http_volume_servers import VolumeServerClient
from supervisor.routing.live import LiveTable
from supervisor.routing.registry import ROUTES
from supervisor.routing.table import table_forwarding_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from native_handlers.http.context import HttpHandler
    from supervisor.workers.counts import WorkerCounts
    from supervisor.workers.service import ParentLookup
    from supervisor.workers.settings import AccessRules, BackendAddress, WorkerSettings

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
    """Serves HTTP of one worker of a server whose backend answers everything. See `supervisor.workers.service.Serving`.

    Raises:
        BadCertificate: the certificate of the admin port, or of https.client, cannot be used now.
    """

    def __init__(self, settings: WorkerSettings, backend: BackendAddress, lookup: ParentLookup) -> None:
        self._backend = backend
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
        self._ports = WorkerPorts(settings)

    def set_access(self, rules: AccessRules) -> None:
        self._guard.update(rules.security)

    def set_backend(self, address: BackendAddress) -> None:
        self._backend = address

    def set_stopping(self) -> None:
        self._stopping.is_asked = True

    async def release(self, volume_ids: Sequence[int]) -> None:
        raise AssertionError(f"the backend has all volumes, among them {volume_ids}")

    def counts(self) -> WorkerCounts:
        return self._ports.counts(self._gateway.counts, self._counts)

    async def serve(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        try:
            await self._ports.serve(self._gateway.handle, forward=self._forward, task_status=task_status)
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._pool.drop_idle()
                await self._volume_servers.drop_idle()
            self._ports.close()

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
