"""Reads the records of a volume as they are on disk, deletions too, in the order of their index rows.

The rows lead, not the bytes of .dat: what no row names (a torn record between whole ones, which nobody can read) is
passed over. Payloads are not verified: whoever gets a record does that, and a follower is to be told of bad ones.
Memory is bounded.

Source: weed/storage/volume_read.go, ScanVolumeFileFrom; weed/server/volume_grpc_tail.go, VisitNeedle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.errors import Corrupt
from native_handlers.format.needle import actual_size, parse_needle_header
from native_handlers.format.types import NEEDLE_HEADER_BYTES, to_bytes_offset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.format.idx import IdxEntry
    from native_handlers.storage.append_log import AppendLog

PIECE_BYTES = 2 << 20
"""What a message carries at most, as upstream."""
_WINDOW_BYTES = 256 * 1024


class RecordPiece(NamedTuple):
    """Part of a record. `header` are its first 16 bytes, in each piece; `body` is a part of all that follows them."""

    header: bytes
    body: bytes
    is_last: bool


def walk_records(log: AppendLog, first_row: int) -> Iterator[RecordPiece]:
    """The records that the rows from `first_row` on name, in pieces of at most 2 MiB.

    Raises:
        Corrupt: a row leads to something that is not its record, or beyond the end of .dat.
        Truncated, ReadFailed: as `AppendLog.rows`.
    """
    window = _Window(log)
    for entry in log.rows(first_row):
        if entry.offset:
            yield from _pieces(log, window, entry)


def _pieces(log: AppendLog, window: _Window, entry: IdxEntry) -> Iterator[RecordPiece]:
    start = to_bytes_offset(entry.offset)
    if start + NEEDLE_HEADER_BYTES > log.dat_end_bytes:
        raise Corrupt(f"needle {entry.needle_id:x}", f"its index row leads beyond .dat, to {start}")
    raw = window.read(NEEDLE_HEADER_BYTES, start)
    header = parse_needle_header(raw)
    if header.needle_id != entry.needle_id or header.size != max(entry.size, 0):
        what = f"needle {header.needle_id:x} of size {header.size} at {start}"
        raise Corrupt(f"needle {entry.needle_id:x}", f"its index row, of size {entry.size}, leads to {what}")
    position, end = start + NEEDLE_HEADER_BYTES, start + actual_size(header.size, log.version)
    if end > log.dat_end_bytes:
        raise Corrupt(f"needle {entry.needle_id:x}", f"its record ends at {end}, beyond .dat")
    while position < end:
        body = window.read(min(PIECE_BYTES, end - position), position)
        position += len(body)
        yield RecordPiece(raw, body, is_last=position == end)


class _Window:
    """Small records lie side by side, and are read several at a time."""

    def __init__(self, log: AppendLog) -> None:
        self._log = log
        self._bytes, self._start = b"", 0

    def read(self, length_bytes: int, offset_bytes: int) -> bytes:
        if length_bytes > _WINDOW_BYTES:
            return self._log.read_dat(length_bytes, offset_bytes)
        start = offset_bytes - self._start
        if not 0 <= start <= len(self._bytes) - length_bytes:
            length = min(_WINDOW_BYTES, self._log.dat_end_bytes - offset_bytes)
            self._bytes, self._start, start = self._log.read_dat(length, offset_bytes), offset_bytes, 0
        return self._bytes[start : start + length_bytes]
