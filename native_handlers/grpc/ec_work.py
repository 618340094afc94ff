"""RPCs that make shards, and volumes of shards. Source: weed/server/volume_grpc_erasure_coding.go."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.checks import check_maintenance, claimed, errors_as_upstream, store_of, volume_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.erasure_coding.errors import NoLiveNeedles
from native_handlers.storage.erasure_coding.parallel import ended_early
from native_handlers.storage.model.errors import StorageError, VolumeExists
from native_handlers.storage.transfer.staged_volume import adopt_staged, give_back

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.store import Store

log = logging.getLogger(__name__)


def volume_ec_shards_generate(
    node: GrpcNode, context: RpcContext, request: pb.VolumeEcShardsGenerateRequest
) -> pb.VolumeEcShardsGenerateResponse:
    """Makes the shards of a volume that is here. The volume stays.

    Wilful differences: no vacuum commits meanwhile, and a volume that is being moved is refused. Upstream may code the
    old index with the new data. A client that goes ends the coding.
    """
    check_maintenance(node)
    store = store_of(node)
    volume = volume_of(node, request.volume_id, "volume %d not found")
    is_claimed = claimed(volume, "is being erasure-coded", holds_writes=False)
    with is_claimed, errors_as_upstream(), ended_early(context.is_active):
        store.ec_work.generate(volume, request.collection)
    log.info("volume %d is erasure-coded", request.volume_id)
    return pb.VolumeEcShardsGenerateResponse()


def volume_ec_shards_rebuild(
    node: GrpcNode, context: RpcContext, request: pb.VolumeEcShardsRebuildRequest
) -> pb.VolumeEcShardsRebuildResponse:
    """Rebuilds lost and damaged shards. A client that goes ends that; upstream goes on."""
    check_maintenance(node)
    began_s, is_success = monotonic(), False
    try:
        with errors_as_upstream(), ended_early(context.is_active):
            rebuilt = store_of(node).ec_work.rebuild_missing(
                request.collection,
                request.volume_id,
                ignores_checksums=request.unsafe_ignore_sidecar,
            )
        is_success = True
    finally:
        node.counts.observe_ec_rebuild(monotonic() - began_s, is_success=is_success)
    log.info("shards %s of volume %d are made anew", rebuilt, request.volume_id)
    return pb.VolumeEcShardsRebuildResponse(rebuilt_shard_ids=rebuilt)


def volume_ec_shards_to_volume(
    node: GrpcNode, context: RpcContext, request: pb.VolumeEcShardsToVolumeRequest
) -> pb.VolumeEcShardsToVolumeResponse:
    """Makes a volume from the open data shards, or from files that were sent here (`from_staged`).

    Wilful differences: a volume of that id that is open here is closed meanwhile, and replaced only where the shards
    hold all that is in it. Sent files that make no volume that can be opened get their names back. A client that goes
    ends the decoding.
    """
    check_maintenance(node)
    store = store_of(node)
    with errors_as_upstream(), ended_early(context.is_active):
        if request.from_staged:
            _adopt(store, request)
            return pb.VolumeEcShardsToVolumeResponse()
        try:
            _decode(store, request.collection, request.volume_id)
        except NoLiveNeedles as error:
            raise RpcFailure(str(error), grpc.StatusCode.FAILED_PRECONDITION) from error
    log.info("volume %d is made of its shards", request.volume_id)
    return pb.VolumeEcShardsToVolumeResponse()


def _adopt(store: Store, request: pb.VolumeEcShardsToVolumeRequest) -> None:
    volume_id = request.volume_id
    with store.ec.exclusive(volume_id), store.ids.naming(request.collection, volume_id):
        try:
            with _being_put_in_place(store, volume_id):
                base = adopt_staged(store.ec.files, store.locations, request.collection, volume_id, request.disk_type)
        except VolumeExists as error:
            raise RpcFailure(f"staged volume {volume_id} already exists on this server") from error
        try:
            with errors_as_upstream(f"mount staged volume {volume_id}"):
                store.mount_volume(volume_id)
        except RpcFailure:
            # The caller still has the shards, and may send the files or this request again.
            try:
                with _being_put_in_place(store, volume_id):
                    give_back(store.ec.files, base)
            except VolumeExists:
                # It was opened meanwhile.
                return
            except (OSError, StorageError) as error:
                log.error("volume %d was sent here, and has to be mounted by hand: %s", volume_id, error)
            raise


def _being_put_in_place(store: Store, volume_id: int) -> AbstractContextManager[bool]:
    return store.replacing_volume(volume_id, "is being put in its place", closes=False)


def _decode(store: Store, collection: str, volume_id: int) -> None:
    # The volume is open again before the next operation on the files of its shards begins.
    with store.ec.exclusive(volume_id), store.ids.naming(collection, volume_id):
        store.ec_work.check_decodable(collection, volume_id)
        if store.find_volume(volume_id) is not None:
            store.sync_shards(volume_id)
        # Reads go on from the shards.
        with store.replacing_volume(volume_id, "is being made of its shards", closes=True) as was_open:
            store.ec_work.decode(collection, volume_id, was_open=was_open)
