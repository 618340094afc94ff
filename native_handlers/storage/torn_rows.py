"""Finds index rows that lead to nothing after the machine went down: their records did not reach the disk.

Between two syncs the kernel writes back .dat and .idx in any order and by the block. So a row may be on disk without
its record, a block of rows may be zeros, and a whole record may follow a torn one. Every one of those rows was
written after the last sync, for a sync of .dat puts all before it on disk before any of its rows is written. Without
them each needle is as it was at that sync, or as a later write left it that did reach the disk.

How far back to look cannot be known from the files. Rows of the last `SUSPECT_BYTES` of .dat are examined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.format.idx import iter_entries, row_bytes
from native_handlers.format.types import to_bytes_offset
from native_handlers.storage.dat_scan import DatScan

if TYPE_CHECKING:
    from native_handlers.format.idx import IdxEntry
    from native_handlers.storage.dat_scan import OpenDat

SUSPECT_BYTES = 256 << 20
"""What is older than this is on disk long since: the kernel writes back within half a minute or so."""
_PIECE_ROWS = 4096


@dataclass(frozen=True, slots=True)
class TornRows:
    """`rows` without those that lead to nothing, and the ids of the needles that those named."""

    rows: bytes
    needle_ids: tuple[int, ...]
    dropped: int


def drop_torn_rows(dat: OpenDat, rows: bytes) -> TornRows:
    """What is left of `rows`, which are whole ones. Raises OSError when .dat cannot be read."""
    width = dat.offset_width_bytes
    suspect_from = max(dat.start_bytes, dat.size_bytes - SUSPECT_BYTES)
    trusted = _trusted_bytes(rows, suspect_from, width)
    kept: list[bytes] = []
    lost: list[int] = []
    step = row_bytes(width)
    for number, entry in enumerate(iter_entries(rows[trusted:], width)):
        if _leads_to_record(dat, entry):
            at = trusted + number * step
            kept.append(rows[at : at + step])
        else:
            lost.append(entry.needle_id)
    if not lost:
        return TornRows(rows, (), 0)
    return TornRows(rows[:trusted] + b"".join(kept), tuple(dict.fromkeys(filter(None, lost))), len(lost))


def _trusted_bytes(rows: bytes, suspect_from: int, width: int) -> int:
    """How many bytes of rows come before the first one that may be in doubt, looked for from the end."""
    step = row_bytes(width)
    end = len(rows)
    while end > 0:
        start = max(end - _PIECE_ROWS * step, 0)
        offsets = [to_bytes_offset(entry.offset) for entry in iter_entries(rows[start:end], width)]
        for number in range(len(offsets) - 1, -1, -1):
            if 0 < offsets[number] < suspect_from:
                return start + (number + 1) * step
        end = start
    return 0


def _leads_to_record(dat: OpenDat, entry: IdxEntry) -> bool:
    if not entry.offset:
        # A deletion without a record is what old servers wrote; a row of zeros is none.
        return entry.size < 0 and entry.needle_id != 0
    offset = to_bytes_offset(entry.offset)
    if offset >= dat.size_bytes:
        return False
    record = next(iter(DatScan(dat.files, dat.fd, dat.version, offset, dat.size_bytes, window_bytes=1 << 16)), None)
    if record is None:
        return False
    return record.header.needle_id == entry.needle_id and record.header.size == max(entry.size, 0)
