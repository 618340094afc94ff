"""Enters in .idx what .dat holds beyond the last record that .idx names, and cuts an unfinished last record.

This is what is left when a server died between its two writes, and, with nothing named, when .idx was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.format.idx import encode_entry
from native_handlers.format.types import TOMBSTONE_SIZE, to_stored
from native_handlers.storage.dat_scan import DatScan, ScanEnd, holds_record
from native_handlers.storage.files import copy_range

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.files import Files, SharedFile
    from native_handlers.storage.needle_index import NeedleIndex

_ROWS_A_WRITE = 4096


@dataclass(slots=True)
class CatchUp:
    """One catch-up. After `run` the fields say what was done; `idx_end_bytes` and `dat_size_bytes` are up to date.

    A crash on the way leaves some rows entered and nothing cut, or all entered: the next opening goes on from there.
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

    def run(self, start_bytes: int, *, salvage: Path | None = None) -> None:
        """Goes over .dat from `start_bytes` on. Raises OSError when a file operation fails.

        `salvage` is given when the machine went down: whatever ends the scan was then torn, and is cut. What may be
        more than one record is put there before.
        """
        scan = DatScan(self.files, self.dat.fd, self.version, start_bytes, self.dat_size_bytes)
        rows: list[bytes] = []
        for record in scan:
            rows.append(self._enter(record.header.needle_id, to_stored(record.offset_bytes), record.header.size))
            self.append_at_ns = max(self.append_at_ns, record.append_at_ns)
            if len(rows) == _ROWS_A_WRITE:
                self._write(rows)
        self._write(rows)
        if self.entered:
            self.files.sync(self.idx.fd)
        if scan.result is not ScanEnd.COMPLETE:
            self._end(scan, salvage)

    def _enter(self, needle_id: int, offset: int, size: int) -> bytes:
        self.entered += 1
        if size:
            self.index.put(needle_id, offset, size)
            return encode_entry(needle_id, offset, size, self.offset_width_bytes)
        # An empty record is a deletion; that of an empty file looks the same, and it was not acknowledged or, with
        # .idx lost, cannot be told apart.
        self.index.delete(needle_id)
        return encode_entry(needle_id, offset, TOMBSTONE_SIZE, self.offset_width_bytes)

    def _write(self, rows: list[bytes]) -> None:
        if rows:
            self.files.write(self.idx.fd, [b"".join(rows)], self.idx_end_bytes)
            self.idx_end_bytes += sum(len(row) for row in rows)
            rows.clear()

    def _end(self, scan: DatScan, salvage: Path | None) -> None:
        stop, end = scan.stopped_at_bytes, self.dat_size_bytes
        holds_more = holds_record(self.files, self.dat.fd, self.version, stop, end)
        if salvage is None and (holds_more or scan.result is ScanEnd.GARBAGE):
            self.problem = f"data file actual {end} bytes expected {stop} bytes: {scan.why}"
            return
        if salvage is not None and holds_more:
            copy_range(self.files, self.dat.fd, stop, end, salvage)
            self.is_salvaged = True
        self.files.truncate(self.dat.fd, stop)
        self.files.sync(self.dat.fd)
        self.cut_bytes = end - stop
        self.dat_size_bytes = stop
