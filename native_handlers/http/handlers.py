"""The native HTTP handlers by route name: all routes that this package answers.

`reply.serve` wraps a handler with the common parts of all answers. Handlers raise no exception that a client can cause;
an exception from a handler is a bug.
"""

from __future__ import annotations

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
from native_handlers.http.static import handle_favicon, handle_static
from native_handlers.http.stats import handle_stats
from native_handlers.http.status import handle_status
from native_handlers.http.ui import handle_ui
from native_handlers.http.write import handle_write

if TYPE_CHECKING:
    from collections.abc import Mapping

    from native_handlers.http.context import HttpHandler


HTTP_HANDLERS: Mapping[str, HttpHandler] = {
    "http.status": handle_status,
    "http.healthz": handle_health,
    "http.readyz": handle_health,
    "http.ui": handle_ui,
    "http.favicon": handle_favicon,
    "http.static": handle_static,
    "http.stats": handle_stats,
    "http.options": handle_options,
    "http.read": handle_read,
    "http.write": handle_write,
    "http.delete": handle_delete,
    "http.invalid": handle_invalid,
    "http.public.options": handle_public_options,
    "http.public.static": handle_static,
    "http.public.favicon": handle_favicon,
    "http.public.read": handle_read,
    "http.public.other": handle_public_other,
}
"""Route name -> handler, for every route that this package answers."""
