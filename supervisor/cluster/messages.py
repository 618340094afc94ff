"""Pure helpers for the master's volume and EC shard messages: keys, short forms, arithmetic of shard sets.

Messages are kept whole, with fields that the stubs do not know, and never change after they are in the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.pb import master_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

VolumeKey = tuple[int, int]
"""(disk id, volume id): one copy of a volume. One server can have a volume id on two disks."""


def volume_key(
    message: master_pb2.VolumeInformationMessage
    | master_pb2.VolumeShortInformationMessage
    | master_pb2.VolumeEcShardInformationMessage,
) -> VolumeKey:
    """The key of the copy that `message` describes."""
    return (message.disk_id, message.id)


def digest_of(hashes: Iterable[int]) -> int:
    """The digest of a node whose volumes have these `hashes`: their XOR. See native_handlers/format/report_hash.py."""
    digest = 0
    for value in hashes:
        digest ^= value
    return digest


def short_of(volume: master_pb2.VolumeInformationMessage) -> master_pb2.VolumeShortInformationMessage:
    """The short form of `volume`, as deltas have it.

    Source: weed/storage/store_volume_report.go (fillShortInformation).
    """
    return master_pb2.VolumeShortInformationMessage(
        id=volume.id,
        collection=volume.collection,
        replica_placement=volume.replica_placement,
        version=volume.version,
        ttl=volume.ttl,
        disk_type=volume.disk_type,
        disk_id=volume.disk_id,
    )


def volume_from_short(short: master_pb2.VolumeShortInformationMessage) -> master_pb2.VolumeInformationMessage:
    """The volume that a master keeps after a delta with `short`: an empty, writable one."""
    return master_pb2.VolumeInformationMessage(
        id=short.id,
        collection=short.collection,
        replica_placement=short.replica_placement,
        version=short.version,
        ttl=short.ttl,
        disk_type=short.disk_type,
        disk_id=short.disk_id,
    )


def layout_of(
    volume: master_pb2.VolumeInformationMessage | master_pb2.VolumeShortInformationMessage,
) -> tuple[str, int, int, str]:
    """The master's layout for a volume. A volume that changes its layout must be removed from the old one by name."""
    return (volume.collection, volume.replica_placement, volume.ttl, volume.disk_type)


def shard_sizes(shards: master_pb2.VolumeEcShardInformationMessage) -> dict[int, int]:
    """Shard id -> size in bytes (0 where the sender gave none). The message lists sizes in bit order."""
    ids = [bit for bit in range(32) if shards.ec_index_bits >> bit & 1]
    sizes = list(shards.shard_sizes)[: len(ids)]
    sizes += [0] * (len(ids) - len(sizes))
    return dict(zip(ids, sizes, strict=True))


def with_shards(
    template: master_pb2.VolumeEcShardInformationMessage, sizes: dict[int, int]
) -> master_pb2.VolumeEcShardInformationMessage:
    """A copy of `template` with exactly the shards in `sizes`."""
    copy = master_pb2.VolumeEcShardInformationMessage()
    copy.CopyFrom(template)
    copy.ec_index_bits = sum(1 << shard for shard in sizes)
    del copy.shard_sizes[:]
    if any(sizes.values()):
        copy.shard_sizes.extend(size for _, size in sorted(sizes.items()))
    return copy


def without_shards(
    held: master_pb2.VolumeEcShardInformationMessage, gone: master_pb2.VolumeEcShardInformationMessage
) -> master_pb2.VolumeEcShardInformationMessage | None:
    """`held` without the shards in `gone`; None where no shard is left."""
    left = {shard: size for shard, size in shard_sizes(held).items() if not gone.ec_index_bits >> shard & 1}
    return with_shards(held, left) if left else None


def plus_shards(
    held: master_pb2.VolumeEcShardInformationMessage | None, more: master_pb2.VolumeEcShardInformationMessage
) -> master_pb2.VolumeEcShardInformationMessage:
    """The shards of both. All other fields are those of `more`, the later message."""
    return more if held is None else with_shards(more, shard_sizes(held) | shard_sizes(more))
