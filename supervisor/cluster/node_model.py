"""The one model of what this node has, whichever engine has it. The heartbeats to the master are made from it.

Sources are listed by rank. They serve the same directories, so what they say about disks is not summed:

- a volume id that two sources claim (in the moments of a hand-over) belongs to the one of higher rank; of shards, all
  that any source claims count;
- limits per disk type: the larger; disk sizes and tags: the first source that knows them;
- directory identities: the union; highest file key: the highest; state: the highest version.

A node may have many thousand volumes. So where few have changed, a snapshot is made from the one before it: the changed
volumes are merged anew, and the rest is copied at once.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.records import dataclass
from supervisor.cluster.messages import digest_of, plus_shards
from supervisor.cluster.node_source import Changes, NodeProperties, NodeSource, ReportedVolume

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from native_handlers.pb import master_pb2, volume_server_pb2
    from supervisor.cluster.messages import VolumeKey


_REMEMBERED_STEPS = 64
"""A heartbeat looks at each snapshot or skips a few. Behind more than this it compares all volumes."""


_FEW = 8
"""Where more than one volume in so many has changed, going over all of them takes less time."""


class Step(NamedTuple):
    """The volumes that changed from one snapshot to the next."""

    from_version: int
    version: int
    volume_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """The node at one version. Readers share it, so nothing in it may be changed.

    `has_all_*` says that each source has given its full list at least once. Before that a list from this snapshot is
    partial, and must not be sent as the whole.
    """

    version: int
    volumes: Mapping[VolumeKey, ReportedVolume]
    keys_of: Mapping[int, list[VolumeKey]]
    """The keys of the copies of each volume."""
    ec_shards: Mapping[VolumeKey, master_pb2.VolumeEcShardInformationMessage]
    facts: NodeProperties
    state: volume_server_pb2.VolumeServerState | None
    digest: int
    has_all_volumes: bool
    has_all_ec_shards: bool
    steps: tuple[Step, ...] = ()
    """The last steps that led here, the oldest first."""

    def changed_since(self, version: int) -> set[int] | None:
        """The ids of the volumes that changed after `version`; None where these are many, or not known any more."""
        if version >= self.version:
            return set()
        if not self.steps or version < self.steps[0].from_version:
            return None
        changed = set().union(*(step.volume_ids for step in self.steps if step.version > version))
        return changed if len(changed) * _FEW <= len(self.keys_of) else None

    @property
    def volume_ids(self) -> set[int]:
        return set(self.keys_of)

    @property
    def all_ids(self) -> set[int]:
        """The ids of the volumes, and of the volumes of which this node has shards."""
        return self.volume_ids | {volume_id for _, volume_id in self.ec_shards}


class NodeModel:
    """A thread-safe union of what the named sources report. An earlier name outranks a later one."""

    def __init__(self, source_names: Sequence[str]) -> None:
        self._lock = threading.RLock()  # protects the sources' contents and the four fields below
        self._version = 0
        self._snapshot = _EMPTY
        self._changes = Changes()  # since _snapshot
        self._steps: deque[Step] = deque(maxlen=_REMEMBERED_STEPS)
        self._sources = {name: NodeSource(name, self._changing) for name in source_names}
        self._listeners: dict[object, Callable[[], None]] = {}

    def source(self, name: str) -> NodeSource:
        """The writing side of one source."""
        return self._sources[name]

    def snapshot(self) -> NodeSnapshot:
        """The node now. It is built once per version."""
        with self._lock:
            if self._snapshot.version != self._version:
                self._snapshot = self._build(self._snapshot, self._changes)
                self._changes = Changes()
            return self._snapshot

    @property
    def has_all_volumes(self) -> bool:
        """Whether every source has given its full volume list at least once."""
        with self._lock:
            return all(source.has_all_volumes for source in self._sources.values())

    @contextmanager
    def suppress_removals(self, volume_ids: Collection[int]) -> Iterator[None]:
        """Inside the block, no source's removal of one of `volume_ids` removes it from the node.

        See `NodeSource.suppress_removals`.
        """
        with ExitStack() as stack:
            for source in self._sources.values():
                stack.enter_context(source.suppress_removals(volume_ids))
            yield

    def add_listener(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` after each change, from the changing thread and without locks. It must return quickly.

        Returns: a function that ends this. A second call of it does nothing.
        """
        token = object()
        with self._lock:
            self._listeners[token] = callback

        def remove() -> None:
            with self._lock:
                self._listeners.pop(token, None)

        return remove

    @contextmanager
    def _changing(self) -> Iterator[Changes]:
        with self._lock:
            try:
                yield self._changes
            finally:
                self._version += 1
            listeners = list(self._listeners.values())
        for listener in listeners:
            listener()

    def _build(self, before: NodeSnapshot, changes: Changes) -> NodeSnapshot:
        sources = list(self._sources.values())
        is_few = len(changes.volume_ids) * _FEW <= len(before.keys_of)
        merged = _merge_changed(sources, before, changes.volume_ids) if is_few else _merge_volumes(sources)
        self._steps.append(Step(before.version, self._version, frozenset(changes.volume_ids)))
        return NodeSnapshot(
            version=self._version,
            volumes=merged.volumes,
            keys_of=merged.keys_of,
            ec_shards=_merge_shards(sources) if changes.has_shards else before.ec_shards,
            facts=_merge_facts([source.facts for source in sources if source.facts is not None]),
            state=_newest_state(source.state for source in sources),
            digest=merged.digest,
            has_all_volumes=all(source.has_all_volumes for source in sources),
            has_all_ec_shards=all(source.has_all_ec_shards for source in sources),
            steps=tuple(self._steps),
        )


class _Merged(NamedTuple):
    volumes: dict[VolumeKey, ReportedVolume]
    keys_of: dict[int, list[VolumeKey]]
    digest: int


def _merge_volumes(sources: Sequence[NodeSource]) -> _Merged:
    merged: dict[VolumeKey, ReportedVolume] = {}
    owners: dict[int, int] = {}
    claims = [source.volumes for source in sources] + [source.suppressed for source in sources]
    for rank, claimed in enumerate(claims):
        merged |= {key: volume for key, volume in claimed.items() if owners.setdefault(key[1], rank) == rank}
    keys_of: dict[int, list[VolumeKey]] = {}
    for key in merged:
        keys_of.setdefault(key[1], []).append(key)
    return _Merged(merged, keys_of, digest_of(volume.hash for volume in merged.values()))


def _merge_changed(sources: Sequence[NodeSource], before: NodeSnapshot, changed_ids: Iterable[int]) -> _Merged:
    """As `_merge_volumes`. `before` is right but for the volumes `changed_ids`."""
    volumes, keys_of, digest = dict(before.volumes), dict(before.keys_of), before.digest
    for volume_id in changed_ids:
        old_keys, now = keys_of.pop(volume_id, ()), _claimed(sources, volume_id)
        digest ^= digest_of(volumes[key].hash for key in old_keys) ^ digest_of(volume.hash for volume in now.values())
        for key in old_keys:
            if key not in now:
                del volumes[key]
        volumes |= now
        if now:
            keys_of[volume_id] = list(now)
    return _Merged(volumes, keys_of, digest)


def _claimed(sources: Sequence[NodeSource], volume_id: int) -> dict[VolumeKey, ReportedVolume]:
    """The copies of a volume that the source of the highest rank claims; suppressed removals have the lowest rank."""
    for claim in (*(source.copies for source in sources), *(source.suppressed_copies for source in sources)):
        claimed = claim(volume_id)
        if claimed:
            return claimed
    return {}


def _merge_shards(sources: Sequence[NodeSource]) -> dict[VolumeKey, master_pb2.VolumeEcShardInformationMessage]:
    """The shards of all sources together. In a hand-over one source gives shards up while the other opens them."""
    merged: dict[VolumeKey, master_pb2.VolumeEcShardInformationMessage] = {}
    for claimed in [source.ec_shards for source in sources] + [source.suppressed_shards for source in sources]:
        both = {key: plus_shards(claimed[key], merged[key]) for key in claimed.keys() & merged.keys()}
        merged |= claimed | both
    return merged


def _merge_facts(all_facts: Sequence[NodeProperties]) -> NodeProperties:
    limits: dict[str, int] = {}
    tags: dict[int, master_pb2.DiskTag] = {}
    uuids: dict[str, None] = {}
    total: dict[str, int] = {}
    free: dict[str, int] = {}
    for facts in all_facts:
        for disk_type, limit in facts.max_volume_counts.items():
            limits[disk_type] = max(limit, limits.get(disk_type, 0))
        for tag in facts.disk_tags:
            known = tags.setdefault(tag.disk_id, tag)
            if tag.max_volume_count > known.max_volume_count:
                tags[tag.disk_id] = tag
        uuids |= dict.fromkeys(facts.location_uuids)
        total = {**facts.disk_total_bytes, **total}
        free = {**facts.disk_free_bytes, **free}
    return NodeProperties(
        max_volume_counts=limits,
        disk_tags=tuple(tag for _, tag in sorted(tags.items())),
        location_uuids=tuple(uuids),
        disk_total_bytes=total,
        disk_free_bytes=free,
        max_file_key=max((facts.max_file_key for facts in all_facts), default=0),
    )


def _newest_state(
    states: Iterable[volume_server_pb2.VolumeServerState | None],
) -> volume_server_pb2.VolumeServerState | None:
    known = [state for state in states if state is not None]
    return max(known, key=lambda state: state.version, default=None)


_EMPTY = NodeSnapshot(
    version=-1,
    volumes={},
    keys_of={},
    ec_shards={},
    facts=NodeProperties(),
    state=None,
    digest=0,
    has_all_volumes=False,
    has_all_ec_shards=False,
)
"""The node before its first snapshot."""
