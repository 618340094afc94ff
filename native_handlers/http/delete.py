"""DELETE of an object. Source: weed/server/volume_server_handlers_write.go DeleteHandler,
weed/topology/store_replicate.go ReplicatedDelete.
"""

from __future__ import annotations

import logging
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import trio

from native_handlers.format.errors import BadFileId, FormatError
from native_handlers.http.chunk_delete import delete_chunks
from native_handlers.http.chunk_manifest import Visit, depth_of
from native_handlers.http.context import LookupFailed
from native_handlers.http.disk_threads import on_present_volume
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.finish import run_to_end
from native_handlers.http.holders import HOLDER_HEADER, NO, SHARDS, YES, Holders, requires_holder
from native_handlers.http.replicate import OTHER_COOKIE, is_manifest_alone, make_replica_delete
from native_handlers.http.reply import json_error, json_reply, with_fields
from native_handlers.http.tokens import token_of
from native_handlers.http_model.errors import BadManifest, NotCovered, ReplicationFailed
from native_handlers.http_model.go_json import text_of_wire
from native_handlers.records import dataclass
from native_handlers.storage.model.errors import (
    CookieMismatch,
    Deleted,
    DiskUnavailable,
    NotFound,
    VolumeClosed,
    VolumeNotFound,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.format.needle import Needle
    from native_handlers.http.chunk_manifest import ChunkManifest
    from native_handlers.http.context import EcVolumes, HttpContext, Location
    from native_handlers.http.replicate import ReplicaDelete
    from native_handlers.http_model.message import Request, Response
    from native_handlers.http_model.volume_servers import VolumeServerFailed
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume.volume import Volume


log = logging.getLogger(__name__)
_NOT_DELETED = frozenset((HTTPStatus.NOT_FOUND, HTTPStatus.INTERNAL_SERVER_ERROR))


@dataclass(frozen=True, slots=True)
class _Delete:
    request: Request
    store: Store
    volume_id: int
    needle_id: int
    cookie: int
    volume: Volume


async def handle_delete(context: HttpContext, request: Request) -> Response:
    """Deletes the needle. 202 with the deleted size; 404 with size 0 where no holder has the needle, and where the only
    copy cannot be read; 400 for another cookie; 503 where the disk is out of service; 500 for other failures.

    Wilful difference: where this server lacks the needle or cannot read it, the other holders delete it all the same.
    An earlier delete may have failed there, and the volume may have moved. Upstream answers 404, and the other holders
    keep the needle. Upstream answers 404 also to another holder where it cannot read the needle, which it then keeps.

    Cancellation: a delete that has begun is finished first, see `run_to_end`.
    """
    target = request.parsed
    try:
        needle_id, cookie = target.require_needle()
    except BadFileId as failure:
        return json_error(request, 400, text_of_wire(str(failure)))
    volume_id = target.volume_id
    if volume_id is None:
        return _absent(request)
    ec = context.ec_volumes
    coded = ec.find(volume_id) if ec is not None else None
    if ec is not None and coded is not None:
        return await run_to_end(partial(_delete_erasure_coded, context, request, ec, coded, (needle_id, cookie)))
    if context.store is not None and not await context.settled.wait(context.store.settling, volume_id):
        return _failed(context, request, f"Deletion Failed: volume {volume_id} is being copied here")
    volume = context.store.find_volume(volume_id) if context.store is not None else None
    if context.store is None or volume is None:
        return await _delete_where_it_is(context, request, volume_id)
    delete = _Delete(request, context.store, volume_id, needle_id, cookie, volume)
    try:
        response = await _delete_as_holder(context, delete)
    except (VolumeNotFound, VolumeClosed):
        # The volume went in this moment, as at the end of a move. Nothing was deleted.
        return await _delete_where_it_is(context, request, volume_id)
    return with_fields(response, (HOLDER_HEADER, YES)) if requires_holder(request.headers) else response


async def delete_at_others(context: HttpContext, request: Request) -> Response | None:
    """Deletes at the other holders after the backend has answered 404. A Go server answers so for a copy that it has
    not opened yet, and for a needle that an earlier delete has removed there alone. Returns None where no holder had
    the needle: then the 404 is the answer.

    Cancellation: as `handle_delete`.
    """
    if _is_replica(request) or context.lookup is None or context.volume_servers is None:
        return None
    volume_id = request.parsed.volume_id
    if volume_id is None:
        return None
    try:
        await context.lookup.locations(volume_id, refresh=True)
    except LookupFailed:
        return None
    response = await run_to_end(partial(_delete_at_others, context, request, Holders(context, volume_id, None)))
    return None if response.status == HTTPStatus.NOT_FOUND else response


async def _delete_as_holder(context: HttpContext, delete: _Delete) -> Response:
    """Raises VolumeNotFound or VolumeClosed where the volume went before anything was deleted."""
    request = delete.request
    try:
        needle = await context.disk_threads.run(delete.volume, partial(_read, delete))
    except CookieMismatch:
        return json_error(request, 400, OTHER_COOKIE)
    except DiskUnavailable as failure:
        return _not_deleted(context, request, failure)
    except (NotFound, Deleted):
        if _is_replica(request):
            return _absent(request)
        holders = Holders(context, delete.volume_id, delete.volume.replica_placement.copy_count)
        return await run_to_end(partial(_delete_at_others, context, request, holders))
    except (VolumeNotFound, VolumeClosed):
        raise
    except STORE_FAILURES as failure:
        if _is_replica(request):
            return await _delete_unread(context, delete, failure)
        if delete.volume.copy_count == 1:
            return _absent(request)
        return await run_to_end(partial(_delete_unread_everywhere, context, delete, failure))
    return await run_to_end(partial(_delete, context, delete, needle))


async def _delete_unread(context: HttpContext, delete: _Delete, failure: Exception) -> Response:
    """The answer of a holder that cannot read the needle because of `failure`. 202 where the record is damaged and its
    header has the cookie of the file id: then the needle is deleted. Else 500, and the needle stays: after a passing
    error of the disk it may be read again, so nobody may take it for deleted.

    Raises VolumeNotFound or VolumeClosed where the volume went before anything was deleted.
    """
    if isinstance(failure, FormatError):
        try:
            size = await context.disk_threads.run(delete.volume, partial(_delete_damaged, delete))
            return json_reply(delete.request, 202, {"size": size})
        except (NotFound, Deleted):
            return _absent(delete.request)
        except (VolumeNotFound, VolumeClosed):
            raise
        except CookieMismatch:
            pass  # The cookie may be what is damaged.
        except STORE_FAILURES as another:
            failure = another
    return _not_deleted(context, delete.request, failure)


async def _delete_unread_everywhere(context: HttpContext, delete: _Delete, failure: Exception) -> Response:
    """Deletes a needle that cannot be read here because of `failure`: first at the other holders. Where one of them has
    deleted it, it has compared the cookie, and the needle is deleted here too.

    Raises VolumeNotFound or VolumeClosed where the volume went before anything was deleted.
    """
    request = delete.request
    holders = Holders(context, delete.volume_id, delete.volume.copy_count)
    response = await _delete_at_others(context, request, holders)
    if response.status == HTTPStatus.NOT_FOUND:
        return await _delete_unread(context, delete, failure)
    if response.status != HTTPStatus.ACCEPTED:
        return response
    try:
        await context.disk_threads.run(delete.volume, partial(_delete_here, delete, 0))
    except STORE_FAILURES as another:
        return _not_deleted(context, request, another)
    return response


async def _delete_where_it_is(context: HttpContext, request: Request, volume_id: int) -> Response:
    """Deletes a needle whose volume is not on this server. The master may know the new holders."""
    if _is_replica(request) and requires_holder(request.headers):
        return with_fields(_absent(request), (HOLDER_HEADER, NO))
    if context.lookup is None:
        return _absent(request)
    try:
        # The cached holders may be from the time when the volume was here.
        await context.lookup.locations(volume_id, refresh=True)
    except LookupFailed:
        return _absent(request)
    response = await run_to_end(partial(_delete_at_others, context, request, Holders(context, volume_id, None)))
    if response.status in _NOT_DELETED and _is_here(context, volume_id):
        # It has come since it was looked for, and its needle may be live.
        return await handle_delete(context, request)
    return response


def _is_here(context: HttpContext, volume_id: int) -> bool:
    """Whether the volume is on this server, or shards of it."""
    store, ec = context.store, context.ec_volumes
    if store is not None and store.find_volume(volume_id) is not None:
        return True
    return ec is not None and ec.find(volume_id) is not None


async def _delete_at_others(context: HttpContext, request: Request, holders: Holders) -> Response:
    """The answer of the other holders for a needle that this server lacks; 404 where no holder had it."""
    replica = make_replica_delete(request, holders.volume_id)
    started_s = trio.current_time()
    try:
        others = await holders.others()
        if not others:
            return _absent(request)
        failure = await _reach(context, holders, others, replica, started_s)
    except ReplicationFailed as failure:
        return _failed(context, request, f"Deletion Failed: {failure}")
    if failure is not None:
        if failure.status == HTTPStatus.BAD_REQUEST:
            return json_error(request, failure.status, failure.reason)
        return _failed(context, request, f"Deletion Failed: [{failure.server}]: {failure.reason}")
    return json_reply(request, 202, {"size": max(replica.sizes)}) if replica.sizes else _absent(request)


async def _delete_erasure_coded(
    context: HttpContext, request: Request, ec: EcVolumes, volume: EcVolume, needle: tuple[int, int]
) -> Response:
    """For a client every failure is a 500, an absent needle too: upstream has no other status here. A server that
    deletes at all holders has to know what failed, and compares cookie 0 too.
    """
    is_server = requires_holder(request.headers)
    try:
        size = await ec.delete_needle(volume, *needle, is_exact=is_server)
    except STORE_FAILURES as failure:
        answer = _answer_to_server(request, failure) if is_server else None
        return answer or _failed(context, request, f"Deletion Failed: {failure}")
    response = json_reply(request, 202, {"size": size})
    return with_fields(response, (HOLDER_HEADER, SHARDS)) if is_server else response


def _answer_to_server(request: Request, failure: Exception) -> Response | None:
    """The answer to another server where the shards do not have the needle; None for other failures."""
    if isinstance(failure, CookieMismatch):
        return with_fields(json_error(request, 400, OTHER_COOKIE), (HOLDER_HEADER, YES))
    if isinstance(failure, (NotFound, Deleted)):
        return with_fields(_absent(request), (HOLDER_HEADER, YES))
    if isinstance(failure, (VolumeNotFound, VolumeClosed)):
        return with_fields(_absent(request), (HOLDER_HEADER, NO))  # The shards went in this moment.
    return None


async def _delete(context: HttpContext, delete: _Delete, needle: Needle) -> Response:
    request, size = delete.request, needle.size
    manifest = await _manifest_of(context, delete, needle)
    if manifest is not None:
        scope = context.token_scope.changeable(request)
        visit = Visit(depth_of(request.headers), token_of(request), scope, is_lenient=is_manifest_alone(request))
        try:
            await delete_chunks(context, manifest, visit)
        except NotCovered as refusal:
            return _failed(context, request, f"Delete chunks error: {refusal}", status=401)
        except ReplicationFailed as failure:
            return _failed(context, request, f"Delete chunks error: {failure}")
        size = manifest.size_bytes
    try:
        await _delete_everywhere(context, delete, needle.checksum)
    except (*STORE_FAILURES, ReplicationFailed) as failure:
        return _not_deleted(context, request, failure)
    return json_reply(request, 202, {"size": size})


async def _manifest_of(context: HttpContext, delete: _Delete, needle: Needle) -> ChunkManifest | None:
    """The manifest whose chunks are deleted first; None for a needle that is deleted alone.

    Content that is marked as a manifest and is none is a plain file for reads, so it is one for deletes; upstream
    refuses to delete it for ever. With `cm=false` the manifest is deleted even where some of its chunks cannot exist.
    Where a write key is configured, `cm=false` deletes the manifest alone: its token does not cover the chunks, so a
    client deletes the chunks one by one first.
    """
    if not needle.is_chunk_manifest:
        return None
    if context.token_scope.changeable(delete.request) is not None and is_manifest_alone(delete.request):
        return None
    try:
        return await context.manifests.load(context.content_threads, delete.volume_id, needle)
    except BadManifest as failure:
        log.warning("%d,%x is marked as a manifest and is none: %s", delete.volume_id, delete.needle_id, failure)
        return None


async def _delete_everywhere(context: HttpContext, delete: _Delete, checksum: int) -> None:
    """Deletes here, then on the other holders. `checksum` is that of the needle, for the record of the deletion.

    Raises:
        ReplicationFailed: another holder has not deleted; this server has.
        StorageError, FormatError, OSError: nothing was deleted.
    """
    holders = Holders(context, delete.volume_id, delete.volume.replica_placement.copy_count)
    others = [] if _is_replica(delete.request) else await holders.others()
    started_s = trio.current_time()
    await context.disk_threads.run(delete.volume, partial(_delete_here, delete, checksum))
    replica = make_replica_delete(delete.request, delete.volume_id)
    failure = await _reach(context, holders, others, replica, started_s)
    if failure is not None:
        raise ReplicationFailed(f"[{failure.server}]: {failure.reason}") from failure


async def _reach(
    context: HttpContext, holders: Holders, others: Sequence[Location], replica: ReplicaDelete, started_s: float
) -> VolumeServerFailed | None:
    failure = None
    if others:
        if context.volume_servers is None:
            raise ReplicationFailed(f"no way to reach the replicas of volume {holders.volume_id}")
        failure = await holders.reach(others, partial(replica.send, context.volume_servers))
    duration_s = trio.current_time() - started_s
    context.metrics.observe_replication("delete", len(others), duration_s, failure.kind if failure else None)
    return failure


def _is_replica(request: Request) -> bool:
    """Whether the delete comes from a holder of the volume, which sends it to the other holders itself."""
    return request.parsed.query.get("type") == "replicate"


def _delete_here(delete: _Delete, checksum: int) -> None:
    def act(present: Volume) -> None:
        present.delete(delete.needle_id, delete.cookie, checksum=checksum)

    on_present_volume(delete.store, delete.volume, act, delete.store.on_this_server)


def _delete_damaged(delete: _Delete) -> int:
    """Deletes a needle of which only the header of the record has to be sound. Returns the size in the index.

    Raises:
        CookieMismatch: the header has another cookie; nothing was deleted.
        StorageError, FormatError, OSError: nothing was deleted.
    """

    def act(present: Volume) -> int:
        cookie = present.read_cookie(delete.needle_id)
        if cookie != delete.cookie:
            raise CookieMismatch(cookie, delete.cookie)
        return present.delete(delete.needle_id, delete.cookie)

    return on_present_volume(delete.store, delete.volume, act, delete.store.on_this_server)


def _read(delete: _Delete) -> Needle:
    """Reads the needle; a large payload stays on disk. As upstream, the whole payload must fit its checksum."""
    read = on_present_volume(
        delete.store, delete.volume, lambda present: present.read(delete.needle_id, cookie=delete.cookie)
    )
    try:
        read.needle.checksum = read.check_payload()
        return read.needle
    finally:
        read.release()


def _absent(request: Request) -> Response:
    return json_reply(request, 404, {"size": 0})


def _not_deleted(context: HttpContext, request: Request, failure: Exception) -> Response:
    status = 503 if isinstance(failure, DiskUnavailable) else 500
    return _failed(context, request, f"Deletion Failed: {failure}", status=status)


def _failed(context: HttpContext, request: Request, reason: str, *, status: int = 500) -> Response:
    context.metrics.count_write_failure()
    return json_error(request, status, reason)
