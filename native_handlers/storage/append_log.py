"""A volume as the log of appends that it is: its index rows in the order of writing, and the bytes that they name.

What followers and copiers read from. It is a view of the files as they were when it was made: appends that come later
are not in it, and closing, deleting or swapping the volume does not disturb it. An index row is written after its
record, so every record that a row of the view names is whole in .dat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.format.errors import Truncated
from native_handlers.format.idx import iter_entries, row_bytes
from native_handlers.storage.errors import ReadFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.format.idx import IdxEntry
    from native_handlers.storage.files import Files, SharedFile
    from native_handlers.storage.volume_open import Opened

_ROWS_A_READ = 1024


@dataclass(frozen=True, slots=True)
class AppendLog:
    """Open files of a volume and how far they went. `dat_end_bytes` is where its last record ends."""

    files: Files
    dat: SharedFile
    idx: SharedFile
    version: int
    offset_width_bytes: int
    row_count: int
    dat_end_bytes: int
    compaction_revision: int

    def rows(self, first: int, end: int | None = None) -> Iterator[IdxEntry]:
        """The index rows ``[first, end)`` in order, to the last one without `end`; read in small pieces.

        Raises:
            ReadFailed: the disk failed.
            Truncated: the file was cut behind our back.
        """
        end = self.row_count if end is None else min(end, self.row_count)
        width = row_bytes(self.offset_width_bytes)
        while first < end:
            count = min(_ROWS_A_READ, end - first)
            yield from iter_entries(self._read(self.idx, count * width, first * width), self.offset_width_bytes)
            first += count

    def read_dat(self, length_bytes: int, offset_bytes: int) -> bytes:
        """Bytes of .dat. Raises as `rows`."""
        return self._read(self.dat, length_bytes, offset_bytes)

    def _read(self, file: SharedFile, length_bytes: int, offset_bytes: int) -> bytes:
        try:
            data = self.files.read(file.fd, length_bytes, offset_bytes)
        except OSError as error:
            raise ReadFailed(file.path, offset_bytes, error) from error
        if len(data) < length_bytes:
            raise Truncated(f"{file.path} at {offset_bytes}", length_bytes, len(data))
        return data


def log_of(files: Files, opened: Opened, offset_width_bytes: int) -> AppendLog:
    """The log of an open volume as it is now. The caller holds on to both files, and to the volume's lock: the ends of
    the two files move one after the other.
    """
    return AppendLog(
        files=files,
        dat=opened.dat,
        idx=opened.idx,
        version=opened.super_block.version,
        offset_width_bytes=offset_width_bytes,
        row_count=opened.idx_end_bytes // row_bytes(offset_width_bytes),
        dat_end_bytes=opened.dat_end_bytes,
        compaction_revision=opened.super_block.compaction_revision,
    )
