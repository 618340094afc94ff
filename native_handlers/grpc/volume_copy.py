"""VolumeCopy: fetches a volume from another volume server, file by file, and mounts it.

Source: weed/server/volume_grpc_copy.go (VolumeCopy).
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import grpc

from native_handlers.format.errors import FormatError
from native_handlers.grpc.checks import check_maintenance, check_other, errors_as_upstream, store_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_client import CallEnd, CopySource, ended, receive_copy
from native_handlers.grpc.copy_follow import fetch_later_writes
from native_handlers.grpc.file_names import check_collection, os_error_text
from native_handlers.grpc.heard import SILENCE_LIMIT_S
from native_handlers.grpc.status_text import go_error_text
from native_handlers.grpc.throttle import WriteThrottler
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.transfer.received_files import MAX_VIF_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.store import Store
    from native_handlers.storage.transfer.receive import StagedFile
    from native_handlers.storage.transfer.volume_copy import ArrivingVolume

log = logging.getLogger(__name__)

PROGRESS_BYTES = 128 << 20
"""One progress message for so many bytes of .dat."""
INDEX_ROUNDS = 10
"""How often the index of a volume in a tier is copied while deletions come."""
_NS = 10**9


def volume_copy(node: GrpcNode, context: RpcContext, request: pb.VolumeCopyRequest) -> Iterator[pb.VolumeCopyResponse]:
    """Copies a volume here and mounts it. A copy that is mounted here already can be read meanwhile but not written. It
    is replaced when the new one is complete, on disk, and was checked to be a volume. Messages tell how much of .dat
    has arrived; the last one, after the mount, has the time of the last record in the copied files.

    The copied files end at the sizes that the source gave at first. Later writes at the source are fetched when the
    master names this server as a holder, see `fetch_later_writes`.

    Of a volume whose data lies in a remote tier, .idx and .vif are copied, and the object is read from here as well.

    Wilful differences: upstream deletes the copy that is here when the source has shown that it has the volume, so it
    needs no room for both. This server refuses a copy from itself, under whatever address, and a volume in a tier for
    which it has no settings. Files are synced before the copy counts as complete. A damaged copy does not replace a
    volume. A copy whose data cannot be read from here is not mounted at all, and a volume that moves to or from a tier
    while it is copied is refused: its source may be deleted next. Deletions of a volume in a tier that arrive while the
    volume is copied are copied too. The copy ends when the client goes.
    """
    check_maintenance(node)
    store = store_of(node)
    with node.volume_servers.open_volume_server(request.source_data_node) as client:
        bytes_per_s = request.io_byte_per_second
        if bytes_per_s <= 0:
            bytes_per_s = node.facts.maintenance_bytes_per_s
        end = CallEnd(context)
        source = CopySource(client, end, WriteThrottler(bytes_per_s, end.pause))
        status = _status_of(node, source, request.volume_id)
        _check_tier(store, request.volume_id, status)
        end.check()
        arriving = _begin(store, request, status)
        try:
            yield from _copy_files(store, source, arriving, request, status)
            if arriving.is_tiered:
                _copy_later_rows(node, source, arriving, request, status)
            end.check()
            _check_sizes(arriving, status)
            last_append_at_ns = _last_append_at_ns(arriving, status)
        except BaseException:
            store.abandon_copy(arriving)
            raise
        # Clients wait from the moment that the copy can be found until it has the writes of the meantime.
        with store.settling.settle(request.volume_id):
            _mount_or_abandon(store, arriving)
            later = 0
            if not _is_tiered(status):
                revision = status.compaction_revision
                later = fetch_later_writes(node, source, request.volume_id, last_append_at_ns, revision)
    log.info("volume %d copied from %s, and %d later records", request.volume_id, request.source_data_node, later)
    yield pb.VolumeCopyResponse(last_append_at_ns=last_append_at_ns)


def _status_of(node: GrpcNode, source: CopySource, volume_id: int) -> pb.ReadVolumeFileStatusResponse:
    """The source's description of the volume. The code of its refusal becomes ours, as upstream wraps it."""
    call = source.client.ReadVolumeFileStatus.future(
        pb.ReadVolumeFileStatusRequest(volume_id=volume_id), timeout=SILENCE_LIMIT_S
    )
    source.end.guard(call.cancel)
    try:
        status: pb.ReadVolumeFileStatusResponse = call.result()
    except grpc.FutureCancelledError as error:
        raise ended() from error
    except grpc.RpcError as error:
        source.end.check()
        check_other(node, error, "copy a volume")
        raise RpcFailure(f"read volume file status failed, {go_error_text(error)}", error.code()) from error
    check_collection(status.collection)
    return status


def _is_tiered(status: pb.ReadVolumeFileStatusResponse) -> bool:
    return bool(status.volume_info.files)


def _check_tier(store: Store, volume_id: int, status: pb.ReadVolumeFileStatusResponse) -> None:
    """Raises RpcFailure where the data of the volume could not be read from here."""
    if not _is_tiered(status):
        return
    file = status.volume_info.files[0]
    name = f"{file.backend_type}.{file.backend_id}"
    if store.tiers is None or store.tiers.tiers.find(name) is None:
        raise RpcFailure(f"volume {volume_id} is in remote storage {name}, which this server has no settings of")


def _begin(store: Store, request: pb.VolumeCopyRequest, status: pb.ReadVolumeFileStatusResponse) -> ArrivingVolume:
    disk_type = request.disk_type or status.disk_type
    with errors_as_upstream():
        needed_bytes = status.idx_file_size + (0 if _is_tiered(status) else status.dat_file_size)
        arriving = store.begin_copy(request.volume_id, status.collection, disk_type, needed_bytes)
        arriving.is_tiered = _is_tiered(status)
    try:
        with errors_as_upstream(f"failed to prepare for volume {request.volume_id}"):
            arriving.begin()
    except BaseException:
        store.abandon_copy(arriving)
        raise
    return arriving


def _copy_files(
    store: Store,
    source: CopySource,
    arriving: ArrivingVolume,
    request: pb.VolumeCopyRequest,
    status: pb.ReadVolumeFileStatusResponse,
) -> Iterator[pb.VolumeCopyResponse]:
    """Copies all three files, commits them and checks their sizes. Yields the progress messages for the client."""
    dat = _file(request, status, ".dat", status.dat_file_size)
    idx = _file(request, status, ".idx", status.idx_file_size)
    vif = _file(request, status, ".vif", MAX_VIF_BYTES)
    next_report = PROGRESS_BYTES
    for processed in () if arriving.is_tiered else receive_copy(source, dat, partial(_make_dat, store, arriving)):
        if processed > next_report:
            next_report = processed + PROGRESS_BYTES
            yield pb.VolumeCopyResponse(processed_bytes=processed)
    _copy_small(source, idx, arriving)
    _copy_small(source, vif, arriving)


def _file(
    request: pb.VolumeCopyRequest, status: pb.ReadVolumeFileStatusResponse, extension: str, stop_offset: int
) -> pb.CopyFileRequest:
    return pb.CopyFileRequest(
        volume_id=request.volume_id,
        collection=request.collection,
        compaction_revision=status.compaction_revision,
        ext=extension,
        stop_offset=stop_offset,
        ignore_source_file_not_found=extension != ".idx",
    )


def _check_sizes(arriving: ArrivingVolume, status: pb.ReadVolumeFileStatusResponse) -> None:
    with errors_as_upstream():
        try:
            arriving.check_sizes(status.dat_file_size, status.idx_file_size)
        except OSError as error:
            raise RpcFailure(os_error_text("stat", error.filename or arriving.paths.name, error)) from error


def _copy_small(source: CopySource, wanted: pb.CopyFileRequest, arriving: ArrivingVolume) -> None:
    for _ in receive_copy(source, wanted, partial(arriving.receive, wanted.ext)):
        pass


def _copy_later_rows(
    node: GrpcNode,
    source: CopySource,
    arriving: ArrivingVolume,
    request: pb.VolumeCopyRequest,
    status: pb.ReadVolumeFileStatusResponse,
) -> None:
    """Copies .idx again while the source's grows; `status` then has the size that was copied.

    Deletions of a volume in a tier are rows alone, with no record that could be fetched later.

    Raises:
        RpcFailure: the index grows and grows, or the source has its data in another place by now.
    """
    for _ in range(INDEX_ROUNDS):
        now = _status_of(node, source, request.volume_id)
        if now.volume_info.files != status.volume_info.files:
            raise RpcFailure(f"volume {request.volume_id} was moved to or from remote storage while it was copied")
        if now.idx_file_size == status.idx_file_size:
            return
        status.idx_file_size = now.idx_file_size
        _copy_small(source, _file(request, status, ".idx", status.idx_file_size), arriving)
    raise RpcFailure(
        f"the index of volume {request.volume_id} grew during {INDEX_ROUNDS} copies of it; "
        "mark the volume read-only first"
    )


def _make_dat(store: Store, arriving: ArrivingVolume) -> StagedFile:
    file = arriving.receive(".dat")
    if store.is_preallocating and store.volume_size_limit_bytes:
        try:
            file.reserve(store.volume_size_limit_bytes)
        except OSError as error:
            # As when a volume is created: a missing reservation only makes later writes slower.
            log.warning("no space is reserved for %s: %s", file.target, error)
    return file


def _last_append_at_ns(arriving: ArrivingVolume, status: pb.ReadVolumeFileStatusResponse) -> int:
    """The append time of the last record, or the time of the .dat file where that is not known, as for a tier."""
    if arriving.is_tiered:
        return status.dat_file_timestamp_seconds * _NS
    try:
        at_ns = arriving.last_append_at_ns(status.version)
    except (OSError, FormatError) as error:
        log.warning("volume %s: the time of its last record is not known: %s", arriving.paths.name, error)
        at_ns = 0
    return at_ns or status.dat_file_timestamp_seconds * _NS


def _mount_or_abandon(store: Store, arriving: ArrivingVolume) -> None:
    try:
        _mount(store, arriving)
    except BaseException:
        store.abandon_copy(arriving)
        raise


def _mount(store: Store, arriving: ArrivingVolume) -> None:
    with errors_as_upstream(f"failed to mount volume {arriving.paths.volume_id}"):
        store.mount_copy(arriving)
