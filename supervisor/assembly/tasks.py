"""The long tasks of a node besides its listeners: heartbeat, table reload, metrics port."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.records import dataclass
from native_handlers.runtime.server_counts import ServerCounts
from supervisor.assembly.metrics import node_collector, node_numbers, scrape_child
from supervisor.cluster.heartbeat import serve_heartbeat
from supervisor.control.metrics import NodeExposition, Registry, SupervisorMetrics, serve_metrics
from supervisor.control.push import PushTarget, serve_push
from supervisor.control.volume_metrics import VolumeMetrics
from supervisor.gateway.throttle import InflightLimit, Throttle
from supervisor.net.http_client import HttpPool
from supervisor.net.http_volume_servers import VolumeServerClient
from supervisor.routing.live import serve_table_reload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from native_handlers.storage.store import Store
    from supervisor.assembly.backend import ManagedBackend
    from supervisor.assembly.node import Node
    from supervisor.config.config import Config


@dataclass(frozen=True, slots=True)
class Tasks:
    """The objects that the tasks and the front share.

    The front writes `counts` and the bytes of `throttle`; the tasks read them."""

    metrics: SupervisorMetrics
    registry: Registry
    counts: ServerCounts
    throttle: Throttle
    exposition: NodeExposition


@asynccontextmanager
async def open_tasks(node: Node, store: Store | None, backend: ManagedBackend | None) -> AsyncIterator[Tasks]:
    """Runs the tasks while inside; on leaving, the node has left the cluster."""
    registry = Registry()
    metrics = SupervisorMetrics(registry)
    registry.register(node_collector(node, backend))
    counts, throttle = ServerCounts(), make_throttle(node.config)
    if store is not None:
        store.add_damage_listener(lambda damage: counts.count_handler(damage.kind.value))
    volume_metrics = VolumeMetrics(store, counts, node_numbers(node, throttle))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_table_reload, node.table)
        http = VolumeServerClient(HttpPool())
        scrape = partial(scrape_child, backend, http) if backend else None
        exposition = NodeExposition(registry, volume_metrics, scrape)
        push = PushTarget(partial(push_settings, node), node.identity.http)
        nursery.start_soon(serve_push, push, exposition.text, http)
        if node.config.metrics_port:
            await nursery.start(serve_metrics, exposition.text, node.config.metrics_ip, node.config.metrics_port)
        heartbeat = partial(serve_heartbeat, handle=node.heartbeat)
        await nursery.start(heartbeat, node.model, node.identity, node.config.masters, node.dial)
        try:
            yield Tasks(metrics, registry, counts, throttle, exposition)
        finally:
            node.leave()
            nursery.cancel_scope.cancel()


def push_settings(node: Node) -> tuple[str, int]:
    """The push gateway's address, and the seconds between two pushes, as the master said last."""
    settings = node.masters.settings
    return settings.metrics_address, settings.metrics_interval_s


def make_throttle(config: Config) -> Throttle:
    """The bounds on bytes in flight from the flags, for both listeners together."""
    return Throttle(
        upload=InflightLimit(config.concurrent_upload_limit_bytes, config.inflight_upload_timeout_s),
        download=InflightLimit(config.concurrent_download_limit_bytes, config.inflight_download_timeout_s),
    )
