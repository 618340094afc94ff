"""OPTIONS, and the methods that a port does not serve. Source: weed/server/volume_server_handlers.go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http.reply import empty_reply, json_error
from native_handlers.http_model.headers import HeaderMap
from native_handlers.http_model.message import Response

if TYPE_CHECKING:
    from native_handlers.http.context import HttpContext
    from native_handlers.http_model.message import Request


async def handle_options(context: HttpContext, request: Request) -> Response:
    """The methods that the admin port allows, with or without an Origin."""
    return _allowing("PUT, POST, GET, DELETE, OPTIONS")


async def handle_public_options(context: HttpContext, request: Request) -> Response:
    """The methods that the public port allows."""
    return _allowing("GET, OPTIONS")


async def handle_invalid(context: HttpContext, request: Request) -> Response:
    """400: an unknown method on the admin port is the client's mistake."""
    return json_error(request, 400, f"unsupported method {request.method}")


async def handle_public_other(context: HttpContext, request: Request) -> Response:
    """200 without a body: the public port accepts any other method and does nothing."""
    return empty_reply(200)


def _allowing(methods: str) -> Response:
    return Response(200, HeaderMap([("Access-Control-Allow-Methods", methods), ("Access-Control-Allow-Headers", "*")]))
