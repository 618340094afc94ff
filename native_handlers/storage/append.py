"""Appends records to an open volume: .dat, then .idx, then the index; and takes back what fails on the way.

The volume's lock is held by whoever calls. Source: weed/storage/volume_write.go (syncWrite, doWriteRequest,
doDeleteRequest), weed/storage/needle/needle_write.go:Append.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import actual_size, encode_needle_parts
from native_handlers.format.types import TOMBSTONE_SIZE, max_volume_size_bytes, to_stored
from native_handlers.storage.errors import AppendOffsetExceeded, SizeLimitExceeded, WriteFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from native_handlers.format.needle import Needle
    from native_handlers.storage.files import Files
    from native_handlers.storage.io_health import IoHealth
    from native_handlers.storage.volume_open import Opened

_NS = 10**9


@dataclass(frozen=True, slots=True)
class Appender:
    """How one volume appends. `stop` is called with the reason when nothing may be written any more."""

    files: Files
    offset_width_bytes: int
    clock_ns: Callable[[], int]
    health: IoHealth
    stop: Callable[[str], None]

    def append(self, opened: Opened, needle: Needle, *, fsync: bool, is_deletion: bool) -> int:
        """Appends a needle, or the record of its deletion, and returns the record's offset in bytes.

        Raises:
            AppendOffsetExceeded, SizeLimitExceeded, NeedleTooWide: nothing was written.
            WriteFailed: it was taken back, or `stop` was called; with a failed sync of .idx it stays readable.
        """
        offset = opened.dat_end_bytes
        needle.append_at_ns = max(self.clock_ns(), opened.last_append_at_ns + 1)
        parts = encode_needle_parts(needle, opened.super_block.version)
        length = actual_size(needle.size, opened.super_block.version)
        self._check_room(opened, offset, 0 if is_deletion else length)
        size = TOMBSTONE_SIZE if is_deletion else needle.size
        row = encode_entry(needle.needle_id, to_stored(offset), size, self.offset_width_bytes)
        self._write_both(opened, parts, row, fsync=fsync)
        # From here on both files hold it: the ends move first, so that nothing can be written over it.
        opened.dat_end_bytes = offset + length
        opened.idx_end_bytes += len(row)
        opened.last_append_at_ns = needle.append_at_ns
        opened.modified_at_s = self.clock_ns() // _NS
        if is_deletion:
            opened.index.delete(needle.needle_id)
        else:
            opened.index.put(needle.needle_id, to_stored(offset), needle.size)
        if fsync:
            self._sync_idx(opened)
        return offset

    def _check_room(self, opened: Opened, offset: int, length: int) -> None:
        limit = max_volume_size_bytes(self.offset_width_bytes)
        if offset >= limit:
            raise AppendOffsetExceeded(offset, limit)
        content = opened.index.counters.content_bytes
        if content + length > limit:
            raise SizeLimitExceeded(limit, content)

    def _write_both(self, opened: Opened, parts: Sequence[bytes | memoryview], row: bytes, *, fsync: bool) -> None:
        dat, idx = opened.dat, opened.idx
        file, at = dat, opened.dat_end_bytes
        try:
            self.files.write(dat.fd, parts, opened.dat_end_bytes)
            if fsync:
                self.files.sync(dat.fd)
            file, at = idx, opened.idx_end_bytes
            self.files.write(idx.fd, [row], opened.idx_end_bytes)
        except OSError as error:
            self.health.failed(error)
            self._take_back(opened, idx_too=file is idx)
            raise WriteFailed(file.path, at, error) from error
        self.health.succeeded()

    def _take_back(self, opened: Opened, *, idx_too: bool) -> None:
        try:
            if idx_too:
                self.files.truncate(opened.idx.fd, opened.idx_end_bytes)
            self.files.truncate(opened.dat.fd, opened.dat_end_bytes)
        except OSError as error:
            self.stop(f"a failed append could not be taken back: {error}")

    def sync(self, opened: Opened) -> None:
        """Puts both files on disk.

        Raises:
            WriteFailed: they may not be there; `stop` was called if it was .idx.
        """
        try:
            self.files.sync(opened.dat.fd)
        except OSError as error:
            self.health.failed(error)
            raise WriteFailed(opened.dat.path, opened.dat_end_bytes, error) from error
        self._sync_idx(opened)

    def _sync_idx(self, opened: Opened) -> None:
        try:
            self.files.sync(opened.idx.fd)
        except OSError as error:
            self.health.failed(error)
            self.stop(f"{opened.idx.path} cannot be synced: {error}")
            raise WriteFailed(opened.idx.path, opened.idx_end_bytes, error) from error
