"""Builds the needle index of a volume with few rows, row by row.

A server may have many thousand nearly empty volumes, and setting up columns takes longer than replaying so few rows.
The result is that of `build`, counters included. Source: weed/storage/needle_map_memory.go:doLoading,
needle_map_metric.go, volume_checking.go:findDatTailEntryOffset.
"""

from __future__ import annotations

from native_handlers.format.idx import IdxEntry, iter_entries
from native_handlers.format.needle import tail_size
from native_handlers.format.types import ALIGNMENT_BYTES, NEEDLE_HEADER_BYTES, TOMBSTONE_SIZE
from native_handlers.records import dataclass
from native_handlers.storage.index.needle_map import Counters, Layers, NeedleIndex
from native_handlers.storage.index.sorted_segment import empty_base, pack

SMALL_BYTES = 64 * 16
"""Up to this length of rows, row by row is faster."""


@dataclass(frozen=True, slots=True)
class BuiltIndex:
    """An index, and the facts about the .dat file that its rows state.

    `last_row` is the row whose record is last in the .dat file, None when no row has an offset. `max_end_bytes` is the
    length that the .dat file must have to hold every live record of the rows. `final_row` is the last of all rows.
    """

    index: NeedleIndex
    row_count: int
    last_row: IdxEntry | None
    max_end_bytes: int
    final_row: IdxEntry | None = None


def end_of_record(body_end_bytes: int, version: int) -> int:
    """The end of a record, given where its body would end if the record had no header."""
    # Padding is 1 to 8 bytes, so an aligned end moves by 8.
    end_bytes = body_end_bytes + NEEDLE_HEADER_BYTES + tail_size(version)
    return (end_bytes // ALIGNMENT_BYTES + 1) * ALIGNMENT_BYTES


def build_small_index(rows: bytes | memoryview, offset_width_bytes: int, version: int) -> BuiltIndex:
    """Builds the index of `rows`. A partial row at the end is ignored."""
    entries = list(iter_entries(rows, offset_width_bytes))
    counters = Counters(max_needle_id=max(entry.needle_id for entry in entries))
    base = empty_base(has_high=offset_width_bytes == 5)
    index = NeedleIndex(Layers(base, None, _replay(entries, counters)), counters)
    # Of several rows with the same offset the last counts: upstream leaves a deletion's row where it undid an append.
    last_row = max(reversed(entries), key=lambda entry: entry.offset)
    ends = [entry.offset * ALIGNMENT_BYTES + entry.size for entry in entries if entry.offset and entry.size > 0]
    max_end_bytes = end_of_record(max(ends), version) if ends else 0
    return BuiltIndex(index, len(entries), last_row if last_row.offset else None, max_end_bytes, entries[-1])


def _replay(entries: list[IdxEntry], counters: Counters) -> dict[int, int]:
    """Each needle's packed place. The last live row of an id places the needle; a row after it deletes the needle."""
    places: dict[int, IdxEntry] = {}
    before: dict[int, IdxEntry] = {}
    for entry in entries:
        last = before.get(entry.needle_id)
        replaces = last is not None and _is_live(last)
        if last is not None and replaces:
            counters.deleted_bytes += last.size
        if _is_live(entry):
            counters.file_count += 1
            counters.content_bytes += entry.size
            counters.deleted_count += replaces
            places[entry.needle_id] = entry
        else:
            counters.deleted_count += 1
        before[entry.needle_id] = entry
    return {
        needle_id: pack(place.offset, place.size if before[needle_id] is place else -place.size or TOMBSTONE_SIZE)
        for needle_id, place in places.items()
    }


def _is_live(entry: IdxEntry) -> bool:
    """Whether the row places a needle; any other row deletes one."""
    return bool(entry.offset) and entry.size >= 0
