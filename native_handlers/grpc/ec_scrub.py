"""ScrubEcVolume: erasure-coded volumes are verified. Source: weed/server/volume_grpc_scrub.go."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.checks import errors_as_upstream, once, store_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_client import CallEnd
from native_handlers.grpc.scrub import not_verified
from native_handlers.grpc.throttle import WriteThrottler
from native_handlers.pb import volume_server_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Collection

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.erasure_coding.scrub import EcScrub, EcScrubber
    from native_handlers.storage.store import Store

_MODES = frozenset({pb.INDEX, pb.LOCAL, pb.FULL, pb.CHECKSUM})


def scrub_ec_volume(node: GrpcNode, context: RpcContext, request: pb.ScrubEcVolumeRequest) -> pb.ScrubEcVolumeResponse:
    """Verifies the volumes in the request, or all, at the pace of -maintenanceMBps. Ends when the client goes. Of all
    volumes, those with a disk out of service are not verified, and `details` has a line for each.

    Wilful difference: checksums are verified for the shards of all disks; upstream verifies those of one disk.
    """
    if request.force_deleted_needles_check and request.mode != pb.FULL:
        raise RpcFailure("deleted needle checks are only supported for FULL scrubs")
    store, end = store_of(node), CallEnd(context)
    throttle = WriteThrottler(node.facts.maintenance_bytes_per_s, end.pause)
    response = pb.ScrubEcVolumeResponse()

    def passed(count_bytes: int) -> None:
        end.check()
        throttle.passed(count_bytes)

    for volume_id in once(request.volume_ids or list(_all_volumes(store, context))):
        # To the end of the volume: its shards are looked up one by one.
        with context.taking(volume_id):
            volume = store.ec.find(volume_id)
            if volume is None and not request.volume_ids:
                # Its shards were closed or deleted since the scrub began.
                continue
            if volume is None:
                raise RpcFailure(f"EC volume id {volume_id} not found")
            try:
                with errors_as_upstream():
                    for one in store.ec.copies(volume_id):
                        # Else its shards would be waited for, or called broken.
                        store.ec.check_readable(one)
                    found = _scrub(store.ec_work.scrubber(store.ec_reader, volume, passed), request)
            except RpcFailure as failure:
                if request.volume_ids or failure.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
                response.details.append(not_verified(f"EC volume {volume_id}", failure))
                continue
        response.total_volumes += 1
        response.total_files += found.file_count
        if found.is_broken:
            response.broken_volume_ids.append(volume_id)
            response.details.extend(found.errors)
            for shard_id, size in sorted(found.broken_shards.items()):
                response.broken_shard_infos.add(
                    shard_id=shard_id, size=size, collection=volume.collection, volume_id=volume_id
                )
    if request.mode in _MODES:
        broken, shards = len(response.broken_volume_ids), len(response.broken_shard_infos)
        node.counts.observe_ec_scrub(pb.VolumeScrubMode.Name(request.mode), broken, shards, time())
    return response


def _all_volumes(store: Store, context: RpcContext) -> Collection[int]:
    if context.volume_ids is not None:
        return context.volume_ids
    return dict.fromkeys(volume.id for volume in store.ec.volumes())


def _scrub(scrubber: EcScrubber, request: pb.ScrubEcVolumeRequest) -> EcScrub:
    match request.mode:
        case pb.INDEX:
            return scrubber.index()
        case pb.LOCAL:
            return scrubber.local()
        case pb.FULL:
            return scrubber.full(checks_deleted=request.force_deleted_needles_check)
        case pb.CHECKSUM:
            found = scrubber.checksums()
            found.file_count = 0
            return found
        case mode:
            raise RpcFailure(f"unsupported EC volume scrub mode {mode}")
