"""Restores .idx rows that deletions on a tiered read-only volume once overwrote.

A defect of old servers wrote the rows of such deletions from the start of .idx on. What they leave is a run of
tombstones with offset 0 at the head, which no healthy .idx has: its first row names the first record of .dat. The
two files grow in step, so the lost rows named the first records of .dat; those that no other row names are put back
in front. Source: weed/storage/volume_idx_repair.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.idx import encode_entry, iter_entries
from native_handlers.format.types import TOMBSTONE_SIZE, to_stored

if TYPE_CHECKING:
    from native_handlers.storage.dat_scan import OpenDat


def restore_idx_head(dat: OpenDat, rows: bytes) -> bytes:
    """`rows` with the lost ones in front, or `rows` itself when its head is healthy or nothing is to be restored.

    Raises OSError when .dat cannot be read.
    """
    width = dat.offset_width_bytes
    overwritten = _leading_tombstones(rows, width)
    if not overwritten:
        return rows
    lost: dict[int, tuple[int, int]] = {}
    for count, record in enumerate(dat.scan(), 1):
        if record.header.size > 0:
            lost[record.header.needle_id] = (to_stored(record.offset_bytes), record.header.size)
        else:
            lost.pop(record.header.needle_id, None)
        if count == overwritten:
            break
    for entry in iter_entries(rows, width):
        lost.pop(entry.needle_id, None)
    restored = [encode_entry(needle_id, offset, size, width) for needle_id, (offset, size) in lost.items()]
    return b"".join((*restored, rows)) if restored else rows


def _leading_tombstones(rows: bytes, width: int) -> int:
    count = 0
    for entry in iter_entries(rows, width):
        if entry.offset or entry.size != TOMBSTONE_SIZE:
            break
        count += 1
    return count
