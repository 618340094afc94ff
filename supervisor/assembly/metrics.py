"""The node's facts as gauges, and the child's exposition."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.http.headers import Headers
from native_handlers.version import own_version
from supervisor.control.metrics import Gauge, StateCollector
from supervisor.control.volume_metrics import StoreCollector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from native_handlers.http.context import PeerHttp
    from native_handlers.storage.store import Store
    from supervisor.assembly.backend import ManagedBackend
    from supervisor.assembly.node import Node

log = logging.getLogger(__name__)
SCRAPE_TIMEOUT_S = 5.0


def node_collectors(
    node: Node, store: Store | None, backend: ManagedBackend | None
) -> list[StateCollector | StoreCollector]:
    """What is read at each scrape. A store's volumes are counted only where this process has them open."""
    gauges = {
        "build_info": Gauge("1, with the versions as labels.", ("version", "as_upstream"), partial(_build_info, node)),
        "route_state": Gauge("1 for the state that a route is in.", ("route", "state"), partial(_route_states, node)),
        "is_heartbeating": Gauge("0 once the node has left its master.", (), partial(_is_heartbeating, node)),
    }
    if backend is not None:
        gauges["child_state"] = Gauge(
            "1 for the state that the child is in.", ("state",), partial(_child_state, backend)
        )
        gauges["child_restarts"] = Gauge("Starts of the child after its first.", (), partial(_child_restarts, backend))
    collectors: list[StateCollector | StoreCollector] = [StateCollector(gauges)]
    if store is not None:
        collectors.append(StoreCollector(store, node.started_at_s))
    return collectors


async def scrape_child(backend: ManagedBackend, http: PeerHttp) -> bytes:
    """The child's own exposition; b"" while it cannot be had, which `child_state` explains."""
    with trio.move_on_after(SCRAPE_TIMEOUT_S):
        try:
            answer = await http.request("GET", backend.handle.metrics_address, "/metrics", Headers(), b"")
            pieces = [chunk async for chunk in answer.chunks]
        except Exception as error:  # noqa: BLE001  whatever is wrong with the child, our own series must come out
            log.warning("the backend's metrics cannot be read: %s", error)
            return b""
        return b"".join(pieces) if answer.status == 200 else b""
    log.warning("the backend's metrics did not come within %g s", SCRAPE_TIMEOUT_S)
    return b""


def _build_info(node: Node) -> Mapping[tuple[str, ...], float]:
    return {(own_version(), node.version_text): 1}


def _route_states(node: Node) -> Mapping[tuple[str, ...], float]:
    return {(route, state.value): 1 for route, state in node.table.current().states.items()}


def _is_heartbeating(node: Node) -> Mapping[tuple[str, ...], float]:
    return {(): 1 if node.is_heartbeating else 0}


def _child_state(backend: ManagedBackend) -> Mapping[tuple[str, ...], float]:
    return {(backend.handle.state.value,): 1}


def _child_restarts(backend: ManagedBackend) -> Mapping[tuple[str, ...], float]:
    return {(): backend.handle.restarts}
