"""POST and PUT of an object. Source: weed/server/volume_server_handlers_write.go PostHandler,
weed/topology/store_replicate.go ReplicatedWrite.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.format.crc import crc32c
from native_handlers.format.errors import BadFileId
from native_handlers.format.fid import parse_needle_id_cookie, parse_volume_id
from native_handlers.format.needle import etag
from native_handlers.http.errors import BadUpload, ReplicationFailed
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.finish import run_to_end
from native_handlers.http.go_json import text_of_wire
from native_handlers.http.header_map import HeaderMap
from native_handlers.http.images_edit import is_jpeg_upload
from native_handlers.http.message import BodyError, Response
from native_handlers.http.paths import parse_object_path, upload_file_id, wire_path
from native_handlers.http.peers import on_each, other_holders
from native_handlers.http.replicate import make_replica_write
from native_handlers.http.reply import json_error, json_reply
from native_handlers.http.upload import Upload, make_upload
from native_handlers.http.upload_body import drain, read_form, read_upload
from native_handlers.storage.errors import DiskUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.http.context import HttpContext, Location
    from native_handlers.http.message import Request
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume import Volume

_INLINE_BYTES = 1 << 15
"""What is hashed and compressed without a thread: it takes about as long as changing threads twice."""
_SUMMED_INLINE_BYTES = 1 << 18
"""The same for a checksum alone, which is faster."""


@dataclass(frozen=True, slots=True)
class _Write:
    """One write with all that is asked of it."""

    request: Request
    volume_id: int
    upload: Upload
    is_fsync: bool
    is_replica: bool


async def handle_write(context: HttpContext, request: Request) -> Response:
    """201 with what was stored, 204 where just that was there already; 400 and 500 with the reason.

    Every failure to store is a 500, so that clients ask the master for another volume and try again there.
    Cancellation: once storing has begun it is finished first, see `run_to_end`.
    """
    try:
        form = await read_form(request)
        volume_id = parse_volume_id(parse_object_path(wire_path(request)).volume_id)
        body = await read_upload(request, form, context.settings.file_size_limit_bytes)
        make = partial(make_upload, body, form, request.headers, now_s=int(time.time()))
        is_short = len(body.data) <= _INLINE_BYTES
        upload = make() if is_short else await trio.to_thread.run_sync(make)
        if context.settings.fix_jpg_orientation and is_jpeg_upload(body.name, body.mime):
            # After size and MD5 were taken: they are of the file as sent.
            from native_handlers.http.images import fix_orientation  # noqa: PLC0415  loads Pillow

            turn = partial(fix_orientation, upload.needle.data)
            upload.needle.data = await trio.to_thread.run_sync(turn, limiter=context.image_threads)
        needle_id, cookie = parse_needle_id_cookie(upload_file_id(wire_path(request)))
    except BadUpload as failure:
        return await _refuse(context, request, str(failure))
    except BadFileId as failure:
        return await _refuse(context, request, text_of_wire(str(failure)))
    except BodyError as failure:
        return _broken_off(context, request, failure)
    upload.needle.needle_id, upload.needle.cookie = needle_id, cookie
    is_replica = form.get("type") == "replicate"
    write = _Write(request, volume_id, upload, form.is_true("fsync"), is_replica)
    try:
        is_unchanged = await run_to_end(partial(_store, context, write))
    except (ReplicationFailed, DiskUnavailable) as failure:
        context.metrics.count_write_failure()
        return json_error(request, 503 if isinstance(failure, DiskUnavailable) else 500, str(failure))
    return _stored(request, upload, is_unchanged=is_unchanged)


async def _store(context: HttpContext, write: _Write) -> bool:
    """Writes here and on the other holders; True where nothing had to change here.

    Raises:
        ReplicationFailed: some holder has not written. Others, this server included, may have.
        DiskUnavailable: nothing was written anywhere.
    """
    store = context.store
    volume = store.find_volume(write.volume_id) if store is not None else None
    others: Sequence[Location] = []
    if not write.is_replica:
        copy_count = None if volume is None else volume.replica_placement.copy_count
        others = await other_holders(context, write.volume_id, copy_count)
    if volume is None and not others:
        # Upstream answers 201 here, with the file stored nowhere.
        raise ReplicationFailed(f"volume {write.volume_id} not found")
    started = trio.current_time()
    is_unchanged = False
    if store is not None and volume is not None:
        is_unchanged = await _write_here(context, store, volume, write)
    else:
        write.upload.needle.checksum = await _checksum(write.upload.needle.data)
    failure = None
    if others:
        if context.peers is None:
            raise ReplicationFailed(f"no way to reach the replicas of volume {write.volume_id}")
        replica = make_replica_write(write.request, write.upload, is_fsync=write.is_fsync)
        sent = trio.current_time()
        failure = await on_each(others, partial(replica.send, context.peers))
        context.metrics.observe_request("writeToReplicas", trio.current_time() - sent)
    duration_s = trio.current_time() - started
    context.metrics.observe_replication("write", len(others), duration_s, failure.kind if failure else None)
    if failure is not None:
        context.metrics.count_handler("errorWriteToReplicas")
        reason = f"[{failure.peer}]: {failure.reason}"
        raise ReplicationFailed(f"failed to write to replicas for volume {write.volume_id}: {reason}") from failure
    return is_unchanged


async def _checksum(data: bytes | memoryview) -> int:
    return crc32c(data) if len(data) <= _SUMMED_INLINE_BYTES else await trio.to_thread.run_sync(crc32c, data)


async def _write_here(context: HttpContext, store: Store, volume: Volume, write: _Write) -> bool:
    started = trio.current_time()
    write_needle = partial(store.write_needle, write.volume_id, write.upload.needle, fsync=write.is_fsync)
    try:
        result = await context.disk_threads.run(volume, write_needle)
    except DiskUnavailable:
        context.metrics.count_handler("errorWriteToLocalDisk")
        raise
    except STORE_FAILURES as failure:
        context.metrics.count_handler("errorWriteToLocalDisk")
        raise ReplicationFailed(f"failed to write to local disk: {failure}") from failure
    finally:
        context.metrics.observe_request("writeToLocalDisk", trio.current_time() - started)
    return result.is_unchanged


def _stored(request: Request, upload: Upload, *, is_unchanged: bool) -> Response:
    needle, headers = upload.needle, HeaderMap()
    headers.set("Etag", f'"{etag(needle)}"')
    headers.set("Content-Md5", upload.content_md5)
    if is_unchanged:
        return Response(204, headers.to_headers())
    answer = {
        "name": text_of_wire(needle.name.decode("latin-1")),
        "size": upload.clear_size_bytes & 0xFFFFFFFF,
        "eTag": etag(needle),
        "mime": text_of_wire(needle.mime.decode("latin-1")),
        "contentMd5": upload.content_md5,
    }
    return json_reply(request, 201, {key: value for key, value in answer.items() if value}, headers.to_headers())


async def _refuse(context: HttpContext, request: Request, reason: str) -> Response:
    """400, after the rest of the body was read: a client that is still sending would not see the answer."""
    context.metrics.count_write_failure()
    response = json_error(request, 400, reason)
    try:
        response.close_connection = not await drain(request.body)
    except BodyError:
        response.close_connection = True
    return response


def _broken_off(context: HttpContext, request: Request, failure: BodyError) -> Response:
    context.metrics.count_write_failure()
    response = json_error(request, 400, str(failure))
    response.close_connection = True
    return response
