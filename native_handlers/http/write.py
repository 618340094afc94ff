"""POST and PUT of an object. Source: weed/server/volume_server_handlers_write.go PostHandler,
weed/topology/store_replicate.go ReplicatedWrite.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.content.images_edit import is_jpeg_upload
from native_handlers.format.errors import BadFileId
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.finish import run_to_end
from native_handlers.http.holders import HOLDER_HEADER, NO, Holders, requires_holder
from native_handlers.http.replicate import make_replica_write
from native_handlers.http.reply import json_error, json_reply, with_fields
from native_handlers.http.upload import Upload, checksum_of, make_upload
from native_handlers.http.upload_body import drain, read_form, read_upload
from native_handlers.http_model.errors import BadUpload, NoHolderLeft, NotHere, ReplicationFailed
from native_handlers.http_model.go_json import text_of_wire
from native_handlers.http_model.headers import HeaderMap
from native_handlers.http_model.message import BodyError, Response
from native_handlers.http_model.volume_servers import VolumeServerFailed
from native_handlers.records import dataclass
from native_handlers.storage.model.errors import DiskUnavailable, VolumeClosed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.http.context import HttpContext, Location
    from native_handlers.http.holders import HolderOutcome
    from native_handlers.http.replicate import ReplicaWrite
    from native_handlers.http_model.message import Request
    from native_handlers.http_model.volume_servers import VolumeServerHttp
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume.volume import Volume

log = logging.getLogger(__name__)
LOCALLY = "writeToLocalDisk"
"""The label of that step in the metrics."""


@dataclass(frozen=True, slots=True)
class _Write:
    """One write with its options."""

    request: Request
    volume_id: int
    upload: Upload
    is_fsync: bool
    is_replica: bool


async def handle_write(context: HttpContext, request: Request) -> Response:
    """Stores the object. 201 with the stored facts, 204 where the same content was there already; 400, 500 and 503 with
    the reason.

    Every failure to store is a 500 (503 for a disk out of service), so that clients ask the master for another volume
    and try again there. Cancellation: once storing has begun it is finished first, see `run_to_end`.
    """
    try:
        form, request = await read_form(request, context.content_threads)
        target = request.parsed
        volume_id = target.volume_id
        if volume_id is None:
            volume_id = target.require_volume_id()
        limit_bytes = context.settings.file_size_limit_bytes
        body = await read_upload(request, form, limit_bytes, context.content_threads)
        job = make_upload(body, form, request.headers, now_s=int(time.time()), clear_limit_bytes=limit_bytes)
        upload = await context.content_threads.run(job)
        if context.settings.fix_jpg_orientation and is_jpeg_upload(body.name, body.mime):
            # After size and MD5 were taken: they are of the file as sent.
            from native_handlers.content.images import fix_orientation  # noqa: PLC0415  loads Pillow

            upload.needle.data = await context.image_threads.run(partial(fix_orientation, upload.needle.data))
        needle_id, cookie = target.uploaded_needle or target.require_uploaded_needle()
    except BadUpload as failure:
        return await _refuse(context, request, str(failure))
    except BadFileId as failure:
        return await _refuse(context, request, text_of_wire(str(failure)))
    except BodyError as failure:
        return _broken_off(context, request, failure)
    upload.needle.needle_id, upload.needle.cookie = needle_id, cookie
    is_replica, is_fsync = False, False
    if form.pairs:
        is_replica, is_fsync = form.get("type") == "replicate", form.is_true("fsync")
    write = _Write(request, volume_id, upload, is_fsync, is_replica)
    try:
        is_unchanged = await _store(context, write)
    except NotHere as failure:
        context.metrics.count_write_failure()
        return with_fields(json_error(request, 500, str(failure)), (HOLDER_HEADER, NO))
    except (ReplicationFailed, DiskUnavailable) as failure:
        context.metrics.count_write_failure()
        return json_error(request, 503 if isinstance(failure, DiskUnavailable) else 500, str(failure))
    return _stored(request, upload, is_unchanged=is_unchanged)


async def _store(context: HttpContext, write: _Write) -> bool:
    """Writes here and on the other holders. Returns True where nothing had to change here.

    A server without the volume sends a write on to the holders, also a write that comes from a holder: upstream's
    servers remember the holders of a volume for minutes. Upstream then answers 201, with the file stored nowhere.

    Raises:
        NotHere: the volume is not here, and the request requires a holder.
        ReplicationFailed: some holder has not written. Others, this server included, may have.
        DiskUnavailable: nothing was written anywhere.
    """
    store, volume = context.store, None
    if store is not None:
        volume = await _settled_volume(context, store, write.volume_id)
    if volume is not None and (write.is_replica or volume.copy_count == 1):
        # A write to this disk alone is finished once it has begun, because a thread does it.
        try:
            return await _write_alone(context, volume, write)
        except VolumeClosed:
            volume = _present_volume(store, volume)
    return await run_to_end(partial(_store_with_others, context, volume, write))


async def _settled_volume(context: HttpContext, store: Store, volume_id: int) -> Volume | None:
    """The volume, once it has settled; None where it is not here.

    Raises:
        ReplicationFailed: it does not settle.
    """
    if volume_id in store.settling.volume_ids and not await context.settled.wait(store.settling, volume_id):
        raise ReplicationFailed(f"volume {volume_id} is being copied here")
    return store.find_volume(volume_id)


def _present_volume(store: Store | None, volume: Volume) -> Volume | None:
    """The volume that has taken the place of `volume`, which was closed just now; None where it went, as at the end of
    a move.
    """
    present = store.find_volume(volume.id) if store is not None else None
    log.info("volume %d went while a needle was written", volume.id)
    return None if present is volume else present


async def _store_with_others(context: HttpContext, volume: Volume | None, write: _Write) -> bool:
    """As `_store`, where other servers have to write too, or instead. `volume` is None where the volume is not here."""
    store = context.store
    while True:
        while volume is not None:
            try:
                return await _write_as_holder(context, volume, write)
            except VolumeClosed:
                volume = _present_volume(store, volume)
        try:
            await _write_elsewhere(context, write)
        except NoHolderLeft:
            # It may have come here since it was looked for.
            volume = None if store is None else await _settled_volume(context, store, write.volume_id)
            if volume is None:
                raise
        else:
            return False


async def _write_elsewhere(context: HttpContext, write: _Write) -> None:
    """Writes at the holders of a volume that is not here.

    Raises:
        NotHere: the request requires a holder.
        NoHolderLeft: no other server has the volume; nothing was written.
        ReplicationFailed: some holder has not written. Others may have.
    """
    if write.is_replica and requires_holder(write.request.headers):
        raise NotHere(f"volume {write.volume_id} not found")
    holders = Holders(context, write.volume_id, None)
    # The cached holders may be from the time when the volume was here.
    others = await holders.others(is_refresh=True)
    if not others:
        raise NoHolderLeft(write.volume_id)
    write.upload.needle.checksum = await context.content_threads.run(checksum_of(write.upload.needle.data))
    await _write_there(context, write, holders, others, trio.current_time())


async def _write_alone(context: HttpContext, volume: Volume, write: _Write) -> bool:
    """Writes where this server has the only copy, or where another holder sends the write."""
    started = trio.current_time()
    is_unchanged = await _write_here(context, volume, write)
    context.metrics.observe_replication("write", 0, trio.current_time() - started, None)
    return is_unchanged


async def _write_as_holder(context: HttpContext, volume: Volume, write: _Write) -> bool:
    holders = Holders(context, write.volume_id, volume.copy_count)
    others = [] if write.is_replica else await holders.others()
    started = trio.current_time()
    is_unchanged = await _write_here(context, volume, write)
    await _write_there(context, write, holders, others, started)
    return is_unchanged


async def _write_there(
    context: HttpContext, write: _Write, holders: Holders, others: Sequence[Location], started_s: float
) -> None:
    failure = None
    if others:
        if context.volume_servers is None:
            raise ReplicationFailed(f"no way to reach the replicas of volume {write.volume_id}")
        replica = make_replica_write(write.request, write.volume_id, write.upload, is_fsync=write.is_fsync)
        sent_s = trio.current_time()
        with context.metrics.in_flight("writeToReplicas"):
            failure = await holders.reach(others, partial(_send, context, context.volume_servers, replica))
        context.metrics.observe_request("writeToReplicas", trio.current_time() - sent_s)
    duration_s = trio.current_time() - started_s
    context.metrics.observe_replication("write", len(others), duration_s, failure.kind if failure else None)
    if failure is not None:
        context.metrics.count_handler("errorWriteToReplicas")
        reason = f"[{failure.server}]: {failure.reason}"
        raise ReplicationFailed(f"failed to write to replicas for volume {write.volume_id}: {reason}") from failure


async def _send(
    context: HttpContext, volume_servers: VolumeServerHttp, replica: ReplicaWrite, location: Location
) -> HolderOutcome:
    """Calls `ReplicaWrite.send` and counts a failure as upstream counts a failed upload."""
    try:
        return await replica.send(volume_servers, location)
    except VolumeServerFailed as failure:
        context.metrics.count_upload_error(failure.status)
        raise


async def _write_here(context: HttpContext, volume: Volume, write: _Write) -> bool:
    metrics, started = context.metrics, trio.current_time()
    metrics.begin(LOCALLY)
    try:
        work = partial(volume.write, write.upload.needle, fsync=write.is_fsync)
        result = await context.disk_threads.run(volume, work)
    except (DiskUnavailable, VolumeClosed):
        metrics.count_handler("errorWriteToLocalDisk")
        raise
    except STORE_FAILURES as failure:
        metrics.count_handler("errorWriteToLocalDisk")
        raise ReplicationFailed(f"failed to write to local disk: {failure}") from failure
    finally:
        metrics.end(LOCALLY)
        metrics.observe_request(LOCALLY, trio.current_time() - started)
    return result.is_unchanged


def _stored(request: Request, upload: Upload, *, is_unchanged: bool) -> Response:
    needle = upload.needle
    tag = f"{needle.checksum:08x}"
    headers = HeaderMap([("Etag", f'"{tag}"'), ("Content-Md5", upload.content_md5)])
    if is_unchanged:
        return Response(204, headers)
    answer = {
        "name": needle.name.decode("utf-8", "surrogateescape"),
        "size": upload.clear_size_bytes & 0xFFFFFFFF,
        "eTag": tag,
        "mime": needle.mime.decode("utf-8", "surrogateescape"),
        "contentMd5": upload.content_md5,
    }
    return json_reply(request, 201, {key: value for key, value in answer.items() if value}, headers)


async def _refuse(context: HttpContext, request: Request, reason: str) -> Response:
    """400, after the rest of the body was read: a client that is still sending would not read the answer."""
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
