"""RPCs that create, open, close, delete and describe volumes. Checks are in upstream's order: maintenance, then look-up
(for marking a volume, look-up first). The gateway has checked the admin gate before.

Source: weed/server/volume_grpc_admin.go, volume_grpc_copy.go, volume_grpc_copy_incremental.go.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import grpc

from native_handlers.format.vif import volume_info_message
from native_handlers.grpc.checks import check_maintenance, errors_as_upstream, store_of, volume_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.status_text import shortened
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.master_pb2 import VolumeMarkReadonlyRequest
from native_handlers.storage.model.errors import StorageError, VolumeClosed

if TYPE_CHECKING:
    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.model.report import VolumeReport
    from native_handlers.storage.volume.volume import Volume

log = logging.getLogger(__name__)


def allocate_volume(
    node: GrpcNode, _context: RpcContext, request: pb.AllocateVolumeRequest
) -> pb.AllocateVolumeResponse:
    """Creates an empty volume on the least loaded disk of the wanted type.

    The request must name the version: upstream's master always does, and upstream refuses 0. Wilful difference: an old
    version is used for all records; upstream writes it into the super block and then writes records of the current
    version.
    """
    check_maintenance(node)
    with errors_as_upstream():
        store_of(node).allocate_volume(
            request.volume_id,
            collection=request.collection,
            replication=request.replication,
            ttl=request.ttl,
            preallocate_bytes=request.preallocate,
            disk_type=request.disk_type,
            version=request.version,
        )
    return pb.AllocateVolumeResponse()


def volume_mount(node: GrpcNode, _context: RpcContext, request: pb.VolumeMountRequest) -> pb.VolumeMountResponse:
    """Opens a volume whose files are on a disk."""
    with errors_as_upstream():
        store_of(node).mount_volume(request.volume_id)
    return pb.VolumeMountResponse()


def volume_unmount(node: GrpcNode, _context: RpcContext, request: pb.VolumeUnmountRequest) -> pb.VolumeUnmountResponse:
    """Closes a volume and keeps its files. A volume that is not open is no error."""
    with errors_as_upstream():
        store_of(node).unmount_volume(request.volume_id)
    return pb.VolumeUnmountResponse()


def volume_delete(node: GrpcNode, _context: RpcContext, request: pb.VolumeDeleteRequest) -> pb.VolumeDeleteResponse:
    """Deletes a volume and its files."""
    check_maintenance(node)
    with errors_as_upstream():
        store_of(node).delete_volume(
            request.volume_id, only_empty=request.only_empty, keep_remote_data=request.keep_remote_data
        )
    log.info("volume %d deleted", request.volume_id)
    return pb.VolumeDeleteResponse()


def delete_collection(
    node: GrpcNode, _context: RpcContext, request: pb.DeleteCollectionRequest
) -> pb.DeleteCollectionResponse:
    """Deletes every volume of a collection. "" is the default collection, not all collections."""
    with errors_as_upstream():
        store_of(node).delete_collection(request.collection)
    log.info("collection %r deleted", shortened(request.collection))
    return pb.DeleteCollectionResponse()


def volume_mark_readonly(
    node: GrpcNode, context: RpcContext, request: pb.VolumeMarkReadonlyRequest
) -> pb.VolumeMarkReadonlyResponse:
    """Stops writes. The master is told first, so that it sends no writes here, and again afterwards, because a
    heartbeat in between may have told it otherwise.
    """
    volume = volume_of(node, request.volume_id, "volume %d not found")
    check_maintenance(node)
    _tell_master(node, context, volume, is_read_only=True)
    with errors_as_upstream():
        store_of(node).mark_readonly(volume, can_delete=request.can_delete, persist=request.persist)
    _tell_master(node, context, volume, is_read_only=True)
    return pb.VolumeMarkReadonlyResponse()


def volume_mark_writable(
    node: GrpcNode, context: RpcContext, request: pb.VolumeMarkWritableRequest
) -> pb.VolumeMarkWritableResponse:
    """Allows writes again. The master is told only after that."""
    volume = volume_of(node, request.volume_id, "volume %d not found")
    check_maintenance(node)
    with errors_as_upstream():
        store_of(node).mark_writable(volume)
    _tell_master(node, context, volume, is_read_only=False)
    return pb.VolumeMarkWritableResponse()


def volume_status(node: GrpcNode, _context: RpcContext, request: pb.VolumeStatusRequest) -> pb.VolumeStatusResponse:
    """Size, counts and whether the volume takes writes."""
    report = _report_of(node, volume_of(node, request.volume_id))
    return pb.VolumeStatusResponse(
        is_read_only=report.read_only,
        volume_size=report.size_bytes,
        file_count=report.file_count,
        file_deleted_count=report.delete_count,
    )


def volume_sync_status(
    node: GrpcNode, _context: RpcContext, request: pb.VolumeSyncStatusRequest
) -> pb.VolumeSyncStatusResponse:
    """The facts that a follower compares before it copies."""
    report = _report_of(node, volume_of(node, request.volume_id))
    return pb.VolumeSyncStatusResponse(
        volume_id=report.id,
        collection=report.collection,
        replication=str(report.replica_placement),
        ttl=str(report.ttl),
        tail_offset=report.size_bytes,
        compact_revision=report.compact_revision,
        idx_file_size=report.index_size_bytes,
        version=report.version,
    )


def read_volume_file_status(
    node: GrpcNode, _context: RpcContext, request: pb.ReadVolumeFileStatusRequest
) -> pb.ReadVolumeFileStatusResponse:
    """The facts of the files that a copying server needs, from the state of the open volume. Both times are the .dat
    file's, as in upstream.

    UNKNOWN says that the volume is not here, and nothing else: `volume.move` takes that code for certain, and then
    copies over the volume that is here.
    """
    volume = volume_of(node, request.volume_id)
    try:
        report = _report_of(node, volume)
        dat_size_bytes, idx_size_bytes = volume.file_sizes()
    except VolumeClosed as error:
        raise RpcFailure(f"not found volume id {request.volume_id}") from error
    except StorageError as error:
        # Only for a volume that several processes share can these facts be unknown.
        raise RpcFailure(str(error), grpc.StatusCode.UNAVAILABLE) from error
    return pb.ReadVolumeFileStatusResponse(
        volume_id=report.id,
        idx_file_timestamp_seconds=report.modified_at_s,
        idx_file_size=idx_size_bytes,
        dat_file_timestamp_seconds=report.modified_at_s,
        dat_file_size=dat_size_bytes,
        file_count=report.file_count,
        compaction_revision=report.compact_revision,
        collection=report.collection,
        disk_type=report.disk_type,
        volume_info=volume_info_message(volume.info),
        version=report.version,
    )


def _report_of(node: GrpcNode, volume: Volume) -> VolumeReport:
    """The report of the volume, or of the volume that is open in its place by now."""
    report = volume.report()
    if report is None:
        report = volume_of(node, volume.id).report()
    if report is None:
        raise RpcFailure(f"not found volume id {volume.id}")
    return report


def _tell_master(node: GrpcNode, context: RpcContext, volume: Volume, *, is_read_only: bool) -> None:
    request = VolumeMarkReadonlyRequest(
        ip=node.facts.ip,
        port=node.facts.port,
        volume_id=volume.id,
        collection=volume.collection,
        replica_placement=volume.replica_placement.to_byte(),
        ttl=volume.ttl.to_uint32(),
        disk_type=volume.disk_type,
        is_readonly=is_read_only,
    )
    node.masters.mark_readonly(request, context.time_remaining_s())
