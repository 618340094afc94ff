"""The bulk of a needle index: immutable sorted columns, searched by bisection.

The columns are in this process's memory or in a mapping that several processes share; a `SortedSegment` does not know
which.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from native_handlers.arrays import np
from native_handlers.format.types import UINT32_MASK

if TYPE_CHECKING:
    from numpy.typing import NDArray

_T = TypeVar("_T", bound="np.generic")

_STRIDE = 512
_new_tuple = tuple.__new__


class NeedleValue(NamedTuple):
    """A needle's place. `offset` counts units of 8 bytes, `size` is negative for a deleted needle."""

    offset: int
    size: int


class SortedSegment:
    """Sorted parallel arrays. `high` holds the fifth offset byte and is None with 4-byte offsets.

    Every 512th key is kept as an int as well, 0.1 bytes a needle. So most of a bisection runs over a list, in a third
    of the time.
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

    @property
    def size_bytes(self) -> int:
        """The memory of the columns in bytes."""
        return sum(column.nbytes for column in self.columns)

    @property
    def columns(self) -> tuple[NDArray[np.generic], ...]:
        """Keys, low offsets, sizes, and with 5-byte offsets the high offset bytes."""
        fixed = (self.keys, self.low, self.sizes)
        return fixed if self.high is None else (*fixed, self.high)

    def get(self, needle_id: int) -> NeedleValue | None:
        """The needle's entry, or None."""
        keys = self._keys
        end = bisect_right(self._milestones, needle_id) * _STRIDE
        if not end:
            return None
        index = bisect_left(keys, needle_id, end - _STRIDE, min(end, len(keys)))
        if index == len(keys) or keys[index] != needle_id:
            return None
        offset = self._lows[index]
        if self._highs is not None:
            offset |= self._highs[index] << 32
        # `NeedleValue(offset, size)` takes twice the time, because it goes through a function in Python.
        return _new_tuple(NeedleValue, (offset, self._sizes[index]))

    def at(self, index: int) -> NeedleValue:
        """The entry at a position in the order of needle ids."""
        offset = self._lows[index]
        if self._highs is not None:
            offset |= self._highs[index] << 32
        return NeedleValue(offset, self._sizes[index])


class _EmptySegment(SortedSegment):
    """The segment without entries. Its columns are made when one is asked for, so small volumes need no arrays."""

    __slots__ = ("_has_high",)

    def __init__(self, *, has_high: bool) -> None:
        self._has_high = has_high

    def __len__(self) -> int:
        return 0

    def get(self, needle_id: int) -> None:  # noqa: ARG002  a segment's method
        return None

    @property
    def size_bytes(self) -> int:
        return 0

    def __getattr__(self, name: str) -> object:
        if name not in SortedSegment.__slots__:
            raise AttributeError(name)
        high = np.empty(0, np.uint8) if self._has_high else None
        super().__init__(np.empty(0, np.uint64), np.empty(0, np.uint32), high, np.empty(0, np.int32))
        return getattr(self, name)


@lru_cache(maxsize=2)
def empty_base(*, has_high: bool) -> SortedSegment:
    """The segment without entries. `has_high` means 5-byte offsets."""
    return _EmptySegment(has_high=has_high)


def pack(offset: int, size: int) -> int:
    """Packs a place into one number, which takes a third of a tuple's memory."""
    return offset << 32 | (size & UINT32_MASK)


def unpack(value: int) -> NeedleValue:
    size = value & UINT32_MASK
    return NeedleValue(value >> 32, size - (1 << 32) if size >> 31 else size)


def sorted_base(entries: dict[int, int], *, has_high: bool) -> SortedSegment:
    """A segment of `entries`, which maps needle ids to packed places."""
    count = len(entries)
    keys = np.fromiter(entries.keys(), np.uint64, count)
    offsets = np.fromiter((value >> 32 for value in entries.values()), np.uint64, count)
    sizes = np.fromiter((value & UINT32_MASK for value in entries.values()), np.uint32, count).view(np.int32)
    order = np.argsort(keys)
    keys, offsets, sizes = keys[order], offsets[order], sizes[order]
    high = (offsets >> np.uint64(32)).astype(np.uint8) if has_high else None
    return SortedSegment(keys, (offsets & np.uint64(UINT32_MASK)).astype(np.uint32), high, sizes)


def merge(old: SortedSegment, new: SortedSegment) -> SortedSegment:
    """A segment with the entries of both. An entry of `new` replaces that of `old`."""
    where = np.searchsorted(old.keys, new.keys)
    known = np.zeros(len(new), np.bool_)
    inside = where < len(old)
    known[inside] = old.keys[where[inside]] == new.keys[inside]
    places, is_added = where[known], ~known
    # The position of each added entry: its place among the old ones, plus the added ones before it.
    added = where[is_added] + np.arange(np.count_nonzero(is_added))
    is_old = np.ones(len(old) + len(added), np.bool_)
    is_old[added] = False

    def merged(before: NDArray[_T], after: NDArray[_T]) -> NDArray[_T]:
        result = np.empty(len(is_old), before.dtype)
        result[is_old] = before
        result[added] = after[is_added]
        return result

    def changed(before: NDArray[_T], after: NDArray[_T]) -> NDArray[_T]:
        result = merged(before, after)
        result[places + moved] = after[known]
        return result

    moved = np.searchsorted(where[is_added], places, side="right")
    high = None if old.high is None or new.high is None else changed(old.high, new.high)
    return SortedSegment(merged(old.keys, new.keys), changed(old.low, new.low), high, changed(old.sizes, new.sizes))
