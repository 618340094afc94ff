"""The metrics port: GET /metrics, nothing else. With a backend its series come first, then this process's own.

The backend's exposition is passed on as it is; only series that it also would have are left out of ours.
Source of the port's behaviour: weed/stats/metrics.go, StartMetricsServer.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import hypercorn.config
import hypercorn.trio
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from supervisor.control.metrics import ScrapeBackend, exposition
from supervisor.wire.server_address import join_host_port

if TYPE_CHECKING:
    import trio
    from prometheus_client import CollectorRegistry
    from starlette.requests import Request

log = logging.getLogger(__name__)
GRACEFUL_TIMEOUT_S = 2.0


def metrics_app(registry: CollectorRegistry, scrape_backend: ScrapeBackend) -> Starlette:
    """The ASGI application of the metrics port."""

    async def metrics(_request: Request) -> Response:
        return Response(await exposition(registry, scrape_backend), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics)])


async def serve_metrics(app: Starlette, host: str, port: int, *, task_status: trio.TaskStatus[list[str]]) -> None:
    """Serves until cancelled; started() with the bound URLs.

    Raises:
        OSError: the port cannot be bound.
    """
    config = hypercorn.config.Config()
    config.bind = [join_host_port(host, port)]
    config.graceful_timeout = GRACEFUL_TIMEOUT_S
    config.errorlog = logging.getLogger("supervisor.control.hypercorn")
    config.accesslog = None
    await hypercorn.trio.serve(app, config, task_status=task_status)  # type: ignore[arg-type]  # starlette's own ASGI types
