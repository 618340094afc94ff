"""Deleting what a manifest is made of, before the manifest itself: none of it may be left without a way to find it.

Upstream asks each holder by RPC for the whole list; here each chunk is deleted by HTTP on each of its holders, this
one directly. A chunk that is a manifest itself takes its own chunks with it, which upstream leaves behind.
Source: weed/operation/chunked_file.go DeleteChunks, delete_content.go.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.http.chunk_manifest import DEPTH_HEADER, check_depth, load_manifest
from native_handlers.http.context import LookupFailed, PeerFailed, PeerFailureKind
from native_handlers.http.errors import BadManifest, ReplicationFailed
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.headers import Headers
from native_handlers.http.peers import on_each, read_answer
from native_handlers.http.tokens import bearer, sign_file_id
from native_handlers.storage.errors import Deleted, NotFound

if TYPE_CHECKING:
    from native_handlers.format.fid import FileId
    from native_handlers.http.chunk_manifest import Chunk, ChunkManifest
    from native_handlers.http.context import HttpContext, Location, PeerHttp
    from native_handlers.storage.store import Store

_GONE = frozenset((200, 202, 204, 404))


async def delete_chunks(context: HttpContext, manifest: ChunkManifest, depth: int = 0) -> None:
    """Deletes every chunk everywhere; chunks that are gone already are no failure, so a delete can be repeated.

    Args:
        depth: how many manifests lead to this one.

    Raises:
        ReplicationFailed: a chunk is still somewhere. Those before it are deleted.
    """
    for chunk in manifest.chunks:
        try:
            await _delete_chunk(context, chunk, depth)
        except (*STORE_FAILURES, BadManifest, PeerFailed, LookupFailed) as failure:
            raise ReplicationFailed(f"chunk delete {chunk.fid}: {failure}") from failure


async def _delete_chunk(context: HttpContext, chunk: Chunk, depth: int) -> None:
    file_id, ec = chunk.file_id, context.ec_volumes
    store = context.store
    await _delete_what_it_leads_to(context, chunk, depth)
    async with context.changing(file_id.volume_id) as is_here:
        volume = store.find_volume(file_id.volume_id) if store is not None and is_here else None
        if store is not None and volume is not None:
            with suppress(NotFound, Deleted):
                await context.disk_threads.run(volume, partial(_delete_here, store, file_id))
            if volume.replica_placement.copy_count == 1:
                return
        elif ec is not None and ec.has_volume(file_id.volume_id):
            with suppress(NotFound, Deleted):
                await ec.delete_needle(file_id.volume_id, file_id.needle_id, file_id.cookie)
            return
    if context.lookup is None or context.peers is None:
        raise LookupFailed(file_id.volume_id, f"volume {file_id.volume_id}: there is no master to ask")
    locations = await context.lookup.locations(file_id.volume_id)
    # Where another process has the volume, a request to ourselves gets there.
    others = [one for one in locations if one.url != context.settings.self_url or not is_here]
    failure = await on_each(others, partial(_delete_there, context, context.peers, chunk, depth))
    if failure is not None:
        raise failure


async def _delete_what_it_leads_to(context: HttpContext, chunk: Chunk, depth: int) -> None:
    """Deletes the chunks of a chunk that is a manifest here; elsewhere its holder does that."""
    manifest, store = None, context.store
    async with context.changing(chunk.file_id.volume_id) as is_here:
        volume = store.find_volume(chunk.file_id.volume_id) if store is not None and is_here else None
        if store is not None and volume is not None:
            manifest = await context.disk_threads.run(volume, partial(_manifest_here, store, chunk.file_id))
    if manifest is not None:
        check_depth(depth + 1)
        await delete_chunks(context, manifest, depth + 1)


def _manifest_here(store: Store, file_id: FileId) -> ChunkManifest | None:
    try:
        read = store.read_needle(file_id.volume_id, file_id.needle_id, cookie=file_id.cookie)
    except (NotFound, Deleted):
        return None
    read.release()
    return load_manifest(read.needle) if read.needle.is_chunk_manifest else None


def _delete_here(store: Store, file_id: FileId) -> None:
    """Deletes what has the chunk's cookie. Upstream does not compare it, so a made-up manifest deletes any needle."""
    read = store.read_needle(file_id.volume_id, file_id.needle_id, cookie=file_id.cookie)
    read.release()
    store.delete_needle(file_id.volume_id, file_id.needle_id, file_id.cookie, checksum=read.needle.checksum)


async def _delete_there(context: HttpContext, peers: PeerHttp, chunk: Chunk, depth: int, location: Location) -> None:
    keys = context.auth()
    token = sign_file_id(keys.write_key, chunk.fid, expires_after_s=keys.write_expires_after_s, now_s=time.time())
    target = f"/{chunk.fid}?type=replicate"
    headers = Headers([*bearer(token), (DEPTH_HEADER, str(depth + 1))])
    response = await peers.request("DELETE", location.url, target, headers, b"")
    await read_answer(location.url, response)
    if response.status not in _GONE:
        reason = f"it answers {response.status} to a delete"
        raise PeerFailed(location.url, PeerFailureKind.SERVER_ERROR, reason)
