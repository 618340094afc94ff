"""Deletes the chunks of a manifest before the manifest itself. Without the manifest no one could find the chunks.

Upstream sends the whole list to each holder by RPC. Here each chunk is deleted by HTTP on each of its holders, and
directly on this server. A chunk that is a manifest is deleted with its own chunks, which upstream leaves behind.
Source: weed/operation/chunked_file.go DeleteChunks, delete_content.go.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import trio

from native_handlers.format.errors import BadFileId
from native_handlers.http.chunk_manifest import MAX_DEPTH
from native_handlers.http.context import LookupFailed
from native_handlers.http.disk_threads import on_present_volume
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.holders import HOLDER_HEADER, REQUIRED, HolderOutcome, Holders
from native_handlers.http.replicate import OTHER_COOKIE, ReplicaDelete
from native_handlers.http_model.errors import BadManifest, NoHolderLeft, NotCovered, ReplicationFailed
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.volume_servers import VolumeServerFailed
from native_handlers.storage.model.errors import CookieMismatch, Deleted, NotFound

if TYPE_CHECKING:
    from native_handlers.format.fid import FileId
    from native_handlers.format.needle import Needle
    from native_handlers.http.chunk_manifest import Chunk, ChunkManifest, Visit
    from native_handlers.http.context import HttpContext, Location
    from native_handlers.http_model.volume_servers import VolumeServerHttp
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume.volume import Volume

log = logging.getLogger(__name__)

_NO_SUCH_NEEDLE = (NotFound, Deleted, CookieMismatch)
_CHECKED_AT_ONCE = 512
"""Chunks between two turns of the event loop."""


async def delete_chunks(context: HttpContext, manifest: ChunkManifest, visit: Visit) -> None:
    """Deletes every chunk on every holder, or on one holder of its shards. Chunks that are gone already, and chunks
    whose needle has another cookie, are no failure, so a delete can be repeated. As upstream, an entry that is no file
    id, or names a volume without a holder, is a failure. A lenient visit skips such entries.

    Raises:
        NotCovered: the request may not delete a chunk directly. Nothing is deleted.
        ReplicationFailed: a holder still has a chunk. The chunks before that one are deleted.
    """
    await _check_scope(manifest, visit)
    for chunk in manifest.chunks():
        try:
            await _delete_chunk(context, chunk, visit)
        except NotCovered as refusal:
            raise ReplicationFailed(f"chunk delete {chunk.fid}: {refusal}") from refusal
        except (BadFileId, *STORE_FAILURES, VolumeServerFailed, LookupFailed, ReplicationFailed) as failure:
            if visit.is_lenient and _names_nothing(failure):
                log.warning("a manifest names the chunk %r, which no server has: %s", chunk.fid, failure)
                continue
            raise ReplicationFailed(f"chunk delete {chunk.fid}: {failure}") from failure


def _names_nothing(failure: Exception) -> bool:
    """Whether no server can have the chunk: its file id cannot be parsed, or the master knows no such volume."""
    known = failure.__cause__ if isinstance(failure, ReplicationFailed) else failure
    return isinstance(known, BadFileId) or (isinstance(known, LookupFailed) and "not found" in known.reason)


async def _check_scope(manifest: ChunkManifest, visit: Visit) -> None:
    if visit.covers is None:
        return
    for index, chunk in enumerate(manifest.chunks()):
        if not visit.allows(chunk):
            raise NotCovered(chunk.fid)
        if index % _CHECKED_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()


async def _delete_chunk(context: HttpContext, chunk: Chunk, visit: Visit) -> None:
    try:
        await _delete_where_it_is(context, chunk, visit)
    except NoHolderLeft:
        # The volume may have come here since it was looked for.
        await _delete_where_it_is(context, chunk, visit)


async def _delete_where_it_is(context: HttpContext, chunk: Chunk, visit: Visit) -> None:
    file_id, ec = chunk.file_id, context.ec_volumes
    store = context.store
    await _delete_what_it_leads_to(context, chunk, visit)
    async with context.changing(file_id.volume_id) as is_here:
        if is_here and store is not None and not await context.settled.wait(store.settling, file_id.volume_id):
            raise LookupFailed(file_id.volume_id, f"volume {file_id.volume_id} is being copied here")
        volume = store.find_volume(file_id.volume_id) if store is not None and is_here else None
        coded = ec.find(file_id.volume_id) if ec is not None and volume is None else None
        if store is not None and volume is not None:
            with suppress(*_NO_SUCH_NEEDLE):
                await context.disk_threads.run(volume, partial(_delete_here, store, volume, file_id))
            if volume.replica_placement.copy_count == 1:
                return
        elif ec is not None and coded is not None:
            with suppress(*_NO_SUCH_NEEDLE):
                await ec.delete_needle(coded, file_id.needle_id, file_id.cookie, is_exact=True)
            return
    if context.lookup is None or context.volume_servers is None:
        raise LookupFailed(file_id.volume_id, f"volume {file_id.volume_id}: there is no master to ask")
    # Where another process of this node has the volume, a request to our own address reaches that process.
    holders = Holders(context, file_id.volume_id, None, skips_self=is_here)
    others = await holders.others() or await holders.others(is_refresh=True)
    if volume is None and not others:
        unknown = LookupFailed(file_id.volume_id, f"volume {file_id.volume_id} not found")
        raise NoHolderLeft(file_id.volume_id) from unknown
    try:
        failure = await holders.reach(others, partial(_delete_there, context.volume_servers, chunk, visit))
    except NoHolderLeft:
        if volume is None:
            raise
        return
    if failure is not None:
        raise failure


async def _delete_what_it_leads_to(context: HttpContext, chunk: Chunk, visit: Visit) -> None:
    """Deletes the chunks of a chunk that is a manifest on this server. For other chunks their holder does that.

    At the greatest depth the manifest most likely contains itself. Then it is deleted alone, as upstream deletes every
    manifest that is a chunk.
    """
    needle, store = None, context.store
    if visit.depth + 1 >= MAX_DEPTH:
        return
    async with context.changing(chunk.file_id.volume_id) as is_here:
        volume = store.find_volume(chunk.file_id.volume_id) if store is not None and is_here else None
        if store is not None and volume is not None:
            needle = await context.disk_threads.run(volume, partial(_manifest_here, store, volume, chunk.file_id))
    if needle is None:
        return
    try:
        manifest = await context.manifests.load(context.content_threads, chunk.file_id.volume_id, needle)
    except BadManifest as failure:
        log.warning("chunk %s is marked as a manifest and is none: %s", chunk.fid, failure)
        return
    await delete_chunks(context, manifest, visit.deeper())


def _manifest_here(store: Store, volume: Volume, file_id: FileId) -> Needle | None:
    try:
        read = on_present_volume(store, volume, lambda one: one.read(file_id.needle_id, cookie=file_id.cookie))
    except _NO_SUCH_NEEDLE:
        return None
    read.release()
    return read.needle if read.needle.is_chunk_manifest else None


def _delete_here(store: Store, volume: Volume, file_id: FileId) -> None:
    """Deletes the needle with the chunk's cookie. Upstream does not compare the cookie, so a made-up manifest deletes
    any needle.
    """

    def delete(present: Volume) -> None:
        read = present.read(file_id.needle_id, cookie=file_id.cookie)
        read.release()
        present.delete(file_id.needle_id, file_id.cookie, checksum=read.needle.checksum)

    on_present_volume(store, volume, delete)


async def _delete_there(
    volume_servers: VolumeServerHttp, chunk: Chunk, visit: Visit, location: Location
) -> HolderOutcome:
    headers = Headers([*visit.fields(), (HOLDER_HEADER, REQUIRED)])
    replica = ReplicaDelete(chunk.file_id.volume_id, f"/{chunk.fid}?type=replicate", headers)
    try:
        return await replica.send(volume_servers, location)
    except VolumeServerFailed as failure:
        if failure.status == HTTPStatus.BAD_REQUEST and OTHER_COOKIE in failure.reason:
            return HolderOutcome.DONE
        raise
