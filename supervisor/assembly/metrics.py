"""The facts of the node as gauges, and the child's metrics text."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.http_model.headers import Headers
from native_handlers.runtime.version import OWN_VERSION, UPSTREAM_COMPATIBLE_VERSION, size_limit_text
from supervisor.control.metrics import Gauge, StateCollector
from supervisor.control.volume_metrics import NodeNumbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from native_handlers.http_model.volume_servers import VolumeServerHttp
    from supervisor.assembly.backend import ManagedBackend
    from supervisor.assembly.node import Node
    from supervisor.gateway.throttle import Throttle

log = logging.getLogger(__name__)
SCRAPE_TIMEOUT_S = 5.0


def node_numbers(node: Node, throttle: Throttle) -> NodeNumbers:
    """The node's own numbers for upstream's families."""
    config = node.config
    return NodeNumbers(
        started_at_s=node.started_at_s,
        version=UPSTREAM_COMPATIBLE_VERSION,
        commit=node.commit_text,
        size_limit=size_limit_text(node.offset_width.width_bytes),
        upload_limit_bytes=config.concurrent_upload_limit_bytes,
        download_limit_bytes=config.concurrent_download_limit_bytes,
        upload_bytes_in_flight=lambda: throttle.uploads.total_bytes,
        download_bytes_in_flight=lambda: throttle.downloads.total_bytes,
        master_disconnections=lambda: node.heartbeat.disconnections,
    )


def node_collector(node: Node, backend: ManagedBackend | None) -> StateCollector:
    """The facts about this process, read at each scrape."""
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
    return StateCollector(gauges)


async def scrape_child(backend: ManagedBackend, http: VolumeServerHttp) -> bytes:
    """The child's metrics text; b"" while the child gives none. `child_state` then shows why."""
    with trio.move_on_after(SCRAPE_TIMEOUT_S):
        try:
            answer = await http.request("GET", backend.handle.metrics_address, "/metrics", Headers(), b"")
            pieces = [chunk async for chunk in answer.chunks]
        except Exception as error:  # noqa: BLE001  a fault of the child must not hide this process's series
            log.warning("the backend's metrics cannot be read: %s", error)
            return b""
        return b"".join(pieces) if answer.status == 200 else b""
    log.warning("the backend's metrics did not come within %g s", SCRAPE_TIMEOUT_S)
    return b""


def _build_info(node: Node) -> Mapping[tuple[str, ...], float]:
    return {(OWN_VERSION, node.version_text): 1}


def _route_states(node: Node) -> Mapping[tuple[str, ...], float]:
    return {(route, state.value): 1 for route, state in node.table.current().states.items()}


def _is_heartbeating(node: Node) -> Mapping[tuple[str, ...], float]:
    return {(): 1 if node.is_heartbeating else 0}


def _child_state(backend: ManagedBackend) -> Mapping[tuple[str, ...], float]:
    return {(backend.handle.state.value,): 1}


def _child_restarts(backend: ManagedBackend) -> Mapping[tuple[str, ...], float]:
    return {(): backend.handle.restarts}
