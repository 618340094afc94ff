"""What appends to a volume: writing a needle alone or with others, storing a record as it is, deleting.

Writers hold the volume's one lock from the look at the old needle to the published index entry.

Source: weed/storage/volume_write.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format import crc
from native_handlers.format.needle import Needle
from native_handlers.format.types import to_bytes_offset
from native_handlers.storage.blobs import is_stored, parse_blob
from native_handlers.storage.errors import NeedleTooLarge, ReadOnly, VolumeClosed, WriteFailed
from native_handlers.storage.group_commit import GroupCommit, PendingWrite, WriteResult, settle_together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.storage.append import Appender, Batch
    from native_handlers.storage.volume_files import VolumeFiles
    from native_handlers.storage.volume_read import VolumeReader
    from native_handlers.storage.write_gate import VolumeHome, WriteGate

_MAX_BODY_BYTES = 2**31 - 1


class VolumeWriter:
    """The writers of one volume, whose methods of these names say what callers get. Safe from any thread."""

    def __init__(
        self, open_files: VolumeFiles, home: VolumeHome, gate: WriteGate, reader: VolumeReader, appender: Appender
    ) -> None:
        self._id = open_files.paths.volume_id
        self._open_files = open_files
        self._lock = open_files.lock
        self._home = home
        self._gate = gate
        self._reader = reader
        self._appender = appender
        self._commits = GroupCommit(self._commit)

    # ---- needles

    def write(self, needle: Needle, *, check_cookie: bool, fsync: bool) -> WriteResult:
        """See `Volume.write`."""
        self._home.check_in_service()
        if len(needle.data) > _MAX_BODY_BYTES - 2**17:
            raise NeedleTooLarge(len(needle.data), _MAX_BODY_BYTES - 2**17)
        ttl = self._open_files.super_block.ttl
        if not needle.ttl and ttl:
            needle.ttl = ttl
            needle.has_ttl = True
        needle.checksum = crc.crc32c(needle.data)
        write = PendingWrite(needle, check_cookie=check_cookie)
        if fsync:
            return self._commits.write(write)
        with self._lock:
            batch = self._appender.begin(self._open_files.get())
            result = self._stage(batch, write, fsync=False)
            self._appender.commit(batch, fsync=False)
            return result

    def _stage(self, batch: Batch, write: PendingWrite, *, fsync: bool) -> WriteResult:
        reasons = self._gate.reasons
        if reasons.is_read_only:
            raise ReadOnly(self._id, reasons.text)
        needle, location = write.needle, batch.find(write.needle.needle_id)
        if location is not None:
            there = to_bytes_offset(location.offset)
            has_ttl = bool(self._open_files.super_block.ttl)
            may_be_same = not has_ttl and not (fsync and there < batch.opened.doubtful_end_bytes)
            if self._reader.settle_cookie(
                batch.opened, needle, location, check_cookie=write.check_cookie, may_be_same=may_be_same
            ):
                return WriteResult(there, len(needle.data), is_unchanged=True)
        offset = self._appender.stage(batch, needle, is_deletion=False)
        opened = batch.opened
        opened.last_modified_s = max(opened.last_modified_s, needle.last_modified_s)
        return WriteResult(offset, len(needle.data), is_unchanged=False)

    def _refuse_if_read_only(self) -> None:
        reasons = self._gate.reasons
        if reasons.is_read_only:
            raise ReadOnly(self._id, reasons.text)

    def _commit(self, writes: Sequence[PendingWrite]) -> None:
        try:
            self._commit_locked(writes)
        except WriteFailed as error:
            # Not even the lock was to be had: a shared volume could not be repaired.
            for write in writes:
                write.error = error.copy()

    def _commit_locked(self, writes: Sequence[PendingWrite]) -> None:
        with self._lock:
            opened = self._open_files.opened
            if opened is None:
                for write in writes:
                    write.error = VolumeClosed(self._id)
                return
            batch = self._appender.begin(opened)
            settle_together(
                writes,
                lambda write: self._stage(batch, write, fsync=True),
                lambda: self._appender.commit(batch, fsync=True),
            )

    def delete(self, needle_id: int, cookie: int, *, checksum: int) -> int:
        """See `Volume.delete`."""
        self._home.check_in_service()
        with self._lock:
            opened = self._open_files.get()
            reasons = self._gate.reasons
            if reasons.no_write_or_delete:
                raise ReadOnly(self._id, reasons.text)
            location = opened.index.get(needle_id)
            if location is None or location.size < 0:
                return 0
            deletion = Needle(needle_id=needle_id, cookie=cookie, checksum=checksum)
            self._appender.append(opened, deletion, is_deletion=True)
            return location.size

    # ---- records

    def write_blob(self, needle_id: int, blob: bytes, size: int) -> WriteResult:
        """See `Volume.write_blob`."""
        self._home.check_in_service()
        self._open_files.get()
        self._refuse_if_read_only()
        # Before the lock is taken: a large record takes a while, and a bad one is to hold up nobody.
        needle = parse_blob(needle_id, blob, size, self._open_files.super_block.version)
        with self._lock:
            opened = self._open_files.get()
            self._refuse_if_read_only()
            location = opened.index.get(needle_id)
            if location is not None and is_stored(self._reader, opened, needle, location):
                return WriteResult(to_bytes_offset(location.offset), needle.data_size, is_unchanged=True)
            batch = self._appender.begin(opened)
            offset = self._appender.stage_record(batch, needle_id, size, blob)
            self._appender.commit(batch, fsync=False)
            return WriteResult(offset, needle.data_size, is_unchanged=False)
