"""Rebuilds the index of a volume from its records.

No other process may use the volume meanwhile. Source: weed/command/fix.go.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from native_handlers.format.errors import FormatError
from native_handlers.format.idx import encode_entry, iter_entries, row_bytes
from native_handlers.format.types import TOMBSTONE_SIZE, to_bytes_offset, to_stored
from native_handlers.storage.check import find_signs
from native_handlers.storage.disk.aside import move_aside
from native_handlers.storage.model.file_kinds import receiving_path
from native_handlers.storage.system.files import SharedFile, read_file
from native_handlers.storage.volume.dat_head import read_super_block
from native_handlers.storage.volume.index_place import with_index_found
from native_handlers.storage.volume.info_file import load_volume_info
from native_handlers.storage.volume.row_place import row_offset
from native_handlers.storage.volume.scan import DatScan, ScanEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.format.idx import IdxEntry
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths
    from native_handlers.storage.volume.scan import DatRecord

_ROWS_A_WRITE = 4096
_MAX_PROBLEMS = 100


@dataclass(slots=True)
class Fixed:
    """The result for one volume.

    Args:
        record_count: the number of records in .dat, deletions included.
        is_changed: whether the .idx was replaced. The old .idx was renamed to `kept_as`.
        problems: records that could not be entered, or the reason why nothing was changed.
    """

    base: str
    record_count: int = 0
    is_changed: bool = False
    kept_as: str = ""
    problems: list[str] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        """The fields as values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        done = "its index is made anew" if self.is_changed else "its index is as it was"
        kept = f", the old one is {self.kept_as}" if self.kept_as else ""
        lines = [f"{self.base}: {done} ({self.record_count} records){kept}"]
        return "\n".join([*lines, *(f"  {problem}" for problem in self.problems)])


def fix_index(files: Files, paths: VolumePaths, offset_width_bytes: int, passed: Callable[[int], object]) -> Fixed:
    """Writes a new .idx with all records of .dat in their order, and replaces the old .idx.

    After bytes of .dat that are no record, the old index, if there is one, gives the next record. An empty record is a
    deletion, unless the old index has it as an empty file.

    Args:
        passed: gets the number of .dat bytes read since its last call.

    Raises OSError: the index is unchanged or absent; without an index the next start makes one.
    """
    paths = with_index_found(files, paths)
    fixed = Fixed(str(paths.base))
    signs = find_signs(files, paths, load_volume_info(files, paths.file(".vif")).info, offset_width_bytes)
    if signs.problems:
        fixed.problems = [f"nothing is done, for something is unfinished: {problem}" for problem in signs.problems]
        return fixed
    dat = SharedFile.open(files, paths.file(".dat"), os.O_RDONLY)
    try:
        _Fix(files, paths, offset_width_bytes, fixed).run(dat, passed)
    except FormatError as error:
        fixed.problems.append(f"nothing is done: {error}")
    finally:
        dat.release()
    return fixed


class _Fix:
    def __init__(self, files: Files, paths: VolumePaths, width: int, fixed: Fixed) -> None:
        self._files, self._width, self._fixed = files, width, fixed
        self._idx = paths.file(".idx")
        self._old = read_file(files, self._idx)
        rows = (self._old or b"")[: len(self._old or b"") // row_bytes(width) * row_bytes(width)]
        self._empty = {self._place(entry) for entry in iter_entries(rows, width) if entry.offset and not entry.size}
        self._starts = sorted({entry.offset for entry in iter_entries(rows, width)})

    @staticmethod
    def _place(entry: IdxEntry) -> tuple[int, int]:
        return entry.needle_id, entry.offset

    def run(self, dat: SharedFile, passed: Callable[[int], object]) -> None:
        staged = receiving_path(self._idx)
        fd = self._files.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            is_same = self._write(fd, dat, passed)
            self._files.sync(fd)
        except BaseException:
            self._files.unlink(staged)
            raise
        finally:
            self._files.close(fd)
        if is_same:
            self._files.unlink(staged)
            return
        if self._old is not None:
            self._fixed.kept_as = move_aside(self._files, self._idx).rpartition(" ")[2]
        self._files.rename(staged, self._idx)
        self._files.sync_directory(self._idx.parent)
        self._fixed.is_changed = True

    def _write(self, fd: int, dat: SharedFile, passed: Callable[[int], object]) -> bool:
        """Writes all rows. Returns whether they equal the old rows."""
        old, end_bytes, rows = self._old, 0, bytearray()
        is_same = old is not None
        size = row_bytes(self._width)
        for record in self._records(dat, passed):
            rows += self._row(record)
            self._fixed.record_count += 1
            if len(rows) == _ROWS_A_WRITE * size:
                is_same = is_same and old is not None and old[end_bytes : end_bytes + len(rows)] == rows
                self._files.write(fd, [bytes(rows)], end_bytes)
                end_bytes += len(rows)
                rows = bytearray()
        self._files.write(fd, [bytes(rows)], end_bytes)
        return is_same and old is not None and old[end_bytes:] == rows

    def _row(self, record: DatRecord) -> bytes:
        needle_id, size = record.header.needle_id, record.header.size
        offset = row_offset(record.offset_bytes, self._width)
        is_deletion = not size and (needle_id, offset) not in self._empty
        return encode_entry(needle_id, offset, TOMBSTONE_SIZE if is_deletion else size, self._width)

    def _records(self, dat: SharedFile, passed: Callable[[int], object]) -> Iterator[DatRecord]:
        size = self._files.facts_of(dat.fd).size_bytes
        block = read_super_block(self._files, dat.fd)
        position = block.size_bytes
        passed(position)
        while position < size:
            scan = DatScan(self._files, dat.fd, block.version, position, size)
            for record in scan:
                yield record
                passed(record.end_bytes - record.offset_bytes)
            if scan.result is ScanEnd.COMPLETE:
                return
            following = bisect_right(self._starts, to_stored(scan.stopped_at_bytes))
            position = to_bytes_offset(self._starts[following]) if following < len(self._starts) else size
            position = min(position, size)
            skipped = position - scan.stopped_at_bytes
            passed(skipped)
            if len(self._fixed.problems) < _MAX_PROBLEMS:
                self._fixed.problems.append(f".dat: {scan.why}; {skipped} bytes are not entered")
