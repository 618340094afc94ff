"""Builds a needle index from the rows of an .idx file at once: 10 million rows in a fraction of a second where ids
ascend, and in one or two seconds where they do not.

The result, counters included, is that of upstream's memory map after replaying the rows one by one. Source:
weed/storage/needle_map_memory.go:doLoading, needle_map_metric.go, volume_checking.go:findDatTailEntryOffset.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from native_handlers.arrays import np
from native_handlers.format.idx import IdxEntry, row_bytes
from native_handlers.format.types import ALIGNMENT_BYTES, TOMBSTONE_SIZE, UINT32_MASK, NeedleId, StoredOffset
from native_handlers.storage.index.needle_map import Counters, NeedleIndex
from native_handlers.storage.index.small import SMALL_BYTES, BuiltIndex, build_small_index, end_of_record
from native_handlers.storage.index.sorted_segment import SortedSegment, empty_base

if TYPE_CHECKING:
    from numpy.typing import NDArray

_T = TypeVar("_T", bound="np.generic")

_PIECE_ROWS = 1 << 14
_SORT_ROWS = 1 << 8


@cache
def _row_type(offset_width_bytes: int) -> np.dtype[np.void]:
    high = [("high", "u1")] if offset_width_bytes == 5 else []
    return np.dtype([("key", ">u8"), ("low", ">u4"), *high, ("size", ">i4")])


def _gather(column: NDArray[_T], which: NDArray[np.intp]) -> NDArray[_T]:
    # All positions are within bounds. "clip" skips the bounds check, which makes the copy several times faster.
    return np.take(column, which, mode="clip")


class _Columns(NamedTuple):
    keys: NDArray[np.uint64]
    low: NDArray[np.uint32]
    high: NDArray[np.uint8] | None
    sizes: NDArray[np.int32]

    def take(self, which: NDArray[np.intp]) -> _Columns:
        high = None if self.high is None else _gather(self.high, which)
        return _Columns(_gather(self.keys, which), _gather(self.low, which), high, _gather(self.sizes, which))

    def rows(self, start: int, end: int) -> _Columns:
        high = None if self.high is None else self.high[start:end]
        return _Columns(self.keys[start:end], self.low[start:end], high, self.sizes[start:end])

    def live(self) -> NDArray[np.bool_]:
        """Which rows place a needle; the other rows delete one."""
        has_offset = self.low.astype(np.bool_)
        if self.high is not None:
            has_offset |= self.high.astype(np.bool_)
        has_offset &= self.sizes >= 0
        return has_offset

    def offsets(self) -> NDArray[np.int64]:
        offsets = self.low.astype(np.int64)
        return offsets if self.high is None else offsets | self.high.astype(np.int64) << 32


def build_index(rows: bytes | memoryview, offset_width_bytes: int, version: int) -> BuiltIndex:
    """Builds the index of `rows`. A partial row at the end is ignored. The result does not refer to the memory of
    `rows`.
    """
    if not len(rows) // row_bytes(offset_width_bytes):
        return BuiltIndex(NeedleIndex.of(empty_base(has_high=offset_width_bytes == 5), Counters()), 0, None, 0)
    if len(rows) <= SMALL_BYTES:
        return build_small_index(rows, offset_width_bytes, version)
    columns = split_columns(rows, offset_width_bytes)
    counters = Counters()
    counters.max_needle_id = int(columns.keys.max())
    last_row, max_end_bytes = _extent(columns, version)
    row_count = len(columns.keys)
    final = columns.rows(row_count - 1, row_count)
    final_row = IdxEntry(NeedleId(int(final.keys[0])), StoredOffset(int(final.offsets()[0])), int(final.sizes[0]))
    base = _replay(columns, counters)
    return BuiltIndex(NeedleIndex.of(base, counters), row_count, last_row, max_end_bytes, final_row)


def split_columns(rows: bytes | memoryview, offset_width_bytes: int) -> _Columns:
    kind = _row_type(offset_width_bytes)
    table = np.frombuffer(rows, kind, len(rows) // kind.itemsize)
    count = len(table)
    high = np.empty(count, np.uint8) if offset_width_bytes == 5 else None
    columns = _Columns(np.empty(count, np.uint64), np.empty(count, np.uint32), high, np.empty(count, np.int32))
    # In pieces that the processor's cache holds, because every row is read once for each column.
    for start in range(0, count, _PIECE_ROWS):
        piece = slice(start, start + _PIECE_ROWS)
        columns.keys[piece], columns.low[piece] = table["key"][piece], table["low"][piece]
        columns.sizes[piece] = table["size"][piece]
        if high is not None:
            high[piece] = table["high"][piece]
    return columns


def parse_rows(rows: bytes, offset_width_bytes: int) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int32]]:
    """Splits whole index rows into columns, in their order: needle ids, offsets in units of 8 bytes, sizes."""
    columns = split_columns(rows, offset_width_bytes)
    return columns.keys, columns.offsets(), columns.sizes


def encode_rows(
    keys: NDArray[np.uint64], offsets: NDArray[np.int64], sizes: NDArray[np.int32], offset_width_bytes: int
) -> bytes:
    """Encodes columns as index rows; the inverse of `parse_rows`."""
    table = np.empty(len(keys), _row_type(offset_width_bytes))
    table["key"], table["size"] = keys, sizes
    table["low"] = offsets & UINT32_MASK
    if offset_width_bytes == 5:
        table["high"] = offsets >> 32
    return table.tobytes()


def _extent(columns: _Columns, version: int) -> tuple[IdxEntry | None, int]:
    last_offset, last_row, max_end_bytes = 0, None, 0
    for start in range(0, len(columns.keys), _PIECE_ROWS):
        piece = columns.rows(start, start + _PIECE_ROWS)
        offsets = piece.offsets()
        # Of several rows with the same offset the last counts: upstream leaves a deletion's row where it undid an
        # append.
        last = len(offsets) - 1 - int(offsets[::-1].argmax())
        if offsets[last] >= max(last_offset, 1):
            last_offset = int(offsets[last])
            last_row = IdxEntry(NeedleId(int(piece.keys[last])), StoredOffset(last_offset), int(piece.sizes[last]))
        ends = np.where((offsets != 0) & (piece.sizes > 0), offsets * ALIGNMENT_BYTES + piece.sizes, 0)
        max_end_bytes = max(max_end_bytes, int(ends.max()))
    if not max_end_bytes:
        return last_row, 0
    return last_row, end_of_record(max_end_bytes, version)


def _replay(columns: _Columns, counters: Counters) -> SortedSegment:
    _count_live(columns, counters)
    live = columns.live() if counters.deleted_count else None
    if not _is_increasing(columns.keys):
        order = _stable_order(columns.keys)
        columns = columns.take(order)
        live = None if live is None else _gather(live, order)
        if not _is_increasing(columns.keys):
            return _replay_sorted(columns, columns.live() if live is None else live, counters)
    # No id occurs twice: the usual case, a volume without overwrites and deletes.
    return SortedSegment(*(columns if live is None else columns.take(np.flatnonzero(live))))


def _count_live(columns: _Columns, counters: Counters) -> None:
    # Piece by piece: the process would keep memory of the file's length once it was allocated and freed.
    count = len(columns.keys)
    for start in range(0, count, _PIECE_ROWS):
        piece = columns.rows(start, start + _PIECE_ROWS)
        live = piece.live()
        counters.file_count += int(np.count_nonzero(live))
        counters.content_bytes += int(piece.sizes.sum(dtype=np.int64, where=live))
    counters.deleted_count = count - counters.file_count


def _is_increasing(keys: NDArray[np.uint64]) -> bool:
    for start in range(0, len(keys), _PIECE_ROWS):
        piece = keys[start : start + _PIECE_ROWS + 1]
        if not (piece[1:] > piece[:-1]).all():
            return False
    return True


def _stable_order(keys: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The positions of `keys` in ascending order of keys; equal keys keep their order.

    Sorting numbers is several times faster than sorting positions by numbers. So where both fit into 64 bits the
    position goes into the low bits of the key.
    """
    low = keys.min()
    position_bits = np.uint64(len(keys).bit_length())
    if int(keys.max() - low).bit_length() + int(position_bits) > 64:
        return np.argsort(keys, kind="stable")
    packed = (keys - low) << position_bits
    packed |= np.arange(len(keys), dtype=np.uint64)
    # Short runs are sorted within registers. The merge that follows passes quickly over sorted input, and rows that
    # concurrent writers left a few places out of order are sorted by then.
    whole = len(packed) // _SORT_ROWS * _SORT_ROWS
    packed[:whole].reshape(-1, _SORT_ROWS).sort(axis=1)
    packed.sort(kind="stable")
    packed &= (np.uint64(1) << position_bits) - np.uint64(1)
    order: NDArray[np.intp] = packed.view(np.intp)
    return order


def _replay_sorted(columns: _Columns, live: NDArray[np.bool_], counters: Counters) -> SortedSegment:
    """Replays rows sorted by id, those of one id in file order: the last live row places the needle, a row after it
    deletes it.
    """
    starts = np.ones(len(live), np.bool_)
    starts[1:] = columns.keys[1:] != columns.keys[:-1]
    replaces = ~starts
    replaces[1:] &= live[:-1]
    counters.deleted_count += int((replaces & live).sum())
    counters.deleted_bytes = int(columns.sizes[:-1][replaces[1:]].sum(dtype=np.int64))

    position = np.arange(len(live))
    last_live = np.maximum.accumulate(np.where(live, position, -1))
    group_starts = np.flatnonzero(starts)
    group_ends = np.append(group_starts[1:], len(live)) - 1
    placed = last_live[group_ends]
    is_known = placed >= group_starts
    placed, group_ends = placed[is_known], group_ends[is_known]
    result = columns.take(placed)
    is_deleted = placed != group_ends
    sizes = result.sizes
    sizes[is_deleted] = np.where(sizes[is_deleted] == 0, TOMBSTONE_SIZE, -sizes[is_deleted])
    return SortedSegment(result.keys, result.low, result.high, sizes)
