"""Appends records to an open volume: .dat, then .idx, then the index. Undoes an append that fails.

Records are staged into a batch, which is in .dat only, and committed together: one sync of .dat, one write of all rows,
one sync of .idx. So an index row, in memory or on disk, never leads to a record that is less durable than requested.
The caller holds the volume's lock from `begin` to the end of `commit`.

Source: weed/storage/volume_write.go (syncWrite, startWorker, doWriteRequest, doDeleteRequest),
weed/storage/needle/needle_write.go:Append.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from native_handlers.format.idx import row_encoder
from native_handlers.format.needle import actual_size, encode_needle_parts
from native_handlers.format.types import (
    ALIGNMENT_BYTES,
    CHECKSUM_BYTES,
    MAX_APPEND_AT_NS,
    NEEDLE_HEADER_BYTES,
    TIMESTAMP_BYTES,
    TOMBSTONE_SIZE,
    VERSION_3,
    max_volume_size_bytes,
)
from native_handlers.records import dataclass
from native_handlers.storage.index.sorted_segment import NeedleValue
from native_handlers.storage.model.errors import AppendOffsetExceeded, SizeLimitExceeded, WriteFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from native_handlers.format.needle import Needle
    from native_handlers.storage.disk.room import DiskRoom
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.state import VolumeState
    from native_handlers.storage.volume.write_state import IoHealth

_NS = 10**9


@dataclass(slots=True)
class Batch:
    """Records that are in .dat and in no index yet. The volume's own ends do not move before the commit."""

    state: VolumeState
    end_bytes: int
    last_append_at_ns: int
    entries: list[tuple[int, NeedleValue]] = field(default_factory=list)
    gathered: list[bytes | memoryview] | None = None
    """The records that the commit will write, where one write is to hold all of them; None where each is written at
    once."""
    _staged: dict[int, NeedleValue] = field(default_factory=dict)

    @property
    def staged_bytes(self) -> int:
        return self.end_bytes - self.state.dat_end_bytes

    def find(self, needle_id: int) -> NeedleValue | None:
        """The needle's place after the commit. A negative size is a deletion."""
        return self._staged.get(needle_id) or self.state.index.get(needle_id)

    def is_staged(self, needle_id: int) -> bool:
        """Whether a record of the batch has that id."""
        return needle_id in self._staged

    def add(self, needle_id: int, entry: NeedleValue, end_bytes: int, append_at_ns: int) -> None:
        self.entries.append((needle_id, entry))
        self._staged[needle_id] = entry
        self.end_bytes, self.last_append_at_ns = end_bytes, append_at_ns


@dataclass(frozen=True, slots=True)
class Appender:
    """Appends to one volume. `stop` is called with the reason when nothing may be written any more."""

    files: Files
    offset_width_bytes: int
    clock_ns: Callable[[], int]
    health: IoHealth
    stop: Callable[[str], None]
    room: DiskRoom | None = None
    """The disk's room, whose reserve deletions may use."""
    appended: Callable[[int], None] | None = None
    """Gets the bytes of each batch, where another process watches the disk's room."""

    def append(self, state: VolumeState, needle: Needle, *, is_deletion: bool) -> int:
        """Appends a needle, or the record of its deletion, and returns the record's offset in bytes.

        Raises:
            As `stage` and `commit`.
        """
        batch = self.begin(state)
        offset = self.stage(batch, needle, is_deletion=is_deletion)
        self.commit(batch, fsync=False)
        return offset

    def begin(self, state: VolumeState, *, gathers: bool = False) -> Batch:
        """Begins a batch without records. With `gathers` the commit writes the records, all in one write."""
        return Batch(state, state.dat_end_bytes, state.last_append_at_ns, gathered=[] if gathers else None)

    def stage(self, batch: Batch, needle: Needle, *, is_deletion: bool) -> int:
        """Writes the record of a needle, or of its deletion, to .dat only. Returns the record's offset in bytes.

        Raises:
            AppendOffsetExceeded, SizeLimitExceeded, NeedleTooWide: nothing was written.
            WriteFailed: the write was undone, or `stop` was called. Other records of the batch stay in it.
        """
        version = batch.state.super_block.version
        needle.append_at_ns = self._next_append_at_ns(batch)
        if batch.state.is_tiered:
            assert is_deletion, "a tiered volume takes deletions only"
            # A deletion is a row alone, as upstream; the row's offset names no record.
            batch.state.begun_record()
            batch.add(needle.needle_id, NeedleValue(0, TOMBSTONE_SIZE), batch.end_bytes, needle.append_at_ns)
            return 0
        parts = encode_needle_parts(needle, version)
        length = actual_size(needle.size, version)
        if not is_deletion:
            # The limit of the index is for data. A deletion is found by its id, and frees room.
            self._check_room(batch, length)
        size = TOMBSTONE_SIZE if is_deletion else needle.size
        return self._put(batch, needle.needle_id, size, parts, length, needle.append_at_ns)

    def stage_record(self, batch: Batch, needle_id: int, size: int, record: bytes) -> int:
        """Writes `record`, complete and with a body of `size` bytes, as `stage` writes a needle. Returns its offset.

        Only the append time is changed. The record will be found under `needle_id`, regardless of the id in it.
        """
        append_at_ns = self._next_append_at_ns(batch)
        parts: list[bytes | memoryview] = [record]
        if batch.state.super_block.version == VERSION_3:
            at = NEEDLE_HEADER_BYTES + size + CHECKSUM_BYTES
            view = memoryview(record)
            parts = [view[:at], append_at_ns.to_bytes(TIMESTAMP_BYTES, "big"), view[at + TIMESTAMP_BYTES :]]
        self._check_room(batch, len(record))
        return self._put(batch, needle_id, size, parts, len(record), append_at_ns)

    def _next_append_at_ns(self, batch: Batch) -> int:
        return min(max(self.clock_ns(), batch.last_append_at_ns + 1), MAX_APPEND_AT_NS)

    def _put(  # noqa: PLR0913, PLR0917  a record and its index entry
        self,
        batch: Batch,
        needle_id: int,
        size: int,
        parts: Sequence[bytes | memoryview],
        length: int,
        append_at_ns: int,
    ) -> int:
        state, offset = batch.state, batch.end_bytes
        state.begun_record()
        if batch.gathered is not None:
            batch.gathered += parts
        else:
            try:
                self._files_for(size).write(state.dat.fd, parts, offset)
            except OSError as error:
                self._failed(error)
                self._cut(state, idx_too=False, dat_end_bytes=offset)
                raise WriteFailed(state.dat.path, offset, error) from error
        # As `row_place.row_offset`: a deletion may lie beyond what offsets reach.
        entry = NeedleValue(offset % max_volume_size_bytes(self.offset_width_bytes) // ALIGNMENT_BYTES, size)
        batch.add(needle_id, entry, offset + length, append_at_ns)
        return offset

    def _files_for(self, *sizes: int) -> Files:
        """The files with the reserve for a batch of deletions only, else the plain files. `sizes` are those of its
        rows.
        """
        if self.room is None or any(size != TOMBSTONE_SIZE for size in sizes):
            return self.files
        return self.room.files

    def _failed(self, error: OSError) -> None:
        self.health.failed(error)
        if self.room is not None:
            self.room.met_full(error)

    def _check_room(self, batch: Batch, length: int) -> None:
        limit = max_volume_size_bytes(self.offset_width_bytes)
        if batch.end_bytes >= limit:
            raise AppendOffsetExceeded(batch.end_bytes, limit)
        content = batch.state.index.counters.content_bytes
        if content + batch.staged_bytes + length > limit:
            raise SizeLimitExceeded(limit, content)

    def commit(self, batch: Batch, *, fsync: bool) -> None:
        """Makes the records of `batch` part of the volume. With `fsync` they, and all records before them, are then on
        disk.

        Raises:
            WriteFailed: all records were undone, or `stop` was called. After a failed sync of .idx they stay readable.
        """
        state = batch.state
        if batch.gathered:
            self._write_gathered(state, batch.gathered)
        if fsync:
            self._sync_dat(batch)
        if batch.entries:
            length = batch.staged_bytes
            self._publish(batch, self._write_rows(batch))
            if self.room is not None:
                usage = self.room.usage
                usage.left_bytes -= length
                if usage.left_bytes < 0 or usage.on_change is not None:
                    usage.look_if_used_up()
            elif self.appended is not None:
                self.appended(length)
        if fsync:
            self._sync_idx(state)
            state.synced()

    def _write_gathered(self, state: VolumeState, parts: list[bytes | memoryview]) -> None:
        """Writes all records of a batch. After a failure, the caller writes each of them alone, which counts it."""
        try:
            self.files.write(state.dat.fd, [b"".join(parts)], state.dat_end_bytes)
        except OSError as error:
            self._cut(state, idx_too=False, dat_end_bytes=state.dat_end_bytes)
            raise WriteFailed(state.dat.path, state.dat_end_bytes, error) from error

    def _sync_dat(self, batch: Batch) -> None:
        state = batch.state
        try:
            self.files.sync(state.dat.fd)
        except OSError as error:
            self.health.failed(error)
            state.failed_sync()
            if batch.entries:
                self._cut(state, idx_too=False, dat_end_bytes=state.dat_end_bytes)
            raise WriteFailed(state.dat.path, state.dat_end_bytes, error) from error

    def _write_rows(self, batch: Batch) -> int:
        """Writes the rows of a batch. Returns their length in bytes."""
        state = batch.state
        encode = row_encoder(self.offset_width_bytes)
        rows = b"".join([encode(key, at.offset, at.size) for key, at in batch.entries])
        try:
            sizes = [at.size for _, at in batch.entries]
            self._files_for(*sizes).write(state.idx.fd, [rows], state.idx_end_bytes)
        except OSError as error:
            self._failed(error)
            self._cut(state, idx_too=True, dat_end_bytes=state.dat_end_bytes)
            raise WriteFailed(state.idx.path, state.idx_end_bytes, error) from error
        if self.health.errors_in_a_row:
            self.health.succeeded()
        return len(rows)

    def _publish(self, batch: Batch, row_bytes: int) -> None:
        state = batch.state
        if state.share is None:
            self._enter(batch, row_bytes)
        else:
            with state.share.publishing(state):
                self._enter(batch, row_bytes)

    def _enter(self, batch: Batch, row_bytes: int) -> None:
        state = batch.state
        # Both files hold the records. The ends move first, so that no later write can overwrite them.
        state.appended(batch.end_bytes, row_bytes, batch.last_append_at_ns, self.clock_ns() // _NS)
        for needle_id, entry in batch.entries:
            if entry.size == TOMBSTONE_SIZE:
                state.index.delete(needle_id)
            else:
                state.index.put(needle_id, entry.offset, entry.size)

    def _cut(self, state: VolumeState, *, idx_too: bool, dat_end_bytes: int) -> None:
        try:
            if idx_too:
                self.files.truncate(state.idx.fd, state.idx_end_bytes)
            if not state.is_tiered:
                self.files.truncate(state.dat.fd, dat_end_bytes)
        except OSError as error:
            self.stop(f"a failed append could not be taken back: {error}")

    def sync(self, state: VolumeState) -> None:
        """Puts both files on disk, unless they are known to be there: of many volumes few were written to.

        Raises:
            WriteFailed: they may not be on disk. `stop` was called if the failed file is .idx.
        """
        if state.is_synced and state.share is None:
            return
        self.commit(self.begin(state), fsync=True)

    def _sync_idx(self, state: VolumeState) -> None:
        try:
            self.files.sync(state.idx.fd)
        except OSError as error:
            self.health.failed(error)
            self.stop(f"{state.idx.path} cannot be synced: {error}")
            raise WriteFailed(state.idx.path, state.idx_end_bytes, error) from error
