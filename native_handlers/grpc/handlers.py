"""The RPCs that this package serves, by name. What is not here has no native handler yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.grpc import (
    configure,
    control,
    copy_file,
    incremental_copy,
    needle_blobs,
    needles,
    read_all,
    receive_file,
    tail_receiver,
    tail_sender,
    volume_copy,
    volumes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from native_handlers.grpc.context import GrpcHandler

GRPC_HANDLERS: Mapping[str, GrpcHandler] = {
    "AllocateVolume": volumes.allocate_volume,
    "BatchDelete": needles.batch_delete,
    "CopyFile": copy_file.copy_file,
    "DeleteCollection": volumes.delete_collection,
    "GetState": control.get_state,
    "Ping": control.ping,
    "ReadAllNeedles": read_all.read_all_needles,
    "ReadNeedleBlob": needle_blobs.read_needle_blob,
    "ReadNeedleMeta": needle_blobs.read_needle_meta,
    "ReadVolumeFileStatus": volumes.read_volume_file_status,
    "ReceiveFile": receive_file.receive_file,
    "SetState": control.set_state,
    "VacuumVolumeCheck": volumes.vacuum_volume_check,
    "VolumeConfigure": configure.volume_configure,
    "VolumeConsolidateIndex": configure.volume_consolidate_index,
    "VolumeCopy": volume_copy.volume_copy,
    "VolumeDelete": volumes.volume_delete,
    "VolumeIncrementalCopy": incremental_copy.volume_incremental_copy,
    "VolumeMarkReadonly": volumes.volume_mark_readonly,
    "VolumeMarkWritable": volumes.volume_mark_writable,
    "VolumeMount": volumes.volume_mount,
    "VolumeNeedleStatus": needles.volume_needle_status,
    "VolumeServerLeave": control.volume_server_leave,
    "VolumeServerStatus": control.volume_server_status,
    "VolumeStatus": volumes.volume_status,
    "VolumeSyncStatus": volumes.volume_sync_status,
    "VolumeTailReceiver": tail_receiver.volume_tail_receiver,
    "VolumeTailSender": tail_sender.volume_tail_sender,
    "VolumeUnmount": volumes.volume_unmount,
    "WriteNeedleBlob": needle_blobs.write_needle_blob,
}
