"""/healthz and /readyz: one local check under two names. Source: weed/server/volume_server_handlers_admin.go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http.reply import empty_reply

if TYPE_CHECKING:
    from native_handlers.http.context import HttpContext
    from native_handlers.http_model.message import Request, Response


async def handle_health(context: HttpContext, request: Request) -> Response:
    """200 while the server is serving; 503 once it is stopping or has left the cluster.

    An unreachable master or another server that is down never fails the check: an orchestrator would then restart
    healthy servers one after the other.
    """
    is_healthy = context.node.is_heartbeating and not context.node.is_stopping
    return empty_reply(200 if is_healthy else 503)
