"""The HTTP workers of one node: their settings, the questions that they may ask, and the sums of their counts.

There are two kinds: workers that forward to the backend, and workers of a native server, which hand on to this process.

Loaded only with -workers. docs/workers.md has the design.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.http.context import LookupFailed
from native_handlers.records import dataclass
from supervisor.assembly.http_context import make_http_settings
from supervisor.assembly.http_service import HEALTH_REQUESTS
from supervisor.assembly.lifecycle import DRAIN_HTTP_S
from supervisor.backend.handle import BackendHandle
from supervisor.backend.process import TiedProcess
from supervisor.control.metrics import HttpCountCollector
from supervisor.control.text_format import Family
from supervisor.control.volume_metrics import OWN_PREFIX
from supervisor.fast_path.long_requests import LONG_REQUESTS
from supervisor.net.http_limits import MAX_BODY_BYTES, HttpLimits
from supervisor.net.http_server import serve_http
from supervisor.net.listeners import listen_at
from supervisor.net.private_socket import descriptor_of, private_socket
from supervisor.net.seats import Seats
from supervisor.wire.handed_on import CLIENT_FIELD
from supervisor.wire.http1 import WireLimits
from supervisor.wire.http1_head import HeadLimits
from supervisor.workers.board import ConnectionBoard
from supervisor.workers.channel import CallRefused
from supervisor.workers.pool import WorkerBounds, Workers, WorkersSpec
from supervisor.workers.service import start_body
from supervisor.workers.settings import AccessRules, BackendAddress, InheritedListener, WorkerSettings
from supervisor.workers.spawn import WorkerKind, check_sendable, send_descriptors, spawn_worker

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from contextlib import ExitStack

    from native_handlers.storage.store import Store
    from supervisor.assembly.node import Node
    from supervisor.assembly.shared_volumes import SharedVolumes
    from supervisor.assembly.tasks import Tasks
    from supervisor.cluster.master_client import MasterClient
    from supervisor.gateway.handed_on import HandedOnRequests, NativeSource
    from supervisor.net.listeners import BoundListener
    from supervisor.routing.decision import Engine
    from supervisor.workers.channel import CallHandler
    from supervisor.workers.messages import Fields, JsonObject
    from supervisor.workers.spawn import EarlyWorkers

log = logging.getLogger(__name__)

DRAIN_MARGIN_S = 5.0
"""How much longer than its drain time a worker may take to end."""
LEAST_LINKS = 8
"""The fewest connections to the backend, or to this process, that a worker may have, where descriptors are short."""

_HEADS = HeadLimits()
_LIMITS = HttpLimits(
    wire=WireLimits(
        head=HeadLimits(_HEADS.max_bytes + len(CLIENT_FIELD) + 128, _HEADS.max_fields + 1),
        max_body_bytes=MAX_BODY_BYTES,
    ),
    idle_timeout_s=0.0,
    min_bytes_per_s=0.0,
    drain_s=DRAIN_HTTP_S,
)
"""The limits of requests that workers hand on. The worker keeps those of the client. A head has one field more here."""


@dataclass(frozen=True, slots=True)
class HttpWorkers:
    """The workers of a node, before their start. `seats` are those of all workers together.

    `start` starts them in a nursery; when it returns they serve. Its result stops them: they drain.
    """

    seats: WorkerSeats
    start: Callable[[trio.Nursery], Awaitable[Callable[[], None]]]


def prepare_workers(
    node: Node,
    listeners: Sequence[BoundListener],
    source: BackendHandle | NativeSource,
    tasks: Tasks,
    lookup: MasterClient,
    at_end: ExitStack,
) -> HttpWorkers:
    """The workers that serve `listeners`. `at_end` frees what belongs to them, after they have ended.

    Args:
        source: what answers: the backend, or this process, to which the workers hand requests on.

    Raises:
        NoPrivateSocket: the socket for the workers cannot be made.
        WorkersGaveUp: there are more data directories than workers can have locks of.
    """
    count, plan = node.config.workers, node.descriptors
    links = max(plan.links // count, LEAST_LINKS)
    backend, native = (source, None) if isinstance(source, BackendHandle) else (None, source)
    kind = WorkerKind.FORWARDING if native is None else WorkerKind.NATIVE
    service = None if native is None else make_service(native.requests, count * links, at_end)
    board = ConnectionBoard.create(count)
    at_end.callback(board.close)
    http = make_http_settings(node)
    inherited = tuple(
        InheritedListener(
            listener.sock.fileno(), listener.kind, None if listener.tls is None else listener.tls.settings
        )
        for listener in listeners
    )
    seats = max(plan.http_connections(0) // count, 1)

    def settings(number: int) -> JsonObject:
        return start_body(
            WorkerSettings(
                number=number,
                count=count,
                listeners=inherited,
                board_descriptor=board.descriptor,
                log=node.config.log,
                http=http,
                idle_timeout_s=node.config.idle_timeout_s,
                drain_s=DRAIN_HTTP_S,
                seats=seats,
                links=links,
                source_host=node.config.bind_ip,
                https_client=node.config.security.https_client,
                access=AccessRules.of(node.security.current()),
                is_stopping=node.stop.is_asked,
                backend=None if backend is None else backend_address(backend),
                parent_descriptor=None if service is None else service.descriptor,
                max_download_bytes=node.config.concurrent_download_limit_bytes,
                max_upload_bytes=node.config.concurrent_upload_limit_bytes,
                max_volumes=plan.shared_volumes,
            )
        )

    async def holders(body: Fields) -> JsonObject:
        return await find_holders(lookup, body)

    descriptors = [*(listener.descriptor for listener in inherited), board.descriptor]
    if service is not None:
        descriptors.append(service.descriptor)
    if native is not None:
        # A worker that waits for a disk may write after this process has ended: no other server may open the volumes
        # until the worker has ended too.
        descriptors += native.store.lock_descriptors()
    check_sendable(descriptors)
    handlers: dict[str, CallHandler] = {"holders": holders}
    watch: Callable[[], Awaitable[None]] | None = None
    note_end: Callable[[int], None] = board.mark_absent
    if native is not None:

        def started() -> Workers:
            return workers

        shared = share_store(native.store, plan.shared_volumes, started, board, count, at_end)
        handlers["share"] = shared.share
        note_end = partial(_note_end, board, shared)
        watch = partial(watch_locks, shared, started)
        tasks.throttle.join_downloads(partial(board.downloads_of_workers, count), board.publish_parents_downloads)
        tasks.throttle.join_uploads(partial(board.uploads_of_workers, count), board.publish_parents_uploads)
    spec = WorkersSpec(
        count=count,
        start=lambda _number: start_worker(node.early_workers, kind, descriptors),
        settings=settings,
        handlers=handlers,
        note_end=note_end,
        bounds=WorkerBounds(drain_s=DRAIN_HTTP_S + DRAIN_MARGIN_S),
    )
    workers: Workers = Workers(spec)
    tasks.counts.include(lambda: workers.sums.total().server)
    tasks.registry.register(WorkerCollector(workers, () if native is None else [native.counts]))
    tasks.exposition.refreshers.append(workers.refresh_counts)

    async def start(servers: trio.Nursery) -> Callable[[], None]:
        await servers.start(_serve, workers, node, backend, service, watch)

        async def push_access() -> None:
            told = await workers.push("access", AccessRules.of(node.security.current()).as_data())
            log.info("%d HTTP workers have the access rules", told)

        at_end.enter_context(node.reloads.including(push_access))

        def stop() -> None:
            for listener in listeners:
                listener.close()
            workers.request_stop()

        return stop

    return HttpWorkers(WorkerSeats(workers, seats * count), start)


def share_store(  # noqa: PLR0913, PLR0917  a part of `prepare_workers`
    store: Store,
    most: int,
    workers: Callable[[], Workers],
    board: ConnectionBoard,
    count: int,
    at_end: ExitStack,
) -> SharedVolumes:
    """Shares the volumes of `store` with workers until `at_end`. The `count` workers are told through `workers()`."""
    from supervisor.assembly.lock_watch import is_waiting_for_disk  # noqa: PLC0415  (storage core)
    from supervisor.assembly.shared_volumes import SharedVolumes  # noqa: PLC0415  (with it)
    from supervisor.assembly.shown_disks import show_disks  # noqa: PLC0415

    async def tell(volume_ids: list[int]) -> None:
        # The kernel would end a worker that waits for a disk no sooner than the disk answers, and its clients with it.
        # What it writes then goes to files that the volume has, or was acknowledged before the volume was closed.
        body: JsonObject = {"volume_ids": volume_ids}
        told = await workers().push("release", body, waits_for_new=False, spares=is_waiting_for_disk)
        log.debug("%d HTTP workers have let go of volumes %s", told, volume_ids)

    shared = SharedVolumes(store, most, tell)
    at_end.callback(store.add_listener(shared.note))
    at_end.callback(store.ec.add_listener(shared.note_shards))
    at_end.callback(show_disks(store, board, count))
    return shared


def _note_end(board: ConnectionBoard, shared: SharedVolumes, number: int) -> None:
    board.mark_absent(number)
    shared.note_death()


async def watch_locks(shared: SharedVolumes, workers: Callable[[], Workers]) -> None:
    """See `serve_lock_watch`."""
    from supervisor.assembly.lock_watch import serve_lock_watch  # noqa: PLC0415  (storage core)

    await serve_lock_watch(shared, workers)


@dataclass(frozen=True, slots=True)
class PrivateService:
    """Serves the requests that workers hand on.

    Attributes:
        descriptor: workers get a copy, and connect through it.
        serve: serves until its scope is cancelled, and drains.
    """

    descriptor: int
    serve: Callable[..., Awaitable[None]]


def make_service(requests: HandedOnRequests, most: int, at_end: ExitStack) -> PrivateService:
    """The service of `requests` on a socket that only workers can reach, with up to `most` connections.

    Raises:
        NoPrivateSocket: the socket cannot be made.
    """
    opened: list[BoundListener] = []
    path = at_end.enter_context(private_socket(lambda path: opened.append(listen_at(path))))
    at_end.callback(opened[0].close)
    serve = partial(
        serve_http,
        opened,
        requests.handle,
        limits=_LIMITS,
        fast_path=requests.answer,
        # All workers count as one client, and one client may have three quarters of all seats.
        seats=Seats("workers'", lambda: 2 * most),
        urgent=HEALTH_REQUESTS,
        long_requests=LONG_REQUESTS,
    )
    return PrivateService(descriptor_of(path), serve)


async def _serve(
    workers: Workers,
    node: Node,
    backend: BackendHandle | None,
    service: PrivateService | None,
    watch: Callable[[], Awaitable[None]] | None,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    async with trio.open_nursery() as watching:
        if watch is not None:
            watching.start_soon(watch)
        async with trio.open_nursery() as nursery:
            scope = None if service is None else await nursery.start(service.serve)
            await _serve_workers(workers, node, backend, task_status=task_status)
            if scope is not None:
                scope.cancel()
        watching.cancel_scope.cancel()


async def _serve_workers(
    workers: Workers, node: Node, backend: BackendHandle | None, *, task_status: trio.TaskStatus[None]
) -> None:
    async with trio.open_nursery() as following:
        async with trio.open_nursery() as serving:
            await serving.start(workers.serve)
            following.start_soon(follow_stop, node, workers)
            if backend is not None:
                following.start_soon(follow_backend, backend, workers)
            task_status.started()
        following.cancel_scope.cancel()


async def follow_stop(node: Node, workers: Workers) -> None:
    """Lets the workers' health checks say that the server stops."""
    await node.stop.wait()
    await workers.push("stopping", {})


async def follow_backend(backend: BackendHandle, workers: Workers) -> None:
    """Tells the workers where a restarted backend listens, if it listens elsewhere."""
    told = backend_address(backend)
    while True:
        address = backend_address(backend)
        if address == told:
            await backend.wait_changed()
        else:
            await workers.push("backend", address.as_data())
            told = address


def backend_address(backend: BackendHandle) -> BackendAddress:
    """The backend's HTTP ports now."""
    return BackendAddress(backend.ports.http, backend.ports.public)


async def find_holders(lookup: MasterClient, body: Fields) -> JsonObject:
    """Answers a worker's call `holders`."""
    try:
        found = await lookup.locations(body.integer("volume_id"), refresh=body.boolean("refresh"))
    except LookupFailed as failure:
        raise CallRefused(failure.reason) from failure
    rows: list[JsonObject] = [
        {"url": one.url, "public_url": one.public_url, "grpc_port": one.grpc_port} for one in found
    ]
    return {"holders": rows}


def start_worker(
    early: EarlyWorkers, kind: WorkerKind, descriptors: Sequence[int]
) -> tuple[TiedProcess, socket.socket]:
    """A worker that was started early, or else a new one, with copies of `descriptors`. Returns it, and this end of its
    control channel.

    Raises:
        BackendStartFailed: the system has no process or descriptor left, or the early worker has ended. Nothing runs.
    """
    worker = early.take() or spawn_worker(kind)
    send_descriptors(worker, descriptors)
    return TiedProcess(worker.popen, worker.pidfd), worker.channel


# ---- The workers in the metrics of the node.


class WorkerSeats:
    """The seats of all workers together, as their last counts say. Any thread may ask."""

    def __init__(self, workers: Workers, most: int) -> None:
        self._workers = workers
        self.most = most

    @property
    def open_count(self) -> int:
        return self._workers.sums.total().open_count

    @property
    def given_up(self) -> int:
        return self._workers.sums.total().given_up

    @property
    def refused(self) -> int:
        return self._workers.sums.total().refused


class WorkerCollector:
    """The HTTP requests of all workers together and by worker, and how the workers are.

    Args:
        own: what this process has counted, which is added to the sum.
    """

    def __init__(self, workers: Workers, own: Sequence[Mapping[tuple[str, Engine], int]] = ()) -> None:
        self._workers = workers
        self._own = own

    def collect(self) -> Iterable[Family]:
        sums = self._workers.sums
        yield from HttpCountCollector([*self._own, sums.total().requests]).collect()
        by_worker = Family(
            f"{OWN_PREFIX}worker_http_requests_total", "counter", "HTTP requests since the start of the worker."
        )
        handed_on = Family(
            f"{OWN_PREFIX}worker_handed_on_requests_total", "counter", "Those that the main process has answered."
        )
        connections = Family(f"{OWN_PREFIX}worker_connections", "gauge", "Open connections of clients.")
        for number, counts in sorted(sums.running().items()):
            labels = {"worker": str(number)}
            by_worker.add(labels, counts.requests.total() + counts.handed_on)
            handed_on.add(labels, counts.handed_on)
            connections.add(labels, counts.open_count)
        ready = Family(f"{OWN_PREFIX}workers", "gauge", "HTTP workers that serve now.")
        ready.add({}, self._workers.ready_count)
        restarts = Family(f"{OWN_PREFIX}worker_restarts", "gauge", "Workers that took the place of one that had ended.")
        restarts.add({}, self._workers.restarts)
        yield from (by_worker, handed_on, connections, ready, restarts)
