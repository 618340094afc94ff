"""What one engine says it holds: the contribution of a native store, or of the child, to the node.

A feed keeps its last known contents until its source says otherwise: a source that goes quiet, restarts or breaks
off in the middle of a word takes nothing away from the node. See node_model.py for how feeds are merged.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from native_handlers.format.report_hash import report_hash_of_message
from supervisor.cluster.messages import VolumeKey, plus_shards, volume_from_short, volume_key, without_shards
from supervisor.cluster.messages import layout_of as _layout_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from native_handlers.pb import master_pb2, volume_server_pb2


@dataclass(frozen=True, slots=True)
class ReportedVolume:
    """One copy of a volume: its message, whole and never changed again, and the message's hash."""

    message: master_pb2.VolumeInformationMessage
    hash: int

    @classmethod
    def of(cls, message: master_pb2.VolumeInformationMessage) -> ReportedVolume:
        return cls(message, report_hash_of_message(message))


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a heartbeat says besides volumes. Maps are keyed by wire disk type ("" is hdd); sizes are in bytes."""

    max_volume_counts: Mapping[str, int] = field(default_factory=dict)
    disk_tags: tuple[master_pb2.DiskTag, ...] = ()
    location_uuids: tuple[str, ...] = ()
    disk_total_bytes: Mapping[str, int] = field(default_factory=dict)
    disk_free_bytes: Mapping[str, int] = field(default_factory=dict)
    max_file_key: int = 0

    @classmethod
    def of_heartbeat(cls, beat: master_pb2.Heartbeat) -> NodeFacts:
        return cls(
            max_volume_counts=dict(beat.max_volume_counts),
            disk_tags=tuple(beat.disk_tags),
            location_uuids=tuple(beat.location_uuids),
            disk_total_bytes=dict(beat.disk_total_bytes),
            disk_free_bytes=dict(beat.disk_free_bytes),
            max_file_key=beat.max_file_key,
        )


class SourceFeed:
    """One source's contribution. Every method may be called from any thread and takes effect as one step.

    Made by `NodeModel`; `changing` is its lock-and-notify section.
    """

    def __init__(self, name: str, changing: Callable[[], AbstractContextManager[None]]) -> None:
        self.name = name
        self._changing = changing
        self.volumes: dict[VolumeKey, ReportedVolume] = {}
        self.withheld: dict[VolumeKey, ReportedVolume] = {}
        """Volumes that the source gave up while `hold` was in force: still part of the node."""
        self.ec_shards: dict[VolumeKey, master_pb2.VolumeEcShardInformationMessage] = {}
        self.facts: NodeFacts | None = None
        self.state: volume_server_pb2.VolumeServerState | None = None
        self.has_all_volumes = False
        self.has_all_ec_shards = False
        self._holds: Counter[int] = Counter()
        self._tiered: set[int] = set()

    def replace_volumes(self, volumes: Iterable[master_pb2.VolumeInformationMessage]) -> None:
        """Takes `volumes` as the whole truth."""
        with self._changing():
            previous, self.volumes = self.volumes, {}
            for message in volumes:
                self._put(message, previous)
            self._withhold({key: volume for key, volume in previous.items() if key not in self.volumes})
            self.has_all_volumes = True

    def change_volumes(self, volumes: Iterable[master_pb2.VolumeInformationMessage]) -> None:
        """Adds or updates the volumes named; says nothing of others."""
        with self._changing():
            for message in volumes:
                self._put(message, self.volumes)

    def add_volumes(self, shorts: Iterable[master_pb2.VolumeShortInformationMessage]) -> None:
        """Adds volumes of which only the short form is known. One that is held in the same layout stays as it is."""
        with self._changing():
            for short in shorts:
                held = self.volumes.get(volume_key(short)) or self.withheld.get(volume_key(short))
                is_known = held is not None and _layout_of(held.message) == _layout_of(short)
                self._put(held.message if held is not None and is_known else volume_from_short(short), self.volumes)

    def remove_volumes(self, shorts: Iterable[master_pb2.VolumeShortInformationMessage]) -> None:
        """Removes the copy that each message names, or every copy where the disk id is not the one reported."""
        with self._changing():
            for short in shorts:
                key = volume_key(short)
                keys = [key] if key in self.volumes else [held for held in self.volumes if held[1] == short.id]
                self._withhold({gone: self.volumes.pop(gone) for gone in keys})

    def replace_ec_shards(self, shards: Iterable[master_pb2.VolumeEcShardInformationMessage]) -> None:
        """Takes `shards` as the whole truth."""
        with self._changing():
            self.ec_shards = {}
            for message in shards:
                self.ec_shards[volume_key(message)] = plus_shards(self.ec_shards.get(volume_key(message)), message)
            self.has_all_ec_shards = True

    def add_ec_shards(self, shards: Iterable[master_pb2.VolumeEcShardInformationMessage]) -> None:
        """Adds the shards named to what is held of their volume on that disk."""
        with self._changing():
            for message in shards:
                self.ec_shards[volume_key(message)] = plus_shards(self.ec_shards.get(volume_key(message)), message)

    def remove_ec_shards(self, shards: Iterable[master_pb2.VolumeEcShardInformationMessage]) -> None:
        """Removes the shards named from what is held of their volume on that disk."""
        with self._changing():
            for message in shards:
                held = self.ec_shards.pop(volume_key(message), None)
                left = None if held is None else without_shards(held, message)
                if left is not None:
                    self.ec_shards[volume_key(message)] = left

    def set_facts(self, facts: NodeFacts) -> None:
        """Replaces what is known of disks, limits and directory identities. Equal facts are no change."""
        if facts != self.facts:
            with self._changing():
                self.facts = facts

    def set_state(self, state: volume_server_pb2.VolumeServerState) -> None:
        """Replaces the server state (maintenance mode and its version)."""
        with self._changing():
            self.state = state

    def retire(self) -> None:
        """The source is gone for good: nothing of it stays, and nobody waits for its first list."""
        with self._changing():
            self._withhold(self.volumes)
            self.volumes = {}
            self.ec_shards = {}
            self.facts = None
            self.has_all_volumes = self.has_all_ec_shards = True

    def hashes(self) -> list[int]:
        """The hashes of the volumes that the source itself claims to have, for comparison with its own digest."""
        return [volume.hash for volume in list(self.volumes.values())]

    def has_volume(self, volume_id: int) -> bool:
        """Whether the source itself claims a copy of the volume now."""
        return any(held == volume_id for _, held in list(self.volumes))

    def has_ec_shards(self, volume_id: int) -> bool:
        """Whether the source claims erasure coding shards of the volume now."""
        return any(held == volume_id for _, held in list(self.ec_shards))

    def has_tiered(self, volume_id: int) -> bool:
        """Whether the source claims a copy of the volume whose data is in remote storage."""
        return volume_id in self._tiered

    @contextmanager
    def hold(self, volume_ids: Collection[int]) -> Iterator[None]:
        """While inside, a removal of one of `volume_ids` by this source is not a removal from the node.

        What the source then still lacks at the end is gone, unless another source has it.
        """
        with self._changing():
            self._holds.update(volume_ids)
        try:
            yield
        finally:
            with self._changing():
                self._holds -= Counter(volume_ids)
                self.withheld = {key: held for key, held in self.withheld.items() if self._holds[key[1]]}

    def _put(self, message: master_pb2.VolumeInformationMessage, known: Mapping[VolumeKey, ReportedVolume]) -> None:
        key = volume_key(message)
        held = known.get(key)
        self.volumes[key] = held if held is not None and held.message == message else ReportedVolume.of(message)
        self.withheld.pop(key, None)
        if message.remote_storage_name:
            self._tiered.add(message.id)
        else:
            self._tiered.discard(message.id)

    def _withhold(self, gone: Mapping[VolumeKey, ReportedVolume]) -> None:
        self._tiered -= {volume_id for _, volume_id in gone}
        self.withheld |= {key: volume for key, volume in gone.items() if self._holds[key[1]]}
