"""Makes .dat and .idx agree when a volume is opened.

- `CatchUp` enters the records of .dat behind the last record of .idx into .idx, and cuts an incomplete last record.
  Such records remain when a server died between its two writes. If .idx was lost, they are all records.
- `check_end` and `check_last_record` compare the last row with its record.
- `drop_torn_rows` drops rows at the end of .idx that lead to no record.
- `restore_idx_head` puts lost rows at the beginning of .idx back.
"""

from __future__ import annotations

from itertools import chain, islice, takewhile
from typing import TYPE_CHECKING

from native_handlers.format.idx import encode_entry, entry_at, iter_entries, row_bytes
from native_handlers.format.needle import actual_size, parse_needle_header
from native_handlers.format.types import (
    CHECKSUM_BYTES,
    NEEDLE_HEADER_BYTES,
    TIMESTAMP_BYTES,
    TOMBSTONE_SIZE,
    VERSION_3,
    max_volume_size_bytes,
    to_bytes_offset,
    to_stored,
)
from native_handlers.records import dataclass
from native_handlers.storage.disk.aside import move_aside
from native_handlers.storage.disk.room import is_full
from native_handlers.storage.system.file_copy import copy_range
from native_handlers.storage.volume.row_place import place_of, row_offset
from native_handlers.storage.volume.scan import DatScan, ScanEnd, holds_record

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.format.idx import IdxEntry
    from native_handlers.storage.index.needle_map import NeedleIndex
    from native_handlers.storage.index.small import BuiltIndex
    from native_handlers.storage.system.files import Files, SharedFile
    from native_handlers.storage.volume.scan import DatRecord, OpenDat

_ROWS_A_WRITE = 4096


@dataclass(slots=True)
class CatchUp:
    """One catch-up. After `run` the fields have its results; `idx_end_bytes` and `dat_size_bytes` are up to date.

    A crash during the catch-up leaves some rows entered and nothing cut, or all entered. The next opening goes on from
    there.
    """

    files: Files
    dat: SharedFile
    idx: SharedFile
    index: NeedleIndex
    version: int
    offset_width_bytes: int
    dat_size_bytes: int
    idx_end_bytes: int
    entered: int = 0
    cut_bytes: int = 0
    append_at_ns: int = 0
    problem: str | None = None
    is_salvaged: bool = False
    lacks_room_for: str = ""
    """The thing for which the disk has no room, as text, or "". `index` has all records of .dat in either case."""

    def run(self, start_bytes: int, *, salvage: Path | None = None) -> None:
        """Goes over .dat from `start_bytes` on. Raises OSError when a file operation fails.

        `salvage` is given for a volume that a crash of the machine may have torn. Where the scan ends in its last
        `SUSPECT_BYTES`, the torn bytes are cut. Bytes that may be more than one record are copied to `salvage` first.
        Without `salvage` such bytes stay, and are a `problem`.
        """
        scan = DatScan(self.files, self.dat.fd, self.version, start_bytes, self.dat_size_bytes)
        rows: list[bytes] = []
        for record in scan:
            rows.append(self._enter(record))
            self.append_at_ns = max(self.append_at_ns, record.append_at_ns)
            if len(rows) == _ROWS_A_WRITE:
                self._write(rows)
        self._write(rows)
        if self.entered:
            self.files.sync(self.idx.fd)
        if scan.result is not ScanEnd.COMPLETE and not self.lacks_room_for:
            self._end(scan, salvage)

    def _enter(self, record: DatRecord) -> bytes:
        needle_id, size = record.header.needle_id, record.header.size
        offset = row_offset(record.offset_bytes, self.offset_width_bytes)
        self.entered += 1
        if size:
            self.index.put(needle_id, offset, size)
            return encode_entry(needle_id, offset, size, self.offset_width_bytes)
        # An empty record is a deletion. The record of an empty file looks the same: either it was not acknowledged, or,
        # where .idx is lost, it cannot be told apart.
        self.index.delete(needle_id)
        return encode_entry(needle_id, offset, TOMBSTONE_SIZE, self.offset_width_bytes)

    def _write(self, rows: list[bytes]) -> None:
        if rows and not self.lacks_room_for:
            try:
                self.files.write(self.idx.fd, [b"".join(rows)], self.idx_end_bytes)
                self.idx_end_bytes += sum(len(row) for row in rows)
            except OSError as error:
                if not is_full(error):
                    raise
                self.files.truncate(self.idx.fd, self.idx_end_bytes)
                self.lacks_room_for = "rows that .idx lacks"
        rows.clear()

    def _end(self, scan: DatScan, salvage: Path | None) -> None:
        stop, end = scan.stopped_at_bytes, self.dat_size_bytes
        if stop < end - SUSPECT_BYTES:
            # Those bytes were on disk before the crash. So they are damaged, and records behind them count.
            salvage = None
        is_damage = salvage is None and scan.result is ScanEnd.GARBAGE
        holds_more = is_damage or holds_record(self.files, self.dat.fd, self.version, stop, end)
        if salvage is None and holds_more:
            self.problem = f"data file actual {end} bytes expected {stop} bytes: {scan.why}"
            return
        if salvage is not None and holds_more:
            try:
                if self.files.facts(salvage) is not None:
                    # Left by an earlier power cut for examination.
                    move_aside(self.files, salvage)
                copy_range(self.files, self.dat.fd, stop, end, salvage)
            except OSError as error:
                if not is_full(error):
                    raise
                self.lacks_room_for = f"{salvage}, where what is cut from .dat is kept"
                return
            self.is_salvaged = True
        self.files.truncate(self.dat.fd, stop)
        self.files.sync(self.dat.fd)
        self.cut_bytes = end - stop
        self.dat_size_bytes = stop


# ---- Checks the record that is last in a .dat file against its index row.
#
# The check gives the append time that later ones must exceed. It is constant work for a healthy version 3 volume: the
# header and the append time are read.
#
# The check never refuses what a writer accepts. So the needle id is not compared: WriteNeedleBlob stores a record under
# another id than it carries. A record fits its row when it has the row's size and is whole: by its checksum, or in
# version 3 because .dat ends exactly at its end. A record without a body has no checksum to compare.
#
# Source: weed/storage/volume_checking.go (verifyNeedleIntegrity, verifyDeletedNeedleIntegrity). Wilful difference:
# upstream compares the id where it reads the body, so that such records of versions 1 and 2 make the volume read-only.


@dataclass(frozen=True, slots=True)
class LastRecord:
    """The end of the last indexed record. `problem` is set when the record does not fit its row."""

    end_bytes: int
    append_at_ns: int = 0
    problem: str | None = None


def check_end(files: Files, dat: OpenDat, built: BuiltIndex) -> LastRecord | None:
    """Checks the last record of the rows; None where no row has a record.

    In a .dat beyond the reach of 4-byte offsets, the last row may be that of a deletion beyond their reach.

    Raises OSError when the record cannot be read.
    """
    final, width, size = built.final_row, dat.offset_width_bytes, dat.size_bytes
    if final is not None:
        place = place_of(lambda length, offset: files.read(dat.fd, length, offset), final, width, size)
        if place != to_bytes_offset(final.offset):
            found = _check_at(files, dat.fd, max(final.size, 0), place, dat.version, size)
            if found.problem is None:
                return found
    if built.last_row is None:
        return None
    return check_last_record(files, dat.fd, built.last_row, dat.version, size, width)


def check_last_record(
    files: Files, fd: int, row: IdxEntry, version: int, dat_size_bytes: int, offset_width_bytes: int
) -> LastRecord:
    """Checks the record of `row`. Raises OSError when it cannot be read."""
    size = max(row.size, 0)
    offset = to_bytes_offset(row.offset)
    found = _check_at(files, fd, size, offset, version, dat_size_bytes)
    if found.problem is None or offset_width_bytes != 4:
        return found
    # Old servers let 4-byte offsets wrap around: the record may be one whole addressable range further on.
    wrapped = offset + max_volume_size_bytes(4)
    if wrapped >= dat_size_bytes:
        return found
    second = _check_at(files, fd, size, wrapped, version, dat_size_bytes)
    return found if second.problem else second


def _check_at(files: Files, fd: int, size: int, offset: int, version: int, dat_size_bytes: int) -> LastRecord:
    end = offset + actual_size(size, version)
    if end > dat_size_bytes:
        return LastRecord(end, problem=f"data file has {dat_size_bytes} bytes, less than expected {end} bytes")
    header = parse_needle_header(files.read(fd, NEEDLE_HEADER_BYTES, offset))
    if header.size != size:
        return LastRecord(end, problem=f"size mismatch at {offset}: {header.size} on disk, {size} in the index")
    if not size and version != VERSION_3:
        return LastRecord(end)
    if version == VERSION_3 and (end == dat_size_bytes or not size):
        at = offset + NEEDLE_HEADER_BYTES + size + CHECKSUM_BYTES
        return LastRecord(end, int.from_bytes(files.read(fd, TIMESTAMP_BYTES, at), "big"))
    scan = DatScan(files, fd, version, offset, end)
    record = next(iter(scan), None)
    if record is None:
        return LastRecord(end, problem=scan.why)
    return LastRecord(end, record.append_at_ns)


# ---- Finds index rows without a record after a crash of the machine: their records did not reach the disk.
#
# Between two syncs the kernel writes back .dat and .idx in any order and block by block. So a row may be on disk
# without its record, a block of rows may be zeros, and a whole record may follow a torn one. Every such row was written
# after the last sync, because a sync of .dat puts all earlier records on disk before any of their rows is written.
# Without these rows each needle is as at that sync, or as a later write left it that did reach the disk.
#
# The files do not tell how far back to look. The rows of the last `SUSPECT_BYTES` of .dat are examined.

SUSPECT_BYTES = 256 << 20
"""Older records are on disk: the kernel writes back within half a minute or so."""
_PIECE_ROWS = 4096


@dataclass(frozen=True, slots=True)
class TornRows:
    """The rows without those that have no record, and the needle ids of the dropped rows."""

    rows: bytes
    needle_ids: tuple[int, ...]
    dropped: int


def drop_torn_rows(dat: OpenDat, rows: bytes) -> TornRows:
    """Drops the rows without a record from `rows`, which are whole rows. Raises OSError when .dat cannot be read."""
    width = dat.offset_width_bytes
    suspect_from = max(dat.start_bytes, dat.size_bytes - SUSPECT_BYTES)
    # The row of a deletion beyond the reach of 4-byte offsets does not tell the record's age.
    limit = max_volume_size_bytes(width)
    trusted = _trusted_bytes(rows, suspect_from, width, trusts_deletions=dat.size_bytes <= limit)
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


def _trusted_bytes(rows: bytes, suspect_from: int, width: int, *, trusts_deletions: bool) -> int:
    """The length of the rows before the first doubtful one, searched from the end."""
    step = row_bytes(width)
    end = len(rows)
    while end > 0:
        start = max(end - _PIECE_ROWS * step, 0)
        entries = iter_entries(rows[start:end], width)
        offsets = [to_bytes_offset(one.offset) if one.size >= 0 or trusts_deletions else 0 for one in entries]
        for number in range(len(offsets) - 1, -1, -1):
            if 0 < offsets[number] < suspect_from:
                return start + (number + 1) * step
        end = start
    return 0


def _leads_to_record(dat: OpenDat, entry: IdxEntry) -> bool:
    if not entry.offset:
        # Old servers wrote deletions without a record. A row of zeros is no deletion.
        return entry.size < 0 and entry.needle_id != 0
    offset = place_of(
        lambda length, at: dat.files.read(dat.fd, length, at), entry, dat.offset_width_bytes, dat.size_bytes
    )
    if offset >= dat.size_bytes:
        return False
    record = next(iter(DatScan(dat.files, dat.fd, dat.version, offset, dat.size_bytes, window_bytes=1 << 16)), None)
    if record is None:
        return False
    # The id is not compared: WriteNeedleBlob stores a record under another id than it carries.
    return record.header.size == max(entry.size, 0)


# ---- Restores .idx rows that deletions on a tiered read-only volume once overwrote.
#
# A defect of old servers wrote the rows of such deletions from the start of .idx on. They leave a run of tombstones
# with offset 0 at the head. The two files grow in step, so the lost rows named the first records of .dat. The rows of
# those records that no other row names are put back in front. Source: weed/storage/volume_idx_repair.go.
#
# Such a run alone proves nothing: an .idx that was made of an .ecx may begin with it, and the .dat of such a volume has
# records without any row, those of needles that were deleted before the coding. To restore their rows would undo the
# deletions. So, a wilful difference, the rows must show the defect: the row behind the run names the record behind the
# lost ones, and each deleted needle has another row or is among the lost ones. And no record of .dat deletes a restored
# needle.


def restore_idx_head(dat: OpenDat, rows: bytes) -> bytes:
    """`rows` with the lost rows in front, or `rows` itself when its head is healthy or no row can be restored.

    Raises OSError when .dat cannot be read.
    """
    width = dat.offset_width_bytes
    if not rows or not _is_bare_deletion(entry_at(rows, 0, width)):
        return rows
    head = list(takewhile(_is_bare_deletion, iter_entries(rows, width)))
    behind = memoryview(rows)[len(head) * row_bytes(width) :]
    records = iter(dat.scan())
    first = list(islice(records, len(head)))
    follower, next_row = next(records, None), next(iter_entries(behind, width), None)
    deleted_ids, first_ids = {entry.needle_id for entry in head}, {record.header.needle_id for record in first}
    concerned = deleted_ids | first_ids
    has_row = {entry.needle_id for entry in iter_entries(behind, width) if entry.needle_id in concerned}
    is_in_step = (follower and to_stored(follower.offset_bytes)) == (next_row and next_row.offset)
    if not is_in_step or not deleted_ids <= has_row | first_ids:
        return rows
    lost: dict[int, DatRecord] = {}
    for record in first:
        if record.header.size and record.header.needle_id not in has_row | deleted_ids:
            lost[record.header.needle_id] = record
        else:
            lost.pop(record.header.needle_id, None)
    if lost:
        for record in chain((follower,) if follower else (), records):
            if not record.header.size:
                lost.pop(record.header.needle_id, None)
    restored = [
        encode_entry(needle_id, to_stored(record.offset_bytes), record.header.size, width)
        for needle_id, record in lost.items()
    ]
    return b"".join((*restored, rows)) if restored else rows


def _is_bare_deletion(entry: IdxEntry) -> bool:
    """Whether the row is a deletion without a record."""
    return not entry.offset and entry.size == TOMBSTONE_SIZE
