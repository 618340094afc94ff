"""Where each needle of a volume is: needle id -> (offset, size), 16 bytes a needle.

Two layers. The *base* is made once from the .idx file: three parallel arrays, sorted by needle id, never changed,
searched by bisection. The *delta* is a dict of what came after. When the delta has grown to a fraction of the base
both are merged into a new base, and the pair is swapped as one object: a reader holds either the old pair or the
new one, and takes no lock. Writers are serialised by their volume.

An entry's size is that of the record's body. A deleted needle keeps its entry with the size negated (-1 where it
was 0), so that it can still be read on request until a restart after which only its tombstone is known.

Source of the counting rules: weed/storage/needle_map_metric.go, needle_map_memory.go, needle_map/compact_map.go.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from native_handlers.format.types import TOMBSTONE_SIZE, UINT32_MASK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_T = TypeVar("_T", bound=np.generic)

_STRIDE = 512
_MIN_MERGE = 1 << 15
_MERGE_FRACTION = 8
"""The delta is merged when it reaches 1/8 of the base: each needle is then moved a small constant number of times."""


class Location(NamedTuple):
    """A needle's place. `offset` counts units of 8 bytes, `size` is negative for a deleted needle."""

    offset: int
    size: int


class Base:
    """Sorted parallel arrays. `high` holds the fifth offset byte and is None with 4-byte offsets.

    Every 512th key is kept as an int as well, 0.1 bytes a needle: most of a bisection then goes over a list, in a
    third of the time.
    """

    __slots__ = ("_highs", "_keys", "_lows", "_milestones", "_sizes", "high", "keys", "low", "sizes")

    def __init__(
        self,
        keys: NDArray[np.uint64],
        low: NDArray[np.uint32],
        high: NDArray[np.uint8] | None,
        sizes: NDArray[np.int32],
    ) -> None:
        self.keys, self.low, self.high, self.sizes = keys, low, high, sizes
        # Items of memoryviews are plain ints, which compare and convert several times faster than numpy's scalars.
        self._keys, self._lows, self._sizes = keys.data, low.data, sizes.data
        self._highs = None if high is None else high.data
        self._milestones: list[int] = keys[::_STRIDE].tolist()

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, needle_id: int) -> Location | None:
        keys = self._keys
        end = bisect_right(self._milestones, needle_id) * _STRIDE
        if not end:
            return None
        index = bisect_left(keys, needle_id, end - _STRIDE, min(end, len(keys)))
        if index == len(keys) or keys[index] != needle_id:
            return None
        return self.at(index)

    def at(self, index: int) -> Location:
        """The entry at a position in needle id order."""
        offset = self._lows[index]
        if self._highs is not None:
            offset |= self._highs[index] << 32
        return Location(offset, self._sizes[index])


class Counters:
    """What a volume reports of its needles. All only grow; a vacuum starts them afresh."""

    __slots__ = ("content_bytes", "deleted_bytes", "deleted_count", "file_count", "max_needle_id")

    def __init__(self) -> None:
        self.file_count = 0
        self.content_bytes = 0
        self.deleted_count = 0
        self.deleted_bytes = 0
        self.max_needle_id = 0


class _Layers(NamedTuple):
    base: Base
    delta: dict[int, int]


def _pack(offset: int, size: int) -> int:
    return offset << 32 | (size & UINT32_MASK)


def _unpack(value: int) -> Location:
    size = value & UINT32_MASK
    return Location(value >> 32, size - (1 << 32) if size >> 31 else size)


def empty_base(*, has_high: bool) -> Base:
    """A base without entries. `has_high`: offsets are 5 bytes wide."""
    high = np.empty(0, np.uint8) if has_high else None
    return Base(np.empty(0, np.uint64), np.empty(0, np.uint32), high, np.empty(0, np.int32))


class NeedleIndex:
    """The index of one volume. Reading is safe from any thread; writing is the volume's, one at a time."""

    __slots__ = ("_layers", "counters")

    def __init__(self, base: Base, counters: Counters) -> None:
        self._layers = _Layers(base, {})
        self.counters = counters

    def get(self, needle_id: int) -> Location | None:
        """Where the needle is or was; None when it is not known."""
        base, delta = self._layers
        value = delta.get(needle_id)
        return base.get(needle_id) if value is None else _unpack(value)

    def put(self, needle_id: int, offset: int, size: int) -> None:
        """Enters a needle or moves it. `offset` in units of 8 bytes."""
        old = self.get(needle_id)
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
        old = self.get(needle_id)
        if old is None or old.size < 0:
            return 0
        self._set(needle_id, old.offset, -old.size or TOMBSTONE_SIZE)
        if old.size > 0:
            self.counters.deleted_count += 1
            self.counters.deleted_bytes += old.size
        return old.size

    def _set(self, needle_id: int, offset: int, size: int) -> None:
        base, delta = self._layers
        delta[needle_id] = _pack(offset, size)
        if len(delta) >= max(_MIN_MERGE, len(base) // _MERGE_FRACTION):
            self._layers = _Layers(_merge(base, delta), {})

    def ascending(self) -> Iterator[tuple[int, Location]]:
        """Every entry, deleted ones included, by needle id, as of now."""
        base, delta = self._layers
        merged = _merge(base, dict(delta)) if delta else base
        for index, needle_id in enumerate(merged.keys.data):
            yield needle_id, merged.at(index)

    @property
    def size_bytes(self) -> int:
        """Memory that the arrays take, without the delta."""
        base = self._layers.base
        arrays = [base.keys.nbytes, base.low.nbytes, base.sizes.nbytes, 0 if base.high is None else base.high.nbytes]
        return sum(arrays)


def _merge(base: Base, delta: dict[int, int]) -> Base:
    """A base with the entries of both, those of `delta` winning."""
    count = len(delta)
    keys = np.fromiter(delta.keys(), np.uint64, count)
    offsets = np.fromiter((value >> 32 for value in delta.values()), np.uint64, count)
    sizes = np.fromiter((value & UINT32_MASK for value in delta.values()), np.uint32, count).view(np.int32)
    order = np.argsort(keys)
    keys, offsets, sizes = keys[order], offsets[order], sizes[order]
    low = (offsets & UINT32_MASK).astype(np.uint32)
    high = (offsets >> np.uint64(32)).astype(np.uint8)
    where = np.searchsorted(base.keys, keys)
    known = np.zeros(count, np.bool_)
    inside = where < len(base)
    known[inside] = base.keys[where[inside]] == keys[inside]

    def merged(old: NDArray[_T], new: NDArray[_T]) -> NDArray[_T]:
        changed = old.copy()
        changed[where[known]] = new[known]
        return np.insert(changed, where[~known], new[~known])

    all_keys = merged(base.keys, keys)
    all_high = None if base.high is None else merged(base.high, high)
    return Base(all_keys, merged(base.low, low), all_high, merged(base.sizes, sizes))
