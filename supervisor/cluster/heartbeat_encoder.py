"""The state that the master of one stream was told, and the next heartbeat for that master. No I/O, no clock.

An encoder lives as long as its stream. A new stream starts from nothing, because its master may know nothing. Every
beat made here must be sent, in order. Where a beat is lost, the stream and the encoder are dropped.

There are three kinds of beat. *Volume beats* go out on each pulse: the full list until the master compares digests,
then only what changed, always with the digest. *EC lists* go out now and then. *Deltas* go out at once when volumes or
shards come or go. A delta names departures, because a beat with changes only says nothing about missing volumes. A
volume that
moves between disks is no departure: a master drops the location when it is named as one.

Wilful difference: to a master that accepts changes, a delta that names a new volume also has its full message.

Source: weed/server/volume_grpc_client_to_master.go, weed/storage/store.go (CollectHeartbeat),
weed/storage/store_volume_report.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.report_hash import report_hash_of_message
from native_handlers.pb import master_pb2
from native_handlers.records import dataclass
from supervisor.cluster.messages import layout_of, shard_sizes, short_of, volume_from_short, with_shards

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from native_handlers.pb import volume_server_pb2
    from supervisor.cluster.identity import NodeIdentity
    from supervisor.cluster.messages import VolumeKey
    from supervisor.cluster.node_model import NodeSnapshot
    from supervisor.cluster.node_source import NodeProperties

_VOLUMES_A_STEP = 1000
"""How many volumes are copied in one step: some hundred microseconds, in which no other thread runs."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """The last report of one volume copy that was sent to the master."""

    hash: int
    short: master_pb2.VolumeShortInformationMessage


class HeartbeatEncoder:
    """The sending side of one heartbeat stream. Not thread-safe: one writer owns it."""

    def __init__(self, identity: NodeIdentity) -> None:
        self._identity = identity
        self._volumes: dict[VolumeKey, _Sent] = {}
        self._disk_ids: set[int] = set()  # of all keys that _volumes ever had
        self._ec_shards: Mapping[VolumeKey, master_pb2.VolumeEcShardInformationMessage] | None = None
        self._state: volume_server_pb2.VolumeServerState | None = None
        self._limits: Mapping[str, int] | None = None
        self._compared_version = -1
        self.is_digest_supported = False
        """Set after the master has said that it compares digests."""
        self.is_full_list_wanted = True
        """Set when the master asks for the full list. Cleared by the volume beat that has the list."""

    def volume_beat(self, snapshot: NodeSnapshot) -> master_pb2.Heartbeat:
        """The regular beat: full or changed volumes, departures, limits, disks, the digest."""
        is_full = self.is_full_list_wanted or not self.is_digest_supported
        beat = master_pb2.Heartbeat(volume_digest=snapshot.digest)
        self._identity.stamp(beat)
        _stamp_facts(beat, snapshot.facts)
        self._limits = snapshot.facts.max_volume_counts
        if is_full:
            self._volumes = {key: _Sent(held.hash, short_of(held.message)) for key, held in snapshot.volumes.items()}
            self._disk_ids.update(disk_id for disk_id, _ in self._volumes)
            volumes = [held.message for held in snapshot.volumes.values()]
            for start in range(0, len(volumes), _VOLUMES_A_STEP):
                beat.volumes.extend(volumes[start : start + _VOLUMES_A_STEP])
            beat.has_no_volumes = not snapshot.volumes and snapshot.has_all_volumes
            self.is_full_list_wanted = False
            return beat
        beat.deleted_volumes.extend(self._take_departures(snapshot))
        self._volumes = {key: sent for key, sent in self._volumes.items() if key in snapshot.volumes}
        for key, held in snapshot.volumes.items():
            sent = self._volumes.get(key)
            if sent is None or sent.hash != held.hash:
                beat.changed_volumes.append(held.message)
                self._note(key, _Sent(held.hash, short_of(held.message)))
        return beat

    def ec_beat(self, snapshot: NodeSnapshot) -> master_pb2.Heartbeat | None:
        """The full EC list. None while a source has not given its own: a partial list would unregister other shards."""
        if not snapshot.has_all_ec_shards:
            return None
        self._ec_shards = snapshot.ec_shards
        return master_pb2.Heartbeat(ec_shards=snapshot.ec_shards.values(), has_no_ec_shards=not snapshot.ec_shards)

    def needs_volume_beat(self, snapshot: NodeSnapshot) -> bool:
        """Whether a changed limit must be sent before the next pulse, so that the master does not refuse growth."""
        return self._limits is not None and dict(self._limits) != dict(snapshot.facts.max_volume_counts)

    def delta_beats(self, snapshot: NodeSnapshot) -> list[master_pb2.Heartbeat]:
        """The beats of arrivals and departures since the last beat, departures first. Empty without changes."""
        if snapshot.version == self._compared_version:
            return []
        # What has not changed since the last comparison is neither an arrival nor a departure now.
        changed_ids = snapshot.changed_since(self._compared_version)
        self._compared_version = snapshot.version
        beats = [
            master_pb2.Heartbeat(deleted_volumes=self._take_departures(snapshot, changed_ids)),
            self._arrivals_beat(snapshot, changed_ids),
            *self._ec_delta_beats(snapshot),
        ]
        beats = [beat for beat in beats if beat.ByteSize()]
        if snapshot.state is not None and snapshot.state != self._state:
            self._state = snapshot.state
            beats.append(master_pb2.Heartbeat(state=snapshot.state))
        for beat in beats:
            self._identity.stamp_short(beat)
        return beats

    def final_beat(self) -> master_pb2.Heartbeat:
        """The last beat before leaving: this server has no volumes."""
        beat = master_pb2.Heartbeat(has_no_volumes=True)
        self._identity.stamp_short(beat)
        beat.public_url = self._identity.public_url
        return beat

    def _note(self, key: VolumeKey, sent: _Sent) -> None:
        self._volumes[key] = sent
        self._disk_ids.add(key[0])

    def _sent_keys(self, volume_id: int) -> list[VolumeKey]:
        return [key for disk_id in self._disk_ids if (key := (disk_id, volume_id)) in self._volumes]

    def _take_departures(
        self, snapshot: NodeSnapshot, ids: Iterable[int] | None = None
    ) -> list[master_pb2.VolumeShortInformationMessage]:
        """Drops volumes that have left the node, or whose layout has changed. Returns their short messages.

        `ids` names the volumes to look at; None stands for all.
        """
        held_ids = snapshot.keys_of
        departed = []
        keys = list(self._volumes) if ids is None else [key for one in ids for key in self._sent_keys(one)]
        for key in keys:
            sent = self._volumes[key]
            held = snapshot.volumes.get(key)
            is_gone = held is None and key[1] not in held_ids
            if is_gone or (held and held.hash != sent.hash and layout_of(held.message) != layout_of(sent.short)):
                departed.append(self._volumes.pop(key).short)
        return departed

    def _arrivals_beat(self, snapshot: NodeSnapshot, ids: Iterable[int] | None) -> master_pb2.Heartbeat:
        """Names the volumes that the master does not know, and adds at once what the short form leaves out.

        `ids` names the volumes to look at; None stands for all.

        A short message alone means an empty, writable volume. Until the next pulse the master would assign files to a
        volume that is full or read-only. For the same reason a volume that moved to another disk is not named here.
        """
        beat = master_pb2.Heartbeat()
        if ids is None:
            unknown = snapshot.keys_of.keys() - {volume_id for _, volume_id in self._volumes}
        else:
            unknown = {volume_id for volume_id in ids if not self._sent_keys(volume_id)}
        for volume_id in sorted(unknown):
            for key in snapshot.keys_of.get(volume_id, ()):
                held = snapshot.volumes[key]
                short = short_of(held.message)
                sent_hash = report_hash_of_message(volume_from_short(short))
                beat.new_volumes.append(short)
                if sent_hash != held.hash and self.is_digest_supported:
                    beat.changed_volumes.append(held.message)
                    sent_hash = held.hash
                self._note(key, _Sent(sent_hash, short))
        return beat

    def _ec_delta_beats(self, snapshot: NodeSnapshot) -> list[master_pb2.Heartbeat]:
        """New and deleted shards since the last beat: only the bits that changed, with their sizes."""
        sent = self._ec_shards or {}
        if sent is snapshot.ec_shards:
            return []
        self._ec_shards = snapshot.ec_shards
        gone = _shards_missing_in(snapshot.ec_shards, sent)
        new = _shards_missing_in(sent, snapshot.ec_shards)
        return [master_pb2.Heartbeat(deleted_ec_shards=gone), master_pb2.Heartbeat(new_ec_shards=new)]


def _shards_missing_in(
    base: Mapping[VolumeKey, master_pb2.VolumeEcShardInformationMessage],
    other: Mapping[VolumeKey, master_pb2.VolumeEcShardInformationMessage],
) -> list[master_pb2.VolumeEcShardInformationMessage]:
    """The shards of `other` that `base` does not have."""
    missing = []
    for key, message in other.items():
        held = base.get(key)
        held_bits = 0 if held is None else held.ec_index_bits
        sizes = {shard: size for shard, size in shard_sizes(message).items() if not held_bits >> shard & 1}
        if sizes:
            missing.append(message if held is None else with_shards(message, sizes))
    return missing


def _stamp_facts(beat: master_pb2.Heartbeat, facts: NodeProperties) -> None:
    beat.max_volume_counts.update(facts.max_volume_counts)
    beat.disk_total_bytes.update(facts.disk_total_bytes)
    beat.disk_free_bytes.update(facts.disk_free_bytes)
    beat.location_uuids.extend(facts.location_uuids)
    beat.disk_tags.extend(facts.disk_tags)
    beat.max_file_key = facts.max_file_key
