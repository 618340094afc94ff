"""RPCs on single needles. Source: weed/server/volume_grpc_admin.go, volume_grpc_batch_delete.go."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from native_handlers.format import crc
from native_handlers.format.errors import BadFileId, FormatError
from native_handlers.format.fid import parse_needle_id_cookie, parse_volume_id
from native_handlers.grpc.checks import check_maintenance, errors_as_upstream, store_of, volume_of
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.errors import DiskUnavailable, StorageError

if TYPE_CHECKING:
    from native_handlers.format.needle import Needle
    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.store import Store

_COOKIE_DIGITS = 8


def volume_needle_status(
    node: GrpcNode, _context: RpcContext, request: pb.VolumeNeedleStatusRequest
) -> pb.VolumeNeedleStatusResponse:
    """A needle's metadata. `size` is that of its record's body, not of its payload; `crc` is in the old form."""
    volume_of(node, request.volume_id, "volume not found %d")
    with errors_as_upstream():
        needle, checksum = _read_checked(store_of(node), request.volume_id, request.needle_id)
    return pb.VolumeNeedleStatusResponse(
        needle_id=needle.needle_id,
        cookie=needle.cookie,
        size=needle.size,
        last_modified=needle.last_modified_s,
        crc=crc.legacy_form(checksum),
        ttl=str(needle.ttl) if needle.has_ttl and needle.ttl else "",
    )


def batch_delete(node: GrpcNode, _context: RpcContext, request: pb.BatchDeleteRequest) -> pb.BatchDeleteResponse:
    """Deletes needles one by one; each has its own result and none stops the others, nor does a client that leaves."""
    check_maintenance(node)
    store = store_of(node)
    return pb.BatchDeleteResponse(
        results=[
            _delete_one(node, store, file_id, check_cookie=not request.skip_cookie_check)
            for file_id in request.file_ids
        ]
    )


def _delete_one(node: GrpcNode, store: Store, file_id: str, *, check_cookie: bool) -> pb.DeleteResult:
    checksum = 0
    try:
        volume_id, needle_id, cookie = _parse(file_id, with_delta=check_cookie)
    except BadFileId as error:
        return _result(file_id, HTTPStatus.BAD_REQUEST, str(error))
    if check_cookie:
        try:
            refusal, checksum = _look_at(store, volume_id, needle_id, cookie)
        except DiskUnavailable as error:
            return _result(file_id, HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except (StorageError, FormatError) as error:
            return _result(file_id, HTTPStatus.NOT_FOUND, str(error))
        if refusal is not None:
            return _result(file_id, *refusal)
    try:
        size = store.delete_needle(volume_id, needle_id, cookie, checksum=checksum)
    except DiskUnavailable as error:
        return _result(file_id, HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    except (StorageError, FormatError) as error:
        return _result(file_id, HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
    if not size:
        return _result(file_id, HTTPStatus.NOT_MODIFIED)
    return pb.DeleteResult(file_id=file_id, status=HTTPStatus.ACCEPTED, size=size)


def _look_at(store: Store, volume_id: int, needle_id: int, cookie: int) -> tuple[tuple[HTTPStatus, str] | None, int]:
    """Why the needle may not be deleted, by its record on disk, if it may not; and its checksum."""
    needle, checksum = _read_checked(store, volume_id, needle_id)
    refusal = None
    # Upstream does not read the record of an empty needle, so any cookie fits it.
    if needle.size and needle.cookie != cookie:
        refusal = HTTPStatus.BAD_REQUEST, "File Random Cookie does not match."
    elif needle.is_chunk_manifest:
        refusal = HTTPStatus.NOT_ACCEPTABLE, "ChunkManifest: not allowed in batch delete mode."
    return refusal, checksum


def _read_checked(store: Store, volume_id: int, needle_id: int) -> tuple[Needle, int]:
    """The needle, perhaps without its payload, and its checksum in the present form.

    As upstream, the whole payload is read and has to be what was stored; a large one is read in pieces and not kept.
    """
    read = store.read_needle(volume_id, needle_id, cookie=None, data=False)
    try:
        return read.needle, read.check_payload()
    finally:
        read.release()


def _parse(file_id: str, *, with_delta: bool) -> tuple[int, int, int]:
    """Volume id, needle id and cookie. A volume id that is no number is volume 0, as upstream has it.

    Upstream's form of the call that skips the cookie (not `with_delta`) takes no ``_2`` at the end.
    """
    volume_text, comma, rest = file_id.partition(",")
    if not comma or not volume_text:
        raise BadFileId(file_id, "Wrong fid format.")
    try:
        volume_id = int(parse_volume_id(volume_text))
    except BadFileId:
        volume_id = 0
    if not with_delta:
        if len(rest) <= _COOKIE_DIGITS:
            raise BadFileId(file_id, "KeyHash is too short.")
        if "_" in rest:
            digits = rest[-_COOKIE_DIGITS:]
            why = f'strconv.ParseUint: parsing "{digits}": invalid syntax'
            raise BadFileId(file_id, f"Parse cookie error: needle cookie {digits} format error: {why}")
    needle_id, cookie = parse_needle_id_cookie(rest)
    return volume_id, needle_id, cookie


def _result(file_id: str, status: HTTPStatus, error: str = "") -> pb.DeleteResult:
    return pb.DeleteResult(file_id=file_id, status=status, error=error)
