"""Finds what was appended after a given time, by bisection over the index rows: append times only grow along them.

Index rows hold no times; each step reads that of one record. Volumes of versions 1 and 2 hold none at all, which counts
as time 0: nothing in them was ever appended after anything, as upstream has it.
Source: weed/storage/volume_backup.go, BinarySearchByAppendAtNs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.errors import Corrupt
from native_handlers.format.needle import parse_needle_header
from native_handlers.format.types import (
    CHECKSUM_BYTES,
    NEEDLE_HEADER_BYTES,
    TIMESTAMP_BYTES,
    VERSION_3,
    to_bytes_offset,
)

if TYPE_CHECKING:
    from native_handlers.format.idx import IdxEntry
    from native_handlers.storage.append_log import AppendLog


def first_row_after(log: AppendLog, since_ns: int) -> int | None:
    """The number of the first row whose record was appended after `since_ns`; None when there is none.

    Rows without a record (offset 0, deletions in remote storage) have no time: they go with the next row that has one.

    Raises:
        Corrupt: a row leads to something that is not its record.
        Truncated, ReadFailed: as `AppendLog.rows`.
    """
    low, high = 0, log.row_count
    found: int | None = None
    while low < high:
        middle = (low + high) // 2
        number, entry = _next_with_record(log, middle, high)
        if entry is None:
            high = middle
        elif append_time_ns(log, entry) <= since_ns:
            low = number + 1
        else:
            found, high = number, middle
    return found


def _next_with_record(log: AppendLog, first: int, end: int) -> tuple[int, IdxEntry | None]:
    for number, entry in enumerate(log.rows(first, end), first):
        if entry.offset:
            return number, entry
    return end, None


def append_time_ns(log: AppendLog, entry: IdxEntry) -> int:
    """When the record that `entry` names was appended, in ns since the epoch; 0 before version 3.

    Raises:
        Corrupt: there is another needle, or none.
        Truncated, ReadFailed: as `AppendLog.rows`.
    """
    if log.version != VERSION_3:
        return 0
    offset = to_bytes_offset(entry.offset)
    header = parse_needle_header(log.read_dat(NEEDLE_HEADER_BYTES, offset))
    if header.needle_id != entry.needle_id or header.size < 0:
        what = f"needle {header.needle_id:x} of size {header.size} at {offset}"
        raise Corrupt(f"needle {entry.needle_id:x}", f"its index row leads to {what}")
    at = offset + NEEDLE_HEADER_BYTES + header.size + CHECKSUM_BYTES
    return int.from_bytes(log.read_dat(TIMESTAMP_BYTES, at), "big")
