"""A needle index whose columns several processes map. Each process has its own dict of later entries.

The later entries are in .idx, in the order of acknowledgement. A process that sees the shared sequence number changed
reads the new rows before it answers. Columns are replaced by publishing new ones and freeing the memory of the old
ones. A reader of the old columns notices that, because it compares the generation again after its search.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from native_handlers.arrays import np
from native_handlers.storage.index.needle_map import Counters, Layers, NeedleIndex
from native_handlers.storage.index.sorted_segment import SortedSegment, pack, unpack
from native_handlers.storage.shared.state import HEAD_BYTES, INTACT, SEQUENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.storage.index.sorted_segment import NeedleValue
    from native_handlers.storage.shared.state import IndexTable
    from native_handlers.storage.system.files import Files

_PAGE_BYTES = mmap.ALLOCATIONGRANULARITY


class SharedNeedleIndex(NeedleIndex):
    """`follow` brings index and volume up to date. `sequence` is their state number, -1 when that is not known."""

    __slots__ = ("_words", "follow", "sequence")

    def __init__(self, layers: Layers, counters: Counters, words: memoryview, follow: Callable[[], None]) -> None:
        super().__init__(layers, counters)
        self._words = words
        self.follow = follow
        self.sequence = -1

    def get(self, needle_id: int) -> NeedleValue | None:
        """The needle's place, after all writes that any process acknowledged before the call.

        Raises:
            FilesSwapped: the volume has other files now.
            ReadFailed: .idx could not be read.
        """
        words = self._words
        while True:
            if words[SEQUENCE] != self.sequence:
                self.follow()
            # As `Layers.find`, in line.
            base, recent, delta, generation = self.layers
            value = delta.get(needle_id)
            if value is not None:
                return unpack(value)
            found = recent.get(needle_id) if recent is not None else None
            if found is None:
                found = base.get(needle_id)
            if words[INTACT] <= generation:
                return found

    def ascending(self) -> Iterator[tuple[int, NeedleValue]]:
        while True:
            if self._words[SEQUENCE] != self.sequence:
                self.follow()
            layers = self.layers
            base, recent = _copy(layers.base), None if layers.recent is None else _copy(layers.recent)
            delta = dict(layers.delta)
            if self._words[INTACT] <= layers.generation:
                yield from NeedleIndex(Layers(base, recent, delta), self.counters).ascending()
                return

    def private_copy(self) -> NeedleIndex:
        """The same entries and counters in memory of this process alone; under the volume's lock."""
        base, recent, delta, _ = self.layers
        return NeedleIndex(Layers(_copy(base), None if recent is None else _copy(recent), delta), self.counters)

    def _set(self, needle_id: int, offset: int, size: int) -> None:
        # Merging is publishing, which only the holder of the lock does, at the end of its work.
        self.layers.delta[needle_id] = pack(offset, size)


def _copy(base: SortedSegment) -> SortedSegment:
    high = None if base.high is None else base.high.copy()
    return SortedSegment(base.keys.copy(), base.low.copy(), high, base.sizes.copy())


def counters_of(table: IndexTable) -> Counters:
    """The counters of the needles in the columns of `table`."""
    return Counters(
        table.file_count, table.content_bytes, table.deleted_count, table.deleted_bytes, table.max_needle_id
    )


def write_columns(files: Files, fd: int, base: SortedSegment) -> int:
    """Writes `base` behind all content of the file and returns its offset in bytes. Raises OSError.

    The columns are written, not stored through a mapping: a lack of memory is then an error and no signal.
    """
    start = -(-max(files.facts_of(fd).size_bytes, HEAD_BYTES) // _PAGE_BYTES) * _PAGE_BYTES
    files.write(fd, [np.ascontiguousarray(column).data.cast("B") for column in base.columns], start)
    return start


def map_columns(fd: int, start_bytes: int, count: int, *, has_high: bool) -> SortedSegment:
    """Maps the columns that `write_columns` wrote at `start_bytes`. Raises OSError, ValueError."""
    row_bytes = 17 if has_high else 16
    mapped = mmap.mmap(fd, count * row_bytes, prot=mmap.PROT_READ, offset=start_bytes)
    keys = np.frombuffer(mapped, np.uint64, count)
    low = np.frombuffer(mapped, np.uint32, count, 8 * count)
    sizes = np.frombuffer(mapped, np.int32, count, 12 * count)
    return SortedSegment(keys, low, np.frombuffer(mapped, np.uint8, count, 16 * count) if has_high else None, sizes)


def give_back(files: Files, fd: int, table: IndexTable, *, has_high: bool) -> None:
    """Frees the memory of all columns but those of `table`: old ones, and ones that were never published."""
    row_bytes = 17 if has_high else 16
    named = [(table.base_at, table.base_count), (table.recent_at, table.recent_count)]
    position = HEAD_BYTES
    for start, count in sorted(range_ for range_ in named if range_[1]):
        if start > position:
            files.punch(fd, position, start - position)
        position = -(-(start + count * row_bytes) // _PAGE_BYTES) * _PAGE_BYTES
    size_bytes = files.facts_of(fd).size_bytes
    if size_bytes > position:
        files.punch(fd, position, size_bytes - position)
