"""VolumeEcShardsCopy: fetches shards and their companion files from another server.

`ec_place` knows the files here, `ec_codings` compares them with those of the source, `ec_fetch` fetches, and
`ec_naming` puts the fetched files in place.

Source: weed/server/volume_grpc_erasure_coding.go (VolumeEcShardsCopy).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.checks import check_maintenance, check_other, errors_as_upstream, once, store_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_client import CallEnd, CopySource
from native_handlers.grpc.ec_codings import WantedFiles, compare_codings
from native_handlers.grpc.ec_fetch import FetchedFiles, ask_info, dat_bytes_of
from native_handlers.grpc.ec_naming import give_names
from native_handlers.grpc.ec_place import ShardPlace
from native_handlers.grpc.file_names import check_copied_shards
from native_handlers.grpc.throttle import WriteThrottler
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.directory.placement import place_for_shards
from native_handlers.storage.erasure_coding.layout import shard_bytes_of
from native_handlers.storage.erasure_coding.names import ratio_of
from native_handlers.storage.model.errors import DiskTooSmall, NoDiskForShard, NoSuchDisk

if TYPE_CHECKING:
    from native_handlers.format.vif import VolumeInfo
    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.store import Store


def volume_ec_shards_copy(
    node: GrpcNode, context: RpcContext, request: pb.VolumeEcShardsCopyRequest
) -> pb.VolumeEcShardsCopyResponse:
    """Fetches shards, and the index, journal, .vif and checksums that the request asks for. The ids of the fetched
    journal are added to the present journal.

    Wilful difference: the files get their names when all of them are on disk. Upstream writes each one in place, so a
    copy that fails may leave new shards beside the index of an older coding.

    Raises RpcFailure: no file has changed, except where a name could not be given; the text then says so.
    """
    check_maintenance(node)
    store = store_of(node)
    volume = store.find_volume(request.volume_id)
    check_copied_shards(request, None if volume is None else volume.collection)
    with ExitStack() as ends:
        with errors_as_upstream():
            ends.enter_context(store.ids.naming(request.collection, request.volume_id))
            _location(store, request).check_in_service()
        client = ends.enter_context(node.volume_servers.open_volume_server(request.source_data_node))
        end = CallEnd(context)
        bytes_per_s = request.io_byte_per_second
        if bytes_per_s <= 0:
            bytes_per_s = node.facts.maintenance_bytes_per_s
        source = CopySource(client, end, WriteThrottler(bytes_per_s, end.pause))
        try:
            info = ask_info(source, request.collection, request.volume_id)
            with errors_as_upstream():
                location = _location(store, request, _needed_bytes(request, info))
                with store.ec.exclusive(request.volume_id):
                    place = ShardPlace(store, location, request.collection, request.volume_id)
                    copy_shards(source, place, request, info)
        except RpcFailure as failure:
            if isinstance(failure.__cause__, grpc.RpcError):
                check_other(node, failure.__cause__, "copy shards")
            text = f"VolumeEcShardsCopy volume {request.volume_id}: {failure.message}"
            raise RpcFailure(text, failure.code) from failure
    return pb.VolumeEcShardsCopyResponse()


def _needed_bytes(request: pb.VolumeEcShardsCopyRequest, info: VolumeInfo | None) -> int:
    """The room for the shards of a request; 0 where their length is not known."""
    return len(list(once(request.shard_ids))) * shard_bytes_of(dat_bytes_of(info), ratio_of(info).data)


def _location(store: Store, request: pb.VolumeEcShardsCopyRequest, needed_bytes: int = 0) -> DiskLocation:
    """The disk for the shards, which take `needed_bytes`. Raises RpcFailure where it has not more room than that."""
    mounted = [volume.place.disk_id for volume in store.ec.copies(request.volume_id)]
    try:
        return place_for_shards(
            store.ec.files,
            store.locations,
            request.collection,
            request.volume_id,
            mounted,
            disk_id=request.disk_id,
            needed_bytes=needed_bytes,
        )
    except NoSuchDisk as error:
        raise RpcFailure(str(error)) from error
    except NoDiskForShard as error:
        raise RpcFailure("no space left") from error
    except DiskTooSmall as error:
        why = f"the shards need more than {needed_bytes} bytes beside what is there; {error}"
        raise RpcFailure(f"no space left: {why}") from error


def copy_shards(
    source: CopySource, place: ShardPlace, request: pb.VolumeEcShardsCopyRequest, info: VolumeInfo | None
) -> None:
    """Fetches the files of a request. The caller is inside `exclusive` of the volume.

    Args:
        info: the source's .vif.

    Raises RpcFailure, as `volume_ec_shards_copy`.
    """
    with FetchedFiles(source, place) as fetched:
        with errors_as_upstream():
            place.location.check_in_service()
            _check_collection(place)
            wanted = WantedFiles(
                set(once(request.shard_ids)), takes_info=request.copy_vif_file, takes_index=request.copy_ecx_file
            )
            codings = compare_codings(place, wanted, info)
        for shard_id in once(request.shard_ids):
            fetched.fetch_shard(shard_id, info)
        if request.copy_ecsum_file:
            fetched.fetch_checksums()
        if request.copy_vif_file:
            fetched.fetch_info()
        if request.copy_ecx_file:
            fetched.fetch_index(info)
        journal = fetched.fetch_journal() if request.copy_ecj_file else []
        fetched.check_unchanged(info)
        give_names(place, fetched, codings, journal)


def _check_collection(place: ShardPlace) -> None:
    """Once more, inside `exclusive`: a copy of another collection may have ended meanwhile. Raises StorageError."""
    place.store.ids.check(place.collection, place.volume_id)


def copy_index(source: CopySource, place: ShardPlace) -> None:
    """Fetches the index, the journal and the .vif for the shards on this disk. The caller is inside `exclusive` of the
    volume.

    Raises RpcFailure as `copy_shards`; then also where those shards are of another coding.
    """
    with FetchedFiles(source, place) as fetched:
        with errors_as_upstream():
            _check_collection(place)
            wanted = WantedFiles((), takes_info=True, takes_index=True)
            info = ask_info(source, place.collection, place.volume_id)
            codings = compare_codings(place, wanted, info, trusts_unknown=True)
        fetched.fetch_info()
        fetched.fetch_index(info)
        journal = fetched.fetch_journal()
        fetched.check_unchanged(info)
        give_names(place, fetched, codings, journal)
