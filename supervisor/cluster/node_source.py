"""The report of one engine: the part of the native store, or of the child, in the node.

A source keeps its last known content until its engine reports otherwise. An engine that goes silent, restarts or breaks
off within a message removes nothing from the node. node_model.py says how sources are merged.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import field
from typing import TYPE_CHECKING

from native_handlers.format.report_hash import report_hash_of_message
from native_handlers.records import dataclass
from supervisor.cluster.messages import (
    VolumeKey,
    plus_shards,
    volume_from_short,
    volume_key,
    without_shards,
)
from supervisor.cluster.messages import layout_of as _layout_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from native_handlers.pb import master_pb2, volume_server_pb2


@dataclass(frozen=True, slots=True)
class ReportedVolume:
    """One copy of a volume: its whole message, which never changes again, and the message's hash."""

    message: master_pb2.VolumeInformationMessage
    hash: int

    @classmethod
    def of(cls, message: master_pb2.VolumeInformationMessage) -> ReportedVolume:
        return cls(message, report_hash_of_message(message))


@dataclass(frozen=True, slots=True)
class NodeProperties:
    """The content of a heartbeat besides volumes. Maps are keyed by disk type as on the wire ("" is hdd).

    Sizes are in bytes.
    """

    max_volume_counts: Mapping[str, int] = field(default_factory=dict)
    disk_tags: tuple[master_pb2.DiskTag, ...] = ()
    location_uuids: tuple[str, ...] = ()
    disk_total_bytes: Mapping[str, int] = field(default_factory=dict)
    disk_free_bytes: Mapping[str, int] = field(default_factory=dict)
    max_file_key: int = 0

    @classmethod
    def of_heartbeat(cls, beat: master_pb2.Heartbeat) -> NodeProperties:
        return cls(
            max_volume_counts=dict(beat.max_volume_counts),
            disk_tags=tuple(beat.disk_tags),
            location_uuids=tuple(beat.location_uuids),
            disk_total_bytes=dict(beat.disk_total_bytes),
            disk_free_bytes=dict(beat.disk_free_bytes),
            max_file_key=beat.max_file_key,
        )


@dataclass(slots=True)
class Changes:
    """The volumes that sources have changed since a snapshot was made. Facts and states are few and are not noted."""

    volume_ids: set[int] = field(default_factory=set)
    has_shards: bool = False


class NodeSource:
    """One engine's part of the node. Any thread may call any method, and each call takes effect in one step.

    `NodeModel` makes sources. `changing` takes the model's lock and notifies its listeners. It gives a `Changes`, in
    which each method notes what it changes.
    """

    def __init__(self, name: str, changing: Callable[[], AbstractContextManager[Changes]]) -> None:
        self.name = name
        self._changing = changing
        self.volumes: dict[VolumeKey, ReportedVolume] = {}
        self.suppressed: dict[VolumeKey, ReportedVolume] = {}
        """Volumes that the engine gave up while `suppress_removals` was in force. They are still part of the node."""
        self.ec_shards: dict[VolumeKey, master_pb2.VolumeEcShardInformationMessage] = {}
        self.suppressed_shards: dict[VolumeKey, master_pb2.VolumeEcShardInformationMessage] = {}
        """The suppressed shards, as `suppressed` for volumes."""
        self.facts: NodeProperties | None = None
        self.state: volume_server_pb2.VolumeServerState | None = None
        self.has_all_volumes = False
        self.has_all_ec_shards = False
        self._suppress_counts: Counter[int] = Counter()  # by volume id: the open blocks of `suppress_removals`
        self._tiers: dict[int, str] = {}
        self._disk_ids: frozenset[int] = frozenset()

    def replace_volumes(self, volumes: Iterable[master_pb2.VolumeInformationMessage]) -> None:
        """Takes `volumes` as the full list."""
        reported = self._reported(volumes)
        disk_ids = frozenset(disk_id for disk_id, _ in reported)
        tiers = {
            key[1]: volume.message.remote_storage_name
            for key, volume in reported.items()
            if volume.message.remote_storage_name
        }
        with self._changing() as changes:
            # Replaced as a whole: a reader without the lock sees the old volumes or the new ones.
            previous, self.volumes = self.volumes, reported
            changes.volume_ids.update(key[1] for key, volume in reported.items() if previous.get(key) is not volume)
            self._disk_ids |= disk_ids
            self._tiers = tiers
            gone = {key: volume for key, volume in previous.items() if key not in reported}
            changes.volume_ids.update(volume_id for _, volume_id in (*gone, *self.suppressed))
            kept = {key: volume for key, volume in self.suppressed.items() if key not in reported}
            self.suppressed = kept | {key: volume for key, volume in gone.items() if self._suppress_counts[key[1]]}
            self.has_all_volumes = True

    def change_volumes(
        self, volumes: Iterable[master_pb2.VolumeInformationMessage], gone: Iterable[VolumeKey] = ()
    ) -> None:
        """Adds or updates the named volumes, and removes the copies in `gone`. Others stay as they are."""
        reported, gone = self._reported(volumes), list(gone)
        with self._changing() as changes:
            changes.volume_ids.update(volume_id for _, volume_id in (*gone, *reported))
            self._suppress({key: self.volumes.pop(key) for key in gone if key in self.volumes})
            for volume in reported.values():
                self._put(volume)

    def add_volumes(self, shorts: Iterable[master_pb2.VolumeShortInformationMessage]) -> None:
        """Adds volumes of which only the short form is known. A known volume with the same layout stays as it is."""
        with self._changing() as changes:
            for short in shorts:
                changes.volume_ids.add(short.id)
                held = self.volumes.get(volume_key(short)) or self.suppressed.get(volume_key(short))
                is_known = held is not None and _layout_of(held.message) == _layout_of(short)
                self._put(held if held is not None and is_known else ReportedVolume.of(volume_from_short(short)))

    def remove_volumes(self, shorts: Iterable[master_pb2.VolumeShortInformationMessage]) -> None:
        """Removes the copy that each message names. Where the disk id is not the reported one, removes every copy."""
        with self._changing() as changes:
            for short in shorts:
                changes.volume_ids.add(short.id)
                key = volume_key(short)
                keys = [key] if key in self.volumes else list(self.copies(short.id))
                self._suppress({gone: self.volumes.pop(gone) for gone in keys})

    def replace_ec_shards(self, shards: Iterable[master_pb2.VolumeEcShardInformationMessage]) -> None:
        """Takes `shards` as the full list."""
        with self._changing() as changes:
            changes.has_shards = True
            previous, self.ec_shards = self.ec_shards, {}
            self._put_shards(shards)
            self.has_all_ec_shards = True
            for key, held in previous.items():
                now = self.ec_shards.get(key)
                self._suppress_shards(held if now is None else without_shards(held, now))

    def add_ec_shards(self, shards: Iterable[master_pb2.VolumeEcShardInformationMessage]) -> None:
        """Adds the named shards to those of their volume on that disk."""
        with self._changing() as changes:
            changes.has_shards = True
            self._put_shards(shards)

    def remove_ec_shards(self, shards: Iterable[master_pb2.VolumeEcShardInformationMessage]) -> None:
        """Removes the named shards from those of their volume on that disk."""
        with self._changing() as changes:
            changes.has_shards = True
            for message in shards:
                held = self.ec_shards.pop(volume_key(message), None)
                if held is None:
                    continue
                left = without_shards(held, message)
                if left is not None:
                    self.ec_shards[volume_key(message)] = left
                self._suppress_shards(held if left is None else without_shards(held, left))

    def set_facts(self, facts: NodeProperties) -> None:
        """Replaces disks, limits and directory ids. Equal facts are no change."""
        if facts != self.facts:
            with self._changing():
                self.facts = facts

    def set_state(self, state: volume_server_pb2.VolumeServerState) -> None:
        """Replaces the server state (maintenance mode and its version)."""
        with self._changing():
            self.state = state

    def retire(self) -> None:
        """Removes everything of an engine that is gone for good. Nothing waits for its first list any more."""
        with self._changing() as changes:
            changes.has_shards = True
            changes.volume_ids.update(volume_id for _, volume_id in self.volumes)
            self._suppress(self.volumes)
            self.volumes = {}
            for held in self.ec_shards.values():
                self._suppress_shards(held)
            self.ec_shards = {}
            self.facts = None
            self.has_all_volumes = self.has_all_ec_shards = True

    def hashes(self) -> list[int]:
        """The hashes of the volumes that the engine reports now, for comparison with its own digest."""
        return [volume.hash for volume in list(self.volumes.values())]

    def copies(self, volume_id: int) -> dict[VolumeKey, ReportedVolume]:
        """The copies of a volume that the engine reports now."""
        return self._copies_in(self.volumes, volume_id)

    def suppressed_copies(self, volume_id: int) -> dict[VolumeKey, ReportedVolume]:
        """The copies of a volume in `suppressed`."""
        return self._copies_in(self.suppressed, volume_id)

    def has_volume(self, volume_id: int) -> bool:
        """Whether the engine reports a copy of the volume now."""
        return bool(self.copies(volume_id))

    def shard_bits(self, volume_id: int) -> int:
        """The erasure coding shards of the volume that the source claims now, on any disk; bit n is shard n."""
        bits = 0
        for disk_id in self._disk_ids:
            held = self.ec_shards.get((disk_id, volume_id))
            bits |= 0 if held is None else held.ec_index_bits
        return bits

    def tier_of(self, volume_id: int) -> str:
        """The remote storage that has the data of the volume, as the source says; "" for one that is not tiered."""
        return self._tiers.get(volume_id, "")

    @contextmanager
    def suppress_removals(self, volume_ids: Collection[int]) -> Iterator[None]:
        """Inside the block, a removal of one of `volume_ids` by this engine does not remove it from the node.

        At the end of the block, a volume that the engine still lacks is removed, unless another engine has it.
        """
        with self._changing():
            self._suppress_counts.update(volume_ids)
        try:
            yield
        finally:
            with self._changing() as changes:
                changes.has_shards = True
                changes.volume_ids.update(volume_ids)
                # Subtracting Counters also drops the entries that reach 0.
                self._suppress_counts -= Counter(volume_ids)
                self.suppressed = {key: held for key, held in self.suppressed.items() if self._suppress_counts[key[1]]}
                shards = self.suppressed_shards
                self.suppressed_shards = {key: held for key, held in shards.items() if self._suppress_counts[key[1]]}

    def _copies_in(
        self, volumes: Mapping[VolumeKey, ReportedVolume], volume_id: int
    ) -> dict[VolumeKey, ReportedVolume]:
        # One look-up for each disk, instead of a walk over all volumes.
        keys = [(disk_id, volume_id) for disk_id in sorted(self._disk_ids)]
        return {key: volumes[key] for key in keys if key in volumes}

    def _reported(self, messages: Iterable[master_pb2.VolumeInformationMessage]) -> dict[VolumeKey, ReportedVolume]:
        """The messages with their hashes. It runs without the lock, because hashing many volumes takes a while."""
        known, reported = self.volumes, {}
        for message in messages:
            key = volume_key(message)
            held = known.get(key)
            is_same = held is not None and (held.message is message or held.message == message)
            reported[key] = held if held is not None and is_same else ReportedVolume.of(message)
        return reported

    def _put(self, volume: ReportedVolume) -> None:
        message = volume.message
        key = volume_key(message)
        self.volumes[key] = volume
        self.suppressed.pop(key, None)
        self._note_disk(key)
        if message.remote_storage_name:
            self._tiers[message.id] = message.remote_storage_name
        else:
            self._tiers.pop(message.id, None)

    def _put_shards(self, shards: Iterable[master_pb2.VolumeEcShardInformationMessage]) -> None:
        for message in shards:
            key = volume_key(message)
            self.ec_shards[key] = plus_shards(self.ec_shards.get(key), message)
            self._note_disk(key)
            held = self.suppressed_shards.pop(key, None)
            if held is not None:
                self._suppress_shards(without_shards(held, message))

    def _note_disk(self, key: VolumeKey) -> None:
        # Replaced, not changed in place: other threads iterate over it without the lock.
        if key[0] not in self._disk_ids:
            self._disk_ids = self._disk_ids | {key[0]}

    def _suppress(self, gone: Mapping[VolumeKey, ReportedVolume]) -> None:
        for _, volume_id in gone:
            self._tiers.pop(volume_id, None)
        self.suppressed |= {key: volume for key, volume in gone.items() if self._suppress_counts[key[1]]}

    def _suppress_shards(self, gone: master_pb2.VolumeEcShardInformationMessage | None) -> None:
        if gone is not None and self._suppress_counts[gone.id]:
            key = volume_key(gone)
            self.suppressed_shards[key] = plus_shards(self.suppressed_shards.get(key), gone)
