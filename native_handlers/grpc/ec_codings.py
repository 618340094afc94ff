"""Compares the coding of shards that come from another server with that of the files here: two are not mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.grpc.context import RpcFailure

if TYPE_CHECKING:
    from collections.abc import Collection

    from native_handlers.grpc.ec_place import ShardPlace
    from native_handlers.storage.erasure_coding.files_on_disk import EcFiles


class WantedFiles(NamedTuple):
    """What is fetched: the shards, which replace those of that name, and whether .vif and .ecx are."""

    shard_ids: Collection[int]
    takes_info: bool
    takes_index: bool


class ComparedCodings(NamedTuple):
    """The result of a comparison.

    Attributes:
        source: the time of the source's coding; 0 where it is not known.
        replaced: what another coding has left here, whose shards are all replaced.
    """

    source: int
    replaced: tuple[EcFiles, ...] = ()


def compare_codings(
    place: ShardPlace, wanted: WantedFiles, there: int, *, trusts_unknown: bool = False
) -> ComparedCodings:
    """Compares the coding of the source with that of the files on this disk, and on the disks with the same index.

    Args:
        there: the time of the source's coding; 0 where that is not known.
        trusts_unknown: whether shards without any .vif are taken to be of the source's coding.

    Raises:
        RpcFailure: shards of two codings would have one .vif or one index, or files that would be replaced are open.
            Nothing was fetched.
        OSError, DiskUnavailable.
    """
    known = [(one, place.coding_of(one)) for one in place.look_at_index_users()]
    if not any(found.shard_ids or found.has_index or (here and not wanted.takes_info) for found, here in known):
        return ComparedCodings(there)
    replaced = []
    for found, here in known:
        if there in {0, here} or (here is None and trusts_unknown):
            continue
        is_here = found.location is place.location
        kept = set(found.shard_ids) - set(wanted.shard_ids if is_here else ())
        if kept or place.is_open(found) or (here and is_here and not wanted.takes_info):
            raise RpcFailure(f"{found.path('')} belongs to a different encode run (want {there}, got {here or 0})")
        if here or wanted.takes_index:
            # Without a .vif and shards, an index is a left-over.
            replaced.append(found)
    return ComparedCodings(there, tuple(replaced))
