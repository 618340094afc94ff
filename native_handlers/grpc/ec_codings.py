"""Compares the coding of shards that come from another server with that of the files here: two are not mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.grpc.context import RpcFailure
from native_handlers.storage.erasure_coding.names import encode_ts_of, shard_extension

if TYPE_CHECKING:
    from collections.abc import Collection

    from native_handlers.format.vif import VolumeInfo
    from native_handlers.grpc.ec_place import ShardPlace
    from native_handlers.storage.erasure_coding.files_on_disk import EcFiles


class WantedFiles(NamedTuple):
    """The files to fetch: the shards, which replace those of that name, and perhaps the .vif and the .ecx."""

    shard_ids: Collection[int]
    takes_info: bool
    takes_index: bool


class ComparedCodings(NamedTuple):
    """The result of a comparison.

    Attributes:
        source: the time of the source's coding; 0 where it is not known.
        replaced: what another coding has left here, whose shards are all replaced.
        stays: the extensions of the files that stay as they are here, because nothing proves that those of the source
            are of the same coding. The source's .vif is not used, and its .ecx and .ecsum only where there is none.
    """

    source: int
    replaced: tuple[EcFiles, ...] = ()
    stays: frozenset[str] = frozenset()


_SHARED = frozenset({".vif", ".ecx", ".ecsum"})


def compare_codings(
    place: ShardPlace, wanted: WantedFiles, info: VolumeInfo | None, *, trusts_unknown: bool = False
) -> ComparedCodings:
    """Compares the coding of the source with that of the files on this disk, and on the disks with the same index.

    A source without a time is an older server. Its coding is taken for the one that is here, unless the lengths of the
    coded .dat or the numbers of shards differ. But it replaces no file that is open here, or that has a time.

    Args:
        info: the source's .vif; None where there is none, or none that can be parsed.
        trusts_unknown: whether shards without any .vif are taken to be of the source's coding.

    Raises:
        RpcFailure: shards of two codings would have one .vif or one index, or files that would be replaced are open.
            Nothing was fetched.
        OSError, DiskUnavailable.
    """
    there = encode_ts_of(info)
    disks = place.look_at_index_users()
    known = [(one, place.coding_of(one)) for one in disks]
    if not any(found.shard_ids or found.has_index or (here and not wanted.takes_info) for found, here in known):
        return ComparedCodings(there)
    replaced = []
    stays: frozenset[str] = frozenset()
    for found, here in known:
        # Without a .vif it is that of the disk with whose index the shards are read.
        coding = place.shared_coding_of(found, disks) if here is None else here
        if there and (there == coding or (here is None and trusts_unknown)):
            continue
        differs = not there and place.differs(found, info)
        if not there and not differs:
            stays |= _staying(place, wanted, found, here)
            continue
        is_here = found.location is place.location
        kept = set(found.shard_ids) - set(wanted.shard_ids if is_here else ())
        has_info = bool(here) or differs
        if (
            kept
            or place.is_open(found)
            or (here and not there)
            or (has_info and is_here and not wanted.takes_info)
            or (differs and not wanted.takes_index)
        ):
            how = ", and the length of its .dat or its number of shards differs" if differs else ""
            raise RpcFailure(f"{found.path('')} belongs to a different encode run (want {there}, got {here or 0}){how}")
        if (has_info or wanted.takes_index) and not place.has_nothing(found, disks):
            # Without a .vif and shards, an index is a left-over.
            replaced.append(found)
    index_dir = place.index_dir()
    if there and any(there == here and place.index_dir_on(found.location) == index_dir for found, here in known):
        # The index and its journal are of this coding, and no deletion may be lost. What is left of others stays.
        replaced.clear()
    return ComparedCodings(there, tuple(replaced), stays)


def _staying(place: ShardPlace, wanted: WantedFiles, found: EcFiles, here: int | None) -> frozenset[str]:
    """The files that stay on a disk beside files of a source without a time. Raises RpcFailure where shards would be
    replaced that are open, or that have a time.
    """
    if not here and not place.is_open(found):
        return frozenset()
    if found.location is not place.location:
        return frozenset({".ecx"})
    for shard in sorted(set(wanted.shard_ids).intersection(found.shard_ids)):
        facts = place.files.facts(found.path(shard_extension(shard)))
        if facts is not None and facts.size_bytes:
            raise RpcFailure(
                f"{found.path(shard_extension(shard))} is here, and may belong to a different encode run:"
                " the source's .vif has no time (encodeTsNs)"
            )
    return _SHARED
