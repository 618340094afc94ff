"""Responses in the shapes that upstream gives: JSON, empty, plain text errors, redirects with a line of HTML.

What every answer carries (Server, request id, CORS) is added once, by `dress`, after the handler is done.
Source: weed/server/common.go writeJson; Go's net/http Error and Redirect.
"""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from native_handlers.http.go_json import encode_json
from native_handlers.http.headers import Headers
from native_handlers.http.message import Response, StreamBody
from native_handlers.http.query import parse_query
from native_handlers.http.request_id import REQUEST_ID_HEADER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from http import HTTPStatus

    from native_handlers.http.context import HttpSettings
    from native_handlers.http.message import Request

_BODILESS = frozenset((204, 304))
CORS_HEADERS = (("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Credentials", "true"))


def json_reply(request: Request, status: int, value: object, headers: Headers | None = None) -> Response:
    """`value` as JSON, indented where the query has a non-empty `pretty`; a status without a body gets none."""
    kept = headers or Headers()
    if status in _BODILESS:
        return Response(status, kept)
    is_pretty = bool(parse_query(request.raw_query).get("pretty"))
    kept = kept.plus(("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"))
    return Response(status, kept, encode_json(value, is_pretty=is_pretty))


def json_error(request: Request, status: int, message: str) -> Response:
    """``{"error": message}``; `message` is proper text, not wire text."""
    return json_reply(request, status, {"error": message})


def empty_reply(status: int) -> Response:
    return Response(status)


def text_error(status: int, message: str, headers: Headers | None = None) -> Response:
    """A plain text line, with what `headers` say of another body left out."""
    kept = (headers or Headers()).without(("Content-Length", "Content-Type", "X-Content-Type-Options"))
    kept = kept.plus(("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))
    return Response(status, kept, f"{message}\n".encode())


def bad_request() -> Response:
    """What Go's server itself says to a request that it cannot parse, before any handler; the connection closes."""
    headers = Headers([("Content-Type", "text/plain; charset=utf-8")])
    return Response(400, headers, b"400 Bad Request", close_connection=True)


def redirect(request: Request, status: HTTPStatus, location: str) -> Response:
    """A redirect to `location` (ASCII), with a line of HTML for a GET."""
    headers = Headers([("Location", location)])
    if request.method not in {"GET", "HEAD"}:
        return Response(status, headers)
    headers = headers.plus(("Content-Type", "text/html; charset=utf-8"))
    shown = escape(location, quote=False).replace('"', "&#34;").replace("'", "&#39;")
    page = f'<a href="{shown}">{status.phrase}</a>.\n\n'
    return Response(status, headers, page.encode() if request.method == "GET" else b"")


def dress(settings: HttpSettings, request: Request, response: Response, *, with_cors: bool) -> Response:
    """`response` with the headers that each answer of this server carries."""
    added = [("Server", f"SeaweedFS Volume {settings.version}"), (REQUEST_ID_HEADER, request.request_id)]
    if with_cors and request.headers.get("Origin"):
        added += CORS_HEADERS
    known = response.headers.without(name for name, _ in added)
    response.headers = Headers(sorted((*known, *added), key=lambda pair: pair[0]))
    return response


def without_body(response: Response) -> Response:
    """The answer to a HEAD: the headers of `response` with its length, and no body."""
    headers = response.headers
    if "Content-Length" not in headers and response.status not in _BODILESS:
        length = response.length_bytes
        headers = headers if length is None else headers.plus(("Content-Length", str(length)))
    return replace(response, headers=headers, body=b"")


async def bodiless(response: Response) -> Response:
    """As `without_body`, with a body that is produced on the go given up."""
    if isinstance(response.body, StreamBody):
        await close_chunks(response.body.chunks)
    return without_body(response)


async def close_chunks(chunks: AsyncIterator[bytes]) -> None:
    """Gives up an iteration that was not run to its end; an async generator then runs its clean-up."""
    aclose = getattr(chunks, "aclose", None)
    if aclose is not None:
        await aclose()
