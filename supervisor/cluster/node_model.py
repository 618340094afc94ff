"""The one model of what this node has, whichever engine has it. The heartbeats to the master are made from it.

Sources are listed by rank. They serve the same directories, so what they say about disks is not summed:

- a volume id that two sources claim (in the moments of a hand-over) belongs to the one of higher rank; of shards, all
  that any source claims count;
- limits per disk type: the larger; disk sizes and tags: the first source that knows them;
- directory identities: the union; highest file key: the highest; state: the highest version.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.cluster.messages import digest_of, plus_shards
from supervisor.cluster.node_source import NodeProperties, NodeSource, ReportedVolume

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from native_handlers.pb import master_pb2, volume_server_pb2
    from supervisor.cluster.messages import VolumeKey


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
        self._lock = threading.RLock()  # protects the feeds' contents, _version and _snapshot
        self._version = 0
        self._snapshot: NodeSnapshot | None = None
        self._feeds = {name: NodeSource(name, self._changing) for name in source_names}
        self._listeners: dict[object, Callable[[], None]] = {}

    def feed(self, name: str) -> NodeSource:
        """The writing side of one source."""
        return self._feeds[name]

    def snapshot(self) -> NodeSnapshot:
        """The node now. It is built once per version."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = self._build()
            return self._snapshot

    @property
    def has_all_volumes(self) -> bool:
        """Whether every source has given its full volume list at least once."""
        with self._lock:
            return all(feed.has_all_volumes for feed in self._feeds.values())

    @contextmanager
    def suppress_removals(self, volume_ids: Collection[int]) -> Iterator[None]:
        """Inside the block, no source's removal of one of `volume_ids` removes it from the node.

        See `NodeSource.suppress_removals`.
        """
        with ExitStack() as stack:
            for feed in self._feeds.values():
                stack.enter_context(feed.suppress_removals(volume_ids))
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
    def _changing(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            finally:
                self._version += 1
                self._snapshot = None
            listeners = list(self._listeners.values())
        for listener in listeners:
            listener()

    def _build(self) -> NodeSnapshot:
        feeds = list(self._feeds.values())
        volumes = _merge_volumes(feeds)
        return NodeSnapshot(
            version=self._version,
            volumes=volumes,
            keys_of=_by_id(volumes),
            ec_shards=_merge_shards(feeds),
            facts=_merge_facts([feed.facts for feed in feeds if feed.facts is not None]),
            state=_newest_state(feed.state for feed in feeds),
            digest=digest_of(volume.hash for volume in volumes.values()),
            has_all_volumes=all(feed.has_all_volumes for feed in feeds),
            has_all_ec_shards=all(feed.has_all_ec_shards for feed in feeds),
        )


def _by_id(keys: Iterable[VolumeKey]) -> dict[int, list[VolumeKey]]:
    found: dict[int, list[VolumeKey]] = {}
    for key in keys:
        found.setdefault(key[1], []).append(key)
    return found


def _merge_volumes(feeds: Sequence[NodeSource]) -> dict[VolumeKey, ReportedVolume]:
    merged: dict[VolumeKey, ReportedVolume] = {}
    owners: dict[int, int] = {}
    claims = [feed.volumes for feed in feeds] + [feed.suppressed for feed in feeds]
    for rank, claimed in enumerate(claims):
        merged |= {key: volume for key, volume in claimed.items() if owners.setdefault(key[1], rank) == rank}
    return merged


def _merge_shards(feeds: Sequence[NodeSource]) -> dict[VolumeKey, master_pb2.VolumeEcShardInformationMessage]:
    """The shards of all sources together. In a hand-over one source gives shards up while the other opens them."""
    merged: dict[VolumeKey, master_pb2.VolumeEcShardInformationMessage] = {}
    for claimed in [feed.ec_shards for feed in feeds] + [feed.suppressed_shards for feed in feeds]:
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
