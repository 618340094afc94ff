"""The place of each needle of a volume: needle id -> (offset, size), little more than 16 bytes a needle.

There are three layers. The *base* is built once from the .idx file. The *delta* is a dict of the latest entries. When
the delta is full it is merged into *recent*, which is sorted columns as well. When recent has grown to a fraction of
the base, both become the new base. So there are never Python objects for more than some thousand needles. The layers
are replaced as one object: a reader uses either the old layers or the new ones, and takes no lock. The volume
serialises writers.

An entry's size is that of the record's body. A deleted needle keeps its entry with the size negated (-1 where it was
0). So it can still be read on request, until a restart after which only its tombstone is known.

Source of the counting rules: weed/storage/needle_map_metric.go, needle_map_memory.go, needle_map/compact_map.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.types import TOMBSTONE_SIZE, UINT32_MASK
from native_handlers.records import dataclass
from native_handlers.storage.index.sorted_segment import NeedleValue, SortedSegment, merge, sorted_base

if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_MERGE = 1 << 14
"""The delta is merged at so many entries, which take about 2.5 MB."""
_MERGE_FRACTION = 8
"""Recent is merged into the base at 1/8 of the base's length, so each needle is moved a small constant number of
times."""


@dataclass(slots=True)
class Counters:
    """The counts that a volume reports of its needles. They only grow; a vacuum starts them anew."""

    file_count: int = 0
    content_bytes: int = 0
    deleted_count: int = 0
    deleted_bytes: int = 0
    max_needle_id: int = 0


class Layers(NamedTuple):
    """The layers of an index. `recent` is None where it is empty. `generation` counts publications, where processes
    share them.
    """

    base: SortedSegment
    recent: SortedSegment | None
    delta: dict[int, int]
    generation: int = 0

    def find(self, needle_id: int) -> NeedleValue | None:
        base, recent, delta, _ = self
        value = delta.get(needle_id)
        if value is not None:
            # As `sorted_segment.unpack`, in line because each recently written needle comes here.
            size = value & UINT32_MASK
            return NeedleValue(value >> 32, size - (1 << 32) if size >> 31 else size)
        if recent is not None:
            found = recent.get(needle_id)
            if found is not None:
                return found
        return base.get(needle_id)

    def merged(self) -> Layers:
        """The same entries with an empty delta."""
        base, recent, delta, generation = self
        if delta:
            newest = sorted_base(delta, has_high=base.high is not None)
            recent = newest if recent is None else merge(recent, newest)
        if recent is not None and len(recent) * _MERGE_FRACTION >= len(base):
            base, recent = merge(base, recent), None
        return Layers(base, recent, {}, generation)


class NeedleIndex:
    """The index of one volume. Any thread may read. The volume writes, one thread at a time."""

    __slots__ = ("counters", "layers")

    def __init__(self, layers: Layers, counters: Counters) -> None:
        self.layers = layers
        self.counters = counters

    @classmethod
    def of(cls, base: SortedSegment, counters: Counters) -> NeedleIndex:
        """An index with the entries of `base`."""
        return cls(Layers(base, None, {}), counters)

    def get(self, needle_id: int) -> NeedleValue | None:
        """The needle's place, also that of a deleted needle; None for an unknown needle."""
        return self.layers.find(needle_id)

    def put(self, needle_id: int, offset: int, size: int) -> None:
        """Adds a needle or changes its place. `offset` is in units of 8 bytes."""
        old = self.layers.find(needle_id)
        self._set(needle_id, offset, size)
        counters = self.counters
        counters.max_needle_id = max(counters.max_needle_id, needle_id)
        counters.file_count += 1
        counters.content_bytes += size
        if old is not None and old.size > 0:
            counters.deleted_count += 1
            counters.deleted_bytes += old.size

    def delete(self, needle_id: int) -> int:
        """Marks a needle deleted. Returns its size; 0 when it was unknown, deleted already, or empty."""
        old = self.layers.find(needle_id)
        if old is None or old.size < 0:
            return 0
        self._set(needle_id, old.offset, -old.size or TOMBSTONE_SIZE)
        if old.size > 0:
            self.counters.deleted_count += 1
            self.counters.deleted_bytes += old.size
        return old.size

    def _set(self, needle_id: int, offset: int, size: int) -> None:
        self.layers.delta[needle_id] = offset << 32 | (size & UINT32_MASK)  # as `sorted_segment.pack`
        if self.is_delta_full:
            self.layers = self.layers.merged()

    @property
    def is_delta_full(self) -> bool:
        """Whether the delta is to be merged."""
        return len(self.layers.delta) >= MIN_MERGE

    def ascending(self) -> Iterator[tuple[int, NeedleValue]]:
        """Yields every entry, deleted ones included, by needle id, as of the call."""
        base, recent, _, _ = self.layers._replace(delta=dict(self.layers.delta)).merged()
        merged = base if recent is None else merge(base, recent)
        for index, needle_id in enumerate(merged.keys.data):
            yield needle_id, merged.at(index)

    @property
    def size_bytes(self) -> int:
        """The memory of the columns in bytes, without the delta."""
        base, recent = self.layers.base, self.layers.recent
        return base.size_bytes + (recent.size_bytes if recent is not None else 0)
