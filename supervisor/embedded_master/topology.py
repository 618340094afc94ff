"""The volume servers that are registered with an embedded master, and what each has.

A server's volumes are kept in the class that the heartbeat client reports from (`NodeModel`), and the function that
takes a child's heartbeats fills it. So both sides read heartbeats alike.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from supervisor.cluster.child_heartbeat import absorb, needs_full_list
from supervisor.cluster.identity import NodeIdentity
from supervisor.cluster.messages import shard_sizes
from supervisor.cluster.node_model import NodeModel

if TYPE_CHECKING:
    from native_handlers.pb import master_pb2
    from supervisor.cluster.node_model import NodeSnapshot

DEFAULT_DATA_CENTER = "DefaultDataCenter"
DEFAULT_RACK = "DefaultRack"
EC_SHARDS_PER_SLOT = 10  # weed/topology: this many shards take the slot of one volume
_SOURCE = "heartbeat"


class DirectoriesTaken(Exception):
    """Another registered server has one of these directories. Nothing was changed."""

    def __init__(self, uuids: list[str]) -> None:
        super().__init__(f"directories {', '.join(uuids)} are registered by another volume server")
        self.uuids = uuids


@dataclass(frozen=True, slots=True, eq=False)
class VolumeNode:
    """One registered volume server. `stream` is the identity of its heartbeat stream."""

    identity: NodeIdentity
    model: NodeModel
    stream: object

    @property
    def held(self) -> NodeSnapshot:
        return self.model.snapshot()

    def free_slots(self, disk_type: str) -> int:
        """How many more volumes fit on disks of `disk_type`."""
        held = self.held
        used = sum(
            volume.message.disk_type == disk_type and not volume.message.remote_storage_name
            for volume in held.volumes.values()
        )
        shards = sum(len(shard_sizes(row)) for row in held.ec_shards.values() if row.disk_type == disk_type)
        return held.facts.max_volume_counts.get(disk_type, 0) - used - -(-shards // EC_SHARDS_PER_SLOT)


class Topology:
    """All registered servers by `ip:port`. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # protects everything below
        self._nodes: dict[str, VolumeNode] = {}
        self._version = 0

    def register(self, beat: master_pb2.Heartbeat, stream: object) -> VolumeNode:
        """Registers the sender of a stream's first beat. A server that is registered already is replaced.

        Raises:
            DirectoriesTaken: another server has the same directories. Nothing is changed.
        """
        identity = NodeIdentity.of_heartbeat(beat)
        identity = replace(
            identity,
            grpc_port=identity.grpc_port or identity.port + 10000,
            public_url=identity.public_url or identity.http,
            data_center=identity.data_center or DEFAULT_DATA_CENTER,
            rack=identity.rack or DEFAULT_RACK,
        )
        node = VolumeNode(identity, NodeModel([_SOURCE]), stream)
        with self._changed:
            taken = [
                uuid
                for name, other in self._nodes.items()
                for uuid in other.held.facts.location_uuids
                if name != identity.http and uuid in beat.location_uuids
            ]
            if taken:
                raise DirectoriesTaken(taken)
            self._nodes[identity.http] = node
            self._bump()
        return node

    def apply(self, node: VolumeNode, beat: master_pb2.Heartbeat) -> bool:
        """Applies `beat` to `node`. Returns whether the full list is needed."""
        source = node.model.source(_SOURCE)
        absorb(source, beat)
        self.touch()
        return needs_full_list(source, beat)

    def unregister(self, node: VolumeNode) -> None:
        """Removes `node`, unless a newer stream of the same server has replaced it."""
        with self._changed:
            if self._nodes.get(node.identity.http) is node:
                del self._nodes[node.identity.http]
            self._bump()

    def add_volume(self, node: VolumeNode, volume: master_pb2.VolumeInformationMessage) -> None:
        """Notes a volume that was just made or changed on `node`, before its next heartbeat says so."""
        node.model.source(_SOURCE).change_volumes([volume])
        self.touch()

    def nodes(self) -> list[VolumeNode]:
        """The registered servers, in the order of their names."""
        with self._changed:
            return [node for _, node in sorted(self._nodes.items())]

    def node_at(self, http: str) -> VolumeNode | None:
        with self._changed:
            return self._nodes.get(http)

    def holders(self, volume_id: int, collection: str = "") -> list[VolumeNode]:
        """The servers that have the volume. Where none has it whole, those with an EC shard of it."""
        whole = [node for node in self.nodes() if _has_volume(node, volume_id, collection)]
        return whole or [node for node in self.nodes() if any(key[1] == volume_id for key in node.held.ec_shards)]

    def shard_holders(self, volume_id: int) -> dict[int, list[VolumeNode]]:
        """EC shard id -> the servers that have the shard."""
        found: defaultdict[int, list[VolumeNode]] = defaultdict(list)
        for node in self.nodes():
            rows = [row for key, row in node.held.ec_shards.items() if key[1] == volume_id]
            for shard in sorted({shard for row in rows for shard in shard_sizes(row)}):
                found[shard].append(node)
        return dict(sorted(found.items()))

    def touch(self) -> None:
        """Wakes the callers of `wait_for_change`."""
        with self._changed:
            self._bump()

    def wait_for_change(self, version: int, timeout_s: float) -> int:
        """Returns the version when it is no longer `version`, or when `timeout_s` has passed."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version, timeout_s)
            return self._version

    def _bump(self) -> None:
        self._version += 1
        self._changed.notify_all()


def _has_volume(node: VolumeNode, volume_id: int, collection: str) -> bool:
    held = node.held
    copies = [held.volumes[key] for key in held.keys_of.get(volume_id, ())]
    return any(not collection or copy.message.collection == collection for copy in copies)
