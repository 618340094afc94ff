"""DELETE of an object. Source: weed/server/volume_server_handlers_write.go DeleteHandler,
weed/topology/store_replicate.go ReplicatedDelete.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.format.errors import BadFileId
from native_handlers.format.fid import parse_needle_id_cookie, parse_volume_id
from native_handlers.http.chunk_delete import delete_chunks
from native_handlers.http.chunk_manifest import check_depth, depth_of, load_manifest
from native_handlers.http.errors import BadManifest, ReplicationFailed
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.finish import run_to_end
from native_handlers.http.go_json import text_of_wire
from native_handlers.http.paths import parse_object_path, wire_path
from native_handlers.http.peers import on_each, other_holders
from native_handlers.http.query import parse_query
from native_handlers.http.replicate import delete_replica
from native_handlers.http.reply import json_error, json_reply
from native_handlers.storage.errors import CookieMismatch, DiskUnavailable

if TYPE_CHECKING:
    from native_handlers.format.needle import Needle
    from native_handlers.http.context import EcVolumes, HttpContext, Location, PeerHttp
    from native_handlers.http.message import Request, Response
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume import Volume


@dataclass(frozen=True, slots=True)
class _Delete:
    request: Request
    store: Store
    volume_id: int
    needle_id: int
    cookie: int
    volume: Volume


async def handle_delete(context: HttpContext, request: Request) -> Response:
    """202 with the size that is gone; 404 with size 0 for what cannot be read, 400 for another cookie, 500 else; 503
    where the disk is out of service.

    Cancellation: once deleting has begun it is finished first, see `run_to_end`.
    """
    path = parse_object_path(wire_path(request))
    try:
        needle_id, cookie = parse_needle_id_cookie(path.file_id)
    except BadFileId as failure:
        return json_error(request, 400, text_of_wire(str(failure)))
    try:
        volume_id = parse_volume_id(path.volume_id)
    except BadFileId:
        return _absent(request)
    ec = context.ec_volumes
    if ec is not None and ec.has_volume(volume_id):
        return await run_to_end(partial(_delete_erasure_coded, context, ec, request, (volume_id, needle_id, cookie)))
    volume = context.store.find_volume(volume_id) if context.store is not None else None
    if context.store is None or volume is None:
        return _absent(request)
    delete = _Delete(request, context.store, volume_id, needle_id, cookie, volume)
    try:
        needle = await context.disk_threads.run(volume, partial(_read, delete))
    except CookieMismatch:
        return json_error(request, 400, "File Random Cookie does not match.")
    except DiskUnavailable as failure:
        return _failed(context, request, f"Deletion Failed: {failure}", status=503)
    except STORE_FAILURES:
        return _absent(request)
    return await run_to_end(partial(_delete, context, delete, needle))


async def _delete_erasure_coded(
    context: HttpContext, ec: EcVolumes, request: Request, needle: tuple[int, int, int]
) -> Response:
    """Any failure is a 500, that there is no such needle as well: upstream knows no other here."""
    try:
        size = await ec.delete_needle(*needle)
    except STORE_FAILURES as failure:
        return _failed(context, request, f"Deletion Failed: {failure}")
    return json_reply(request, 202, {"size": size})


async def _delete(context: HttpContext, delete: _Delete, needle: Needle) -> Response:
    request, size = delete.request, needle.size
    if needle.is_chunk_manifest:
        try:
            manifest = await trio.to_thread.run_sync(load_manifest, needle)
            depth = depth_of(request.headers)
            check_depth(depth)
            await delete_chunks(context, manifest, depth)
        except BadManifest as failure:
            return _failed(context, request, f"Load chunks manifest error: {failure}")
        except ReplicationFailed as failure:
            return _failed(context, request, f"Delete chunks error: {failure}")
        size = manifest.size_bytes
    try:
        await _delete_everywhere(context, delete, needle.checksum)
    except (*STORE_FAILURES, ReplicationFailed) as failure:
        status = 503 if isinstance(failure, DiskUnavailable) else 500
        return _failed(context, request, f"Deletion Failed: {failure}", status=status)
    return json_reply(request, 202, {"size": size})


async def _delete_everywhere(context: HttpContext, delete: _Delete, checksum: int) -> None:
    """Deletes here, then on the other holders. `checksum` is that of the needle, for the record of the deletion.

    Raises:
        ReplicationFailed: another holder has not deleted; this one has.
        StorageError, FormatError, OSError: nothing was deleted.
    """
    others: list[Location] = []
    if parse_query(delete.request.raw_query).get("type") != "replicate":
        others = await other_holders(context, delete.volume_id, delete.volume.replica_placement.copy_count)
    started = trio.current_time()
    delete_needle = partial(
        delete.store.delete_needle, delete.volume_id, delete.needle_id, delete.cookie, checksum=checksum
    )
    await context.disk_threads.run(delete.volume, delete_needle)
    failure = None
    if others:
        if context.peers is None:
            raise ReplicationFailed(f"no way to reach the replicas of volume {delete.volume_id}")
        failure = await on_each(others, partial(_delete_replica, context.peers, delete.request))
    duration_s = trio.current_time() - started
    context.metrics.observe_replication("delete", len(others), duration_s, failure.kind if failure else None)
    if failure is not None:
        raise ReplicationFailed(f"[{failure.peer}]: {failure.reason}") from failure


async def _delete_replica(peers: PeerHttp, request: Request, location: Location) -> None:
    await delete_replica(peers, location, request)


def _read(delete: _Delete) -> Needle:
    read = delete.store.read_needle(delete.volume_id, delete.needle_id, cookie=delete.cookie)
    read.release()
    return read.needle


def _absent(request: Request) -> Response:
    return json_reply(request, 404, {"size": 0})


def _failed(context: HttpContext, request: Request, reason: str, *, status: int = 500) -> Response:
    context.metrics.count_write_failure()
    return json_error(request, status, reason)
