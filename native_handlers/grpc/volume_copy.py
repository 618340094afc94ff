"""VolumeCopy: a volume is fetched from another volume server, file by file, and mounted.

Source: weed/server/volume_grpc_copy.go (VolumeCopy).
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import grpc

from native_handlers.format.errors import FormatError
from native_handlers.grpc.checks import check_maintenance, errors_as_upstream, store_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_client import CallEnd, CopySource, ended, receive_copy
from native_handlers.grpc.file_names import check_collection, os_error_text
from native_handlers.grpc.status_text import go_error_text
from native_handlers.grpc.throttle import Throttle
from native_handlers.pb import volume_server_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.incoming import IncomingFile
    from native_handlers.storage.incoming_volume import IncomingVolume
    from native_handlers.storage.store import Store

log = logging.getLogger(__name__)

PROGRESS_BYTES = 128 << 20
"""A message each time so much of .dat has come."""
MAX_VIF_BYTES = 1 << 20
_NS = 10**9


def volume_copy(node: GrpcNode, context: RpcContext, request: pb.VolumeCopyRequest) -> Iterator[pb.VolumeCopyResponse]:
    """Copies a volume here and mounts it. A copy of it that is mounted here is deleted, but not before the source has
    shown that it has the volume. Messages tell how much of .dat is here; the last one, when the volume is mounted, the
    time of its last record.

    What is written at the source meanwhile is not copied: the sizes that it gave at first are where the files end.

    Wilful differences: a copy from this server itself, which would delete what it wants to copy, and one of a volume
    in remote storage, which could not be served here, are refused before anything is deleted; files are put on disk
    before the copy counts as whole; when the client goes the copy ends.
    """
    check_maintenance(node)
    store = store_of(node)
    _check_not_self(node, request.source_data_node)
    with node.peers.open_volume_server(request.source_data_node) as client:
        bytes_per_s = request.io_byte_per_second
        if bytes_per_s <= 0:
            bytes_per_s = node.facts.maintenance_bytes_per_s
        end = CallEnd(context)
        source = CopySource(client, end, Throttle(bytes_per_s, end.pause))
        status = _status_of(source, request.volume_id)
        end.check()
        incoming = _begin(store, request, status)
        try:
            yield from _copy_files(store, source, incoming, request, status)
            last_append_at_ns = _last_append_at_ns(incoming, status)
            _mount(store, incoming)
        except BaseException:
            store.abandon_copy(incoming)
            raise
    log.info("volume %d copied from %s", request.volume_id, request.source_data_node)
    yield pb.VolumeCopyResponse(last_append_at_ns=last_append_at_ns)


def _check_not_self(node: GrpcNode, address: str) -> None:
    own = f"{node.facts.ip}:{node.facts.port}"
    if address == own or address.startswith(f"{own}."):
        raise RpcFailure(f"volume server {own} cannot copy a volume from itself")


def _status_of(source: CopySource, volume_id: int) -> pb.ReadVolumeFileStatusResponse:
    """What the source says of the volume. The code of its refusal becomes ours, as upstream wraps it."""
    call = source.client.ReadVolumeFileStatus.future(pb.ReadVolumeFileStatusRequest(volume_id=volume_id))
    source.end.guard(call.cancel)
    try:
        status: pb.ReadVolumeFileStatusResponse = call.result()
    except grpc.FutureCancelledError as error:
        raise ended() from error
    except grpc.RpcError as error:
        source.end.check()
        raise RpcFailure(f"read volume file status failed, {go_error_text(error)}", error.code()) from error
    check_collection(status.collection)
    if status.volume_info.files:
        file = status.volume_info.files[0]
        name = f"{file.backend_type}.{file.backend_id}"
        raise RpcFailure(f"volume {volume_id} is in remote storage {name}, which is not supported here yet")
    return status


def _begin(store: Store, request: pb.VolumeCopyRequest, status: pb.ReadVolumeFileStatusResponse) -> IncomingVolume:
    disk_type = request.disk_type or status.disk_type
    with errors_as_upstream():
        incoming = store.begin_copy(request.volume_id, status.collection, disk_type, status.dat_file_size)
    try:
        incoming.begin(f"copying from {request.source_data_node}")
    except OSError as error:
        store.abandon_copy(incoming)
        text = os_error_text("open", incoming.paths.file(".note"), error)
        raise RpcFailure(f"write .note for volume {request.volume_id}: {text}") from error
    return incoming


def _copy_files(
    store: Store,
    source: CopySource,
    incoming: IncomingVolume,
    request: pb.VolumeCopyRequest,
    status: pb.ReadVolumeFileStatusResponse,
) -> Iterator[pb.VolumeCopyResponse]:
    """All three files, committed and of the right size; yields what the client is told meanwhile."""
    of_file = partial(
        pb.CopyFileRequest,
        volume_id=request.volume_id,
        collection=request.collection,
        compaction_revision=status.compaction_revision,
    )
    dat = of_file(ext=".dat", stop_offset=status.dat_file_size, ignore_source_file_not_found=True)
    idx = of_file(ext=".idx", stop_offset=status.idx_file_size)
    vif = of_file(ext=".vif", stop_offset=MAX_VIF_BYTES, ignore_source_file_not_found=True)
    next_report = PROGRESS_BYTES
    for processed in receive_copy(source, dat, partial(_make_dat, store, incoming)):
        if processed > next_report:
            next_report = processed + PROGRESS_BYTES
            yield pb.VolumeCopyResponse(processed_bytes=processed)
    for rest in (idx, vif):
        for _ in receive_copy(source, rest, partial(incoming.receive, rest.ext)):
            pass
    source.end.check()
    with errors_as_upstream():
        try:
            incoming.check_sizes(status.dat_file_size, status.idx_file_size)
        except OSError as error:
            raise RpcFailure(os_error_text("stat", error.filename or incoming.paths.name, error)) from error


def _make_dat(store: Store, incoming: IncomingVolume) -> IncomingFile:
    file = incoming.receive(".dat")
    if store.is_preallocating and store.volume_size_limit_bytes:
        try:
            file.reserve(store.volume_size_limit_bytes)
        except OSError as error:
            # As when a volume is created: it only makes later writes slower.
            log.warning("no space is reserved for %s: %s", file.target, error)
    return file


def _last_append_at_ns(incoming: IncomingVolume, status: pb.ReadVolumeFileStatusResponse) -> int:
    """Of the last record; of the whole file where that cannot be told."""
    try:
        at_ns = incoming.last_append_at_ns(status.version)
    except (OSError, FormatError) as error:
        log.warning("volume %s: the time of its last record is not known: %s", incoming.paths.name, error)
        at_ns = 0
    return at_ns or status.dat_file_timestamp_seconds * _NS


def _mount(store: Store, incoming: IncomingVolume) -> None:
    volume_id = incoming.paths.volume_id
    try:
        with errors_as_upstream(f"failed to mount volume {volume_id}"):
            store.mount_copy(incoming)
    except OSError as error:
        text = os_error_text("remove", incoming.paths.file(".note"), error)
        raise RpcFailure(f"remove .note for volume {volume_id}: {text}") from error
