"""Where each needle of a volume is: needle id -> (offset, size), 16 bytes a needle and little more.

Three layers. The *base* is made once from the .idx file. The *delta* is a dict of what came last; when it is full it
is merged into *recent*, sorted columns as well, and when that has grown to a fraction of the base both become the new
base. So there is never a Python object for more than some thousand needles. The layers are swapped as one object: a
reader holds either the old ones or the new ones, and takes no lock. Writers are serialised by their volume.

An entry's size is that of the record's body. A deleted needle keeps its entry with the size negated (-1 where it
was 0), so that it can still be read on request until a restart after which only its tombstone is known.

Source of the counting rules: weed/storage/needle_map_metric.go, needle_map_memory.go, needle_map/compact_map.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.types import TOMBSTONE_SIZE
from native_handlers.storage.index_base import Base, merge, pack, sorted_base, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.storage.index_base import Location

_MIN_MERGE = 1 << 14
"""The delta is merged at this many entries, which take about 2.5 MB."""
_MERGE_FRACTION = 8
"""What is recent goes into the base at 1/8 of it: each needle is then moved a small constant number of times."""


@dataclass(slots=True)
class Counters:
    """What a volume reports of its needles. All only grow; a vacuum starts them afresh."""

    file_count: int = 0
    content_bytes: int = 0
    deleted_count: int = 0
    deleted_bytes: int = 0
    max_needle_id: int = 0


class Layers(NamedTuple):
    """`recent` is None where nothing is. `generation` counts publications, where several processes share them."""

    base: Base
    recent: Base | None
    delta: dict[int, int]
    generation: int = 0

    def find(self, needle_id: int) -> Location | None:
        base, recent, delta, _ = self
        value = delta.get(needle_id)
        if value is not None:
            return unpack(value)
        if recent is not None:
            found = recent.get(needle_id)
            if found is not None:
                return found
        return base.get(needle_id)

    def settled(self) -> Layers:
        """The same entries without a delta."""
        base, recent, delta, generation = self
        if delta:
            newest = sorted_base(delta, has_high=base.high is not None)
            recent = newest if recent is None else merge(recent, newest)
        if recent is not None and len(recent) * _MERGE_FRACTION >= len(base):
            base, recent = merge(base, recent), None
        return Layers(base, recent, {}, generation)


class NeedleIndex:
    """The index of one volume. Reading is safe from any thread; writing is the volume's, one at a time."""

    __slots__ = ("counters", "layers")

    def __init__(self, layers: Layers, counters: Counters) -> None:
        self.layers = layers
        self.counters = counters

    @classmethod
    def of(cls, base: Base, counters: Counters) -> NeedleIndex:
        """An index of what `base` has."""
        return cls(Layers(base, None, {}), counters)

    def get(self, needle_id: int) -> Location | None:
        """Where the needle is or was; None when it is not known."""
        return self.layers.find(needle_id)

    def put(self, needle_id: int, offset: int, size: int) -> None:
        """Enters a needle or moves it. `offset` in units of 8 bytes."""
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
        """Marks a needle deleted. Returns its size; 0 when it was not there, deleted already, or empty."""
        old = self.layers.find(needle_id)
        if old is None or old.size < 0:
            return 0
        self._set(needle_id, old.offset, -old.size or TOMBSTONE_SIZE)
        if old.size > 0:
            self.counters.deleted_count += 1
            self.counters.deleted_bytes += old.size
        return old.size

    def _set(self, needle_id: int, offset: int, size: int) -> None:
        self.layers.delta[needle_id] = pack(offset, size)
        if self.is_delta_full:
            self.layers = self.layers.settled()

    @property
    def is_delta_full(self) -> bool:
        """Whether what came last is to be merged."""
        return len(self.layers.delta) >= _MIN_MERGE

    def ascending(self) -> Iterator[tuple[int, Location]]:
        """Every entry, deleted ones included, by needle id, as of now."""
        base, recent, _, _ = self.layers._replace(delta=dict(self.layers.delta)).settled()
        merged = base if recent is None else merge(base, recent)
        for index, needle_id in enumerate(merged.keys.data):
            yield needle_id, merged.at(index)

    @property
    def size_bytes(self) -> int:
        """Memory that the columns take, without the delta."""
        base, recent = self.layers.base, self.layers.recent
        return base.size_bytes + (recent.size_bytes if recent is not None else 0)
