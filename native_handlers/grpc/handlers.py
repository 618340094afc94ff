"""The native RPC handlers by RPC name. An RPC that is not here has no native handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.grpc import (
    configure,
    control,
    copy_file,
    ec_copy,
    ec_scrub,
    ec_shards,
    ec_work,
    incremental_copy,
    needle_blobs,
    needles,
    query,
    read_all,
    receive_file,
    remote_fetch,
    scrub,
    tail_receiver,
    tail_sender,
    tiers,
    vacuum,
    volume_copy,
    volumes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from native_handlers.grpc.context import BytesHandler, GrpcHandler

GRPC_HANDLERS: Mapping[str, GrpcHandler] = {
    "AllocateVolume": volumes.allocate_volume,
    "CopyFile": copy_file.copy_file,
    "DeleteCollection": volumes.delete_collection,
    "FetchAndWriteNeedle": remote_fetch.fetch_and_write_needle,
    "GetState": control.get_state,
    "Ping": control.ping,
    "Query": query.query,
    "ReadAllNeedles": read_all.read_all_needles,
    "ReadNeedleBlob": needle_blobs.read_needle_blob,
    "ReadNeedleMeta": needle_blobs.read_needle_meta,
    "ReadVolumeFileStatus": volumes.read_volume_file_status,
    "ReceiveFile": receive_file.receive_file,
    "ScrubEcVolume": ec_scrub.scrub_ec_volume,
    "ScrubVolume": scrub.scrub_volume,
    "SetState": control.set_state,
    "VacuumVolumeCheck": vacuum.vacuum_volume_check,
    "VacuumVolumeCleanup": vacuum.vacuum_volume_cleanup,
    "VacuumVolumeCommit": vacuum.vacuum_volume_commit,
    "VacuumVolumeCompact": vacuum.vacuum_volume_compact,
    "VolumeConfigure": configure.volume_configure,
    "VolumeConsolidateIndex": configure.volume_consolidate_index,
    "VolumeCopy": volume_copy.volume_copy,
    "VolumeDelete": volumes.volume_delete,
    "VolumeIncrementalCopy": incremental_copy.volume_incremental_copy,
    "VolumeEcBlobDelete": ec_shards.volume_ec_blob_delete,
    "VolumeEcShardRead": ec_shards.volume_ec_shard_read,
    "VolumeEcShardsCopy": ec_copy.volume_ec_shards_copy,
    "VolumeEcShardsDelete": ec_shards.volume_ec_shards_delete,
    "VolumeEcShardsGenerate": ec_work.volume_ec_shards_generate,
    "VolumeEcShardsInfo": ec_shards.volume_ec_shards_info,
    "VolumeEcShardsMount": ec_shards.volume_ec_shards_mount,
    "VolumeEcShardsRebuild": ec_work.volume_ec_shards_rebuild,
    "VolumeEcShardsToVolume": ec_work.volume_ec_shards_to_volume,
    "VolumeEcShardsUnmount": ec_shards.volume_ec_shards_unmount,
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
    "VolumeTierMoveDatFromRemote": tiers.volume_tier_move_dat_from_remote,
    "VolumeTierMoveDatToRemote": tiers.volume_tier_move_dat_to_remote,
    "VolumeUnmount": volumes.volume_unmount,
    "WriteNeedleBlob": needle_blobs.write_needle_blob,
}

BYTES_HANDLERS: Mapping[str, BytesHandler] = {"BatchDelete": needles.batch_delete}
"""The RPCs whose messages may have very many parts. The gateway calls these handlers in place of those above."""

RPC_NAMES = frozenset((*GRPC_HANDLERS, *BYTES_HANDLERS))
