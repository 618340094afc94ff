"""Reads of a volume that is not on this server: refused, fetched from a holder, or redirected, as -readMode says.

Source: weed/server/volume_server_handlers_read.go proxyReqToTargetServer.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from native_handlers.http.context import LookupFailed
from native_handlers.http.holders import HOLDER_HEADER, NO, REQUIRED, YES, Candidates, requires_holder
from native_handlers.http.reply import bodiless, close_chunks, empty_reply, redirect, with_fields
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Response, StreamBody
from native_handlers.http_model.query import encode_form, encode_query
from native_handlers.http_model.read_mode import ReadMode
from native_handlers.http_model.volume_servers import VolumeServerFailed

if TYPE_CHECKING:
    from native_handlers.http.context import HttpContext, Location
    from native_handlers.http_model.message import Request
    from native_handlers.http_model.query import Query
    from native_handlers.http_model.target import ObjectPath
    from native_handlers.http_model.volume_servers import VolumeServerHttp, VolumeServerResponse

log = logging.getLogger(__name__)

PROXIED = "proxied"
"""The query field that marks a read as forwarded already."""

_NOT_PASSED_ON = ("Host", "Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding",
                  "Upgrade", "Content-Length", "Expect")  # fmt: skip
_NOT_RELAYED = ("Server", HOLDER_HEADER, "Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade", "Date")


async def read_elsewhere(
    context: HttpContext, request: Request, path: ObjectPath, volume_id: int, query: Query
) -> Response:
    """The answer for a volume that this server does not have.

    A read that was forwarded once is not forwarded again. Upstream forwards it, and two servers that both lack a volume
    then ask each other in circles.
    """
    metrics = context.metrics
    if context.settings.read_mode is ReadMode.LOCAL or query.is_true(PROXIED):
        metrics.count_read_invalid_needle()
        response = not_found(context)
        return with_fields(response, (HOLDER_HEADER, NO)) if requires_holder(request.headers) else response
    if context.lookup is None:
        metrics.count_read_invalid_needle()
        return not_found(context)
    holders = Candidates(context.lookup, volume_id, skipped=context.settings.self_url, is_shuffled=True)
    try:
        first = await holders.next()
    except LookupFailed:
        metrics.count_read_invalid_needle()
        return not_found(context)
    if first is None:
        # The master names only this server.
        metrics.count_read_invalid_needle()
        metrics.count_handler("emptyReadProxyLocaction")
        return not_found(context)
    return await _from_holder(context, request, path, query, holders, first)


async def proxy_to_replica(context: HttpContext, request: Request) -> Response | None:
    """Another replica's answer to a read that finds no room here; None where this server has to answer.

    None is returned for volumes with one copy, for a read that was forwarded already, and where the master knows no
    other holder (upstream then answers 404 for a file that is here). Without -readMode=proxy the client is redirected.
    Source: weed/server/volume_server_handlers.go tryProxyToReplica.
    """
    query = request.parsed.query
    if query.is_true(PROXIED):
        return None
    path, volume_id = request.parsed.object, request.parsed.volume_id
    if volume_id is None:
        return empty_reply(400)
    volume = context.store.find_volume(volume_id) if context.store is not None else None
    if volume is None or volume.replica_placement.copy_count < 2:
        return None
    holders, first = await _other_holders(context, volume_id)
    if holders is None or first is None:
        return None
    response = await _from_holder(context, request, path, query, holders, first)
    return await bodiless(response) if request.method == "HEAD" else response


async def _from_holder(  # noqa: PLR0913
    context: HttpContext, request: Request, path: ObjectPath, query: Query, holders: Candidates, first: Location
) -> Response:
    if context.settings.read_mode is not ReadMode.PROXY:
        context.metrics.count_handler("readRedirectRequest")
        return _redirect(context, request, path, query, first.url)
    if context.volume_servers is None:
        return internal_error(context)
    context.metrics.count_handler("readProxyRequest")
    return await _proxy(context, context.volume_servers, request, query, holders, first)


def not_found(context: HttpContext) -> Response:
    """404 without a body. Counts the failure."""
    context.metrics.count_read_failure()
    context.metrics.count_handler("errorGetNotFound")
    return empty_reply(404)


def internal_error(context: HttpContext) -> Response:
    """500 without a body. Counts the failure."""
    context.metrics.count_read_failure()
    context.metrics.count_handler("errorGetInternal")
    return empty_reply(500)


async def _other_holders(context: HttpContext, volume_id: int) -> tuple[Candidates | None, Location | None]:
    """The holders other than this server, and the first of them; None where there is none."""
    if context.lookup is None:
        return None, None
    holders = Candidates(context.lookup, volume_id, skipped=context.settings.self_url, is_shuffled=True)
    return holders, await _next(holders)


async def _next(holders: Candidates) -> Location | None:
    try:
        return await holders.next()
    except LookupFailed:
        return None


def _redirect(context: HttpContext, request: Request, path: ObjectPath, query: Query, target: str) -> Response:
    kept = [("collection", query.get("collection"))] if query.get("collection") else []
    fields = encode_query([*kept, (PROXIED, "true")])
    location = f"{context.settings.volume_server_scheme}://{target}/{path.volume_id},{path.file_id}?{fields}"
    return redirect(request, HTTPStatus.MOVED_PERMANENTLY, location)


async def _proxy(  # noqa: PLR0913
    context: HttpContext,
    volume_servers: VolumeServerHttp,
    request: Request,
    query: Query,
    holders: Candidates,
    first: Location,
) -> Response:
    """The first answer of a holder; 404 where all holders deny the volume, 500 where none answers. Upstream asks only
    one of the holders of a single look-up.
    """
    fields = [(key, value) for key, value in query.pairs if key != PROXIED]
    encoded = await context.content_threads.run(encode_form([*fields, (PROXIED, "true")]))
    passed_on = f"{request.raw_path}?{encoded}"
    headers = request.headers.without((*_NOT_PASSED_ON, HOLDER_HEADER)).plus((HOLDER_HEADER, REQUIRED))
    target: Location | None = first
    has_failed = False
    while target is not None:
        try:
            answer = await volume_servers.request("GET", target.url, passed_on, headers, b"")
            if not await _denies(answer, target, holders):
                return _relayed(answer)
            await close_chunks(answer.chunks)
        except VolumeServerFailed as failure:
            has_failed = True
            log.warning("a read of %s cannot be passed on: %s", request.raw_path, failure)
            context.metrics.count_handler("failedReadProxyRequest")
        target = await _next(holders)
    return internal_error(context) if has_failed else not_found(context)


async def _denies(answer: VolumeServerResponse, target: Location, holders: Candidates) -> bool:
    """Whether a 404 is for the volume, which has moved, and not for the needle. Upstream's servers do not say which, so
    the master is asked.
    """
    if answer.status != HTTPStatus.NOT_FOUND:
        return False
    said = answer.headers.get(HOLDER_HEADER)
    if said in {YES, NO}:
        return said == NO
    try:
        return not await holders.are_still(target)
    except LookupFailed:
        return False


def _relayed(answer: VolumeServerResponse) -> Response:
    length = answer.headers.get("Content-Length") or ""
    relayed = Headers(answer.headers.without(_NOT_RELAYED))
    if length.isascii() and length.isdigit():
        return Response(answer.status, relayed, StreamBody(answer.chunks, int(length)))
    return Response(answer.status, relayed.without(["Content-Length"]), StreamBody(answer.chunks))
