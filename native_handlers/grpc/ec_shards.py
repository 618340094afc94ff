"""RPCs on the shards of this server: opening, closing, deleting, reading, and describing them.

Source: weed/server/volume_grpc_erasure_coding.go.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from native_handlers.grpc.checks import check_maintenance, errors_as_upstream, once, store_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.ec_index import fetch_missing_indexes
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.model.file_kinds import MAX_SHARDS
from native_handlers.storage.system.files import FileRetired
from native_handlers.storage.volume.file_reader import piece_lengths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode

log = logging.getLogger(__name__)


def volume_ec_shards_mount(
    node: GrpcNode, context: RpcContext, request: pb.VolumeEcShardsMountRequest
) -> pb.VolumeEcShardsMountResponse:
    """Opens shards whose files are here. With `recover_missing_index` a missing index is fetched first."""
    store = store_of(node)
    if request.recover_missing_index:
        fetch_missing_indexes(node, context, request.volume_id)
    for shard_id in once(request.shard_ids):
        with errors_as_upstream(f"mount {request.volume_id}.{shard_id}"):
            store.ec.mount(request.collection, request.volume_id, shard_id, request.source_disk_type)
    return pb.VolumeEcShardsMountResponse()


def volume_ec_shards_unmount(
    node: GrpcNode, _context: RpcContext, request: pb.VolumeEcShardsUnmountRequest
) -> pb.VolumeEcShardsUnmountResponse:
    """Closes shards. Shards that are not open are no error, and neither are ids that no shard can have. Upstream takes
    such an id modulo 256.
    """
    for shard_id in once(request.shard_ids, below=MAX_SHARDS):
        with errors_as_upstream(f"unmount {request.volume_id}.{shard_id}"):
            store_of(node).ec.unmount(request.volume_id, shard_id, request.encode_ts_ns)
    return pb.VolumeEcShardsUnmountResponse()


def volume_ec_shards_delete(
    node: GrpcNode, _context: RpcContext, request: pb.VolumeEcShardsDeleteRequest
) -> pb.VolumeEcShardsDeleteResponse:
    """Deletes shard files, or all files of an erasure-coded volume (`full_teardown`). As in upstream, shards that are
    not here are no error, and neither are ids that no shard can have.
    """
    check_maintenance(node)
    work = store_of(node).ec_work
    shard_ids = list(once(request.shard_ids, below=MAX_SHARDS))
    with errors_as_upstream():
        if request.full_teardown:
            work.tear_down(request.collection, request.volume_id, request.encode_ts_ns)
        else:
            work.delete_shards(request.collection, request.volume_id, shard_ids)
    log.info("shards %s of volume %d deleted", shard_ids, request.volume_id)
    return pb.VolumeEcShardsDeleteResponse(full_teardown_done=request.full_teardown)


def volume_ec_shard_read(
    node: GrpcNode, _context: RpcContext, request: pb.VolumeEcShardReadRequest
) -> Iterator[pb.VolumeEcShardReadResponse]:
    """Yields a range of a shard in messages of 2 MiB, up to the shard's end."""
    name, ec = f"ec shard {request.volume_id}.{request.shard_id}", store_of(node).ec
    found = ec.find_shard(request.volume_id, request.shard_id, request.encode_ts_ns)
    if found is None:
        is_here = ec.find_shard(request.volume_id, request.shard_id) is not None
        raise RpcFailure(f"{name} belongs to a different encode run" if is_here else f"not found {name}")
    volume, shard = found
    with errors_as_upstream():
        ec.check_in_service(volume)
        if request.file_key:
            store_of(node).ec.check_readable(volume)
            entry = volume.find(request.file_key)
            if entry is not None and entry.size < 0:
                yield pb.VolumeEcShardReadResponse(is_deleted=True, encode_ts_ns=volume.encode_ts_ns)
                return
        if request.offset < 0:
            raise RpcFailure(f"read {shard.path}: negative offset")
        at, end, lengths = request.offset, request.offset + request.size, piece_lengths()
        try:
            while at < end:
                data = shard.read(min(next(lengths), end - at), at)
                if not data:
                    return
                at += len(data)
                yield pb.VolumeEcShardReadResponse(data=data, encode_ts_ns=volume.encode_ts_ns)
        except FileRetired as error:
            raise RpcFailure(f"not found {name}") from error


def volume_ec_blob_delete(
    node: GrpcNode, _context: RpcContext, request: pb.VolumeEcBlobDeleteRequest
) -> pb.VolumeEcBlobDeleteResponse:
    """Marks a needle of an erasure-coded volume as deleted. As in upstream, an absent volume is no error."""
    check_maintenance(node)
    volume = store_of(node).ec.find(request.volume_id)
    if volume is not None:
        with errors_as_upstream():
            store_of(node).ec.check_readable(volume)
            if volume.find(request.file_key) is None:
                raise RpcFailure("locate in local ec volume: FindNeedleFromEcx: needle not found")
            store_of(node).ec.delete(volume, request.file_key)
    return pb.VolumeEcBlobDeleteResponse()


def volume_ec_shards_info(
    node: GrpcNode, _context: RpcContext, request: pb.VolumeEcShardsInfoRequest
) -> pb.VolumeEcShardsInfoResponse:
    """The open shards on all disks, and the counts of needles."""
    ec = store_of(node).ec
    chosen = ec.find(request.volume_id)
    if chosen is None:
        raise RpcFailure(f"VolumeEcShardsInfo: EC volume {request.volume_id} not found")
    shards: dict[int, pb.EcShardInfo] = {}
    for volume in ec.copies(request.volume_id):
        for shard in volume.shards.values():
            info = pb.EcShardInfo(
                shard_id=shard.id, size=shard.size_bytes, collection=volume.collection, volume_id=volume.id
            )
            shards.setdefault(shard.id, info)
    with errors_as_upstream():
        ec.check_readable(chosen)
        live, deleted, size_bytes = chosen.counts()
    return pb.VolumeEcShardsInfoResponse(
        ec_shard_infos=shards.values(), volume_size=size_bytes, file_count=live, file_deleted_count=deleted
    )
