"""Reads of a volume that is not here: refused, fetched from a holder, or sent there, as -readMode says.

Source: weed/server/volume_server_handlers_read.go proxyReqToTargetServer.
"""

from __future__ import annotations

import logging
import random
from http import HTTPStatus
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadFileId
from native_handlers.format.fid import parse_volume_id
from native_handlers.http.context import LookupFailed, PeerFailed, ReadMode
from native_handlers.http.headers import Headers
from native_handlers.http.message import Response, StreamBody
from native_handlers.http.paths import parse_object_path, wire_path
from native_handlers.http.query import encode_query, parse_query
from native_handlers.http.reply import bodiless, empty_reply, redirect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.http.context import HttpContext, PeerHttp, PeerResponse
    from native_handlers.http.message import Request
    from native_handlers.http.paths import ObjectPath
    from native_handlers.http.query import Query

log = logging.getLogger(__name__)

PROXIED = "proxied"
"""The query field that marks a read as passed on already."""

_NOT_PASSED_ON = ("Host", "Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding",
                  "Upgrade", "Content-Length", "Expect")  # fmt: skip
_NOT_RELAYED = ("Server", "Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade", "Date")


async def read_elsewhere(
    context: HttpContext, request: Request, path: ObjectPath, volume_id: int, query: Query
) -> Response:
    """The answer for a volume that this server does not have.

    A read that was passed on once is not passed on again (upstream does, and two servers that both miss a volume
    then ask each other in circles).
    """
    metrics = context.metrics
    if context.settings.read_mode is ReadMode.LOCAL or query.is_true(PROXIED):
        metrics.count_read_invalid_needle()
        return not_found(context)
    targets = await _other_holders(context, volume_id)
    if not targets:
        metrics.count_read_invalid_needle()
        metrics.count_handler("emptyReadProxyLocaction")
        return not_found(context)
    return await _from_holder(context, request, path, query, targets)


async def hand_over(context: HttpContext, request: Request) -> Response | None:
    """Another replica's answer to a read that finds no room here; None where this server has to answer it itself.

    So it is for volumes with one copy, for a read that was handed over already, and where the master knows no other
    holder (upstream then answers 404 for a file that is here). Without -readMode=proxy the client is sent there.
    Source: weed/server/volume_server_handlers.go tryProxyToReplica.
    """
    query = parse_query(request.raw_query)
    if query.is_true(PROXIED):
        return None
    path = parse_object_path(wire_path(request))
    try:
        volume_id = parse_volume_id(path.volume_id)
    except BadFileId:
        return empty_reply(400)
    volume = context.store.find_volume(volume_id) if context.store is not None else None
    if volume is None or volume.replica_placement.copy_count < 2:
        return None
    targets = await _other_holders(context, volume_id)
    if not targets:
        return None
    response = await _from_holder(context, request, path, query, targets)
    return await bodiless(response) if request.method == "HEAD" else response


async def _from_holder(
    context: HttpContext, request: Request, path: ObjectPath, query: Query, targets: Sequence[str]
) -> Response:
    if context.settings.read_mode is not ReadMode.PROXY:
        context.metrics.count_handler("readRedirectRequest")
        return _redirect(context, request, path, query, targets[0])
    if context.peers is None:
        return internal_error(context)
    context.metrics.count_handler("readProxyRequest")
    return await _proxy(context, context.peers, request, query, targets)


def not_found(context: HttpContext) -> Response:
    """404 without a body, counted."""
    context.metrics.count_read_failure()
    context.metrics.count_handler("errorGetNotFound")
    return empty_reply(404)


def internal_error(context: HttpContext) -> Response:
    """500 without a body, counted."""
    context.metrics.count_read_failure()
    context.metrics.count_handler("errorGetInternal")
    return empty_reply(500)


async def _other_holders(context: HttpContext, volume_id: int) -> list[str]:
    """host:port of each holder other than this server, in the order of chance."""
    if context.lookup is None:
        return []
    try:
        locations = await context.lookup.locations(volume_id)
    except LookupFailed:
        return []
    others = [location.url for location in locations if location.url != context.settings.self_url]
    random.shuffle(others)
    return others


def _redirect(context: HttpContext, request: Request, path: ObjectPath, query: Query, target: str) -> Response:
    kept = [("collection", query.get("collection"))] if query.get("collection") else []
    fields = encode_query([*kept, (PROXIED, "true")])
    location = f"{context.settings.peer_scheme}://{target}/{path.volume_id},{path.file_id}?{fields}"
    return redirect(request, HTTPStatus.MOVED_PERMANENTLY, location)


async def _proxy(
    context: HttpContext, peers: PeerHttp, request: Request, query: Query, targets: Sequence[str]
) -> Response:
    """What the first holder says that says anything, 500 where none does. Upstream asks one of them alone."""
    fields = [(key, value) for key, value in query.pairs if key != PROXIED]
    passed_on = f"{request.raw_path}?{encode_query([*fields, (PROXIED, 'true')])}"
    headers = request.headers.without(_NOT_PASSED_ON)
    for target in targets:
        try:
            return _relayed(await peers.request("GET", target, passed_on, headers, b""))
        except PeerFailed as failure:
            log.warning("a read of %s cannot be passed on: %s", request.raw_path, failure)
            context.metrics.count_handler("failedReadProxyRequest")
    return internal_error(context)


def _relayed(answer: PeerResponse) -> Response:
    length = answer.headers.get("Content-Length") or ""
    relayed = Headers(answer.headers.without(_NOT_RELAYED))
    if length.isascii() and length.isdigit():
        return Response(answer.status, relayed, StreamBody(answer.chunks, int(length)))
    return Response(answer.status, relayed.without(["Content-Length"]), StreamBody(answer.chunks))
