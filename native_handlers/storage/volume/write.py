"""Appends to a volume: writes a needle alone or with others, stores a record unchanged, deletes.

Writers hold the volume's one lock from the look-up of the old needle to the published index entry.

Source: weed/storage/volume_write.go.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from native_handlers.format import crc
from native_handlers.format.errors import FormatError
from native_handlers.format.needle import Needle
from native_handlers.format.types import ALIGNMENT_BYTES, to_bytes_offset
from native_handlers.records import dataclass
from native_handlers.storage.model.errors import NeedleTooLarge, ReadOnly, StorageError, VolumeClosed, WriteFailed
from native_handlers.storage.volume.blobs import is_stored, parse_blob
from native_handlers.storage.volume.group_commit import GroupCommit, PendingWrite, WriteResult, stage_and_commit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.storage.volume.append import Appender, Batch
    from native_handlers.storage.volume.handle import VolumeHandle
    from native_handlers.storage.volume.read import VolumeReader
    from native_handlers.storage.volume.state import VolumeState
    from native_handlers.storage.volume.write_state import DiskContext, WriteState

_log = logging.getLogger(__name__)
MAX_DATA_BYTES = 2**31 - 1 - 2**17
"""The longest content of a needle. The size field holds 2^31 - 1, and the metadata takes up to 2^17 bytes of it."""


@dataclass(slots=True)
class SmallChange:
    """A needle that is to be stored, or deleted, together with others. `result` is None until that is done."""

    needle: Needle
    is_deletion: bool = False
    result: WriteResult | None = None


class VolumeWriter:
    """The writers of one volume. The methods of `Volume` with the same names describe them. Safe from any thread."""

    def __init__(
        self,
        handle: VolumeHandle,
        disk: DiskContext,
        write_state: WriteState,
        reader: VolumeReader,
        appender: Appender,
    ) -> None:
        self._id = handle.paths.volume_id
        self._handle = handle
        self._disk = disk
        self._write_state = write_state
        self._reader = reader
        self._appender = appender
        self._commits = GroupCommit(self.commit_together)

    # ---- needles

    def write(self, needle: Needle, *, check_cookie: bool, fsync: bool) -> WriteResult:
        """See `Volume.write`."""
        self._disk.check_in_service()
        if len(needle.data) > MAX_DATA_BYTES:
            raise NeedleTooLarge(len(needle.data), MAX_DATA_BYTES)
        self._complete(needle)
        if fsync:
            return self._commits.write(PendingWrite(needle, check_cookie=check_cookie))
        with self._handle.begin_write():
            batch = self._appender.begin(self._handle.get())
            result = self._stage(batch, needle, check_cookie=check_cookie, fsync=False)
            self._appender.commit(batch, fsync=False)
            return result

    def _complete(self, needle: Needle) -> None:
        """Gives a needle its checksum, and the volume's TTL if it has none."""
        ttl = self._handle.super_block.ttl
        if ttl.count and ttl and not needle.ttl:
            needle.ttl = ttl
            needle.has_ttl = True
        needle.checksum = crc.crc32c(needle.data)

    def _stage(self, batch: Batch, needle: Needle, *, check_cookie: bool, fsync: bool) -> WriteResult:
        self._refuse_if_read_only()
        location = batch.find(needle.needle_id)
        if location is not None:
            there = location.offset * ALIGNMENT_BYTES
            ttl = self._handle.super_block.ttl
            has_ttl = bool(ttl.count and ttl)
            may_be_same = not has_ttl and not (fsync and there < batch.state.sync_failed_end_bytes)
            if self._reader.check_existing(
                batch.state, needle, location, check_cookie=check_cookie, may_be_same=may_be_same
            ):
                return WriteResult(there, len(needle.data), is_unchanged=True)
        offset = self._appender.stage(batch, needle, is_deletion=False)
        batch.state.staged(needle.last_modified_s)
        return WriteResult(offset, len(needle.data), is_unchanged=False)

    def _refuse_if_read_only(self) -> None:
        if self._write_state.refuses_writes:
            reasons = self._write_state.reasons
            if reasons.is_read_only:
                raise ReadOnly(self._id, reasons.text)

    @property
    def waiting_count(self) -> int:
        """The number of synced writes that wait for their batch."""
        return self._commits.waiting_count

    def commit_together(self, writes: Sequence[PendingWrite]) -> None:
        """Appends the needles of all `writes` and syncs once. Sets `result` or `error` of each, and raises no error."""
        try:
            self._commit_locked(writes)
        except (StorageError, FormatError) as error:
            # The lock of a shared volume could not be taken. An error that several threads raise collects the
            # tracebacks of all, so each gets its own.
            path = self._handle.paths.file(".dat")
            for write in writes:
                write.error = error if write is writes[0] else WriteFailed(path, 0, OSError(errno.EAGAIN, str(error)))

    def _commit_locked(self, writes: Sequence[PendingWrite]) -> None:
        with self._handle.begin_write():
            state = self._handle.opened
            if state is None:
                for write in writes:
                    write.error = VolumeClosed(self._id)
                return
            batch = self._appender.begin(state)
            stage_and_commit(
                writes,
                lambda write: self._stage(batch, write.needle, check_cookie=write.check_cookie, fsync=True),
                lambda: self._appender.commit(batch, fsync=True),
            )

    def try_together(self, changes: Sequence[SmallChange]) -> None:
        """See `Volume.try_together`."""
        try:
            self._disk.check_in_service()
            locked = self._handle.begin_write_at_once()
            if locked is None:
                return
            with locked:
                state = self._handle.opened
                if state is not None and not state.is_tiered:
                    self._try_locked(state, changes)
        except (StorageError, FormatError) as error:
            _log.debug("volume %d: changes are made one by one instead: %s", self._id, error)

    def try_synced(self, changes: Sequence[SmallChange]) -> None:
        """See `Volume.try_synced`."""
        try:
            self._disk.check_in_service()
        except StorageError as error:
            _log.debug("volume %d: changes are made one by one instead: %s", self._id, error)
            return
        writes = [PendingWrite(change.needle, check_cookie=True) for change in changes]
        for write in writes:
            self._complete(write.needle)
        try:
            self._commits.write_all(writes)
        finally:
            for change, write in zip(changes, writes, strict=True):
                change.result = write.result
                if write.error is not None:
                    _log.debug("volume %d: a change is made alone: %s", self._id, write.error)

    def _try_locked(self, state: VolumeState, changes: Sequence[SmallChange]) -> None:
        batch = self._appender.begin(state, gathers=True)
        staged: list[tuple[SmallChange, WriteResult]] = []
        for change in changes:
            # The record of an earlier change of the batch cannot be read yet.
            if batch.is_staged(change.needle.needle_id):
                continue
            try:
                stage = self._stage_small_deletion if change.is_deletion else self._stage_small
                staged.append((change, stage(batch, change.needle)))
            except (StorageError, FormatError) as error:
                _log.debug("volume %d: a change is made alone: %s", self._id, error)
        if staged:
            self._appender.commit(batch, fsync=False)
        for change, result in staged:
            change.result = result

    def _stage_small(self, batch: Batch, needle: Needle) -> WriteResult:
        self._complete(needle)
        return self._stage(batch, needle, check_cookie=True, fsync=False)

    def _stage_small_deletion(self, batch: Batch, deletion: Needle) -> WriteResult:
        reasons = self._write_state.reasons
        if reasons.no_write_or_delete:
            raise ReadOnly(self._id, reasons.text)
        location = batch.find(deletion.needle_id)
        if location is None or location.size < 0:
            return WriteResult(0, 0, is_unchanged=True)
        offset = self._appender.stage(batch, deletion, is_deletion=True)
        return WriteResult(offset, location.size, is_unchanged=False)

    def delete(self, needle_id: int, cookie: int, *, checksum: int) -> int:
        """See `Volume.delete`."""
        self._disk.check_in_service()
        with self._handle.begin_write():
            state = self._handle.get()
            reasons = self._write_state.reasons
            if reasons.no_write_or_delete:
                raise ReadOnly(self._id, reasons.text)
            location = state.index.get(needle_id)
            if location is None or location.size < 0:
                return 0
            deletion = Needle(needle_id=needle_id, cookie=cookie, checksum=checksum)
            self._appender.append(state, deletion, is_deletion=True)
            return location.size

    # ---- records

    def write_blob(self, needle_id: int, blob: bytes, size: int) -> WriteResult:
        """See `Volume.write_blob`."""
        self._disk.check_in_service()
        self._handle.get()
        self._refuse_if_read_only()
        # Before the lock: parsing a large record takes a while, and a bad record must not delay other writers.
        needle = parse_blob(needle_id, blob, size, self._handle.super_block.version)
        with self._handle.begin_write():
            state = self._handle.get()
            self._refuse_if_read_only()
            location = state.index.get(needle_id)
            if location is not None and is_stored(self._reader, state, needle, location):
                return WriteResult(to_bytes_offset(location.offset), needle.data_size, is_unchanged=True)
            batch = self._appender.begin(state)
            offset = self._appender.stage_record(batch, needle_id, size, blob)
            self._appender.commit(batch, fsync=False)
            return WriteResult(offset, needle.data_size, is_unchanged=False)
