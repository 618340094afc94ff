"""The long tasks of a node beside its listeners: heartbeat, table reload, metrics port."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio
from prometheus_client import CollectorRegistry

from supervisor.assembly.metrics import node_collectors, scrape_child
from supervisor.cluster.heartbeat import serve_heartbeat
from supervisor.control.metrics import SupervisorMetrics, exposition
from supervisor.control.push import PushTarget, serve_push
from supervisor.net.http_client import HttpPool
from supervisor.net.http_peer import PeerClient
from supervisor.routing.live import serve_table_reload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from native_handlers.storage.store import Store
    from supervisor.assembly.backend import ManagedBackend
    from supervisor.assembly.node import Node

GOODBYE_S = 5.0
"""How long the last heartbeat may take when the tasks end."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """What the running tasks offer to the front."""

    metrics: SupervisorMetrics
    registry: CollectorRegistry


@asynccontextmanager
async def open_tasks(node: Node, store: Store | None, backend: ManagedBackend | None) -> AsyncIterator[Tasks]:
    """Runs the tasks while inside; on leaving, the node has left the cluster."""
    registry = CollectorRegistry()
    metrics = SupervisorMetrics(registry)
    for collector in node_collectors(node, store, backend):
        registry.register(collector)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_table_reload, node.table)
        http = PeerClient(HttpPool())
        scrape = partial(scrape_child, backend, http) if backend else None
        push = PushTarget(partial(push_settings, node), node.identity.http)
        nursery.start_soon(serve_push, push, partial(exposition, registry, scrape), http)
        if node.config.metrics_port:
            # hypercorn and starlette take a tenth of the start, and most nodes have no such port.
            from supervisor.control.metrics_app import metrics_app, serve_metrics  # noqa: PLC0415

            app = metrics_app(registry, scrape)
            await nursery.start(serve_metrics, app, node.config.metrics_ip, node.config.metrics_port)
        heartbeat = partial(serve_heartbeat, view=node.masters)
        node.heartbeat = await nursery.start(heartbeat, node.model, node.identity, node.config.masters, node.dial)
        try:
            yield Tasks(metrics, registry)
        finally:
            node.leave()
            nursery.cancel_scope.cancel()


def push_settings(node: Node) -> tuple[str, int]:
    """The push gateway's address and the seconds between two pushes, as the master said them last."""
    settings = node.masters.settings
    return settings.metrics_address, settings.metrics_interval_s
