"""Responses in upstream's forms: JSON, empty, plain text errors, redirects with a line of HTML.

The common headers (Server, request id, CORS) are added to the headers that a handler has set. Source:
weed/server/common.go writeJson; Go's net/http Error and Redirect.
"""

from __future__ import annotations

from dataclasses import replace
from html import escape
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, TypeVar

from native_handlers.http_model.go_json import encode_json
from native_handlers.http_model.headers import CommonHeaders, HeaderMap, Headers
from native_handlers.http_model.message import REQUEST_ID_HEADER, Response, StreamBody
from native_handlers.http_model.target import is_well_formed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from native_handlers.http.settings import HttpSettings
    from native_handlers.http_model.message import Request


class HasSettings(Protocol):
    """The part of a handler's context that the common headers need."""

    @property
    def settings(self) -> HttpSettings: ...


C = TypeVar("C", bound=HasSettings)

_BODILESS = frozenset((204, 304))
_CORS_HEADERS = (("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Credentials", "true"))


async def serve(
    handler: Callable[[C, Request], Awaitable[Response]], common_headers: CommonHeaders, context: C, request: Request
) -> Response:
    """The complete answer of `handler` to `request`. The request's body may be left unread.

    This function does the common part of all answers: redirects to the canonical path, the server's headers, and no
    body for HEAD. The redirect comes first, as in Go's mux, so no handler gets a path that is not canonical.
    """
    if not request.parsed.is_canonical:
        unrouted = redirect_to_canonical(request)
        if unrouted is not None:
            return unrouted
    response = await handler(context, request)
    if common_headers is not CommonHeaders.NONE:
        response = add_common_headers(
            context.settings, request, response, with_cors=common_headers is CommonHeaders.CORS
        )
    return response if request.method != "HEAD" else await bodiless(response)


def redirect_to_canonical(request: Request) -> Response | None:
    """The answer to a request that Go's server answers before any handler: 400 for a path that cannot be parsed, 307
    for a path that is not canonical. None for every other request.

    Source: Go's server (its parser, ServeMux).
    """
    target = request.parsed
    if target.is_canonical:
        return None
    if not is_well_formed(target):
        return bad_request()
    location = target.canonical_target(request.method)
    return None if location is None else redirect(request, HTTPStatus.TEMPORARY_REDIRECT, location)


def json_reply(request: Request, status: int, value: object, headers: HeaderMap | None = None) -> Response:
    """`value` as JSON, indented where the query has a non-empty `pretty`. A status that has no body gets none.

    `headers` are the other headers of the answer; the map becomes the answer's.
    """
    kept = HeaderMap() if headers is None else headers
    if status in _BODILESS:
        return Response(status, kept)
    kept.fields["Content-Type"] = "application/json"
    kept.fields["X-Content-Type-Options"] = "nosniff"
    return Response(status, kept, encode_json(value, is_pretty=is_pretty(request)))


def is_pretty(request: Request) -> bool:
    """Whether the query asks for indented JSON."""
    target = request.parsed
    return bool(target.raw_query) and bool(target.query.get("pretty"))


def json_error(request: Request, status: int, message: str) -> Response:
    """``{"error": message}``; `message` is decoded text, not wire text."""
    return json_reply(request, status, {"error": message})


def with_fields(response: Response, *fields: tuple[str, str]) -> Response:
    """`response` with these header fields added, in the map that it has."""
    headers = response.headers
    if not isinstance(headers, HeaderMap):
        response.headers = headers.plus(*fields)
        return response
    for name, value in fields:
        headers.set(name, value)
    return response


def empty_reply(status: int) -> Response:
    return Response(status)


def text_error(status: int, message: str, headers: HeaderMap | None = None) -> Response:
    """A plain text line. `headers` becomes the answer's map; its fields about another body are replaced."""
    kept = HeaderMap() if headers is None else headers
    kept.drop("Content-Length", "Content-Type", "X-Content-Type-Options")
    kept.fields["Content-Type"] = "text/plain; charset=utf-8"
    kept.fields["X-Content-Type-Options"] = "nosniff"
    return Response(status, kept, f"{message}\n".encode())


def bad_request() -> Response:
    """The answer of Go's server to a request that it cannot parse, before any handler. The connection closes."""
    headers = HeaderMap([("Content-Type", "text/plain; charset=utf-8")])
    return Response(400, headers, b"400 Bad Request", close_connection=True)


def redirect(request: Request, status: HTTPStatus, location: str) -> Response:
    """A redirect to `location` (ASCII), with a line of HTML for a GET."""
    headers = HeaderMap([("Location", location)])
    if request.method not in {"GET", "HEAD"}:
        return Response(status, headers)
    headers.fields["Content-Type"] = "text/html; charset=utf-8"
    shown = escape(location, quote=False).replace('"', "&#34;").replace("'", "&#39;")
    page = f'<a href="{shown}">{status.phrase}</a>.\n\n'
    return Response(status, headers, page.encode() if request.method == "GET" else b"")


def add_common_headers(settings: HttpSettings, request: Request, response: Response, *, with_cors: bool) -> Response:
    """`response` with the common headers added; all headers are sorted by name."""
    added = [("Server", f"SeaweedFS Volume {settings.version}"), (REQUEST_ID_HEADER, request.request_id)]
    if with_cors and "origin" in request.headers.lower_names and request.headers.get("Origin"):
        added += _CORS_HEADERS
    headers = response.headers
    if isinstance(headers, HeaderMap):
        headers.fields.update(added)
        headers.fields = dict(sorted(headers.fields.items()))
    else:
        known = headers.without(name for name, _ in added)
        response.headers = Headers(sorted((*known, *added), key=_name_of))
    return response


def _name_of(pair: tuple[str, str]) -> str:
    return pair[0]


def without_body(response: Response) -> Response:
    """The answer to a HEAD: the headers of `response` with its length, and no body."""
    headers = response.headers
    if "Content-Length" not in headers and response.status not in _BODILESS:
        length = response.length_bytes
        headers = headers if length is None else headers.plus(("Content-Length", str(length)))
    return replace(response, headers=headers, body=b"")


async def bodiless(response: Response) -> Response:
    """As `without_body`; also closes a body that is produced while it is sent."""
    if isinstance(response.body, StreamBody):
        await close_chunks(response.body.chunks)
    return without_body(response)


async def close_chunks(chunks: AsyncIterator[bytes]) -> None:
    """Closes an iteration that was not run to its end; an async generator then runs its clean-up."""
    aclose = getattr(chunks, "aclose", None)
    if aclose is not None:
        await aclose()
