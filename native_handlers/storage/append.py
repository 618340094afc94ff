"""Appends records to an open volume: .dat, then .idx, then the index; and takes back what fails on the way.

Records are staged into a batch, which is in .dat and nowhere else, and committed together: one sync of .dat, one
write of all rows, one sync of .idx. So an index row, in memory or on disk, never leads to a record that is less
durable than was asked for. The volume's lock is held by whoever calls, from `begin` to the end of `commit`.

Source: weed/storage/volume_write.go (syncWrite, startWorker, doWriteRequest, doDeleteRequest),
weed/storage/needle/needle_write.go:Append.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import actual_size, encode_needle_parts
from native_handlers.format.types import (
    CHECKSUM_BYTES,
    NEEDLE_HEADER_BYTES,
    TIMESTAMP_BYTES,
    TOMBSTONE_SIZE,
    VERSION_3,
    max_volume_size_bytes,
    to_stored,
)
from native_handlers.storage.errors import AppendOffsetExceeded, SizeLimitExceeded, WriteFailed
from native_handlers.storage.index_base import Location

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from native_handlers.format.needle import Needle
    from native_handlers.storage.files import Files
    from native_handlers.storage.io_health import IoHealth
    from native_handlers.storage.volume_open import Opened

_NS = 10**9


@dataclass(slots=True)
class Batch:
    """Records that are in .dat and in no index yet. The volume's own ends do not move before the commit."""

    opened: Opened
    end_bytes: int
    last_append_at_ns: int
    entries: list[tuple[int, Location]] = field(default_factory=list)
    _staged: dict[int, Location] = field(default_factory=dict)

    @property
    def staged_bytes(self) -> int:
        return self.end_bytes - self.opened.dat_end_bytes

    def find(self, needle_id: int) -> Location | None:
        """Where the needle will be when this is committed; negative sizes are deletions."""
        return self._staged.get(needle_id) or self.opened.index.get(needle_id)

    def add(self, needle_id: int, entry: Location, end_bytes: int, append_at_ns: int) -> None:
        self.entries.append((needle_id, entry))
        self._staged[needle_id] = entry
        self.end_bytes, self.last_append_at_ns = end_bytes, append_at_ns


@dataclass(frozen=True, slots=True)
class Appender:
    """How one volume appends. `stop` is called with the reason when nothing may be written any more."""

    files: Files
    offset_width_bytes: int
    clock_ns: Callable[[], int]
    health: IoHealth
    stop: Callable[[str], None]

    def append(self, opened: Opened, needle: Needle, *, is_deletion: bool) -> int:
        """Appends a needle, or the record of its deletion, and returns the record's offset in bytes.

        Raises:
            As `stage` and `commit`.
        """
        batch = self.begin(opened)
        offset = self.stage(batch, needle, is_deletion=is_deletion)
        self.commit(batch, fsync=False)
        return offset

    def begin(self, opened: Opened) -> Batch:
        """A batch without records."""
        return Batch(opened, opened.dat_end_bytes, opened.last_append_at_ns)

    def stage(self, batch: Batch, needle: Needle, *, is_deletion: bool) -> int:
        """Writes the record of a needle, or of its deletion, to .dat only, and returns its offset in bytes.

        Raises:
            AppendOffsetExceeded, SizeLimitExceeded, NeedleTooWide: nothing was written.
            WriteFailed: it was taken back, or `stop` was called. What else is in the batch stays in it.
        """
        version = batch.opened.super_block.version
        needle.append_at_ns = self._next_append_at_ns(batch)
        parts = encode_needle_parts(needle, version)
        length = actual_size(needle.size, version)
        self._check_room(batch, 0 if is_deletion else length)
        size = TOMBSTONE_SIZE if is_deletion else needle.size
        return self._put(batch, needle.needle_id, size, parts, length, needle.append_at_ns)

    def stage_record(self, batch: Batch, needle_id: int, size: int, record: bytes) -> int:
        """Writes `record`, whole and with a body of `size` bytes, as `stage` writes a needle; returns its offset.

        It is written as it is, but for its append time, and will be found under `needle_id` whatever it says itself.
        """
        append_at_ns = self._next_append_at_ns(batch)
        parts: list[bytes | memoryview] = [record]
        if batch.opened.super_block.version == VERSION_3:
            at = NEEDLE_HEADER_BYTES + size + CHECKSUM_BYTES
            view = memoryview(record)
            parts = [view[:at], append_at_ns.to_bytes(TIMESTAMP_BYTES, "big"), view[at + TIMESTAMP_BYTES :]]
        self._check_room(batch, len(record))
        return self._put(batch, needle_id, size, parts, len(record), append_at_ns)

    def _next_append_at_ns(self, batch: Batch) -> int:
        return max(self.clock_ns(), batch.last_append_at_ns + 1)

    def _put(  # noqa: PLR0913, PLR0917  a record and its index entry
        self,
        batch: Batch,
        needle_id: int,
        size: int,
        parts: Sequence[bytes | memoryview],
        length: int,
        append_at_ns: int,
    ) -> int:
        opened, offset = batch.opened, batch.end_bytes
        try:
            self.files.write(opened.dat.fd, parts, offset)
        except OSError as error:
            self.health.failed(error)
            self._cut(opened, idx_too=False, dat_end_bytes=offset)
            raise WriteFailed(opened.dat.path, offset, error) from error
        batch.add(needle_id, Location(to_stored(offset), size), offset + length, append_at_ns)
        return offset

    def _check_room(self, batch: Batch, length: int) -> None:
        limit = max_volume_size_bytes(self.offset_width_bytes)
        if batch.end_bytes >= limit:
            raise AppendOffsetExceeded(batch.end_bytes, limit)
        content = batch.opened.index.counters.content_bytes
        if content + batch.staged_bytes + length > limit:
            raise SizeLimitExceeded(limit, content)

    def commit(self, batch: Batch, *, fsync: bool) -> None:
        """Makes the records of `batch` the volume's; with `fsync` they, and all before them, are then on disk.

        Raises:
            WriteFailed: all of them were taken back, or `stop` was called; with a failed sync of .idx they stay
                readable.
        """
        opened = batch.opened
        if fsync:
            self._sync_dat(batch)
        if batch.entries:
            self._publish(batch, self._write_rows(batch))
        if fsync:
            self._sync_idx(opened)

    def _sync_dat(self, batch: Batch) -> None:
        opened = batch.opened
        try:
            self.files.sync(opened.dat.fd)
        except OSError as error:
            self.health.failed(error)
            # The kernel may have dropped what it could not write, and the next sync would not say so.
            opened.doubtful_end_bytes = opened.dat_end_bytes
            if batch.entries:
                self._cut(opened, idx_too=False, dat_end_bytes=opened.dat_end_bytes)
            raise WriteFailed(opened.dat.path, opened.dat_end_bytes, error) from error

    def _write_rows(self, batch: Batch) -> int:
        """Returns how many bytes of rows were written."""
        opened = batch.opened
        rows = b"".join(encode_entry(key, at.offset, at.size, self.offset_width_bytes) for key, at in batch.entries)
        try:
            self.files.write(opened.idx.fd, [rows], opened.idx_end_bytes)
        except OSError as error:
            self.health.failed(error)
            self._cut(opened, idx_too=True, dat_end_bytes=opened.dat_end_bytes)
            raise WriteFailed(opened.idx.path, opened.idx_end_bytes, error) from error
        self.health.succeeded()
        return len(rows)

    def _publish(self, batch: Batch, row_bytes: int) -> None:
        opened = batch.opened
        if opened.share is None:
            self._enter(batch, row_bytes)
        else:
            with opened.share.publishing(opened):
                self._enter(batch, row_bytes)

    def _enter(self, batch: Batch, row_bytes: int) -> None:
        opened = batch.opened
        # Both files hold the records: the ends move first, so that nothing can be written over them.
        opened.dat_end_bytes = batch.end_bytes
        opened.idx_end_bytes += row_bytes
        opened.last_append_at_ns = batch.last_append_at_ns
        opened.modified_at_s = self.clock_ns() // _NS
        for needle_id, entry in batch.entries:
            if entry.size == TOMBSTONE_SIZE:
                opened.index.delete(needle_id)
            else:
                opened.index.put(needle_id, entry.offset, entry.size)

    def _cut(self, opened: Opened, *, idx_too: bool, dat_end_bytes: int) -> None:
        try:
            if idx_too:
                self.files.truncate(opened.idx.fd, opened.idx_end_bytes)
            self.files.truncate(opened.dat.fd, dat_end_bytes)
        except OSError as error:
            self.stop(f"a failed append could not be taken back: {error}")

    def sync(self, opened: Opened) -> None:
        """Puts both files on disk.

        Raises:
            WriteFailed: they may not be there; `stop` was called if it was .idx.
        """
        self.commit(self.begin(opened), fsync=True)

    def _sync_idx(self, opened: Opened) -> None:
        try:
            self.files.sync(opened.idx.fd)
        except OSError as error:
            self.health.failed(error)
            self.stop(f"{opened.idx.path} cannot be synced: {error}")
            raise WriteFailed(opened.idx.path, opened.idx_end_bytes, error) from error
