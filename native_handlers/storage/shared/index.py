"""A needle index whose columns several processes map, each with a dict of its own for what came after them.

What came after is in .idx, in the order in which it was acknowledged: a process that finds the shared sequence number
changed reads the new rows before it answers. Columns are replaced by publishing new ones and giving the memory of the
old ones back, which a reader of the old ones notices when it looks at the generation again after its search.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from native_handlers.storage.index_base import Base, pack, unpack
from native_handlers.storage.needle_index import Counters, Layers, NeedleIndex
from native_handlers.storage.shared_state import HEAD_BYTES, INTACT, SEQUENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.storage.files import Files
    from native_handlers.storage.index_base import Location
    from native_handlers.storage.shared_state import IndexTable

_PAGE_BYTES = mmap.ALLOCATIONGRANULARITY


class SharedNeedleIndex(NeedleIndex):
    """`follow` brings index and volume up to date; `sequence` is how far they are, -1 when that is not known."""

    __slots__ = ("_words", "follow", "sequence")

    def __init__(self, layers: Layers, counters: Counters, words: memoryview, follow: Callable[[], None]) -> None:
        super().__init__(layers, counters)
        self._words = words
        self.follow = follow
        self.sequence = -1

    def get(self, needle_id: int) -> Location | None:
        """Where the needle is or was, by all that any process acknowledged before the call.

        Raises:
            FilesSwapped: other files are the volume's now.
            ReadFailed: .idx could not be read.
        """
        words = self._words
        while True:
            if words[SEQUENCE] != self.sequence:
                self.follow()
            # As `Layers.find`, without the call.
            base, recent, delta, generation = self.layers
            value = delta.get(needle_id)
            if value is not None:
                return unpack(value)
            found = recent.get(needle_id) if recent is not None else None
            if found is None:
                found = base.get(needle_id)
            if words[INTACT] <= generation:
                return found

    def ascending(self) -> Iterator[tuple[int, Location]]:
        while True:
            if self._words[SEQUENCE] != self.sequence:
                self.follow()
            layers = self.layers
            base, recent = _copy(layers.base), None if layers.recent is None else _copy(layers.recent)
            delta = dict(layers.delta)
            if self._words[INTACT] <= layers.generation:
                yield from NeedleIndex(Layers(base, recent, delta), self.counters).ascending()
                return

    def _set(self, needle_id: int, offset: int, size: int) -> None:
        # Merging is publishing, which is for the holder of the lock, at the end of its work.
        self.layers.delta[needle_id] = pack(offset, size)


def _copy(base: Base) -> Base:
    high = None if base.high is None else base.high.copy()
    return Base(base.keys.copy(), base.low.copy(), high, base.sizes.copy())


def write_columns(files: Files, fd: int, base: Base) -> int:
    """Puts `base` behind all that is in the file, where nothing was before, and returns where. Raises OSError.

    Written, not stored through a mapping: where memory is short that is an error and no signal.
    """
    start = -(-max(files.facts_of(fd).size_bytes, HEAD_BYTES) // _PAGE_BYTES) * _PAGE_BYTES
    files.write(fd, [np.ascontiguousarray(column).data.cast("B") for column in base.columns], start)
    return start


def map_columns(fd: int, start_bytes: int, count: int, *, has_high: bool) -> Base:
    """The base that was written there. Raises OSError, ValueError."""
    row_bytes = 17 if has_high else 16
    mapped = mmap.mmap(fd, count * row_bytes, prot=mmap.PROT_READ, offset=start_bytes)
    keys = np.frombuffer(mapped, np.uint64, count)
    low = np.frombuffer(mapped, np.uint32, count, 8 * count)
    sizes = np.frombuffer(mapped, np.int32, count, 12 * count)
    return Base(keys, low, np.frombuffer(mapped, np.uint8, count, 16 * count) if has_high else None, sizes)


def give_back(files: Files, fd: int, table: IndexTable, *, has_high: bool) -> None:
    """Gives back the memory of everything but what `table` names: old columns, and such as were never published."""
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
