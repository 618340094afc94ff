"""The routes with a native handler, and the HTTP handlers bound to what the registry says of their routes.

This module is apart from the rest of the package because it loads every handler. Only the start of a server and the
command line need that. Matching and tables get the names as an argument.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from native_handlers.grpc.handlers import RPC_NAMES
from native_handlers.http.handlers import HTTP_HANDLERS
from native_handlers.http.reply import serve
from supervisor.routing.registry import ROUTES_BY_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from native_handlers.http.context import HttpHandler

NATIVE_HTTP: Mapping[str, HttpHandler] = {
    name: partial(serve, handler, ROUTES_BY_NAME[name].common_headers) for name, handler in HTTP_HANDLERS.items()
}
"""By route name, the function that gives the complete answer of each HTTP route that this process can answer."""


def native_names() -> frozenset[str]:
    """The names of all routes that this process can answer."""
    return frozenset((*NATIVE_HTTP, *(f"grpc.{name}" for name in RPC_NAMES)))
