"""OPTIONS, and the methods that a port does not serve. Source: weed/server/volume_server_handlers.go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http.headers import Headers
from native_handlers.http.message import Response
from native_handlers.http.reply import empty_reply, json_error

if TYPE_CHECKING:
    from native_handlers.http.context import HttpContext
    from native_handlers.http.message import Request


async def handle_options(context: HttpContext, request: Request) -> Response:
    """What the admin port allows, with or without an Origin."""
    return _allowing("PUT, POST, GET, DELETE, OPTIONS")


async def handle_public_options(context: HttpContext, request: Request) -> Response:
    """What the public port allows."""
    return _allowing("GET, OPTIONS")


async def handle_invalid(context: HttpContext, request: Request) -> Response:
    """An unknown method on the admin port is the client's mistake."""
    return json_error(request, 400, f"unsupported method {request.method}")


async def handle_public_other(context: HttpContext, request: Request) -> Response:
    """The public port takes any other method and does nothing, with 200."""
    return empty_reply(200)


def _allowing(methods: str) -> Response:
    return Response(200, Headers([("Access-Control-Allow-Methods", methods), ("Access-Control-Allow-Headers", "*")]))
