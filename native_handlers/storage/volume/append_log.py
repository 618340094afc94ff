"""A volume as a log of appends: its index rows in the order of writing, and the bytes of their records.

Followers and copies read from it. It is a view of the files at the time of its making: it lacks later appends, and
closing, deleting or swapping the volume does not disturb it. An index row is written after its record, so every record
of the view's rows is whole in .dat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.errors import Corrupt, Truncated
from native_handlers.format.idx import iter_entries, row_bytes
from native_handlers.format.needle import NeedleHeader, actual_size, parse_needle_header
from native_handlers.format.types import (
    CHECKSUM_BYTES,
    NEEDLE_HEADER_BYTES,
    TIMESTAMP_BYTES,
    VERSION_3,
)
from native_handlers.records import dataclass
from native_handlers.storage.model.errors import ReadFailed
from native_handlers.storage.volume.row_place import place_of
from native_handlers.storage.volume.window import DatWindow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.format.idx import IdxEntry
    from native_handlers.storage.system.files import Files, SharedFile
    from native_handlers.storage.volume.state import VolumeState

_ROWS_A_READ = 1024


@dataclass(frozen=True, slots=True)
class AppendLog:
    """Open files of a volume and their ends. `dat_end_bytes` is the end of the last record."""

    files: Files
    dat: SharedFile
    idx: SharedFile
    version: int
    offset_width_bytes: int
    row_count: int
    dat_end_bytes: int
    compaction_revision: int

    def rows(self, first: int, end: int | None = None) -> Iterator[IdxEntry]:
        """Yields the index rows ``[first, end)`` in order, up to the last row without `end`. Reads in small pieces.

        Raises:
            ReadFailed: the disk failed.
            Truncated: another program has cut the file.
        """
        end = self.row_count if end is None else min(end, self.row_count)
        width = row_bytes(self.offset_width_bytes)
        while first < end:
            count = min(_ROWS_A_READ, end - first)
            yield from iter_entries(self._read(self.idx, count * width, first * width), self.offset_width_bytes)
            first += count

    def read_rows(self) -> bytes:
        """The content of .idx: all rows of the view. Raises as `rows`."""
        return self._read(self.idx, self.row_count * row_bytes(self.offset_width_bytes), 0)

    def place_of(self, entry: IdxEntry) -> int:
        """The offset in bytes of the record of `entry`; see `row_place`. Raises as `rows`."""
        return place_of(self.read_dat, entry, self.offset_width_bytes, self.dat_end_bytes)

    def read_dat(self, length_bytes: int, offset_bytes: int) -> bytes:
        """Reads bytes of .dat. Raises as `rows`."""
        return self._read(self.dat, length_bytes, offset_bytes)

    def _read(self, file: SharedFile, length_bytes: int, offset_bytes: int) -> bytes:
        try:
            data = self.files.read(file.fd, length_bytes, offset_bytes)
        except OSError as error:
            raise ReadFailed(file.path, offset_bytes, error) from error
        if len(data) < length_bytes:
            raise Truncated(f"{file.path} at {offset_bytes}", length_bytes, len(data))
        return data


def log_of(files: Files, state: VolumeState, offset_width_bytes: int) -> AppendLog:
    """The log of an open volume as it is now. The caller holds both files and the volume's lock, because the ends of
    the two files move one after the other.
    """
    return AppendLog(
        files=files,
        dat=state.dat,
        idx=state.idx,
        version=state.super_block.version,
        offset_width_bytes=offset_width_bytes,
        row_count=state.idx_end_bytes // row_bytes(offset_width_bytes),
        dat_end_bytes=state.dat_end_bytes,
        compaction_revision=state.super_block.compaction_revision,
    )


# ---- Finds the first record after a given time, by bisection over the index rows: append times grow along them.
#
# Index rows hold no times; each step reads the time of one record. Volumes of versions 1 and 2 hold no times, which
# counts as time 0: no record of theirs is after any time, as upstream. Source: weed/storage/volume_backup.go,
# BinarySearchByAppendAtNs.


def first_row_after(log: AppendLog, since_ns: int) -> int | None:
    """The number of the first row whose record was appended after `since_ns`; None when there is none.

    Rows without a record (offset 0, deletions in remote storage) have no time: they belong to the next row that has
    one.

    Raises:
        Corrupt: a row leads to bytes that are not its record.
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
    """The append time of the record of `entry`, in ns since the epoch; 0 before version 3.

    Raises:
        Corrupt: there is no record.
        Truncated, ReadFailed: as `AppendLog.rows`.
    """
    if log.version != VERSION_3:
        return 0
    offset = log.place_of(entry)
    header = parse_needle_header(log.read_dat(NEEDLE_HEADER_BYTES, offset))
    if header.size < 0:
        what = f"needle {header.needle_id:x} of size {header.size} at {offset}"
        raise Corrupt(f"needle {entry.needle_id:x}", f"its index row leads to {what}")
    at = offset + NEEDLE_HEADER_BYTES + header.size + CHECKSUM_BYTES
    return int.from_bytes(log.read_dat(TIMESTAMP_BYTES, at), "big")


# ---- Reads the records of a volume as they are on disk, deletions too, in the order of their index rows.
#
# Bytes of .dat without a row (a torn record between whole ones) are left out. Payloads are not verified: the receiver
# verifies them, and a follower must learn of damaged ones. Memory is bounded.
#
# Source: weed/storage/volume_read.go, ScanVolumeFileFrom; weed/server/volume_grpc_tail.go, VisitNeedle.

PIECE_BYTES = 2 << 20
"""The greatest part of a record in one message, as upstream."""
_WINDOW_BYTES = 256 * 1024


class RecordPiece(NamedTuple):
    """Part of a record. `header` is the record's first 16 bytes, in each piece; `body` is a part of the bytes after
    them.
    """

    header: bytes
    body: bytes
    is_last: bool


def walk_records(log: AppendLog, first_row: int) -> Iterator[RecordPiece]:
    """Yields the records of the rows from `first_row` on, in pieces of at most 2 MiB.

    Raises:
        Corrupt: a row leads to bytes that are not its record, or beyond the end of .dat.
        Truncated, ReadFailed: as `AppendLog.rows`.
    """
    window = DatWindow(log.read_dat, log.dat_end_bytes, _WINDOW_BYTES)
    for entry in log.rows(first_row):
        if entry.offset:
            yield from _pieces(log, window, entry)


def _pieces(log: AppendLog, window: DatWindow, entry: IdxEntry) -> Iterator[RecordPiece]:
    start = log.place_of(entry)
    if start + NEEDLE_HEADER_BYTES > log.dat_end_bytes:
        raise Corrupt(f"needle {entry.needle_id:x}", f"its index row leads beyond .dat, to {start}")
    raw = window.read(NEEDLE_HEADER_BYTES, start)
    header = parse_needle_header(raw)
    if header.size != max(entry.size, 0):
        what = f"needle {header.needle_id:x} of size {header.size} at {start}"
        raise Corrupt(f"needle {entry.needle_id:x}", f"its index row, of size {entry.size}, leads to {what}")
    if header.needle_id != entry.needle_id:
        # WriteNeedleBlob stored the record under another id than it carries. The follower must find it under the same
        # id.
        raw = NeedleHeader(header.cookie, entry.needle_id, header.size).encode()
    position, end = start + NEEDLE_HEADER_BYTES, start + actual_size(header.size, log.version)
    if end > log.dat_end_bytes:
        raise Corrupt(f"needle {entry.needle_id:x}", f"its record ends at {end}, beyond .dat")
    while position < end:
        body = window.read(min(PIECE_BYTES, end - position), position)
        position += len(body)
        yield RecordPiece(raw, body, is_last=position == end)
