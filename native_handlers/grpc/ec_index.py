"""Fetches missing indexes of erasure-coded shards from servers that have the index.

Source: weed/server/volume_grpc_erasure_coding.go (VolumeEcShardsMount), weed/storage/store_ec_recover.go.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from native_handlers.grpc.checks import errors_as_upstream, store_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_client import CallEnd, CopySource
from native_handlers.grpc.ec_copy import copy_index
from native_handlers.grpc.ec_place import ShardPlace
from native_handlers.grpc.throttle import WriteThrottler
from native_handlers.storage.erasure_coding.remote import ShardUnreachable

if TYPE_CHECKING:
    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.directory.location import DiskLocation

log = logging.getLogger(__name__)


def fetch_missing_indexes(node: GrpcNode, context: RpcContext, volume_id: int) -> None:
    """Fetches the index for shards on this server when no disk of this server has the index, then opens the shards.
    Failures are logged; the files of such shards stay unchanged.

    Args:
        volume_id: 0 for all volumes.
    """
    store = store_of(node)
    for location, collection, found_id in store.ec_work.without_index():
        if volume_id in {0, found_id}:
            _fetch(node, context, location, collection, found_id)
    store.ec_work.load_shards(volume_id or None)


def _fetch(node: GrpcNode, context: RpcContext, location: DiskLocation, collection: str, volume_id: int) -> None:
    store = store_of(node)
    remote = store.ec_reader.remote
    if remote is None:
        return
    try:
        holders = remote.holders(volume_id)
    except ShardUnreachable as error:
        log.warning("the index of ec volume %d is not fetched: %s", volume_id, error)
        return
    addresses = dict.fromkeys(address for each in holders.values() for address in each)
    for address in addresses:
        if remote.is_self(address):
            continue
        try:
            with (
                node.volume_servers.open_volume_server(address) as client,
                errors_as_upstream(),
                store.ec.exclusive(volume_id),
            ):
                end = CallEnd(context)
                source = CopySource(client, end, WriteThrottler(node.facts.maintenance_bytes_per_s, end.pause))
                copy_index(source, ShardPlace(store, location, collection, volume_id))
        except RpcFailure as failure:
            log.warning("the index of ec volume %d from %s: %s", volume_id, address, failure.message)
            continue
        return
