"""The native HTTP handlers by route name. This table is the whole public surface of the package.

`serve` wraps each handler with what all answers share: redirects to the canonical path (without
which `DELETE /3,01…/../4,02…` would be one volume's to the router and another's to the handler), the headers of this
server, and no body for HEAD.
Handlers raise nothing that a client can cause; what they do raise is a bug of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.http.delete import handle_delete
from native_handlers.http.health import handle_health
from native_handlers.http.options import (
    handle_invalid,
    handle_options,
    handle_public_options,
    handle_public_other,
)
from native_handlers.http.read import handle_read
from native_handlers.http.reply import bodiless, dress
from native_handlers.http.static import handle_favicon, handle_static
from native_handlers.http.stats import handle_stats
from native_handlers.http.status import handle_status
from native_handlers.http.ui import handle_ui
from native_handlers.http.unrouted import answer_unrouted
from native_handlers.http.write import handle_write

if TYPE_CHECKING:
    from collections.abc import Mapping

    from native_handlers.http.context import HttpContext, HttpHandler
    from native_handlers.http.message import Request, Response


class Dress(Enum):
    """Which of the common headers a route's answers carry."""

    NONE = "none"
    """Static files: no Server header and no request id, as upstream's file server."""
    PLAIN = "plain"
    CORS = "cors"


@dataclass(frozen=True, slots=True)
class _Row:
    handler: HttpHandler
    dress: Dress


async def serve(row: _Row, context: HttpContext, request: Request) -> Response:
    """The complete answer to `request`, whose body may be left unread."""
    unrouted = answer_unrouted(request)
    if unrouted is not None:
        return unrouted
    response = await row.handler(context, request)
    if row.dress is not Dress.NONE:
        response = dress(context.settings, request, response, with_cors=row.dress is Dress.CORS)
    return response if request.method != "HEAD" else await bodiless(response)


_ROWS = {
    "http.status": _Row(handle_status, Dress.PLAIN),
    "http.healthz": _Row(handle_health, Dress.PLAIN),
    "http.readyz": _Row(handle_health, Dress.PLAIN),
    "http.ui": _Row(handle_ui, Dress.PLAIN),
    "http.favicon": _Row(handle_favicon, Dress.NONE),
    "http.static": _Row(handle_static, Dress.NONE),
    "http.stats": _Row(handle_stats, Dress.CORS),
    "http.options": _Row(handle_options, Dress.CORS),
    "http.read": _Row(handle_read, Dress.CORS),
    "http.write": _Row(handle_write, Dress.CORS),
    "http.delete": _Row(handle_delete, Dress.CORS),
    "http.invalid": _Row(handle_invalid, Dress.CORS),
    "http.public.options": _Row(handle_public_options, Dress.CORS),
    "http.public.static": _Row(handle_static, Dress.NONE),
    "http.public.favicon": _Row(handle_favicon, Dress.NONE),
    "http.public.read": _Row(handle_read, Dress.CORS),
    "http.public.other": _Row(handle_public_other, Dress.CORS),
}

HTTP_HANDLERS: Mapping[str, HttpHandler] = {name: partial(serve, row) for name, row in _ROWS.items()}
"""Route name -> handler, for every route that this package answers."""
