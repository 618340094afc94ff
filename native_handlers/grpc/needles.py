"""RPCs on single needles. Source: weed/server/volume_grpc_admin.go, volume_grpc_batch_delete.go."""

from __future__ import annotations

import re
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format import crc
from native_handlers.format.errors import BadFileId, FormatError
from native_handlers.format.fid import parse_needle_id_cookie, split_rpc_file_id
from native_handlers.grpc.checks import check_maintenance, errors_as_upstream, store_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.message_bytes import pieces_of
from native_handlers.grpc.status_text import MAX_SHOWN_CHARACTERS, shortened
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.runtime.give_way import give_way
from native_handlers.storage.erasure_coding.errors import NotAllHere
from native_handlers.storage.model.errors import (
    DiskUnavailable,
    NotFound,
    StorageError,
    VolumeClosed,
    VolumeNotFound,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from native_handlers.format.needle import Needle
    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.erasure_coding.reader import EcReader
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume.volume import Volume

_COOKIE_DIGITS = 8
_USUAL = re.compile(r"([0-9]{1,9}),([0-9a-f]{1,16})([0-9a-f]{8})", re.ASCII)
"""The form of nearly every file id. Such an id is read at once, because a batch may name a million."""
_PIECE_BYTES = 4096
"""Bytes of a request that are handled at a time: about two hundred needles, which take a millisecond where none
exists."""
_LOOKED_OVER_BYTES = 32 * 1024
"""Bytes of a request that are scanned at a time: a millisecond as well."""
_LONGEST_BYTES = 4 * (MAX_SHOWN_CHARACTERS + 1)
"""What is read of a longer field. More characters than a file id may have are among these bytes."""
_BAD_REQUEST, _NOT_FOUND, _NOT_ACCEPTABLE, _NOT_MODIFIED, _ACCEPTED, _UNAVAILABLE, _FAILED = (
    int(status)
    for status in (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.NOT_ACCEPTABLE,
        HTTPStatus.NOT_MODIFIED,
        HTTPStatus.ACCEPTED,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
)
"""Plain numbers: looking one up in the enumeration takes longer than parsing a file id."""
_CLOSED_PERHAPS = frozenset({_NOT_FOUND, _FAILED})
"""The status of a deletion in a volume that was closed meanwhile is one of these."""
SETTLE_WAIT_S = 5.0
"""How long a deletion waits for a volume that was just copied here to receive the writes of the meantime."""


class _FoundVolume(NamedTuple):
    """The volume that this server has, or its shards where only shards are here."""

    volume: Volume | None
    coded: EcVolume | None


_NOTHING = _FoundVolume(None, None)


def volume_needle_status(
    node: GrpcNode, _context: RpcContext, request: pb.VolumeNeedleStatusRequest
) -> pb.VolumeNeedleStatusResponse:
    """A needle's metadata. `size` is that of its record's body, not of its payload; `crc` is in the legacy form."""
    store = store_of(node)
    held = _find(store, request.volume_id)
    if held is _NOTHING:
        raise RpcFailure(f"volume not found {request.volume_id}")
    with errors_as_upstream():
        try:
            needle, checksum = _read_held(store, held, request.needle_id)
        except (NotFound, VolumeClosed):
            # A closed volume has no needles, and another volume may have taken its place.
            present = _find(store, request.volume_id)
            if present == held:
                raise
            if present is _NOTHING:
                raise VolumeNotFound(request.volume_id) from None
            needle, checksum = _read_held(store, present, request.needle_id)
    return pb.VolumeNeedleStatusResponse(
        needle_id=needle.needle_id,
        cookie=needle.cookie,
        size=needle.size,
        last_modified=needle.last_modified_s,
        crc=crc.legacy_form(checksum),
        ttl=str(needle.ttl) if needle.has_ttl and needle.ttl else "",
    )


def batch_delete(node: GrpcNode, context: RpcContext, request: bytes) -> bytes:
    """Deletes needles one by one. Each has its own result; no failure stops the others, and neither does a client that
    leaves.

    A file id of more than MAX_SHOWN_CHARACTERS is refused, and its result shows its beginning. Upstream takes a file id
    with any number of leading zeros.

    Both messages are bytes. A million needles as message objects cost hundreds of megabytes, and creating and freeing
    them holds the interpreter lock for a second. So only a few exist at a time.

    Raises:
        DecodeError: the request is no message; nothing was deleted.
    """
    flags = pb.BatchDeleteRequest()
    for piece in pieces_of(request, _LOOKED_OVER_BYTES, _LONGEST_BYTES):
        flags.MergeFromString(piece)
        flags.ClearField("file_ids")
        flags.DiscardUnknownFields()
        give_way()
    check_maintenance(node)
    store, answer = store_of(node), BytesIO()
    for piece in pieces_of(request, _PIECE_BYTES, _LONGEST_BYTES):
        file_ids = pb.BatchDeleteRequest.FromString(piece).file_ids
        results = _delete_each(store, file_ids, check_cookie=not flags.skip_cookie_check)
        answer.write(results.SerializeToString())
        give_way()
        if not any(location.volumes for location in store.locations) and not context.is_active():
            break  # The server stops: it has closed its volumes, and nobody waits for the rest of the answer.
    # `getvalue` returns the buffer itself, not a copy.
    return answer.getvalue()


def _delete_each(store: Store, file_ids: Iterable[str], *, check_cookie: bool) -> pb.BatchDeleteResponse:
    response = pb.BatchDeleteResponse()
    add = response.results.add
    for file_id in file_ids:
        status, error, size = _delete_one(store, file_id, check_cookie=check_cookie)
        add(file_id=shortened(file_id), status=status, error=error, size=size)
    return response


def _check_length(file_id: str) -> None:
    """Raises BadFileId for a file id that may have been cut: another needle may have the id of its beginning."""
    if len(file_id) > MAX_SHOWN_CHARACTERS:
        has_volume = file_id.find(",", 0, MAX_SHOWN_CHARACTERS) > 0
        raise BadFileId(shortened(file_id), "KeyHash is too long." if has_volume else "Wrong fid format.")


def _delete_one(store: Store, file_id: str, *, check_cookie: bool) -> tuple[int, str, int]:
    """Status, error and freed size of one result."""
    try:
        _check_length(file_id)
        volume_id, needle_id, cookie = parse_any_volume(file_id, with_delta=check_cookie)
    except BadFileId as error:
        return _BAD_REQUEST, str(error), 0
    if not store.settling.wait(volume_id, SETTLE_WAIT_S):
        return _FAILED, f"volume {volume_id} is being copied here", 0
    held = _find(store, volume_id)
    result = _delete_from(store, held, volume_id, needle_id, cookie, check_cookie=check_cookie)
    if result[0] not in _CLOSED_PERHAPS or held is _NOTHING:
        return result
    if held.volume is not None and store.find_volume(volume_id) is held.volume:
        return result
    present = _find(store, volume_id)
    if present == held:
        return result
    # The volume was closed after the look-up. Nothing was deleted there.
    return _delete_from(store, present, volume_id, needle_id, cookie, check_cookie=check_cookie)


def _delete_from(  # noqa: PLR0913  the parts of a file id
    store: Store,
    held: _FoundVolume,
    volume_id: int,
    needle_id: int,
    cookie: int,
    *,
    check_cookie: bool,
) -> tuple[int, str, int]:
    """Status, error and freed size of the deletion in what this server has of the volume."""
    checksum = 0
    if held is _NOTHING:
        absent = VolumeNotFound(volume_id, "" if check_cookie else store.on_this_server)
        return _NOT_FOUND if check_cookie else _FAILED, str(absent), 0
    if check_cookie:
        try:
            refusal, checksum = _look_at(store, held, needle_id, cookie)
        except DiskUnavailable as error:
            return _UNAVAILABLE, str(error), 0
        except (StorageError, FormatError, OSError) as error:
            return _NOT_FOUND, str(error), 0
        if refusal is not None:
            return *refusal, 0
    try:
        if held.volume is not None:
            size = held.volume.delete(needle_id, cookie, checksum=checksum)
        else:
            assert held.coded is not None, "what is not `_NOTHING` has one of the two"
            size = _delete_coded(store, held.coded, needle_id)
    except DiskUnavailable as error:
        return _UNAVAILABLE, str(error), 0
    except (StorageError, FormatError, OSError) as error:
        return _FAILED, str(error), 0
    return (_ACCEPTED, "", size) if size else (_NOT_MODIFIED, "", 0)


def _look_at(store: Store, held: _FoundVolume, needle_id: int, cookie: int) -> tuple[tuple[int, str] | None, int]:
    """The reason why the needle's record forbids deletion, or None, and the needle's checksum."""
    needle, checksum = _read_held(store, held, needle_id)
    refusal = None
    # Upstream does not read the record of an empty needle, so any cookie fits it.
    if needle.size and needle.cookie != cookie:
        refusal = _BAD_REQUEST, "File Random Cookie does not match."
    elif needle.is_chunk_manifest:
        refusal = _NOT_ACCEPTABLE, "ChunkManifest: not allowed in batch delete mode."
    return refusal, checksum


def _read_held(store: Store, held: _FoundVolume, needle_id: int) -> tuple[Needle, int]:
    if held.volume is not None:
        return read_checked(held.volume, needle_id)
    assert held.coded is not None, "the caller has found one of the two"
    found = _read_coded(store.ec_reader, held.coded, needle_id)
    return found, found.checksum


def _read_coded(reader: EcReader, volume: EcVolume, needle_id: int) -> Needle:
    """Reads a needle when the bounds that HTTP requests have too leave room for it."""
    memory, reads = reader.memory_of(volume, needle_id), reader.bounds.reads
    try:
        with reads.holding([volume.place.disk_id], memory.here_bytes):
            return reader.read_needle(volume.id, needle_id, None, volume=volume, here_only=True)
    except NotAllHere:
        pass
    with reads.holding([None], memory.elsewhere_bytes):
        return reader.read_needle(volume.id, needle_id, None, volume=volume)


def _delete_coded(store: Store, volume: EcVolume, needle_id: int) -> int:
    """As `_read_coded`: a deletion reads the needle first. Returns the size of the needle's body."""
    memory, deletions = store.ec_reader.memory_of(volume, needle_id), store.ec_reader.bounds.deletions
    with deletions.holding(store.ec.disks_of_deletions(volume.id), memory.elsewhere_bytes):
        return store.ec_reader.delete_needle(volume.id, needle_id, 0, volume)


def read_checked(volume: Volume, needle_id: int) -> tuple[Needle, int]:
    """The needle, perhaps without its payload, and its checksum in the current form.

    As upstream, the whole payload is read and compared with its checksum. A large payload is read in pieces and not
    kept.
    """
    read = volume.read(needle_id, cookie=None, data=False)
    try:
        return read.needle, read.check_payload()
    finally:
        read.release()


def _find(store: Store, volume_id: int) -> _FoundVolume:
    volume = store.find_volume(volume_id)
    if volume is not None:
        return _FoundVolume(volume, None)
    coded = store.ec.find(volume_id)
    return _FoundVolume(None, coded) if coded is not None else _NOTHING


def parse_any_volume(file_id: str, *, with_delta: bool = True) -> tuple[int, int, int]:
    """Volume id, needle id and cookie of a file id. The authority finds the same volume; see `split_rpc_file_id`.

    Without `with_delta` the file id may not end in a delta such as ``_2``: so upstream parses it for calls that skip
    the cookie check.

    Raises:
        BadFileId: with upstream's text.
    """
    usual = _USUAL.fullmatch(file_id)
    if usual is not None:
        return int(usual[1]), int(usual[2], 16), int(usual[3], 16)
    volume_id, rest = split_rpc_file_id(file_id)
    if not with_delta:
        if len(rest) <= _COOKIE_DIGITS:
            raise BadFileId(file_id, "KeyHash is too short.")
        if "_" in rest:
            digits = rest[-_COOKIE_DIGITS:]
            why = f'strconv.ParseUint: parsing "{digits}": invalid syntax'
            raise BadFileId(file_id, f"Parse cookie error: needle cookie {digits} format error: {why}")
    needle_id, cookie = parse_needle_id_cookie(rest)
    return volume_id, needle_id, cookie
