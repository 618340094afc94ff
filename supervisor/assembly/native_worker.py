"""A worker of a server that has the volumes itself: the worker reads them, makes small changes, and hands all other
requests on to the parent.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from native_handlers.http.context import HttpContext, NodeDetails
from native_handlers.http.node_view import NodeState
from native_handlers.http.read import try_read_as_stored
from native_handlers.http.reply import serve
from native_handlers.runtime.server_counts import ServerCounts
from supervisor.assembly.worker_ports import WorkerPorts
from supervisor.assembly.worker_volumes import WorkerVolumes
from supervisor.fast_path.fast_path import FastPath
from supervisor.fast_path.hand_on import HandOn, client_field
from supervisor.gateway.backend_view import BackendNodeView
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway, LeftToParent
from supervisor.gateway.throttle import InflightLimit, Throttle
from supervisor.net.http_client import Address, HttpPool, PoolLimits
from supervisor.net.http_connect import UnixConnector
from supervisor.net.http_forward import Forwarder
from supervisor.net.http_volume_servers import VolumeServerClient
from supervisor.routing.decision import Engine
from supervisor.routing.live import LiveTable
from supervisor.routing.match import match_http
from supervisor.routing.registry import ROUTES, AccessKind, Protocol
from supervisor.routing.table import table_native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.http_model.message import Request, Response
    from supervisor.routing.registry import Route
    from supervisor.workers.board import ConnectionBoard
    from supervisor.workers.counts import WorkerCounts
    from supervisor.workers.service import ParentVolumes
    from supervisor.workers.settings import AccessRules, BackendAddress, WorkerSettings

CLOSE_S = 2.0
"""How long closing the kept connections and the volumes may take."""
_PARENT = Address("the main process", 0)
_READS = ("GET", "HEAD")


def _routes_of(kind: AccessKind) -> dict[str, Route]:
    return {route.name: route for route in ROUTES if route.protocol is Protocol.HTTP and route.access.kind is kind}


READ_ROUTES = _routes_of(AccessKind.VOLUME_READ)
"""The routes that a worker answers itself where it can."""
WRITE_ROUTES = _routes_of(AccessKind.VOLUME_WRITE)
"""The routes that a worker answers itself where the fast path can. The ordinary way hands them on."""


class NativeWorker:
    """Serves HTTP of one worker of a native server. See `supervisor.workers.service.Serving`.

    Raises:
        BadCertificate: the certificate of the admin port cannot be used now.
    """

    def __init__(self, settings: WorkerSettings, parent: ParentVolumes) -> None:
        assert settings.parent_descriptor is not None, "the server has a backend, or the parent has a socket"
        connect = UnixConnector(Path(f"/proc/self/fd/{settings.parent_descriptor}"))
        self._pool = HttpPool(PoolLimits(max_connections=settings.links), connect=connect)
        forwarder = Forwarder(self._pool, lambda _listener: _PARENT, first_field=client_field, name=_PARENT.host)
        self._hand_on = HandOn(forwarder, self._is_read_here)
        self._counts = ServerCounts()
        self._ports = WorkerPorts(settings)
        self._volumes = WorkerVolumes(parent, self._ports.board, settings.max_volumes, settings.number, settings.count)
        self._guard = Guard(settings.access.security)
        self._throttle = _throttle(settings, self._ports.board)
        context = HttpContext(
            settings=settings.http,
            node=_no_view(),
            token_scope=self._guard,
            metrics=self._counts,
            attached=self._volumes,
        )
        handlers = {name: partial(serve, read_or_leave, route.common_headers) for name, route in READ_ROUTES.items()}
        self._gateway = HttpGateway(
            LiveTable(table_native([*READ_ROUTES, *WRITE_ROUTES])), handlers, context, None, self._guard, self._throttle
        )
        self._fast_path = FastPath(context, self._gateway)

    def set_access(self, rules: AccessRules) -> None:
        self._guard.update(rules.security)

    def set_backend(self, address: BackendAddress) -> None:
        raise AssertionError(f"there is no backend, and now one at {address}")

    def set_stopping(self) -> None:
        """Changes nothing: the parent answers health checks."""

    async def release(self, volume_ids: Sequence[int]) -> None:
        await self._volumes.release(volume_ids)

    def counts(self) -> WorkerCounts:
        return self._ports.counts(self._gateway.counts, self._counts, handed_on=self._hand_on.count)

    async def serve(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        async with trio.open_nursery() as attaching:
            attaching.start_soon(self._volumes.serve)
            try:
                await self._ports.serve(
                    self._handle, fast_path=self._fast_path.answer, forward=self._hand_on.begin, task_status=task_status
                )
            finally:
                attaching.cancel_scope.cancel()
                self._fast_path.close()
                with trio.move_on_after(CLOSE_S, shield=True):
                    await self._pool.drop_idle()
                    await self._volumes.close()
                self._ports.close()

    async def _handle(self, request: Request) -> Response:
        route = match_http(request.listener, request.method, request.parsed.raw_path)
        if route.name not in READ_ROUTES or not self._may_read(request):
            return await self._hand_on.handle(request)
        try:
            return await self._gateway.handle(request, route)
        except LeftToParent:
            self._gateway.counts[route.name, Engine.NATIVE] -= 1  # the parent counts it
            return await self._hand_on.handle(request)

    def _is_read_here(self, method: str, volume_id: int) -> bool:
        return method in _READS and self._volumes.is_open(volume_id) and not self._throttle.downloads.must_wait()

    def _may_read(self, request: Request) -> bool:
        """Whether to try. Where too much is in flight, the request waits in the parent."""
        volume_id = request.parsed.volume_id
        is_read = volume_id is not None and request.body.length_bytes == 0 and not self._throttle.downloads.must_wait()
        return is_read and volume_id is not None and self._volumes.find_volume(volume_id) is not None


async def read_or_leave(context: HttpContext, request: Request) -> Response:
    """The answer of `try_read_as_stored`. Raises LeftToParent where there is none."""
    response = await try_read_as_stored(context, request)
    if response is None:
        raise LeftToParent
    return response


def _throttle(settings: WorkerSettings, board: ConnectionBoard) -> Throttle:
    """Bounds what is in flight together with the other workers and the parent."""
    throttle = Throttle(InflightLimit(settings.max_upload_bytes), InflightLimit(settings.max_download_bytes))
    elsewhere = partial(board.downloads_besides, settings.count, settings.number)
    throttle.join_downloads(elsewhere, partial(board.publish_downloads, settings.number))
    elsewhere = partial(board.uploads_besides, settings.count, settings.number)
    throttle.join_uploads(elsewhere, partial(board.publish_uploads, settings.number))
    return throttle


def _no_view() -> BackendNodeView:
    """A view that no read asks."""
    state = NodeState(
        details=lambda: NodeDetails(started_at_s=time.time()), is_heartbeating=lambda: True, is_stopping=lambda: False
    )
    return BackendNodeView(VolumeServerClient(HttpPool()), state, address=lambda: "")
