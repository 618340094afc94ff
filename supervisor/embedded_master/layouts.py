"""Volumes across servers: which are writable, and where their copies are. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.format.ttl import Ttl
from native_handlers.records import dataclass
from supervisor.cluster.messages import layout_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from native_handlers.pb import master_pb2
    from supervisor.embedded_master.options import VolumeOptions
    from supervisor.embedded_master.topology import VolumeNode


@dataclass(frozen=True, slots=True)
class Replicas:
    """One volume: the messages and the holders of its copies, index by index."""

    volume_id: int
    messages: tuple[master_pb2.VolumeInformationMessage, ...]
    nodes: tuple[VolumeNode, ...]

    def is_writable(self, size_limit_bytes: int) -> bool:
        """Whether every copy is present, accepts writes, and has room. Source: weed/topology/volume_layout.go."""
        wanted = ReplicaPlacement.from_byte(self.messages[0].replica_placement & 0xFF).copy_count
        return len(self.nodes) >= wanted and not any(
            message.read_only or message.size >= size_limit_bytes for message in self.messages
        )


def all_replicas(nodes: Iterable[VolumeNode]) -> list[Replicas]:
    """Every volume of `nodes`, ordered by layout and id."""
    found: defaultdict[tuple[object, int], list[tuple[master_pb2.VolumeInformationMessage, VolumeNode]]]
    found = defaultdict(list)
    for node in nodes:
        for volume in node.held.volumes.values():
            found[layout_of(volume.message), volume.message.id].append((volume.message, node))
    return [
        Replicas(key[1], tuple(message for message, _ in copies), tuple(node for _, node in copies))
        for key, copies in sorted(found.items(), key=lambda item: str(item[0]))
    ]


def writable(nodes: Iterable[VolumeNode], options: VolumeOptions, size_limit_bytes: int) -> list[Replicas]:
    """The volumes to which a file with these options can be written."""
    return [
        replicas
        for replicas in all_replicas(nodes)
        if options.matches(replicas.messages[0])
        and replicas.is_writable(size_limit_bytes)
        and any(is_wanted(node, options) for node in replicas.nodes)
    ]


def is_wanted(node: VolumeNode, options: VolumeOptions) -> bool:
    """Whether `options` allow `node`."""
    wanted = (options.data_center, options.rack, options.data_node)
    actual = (node.identity.data_center, node.identity.rack, node.identity.id or node.identity.http)
    return all(not want or want == have for want, have in zip(wanted, actual, strict=True))


def layout_rows(nodes: Iterable[VolumeNode], size_limit_bytes: int) -> list[Mapping[str, object]]:
    """The "Layouts" of /dir/status. Source: weed/topology/volume_layout.go (VolumeLayoutInfo)."""
    rows: dict[object, dict[str, object]] = {}
    writables: defaultdict[object, list[int]] = defaultdict(list)
    for replicas in all_replicas(nodes):
        message = replicas.messages[0]
        key = layout_of(message)
        rows[key] = {
            "replication": str(ReplicaPlacement.from_byte(message.replica_placement & 0xFF)),
            "ttl": str(Ttl.from_uint32(message.ttl)),
            "writables": None,
            "collection": message.collection,
            "diskType": message.disk_type or "hdd",
        }
        if replicas.is_writable(size_limit_bytes):
            writables[key].append(replicas.volume_id)
    return [row | {"writables": sorted(writables[key]) or None} for key, row in rows.items()]
