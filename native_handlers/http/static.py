"""The static files under /seaweedfsstatic/ and /favicon.ico, read once and kept in memory: a few kilobytes.

Names are looked up in a fixed table, so no path of a request reaches the file system.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from native_handlers.http.reply import text_error
from native_handlers.http.send_content import Labels, MemoryContent, send_content
from native_handlers.http_model.headers import HeaderMap
from native_handlers.http_model.query import Query
from native_handlers.http_model.target import STATIC_PREFIX

if TYPE_CHECKING:
    from native_handlers.http.context import HttpContext
    from native_handlers.http_model.message import Request, Response

_FAVICON = "favicon.ico"
_TYPES = {
    _FAVICON: "image/x-icon",
    "seaweed50x50.png": "image/png",
    "volume.css": "text/css; charset=utf-8",
}
"""All assets. The name of the icon is upstream's; monitoring pages link to it."""


_NO_QUERY = Query()


async def handle_favicon(context: HttpContext, request: Request) -> Response:
    return await _asset(request, _FAVICON)


async def handle_static(context: HttpContext, request: Request) -> Response:
    """The asset, or the 404 page of Go's file server. Directories are not listed."""
    name = request.parsed.path.removeprefix(STATIC_PREFIX)
    return await _asset(request, name) if name in _TYPES else text_error(404, "404 page not found")


async def _asset(request: Request, name: str) -> Response:
    headers = HeaderMap()
    headers.set("Cache-Control", "max-age=3600")
    return await send_content(request, _NO_QUERY, headers, MemoryContent(_read_asset(name)), Labels("", _TYPES[name]))


@cache
def _read_asset(name: str) -> bytes:
    return files("native_handlers.http").joinpath("assets", name).read_bytes()
