"""One volume: appends, reads and deletes needles in a .dat file through its index.

The parts are in modules beside this one: `handle` owns the lock and the open files, `write` appends, `read` reads,
`marks` has the marks of operators.

Writers hold the volume's one lock from the look-up of the old needle to the published index entry. An append writes
.dat, then the .idx row, then enters the needle in the index. It is acknowledged after that, and with `fsync` after both
files are on disk. A failed append undoes its writes; if that fails too the volume takes no more writes.

Readers take no lock: they look the needle up and read its record with one pread. They retain the open files during the
read, so closing, deleting or swapping the volume waits for no reader and disturbs none.

Source: weed/storage/volume_write.go, volume_read.go, volume.go.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.format.errors import FormatError
from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.storage.model.errors import NotFound, ReadFailed, VolumeClosed
from native_handlers.storage.system.files import FileRetired, NotCached
from native_handlers.storage.volume.append import Appender
from native_handlers.storage.volume.append_log import log_of
from native_handlers.storage.volume.blobs import read_blob, read_meta
from native_handlers.storage.volume.claim import FilesClaim
from native_handlers.storage.volume.compaction import Compaction
from native_handlers.storage.volume.damage import VolumeDamage
from native_handlers.storage.volume.file_reader import open_volume_file, write_back
from native_handlers.storage.volume.handle import VolumeHandle
from native_handlers.storage.volume.index_place import move_index
from native_handlers.storage.volume.live_needles import walk_live_needles
from native_handlers.storage.volume.marks import VolumeMarks
from native_handlers.storage.volume.open import open_volume
from native_handlers.storage.volume.read import VolumeReader
from native_handlers.storage.volume.report import VolumeDescriber, is_expired, is_expired_long_enough
from native_handlers.storage.volume.state import NOTHING_SEEN, FilesSwapped, OpenRequest, SeenFiles, VolumeSharing
from native_handlers.storage.volume.tiering import serve_from_disk, serve_from_tier
from native_handlers.storage.volume.write import VolumeWriter
from native_handlers.storage.volume.write_state import DiskNow, IoHealth, WriteState

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from native_handlers.format.cached_needle import CachedNeedle
    from native_handlers.format.needle import Needle
    from native_handlers.format.replica_placement import ReplicaPlacement
    from native_handlers.format.super_block import SuperBlock
    from native_handlers.format.ttl import Ttl
    from native_handlers.format.vif import RemoteFile, VolumeInfo
    from native_handlers.storage.model.report import Finding, ReadOnlyReasons, VolumeReport
    from native_handlers.storage.system.files import Files, SharedFile
    from native_handlers.storage.volume.append_log import AppendLog
    from native_handlers.storage.volume.file_reader import FileReader
    from native_handlers.storage.volume.group_commit import WriteResult
    from native_handlers.storage.volume.handle import Destroyed
    from native_handlers.storage.volume.paths import VolumePaths
    from native_handlers.storage.volume.record_reader import NeedleRead
    from native_handlers.storage.volume.state import VolumeState
    from native_handlers.storage.volume.write import SmallChange
    from native_handlers.storage.volume.write_state import DiskContext

_NS = 10**9


class Volume:
    """An open volume. Every method may be called from any thread."""

    def __init__(
        self, state: VolumeState, disk: DiskContext, request: OpenRequest, clock_ns: Callable[[], int]
    ) -> None:
        self.id = state.paths.volume_id
        self.collection = state.paths.collection
        self._disk = disk
        self._files: Files = request.files
        self._clock_ns = clock_ns
        self._width = request.offset_width_bytes
        self._health = IoHealth()
        self._write_state = WriteState(state.damage, state.info, disk, self._health)
        self._damage = VolumeDamage(state.paths, request.damage)
        self._reader = VolumeReader(self._files, self.id, self._width, clock_ns, self._health, self._damage)
        self._describer = VolumeDescriber()
        self._handle = VolumeHandle(state, request, disk, self._write_state, clock_ns)
        stop, room, appended = self._write_state.stop, request.room, request.appended
        self._appender = Appender(self._files, self._width, clock_ns, self._health, stop, room, appended)
        self._writer = VolumeWriter(self._handle, disk, self._write_state, self._reader, self._appender)
        self.claim = FilesClaim(self.id, self._write_state)
        self.marks = VolumeMarks(self._handle, disk, self._write_state, self._damage)
        self.compaction = Compaction(self._handle, disk, self._write_state, self._health, clock_ns, self.claim)

    # ---- facts

    @property
    def handle(self) -> VolumeHandle:
        """The owner of the volume's open files and of the one lock that its writers take."""
        return self._handle

    @property
    def waiting_writes(self) -> int:
        """The number of writers that wait for the sync of other writers."""
        return self._writer.waiting_count

    @property
    def paths(self) -> VolumePaths:
        return self._handle.paths

    @property
    def super_block(self) -> SuperBlock:
        """The super block; the .vif takes precedence where the two differ. Replaced as a whole when it changes."""
        return self._handle.super_block

    @property
    def version(self) -> int:
        return self._handle.super_block.version

    @property
    def ttl(self) -> Ttl:
        return self._handle.super_block.ttl

    @property
    def replica_placement(self) -> ReplicaPlacement:
        return self._handle.super_block.replica_placement

    @property
    def copy_count(self) -> int:
        """The number of copies that the volume must have, this one included."""
        return self._handle.super_block.replica_placement.copy_count

    @property
    def compaction_revision(self) -> int:
        return self._handle.super_block.compaction_revision

    @property
    def disk_type(self) -> str:
        return self._disk.disk_type

    @property
    def disk_id(self) -> int:
        return self._disk.disk_id

    @property
    def is_in_service(self) -> bool:
        """False while the disk is out of service; the volume then refuses reads and writes."""
        return not self._disk.is_unavailable

    def check_in_service(self) -> None:
        """Raises DiskUnavailable while the disk is out of service."""
        self._disk.check_in_service()

    @property
    def is_closed(self) -> bool:
        return self._handle.is_closed

    @property
    def info(self) -> VolumeInfo:
        """The content of the .vif, as this process last read or wrote it; see docs/sharing.md for who may write it."""
        return replace(self._handle.info, version=self.version, bytes_offset=self._width)

    @property
    def size_bytes(self) -> int:
        """The length of .dat; 0 when closed."""
        state = self._handle.refresh()
        return state.dat_end_bytes if state else 0

    @property
    def index_size_bytes(self) -> int:
        """The length of .idx; 0 when closed."""
        state = self._handle.refresh()
        return state.idx_end_bytes if state else 0

    @property
    def is_empty(self) -> bool:
        """Whether the volume has never held a needle. Raises VolumeClosed."""
        self._handle.refresh()
        state = self._handle.get()
        return state.dat_end_bytes <= SUPER_BLOCK_BYTES and not state.index.counters.content_bytes

    @property
    def is_tiered(self) -> bool:
        """Whether the data is read from a remote tier, as this process last saw the volume."""
        state = self._handle.opened
        return state is not None and state.is_tiered

    def serve_from_tier(self, uploaded: VolumeState, file: RemoteFile, *, keep_local: bool) -> None:
        """See `tiering.serve_from_tier`."""
        now_s = self._clock_ns() // _NS
        serve_from_tier(self._handle, self._write_state, uploaded, file, keep_local=keep_local, now_s=now_s)

    def serve_from_disk(self, arrived: Path) -> SharedFile:
        """See `tiering.serve_from_disk`."""
        return serve_from_disk(self._handle, self._write_state, arrived, now_s=self._clock_ns() // _NS)

    @property
    def has_needles(self) -> bool:
        """Whether the index has entries, as this process last saw it. Deleted needles count. False when closed."""
        state = self._handle.opened
        return state is not None and bool(state.index.counters.file_count)

    def room_left_bytes(self, size_limit_bytes: int) -> int:
        """By how many bytes the volume will still grow before it is full; 0 when it is read-only. Waits for no disk."""
        state = self._handle.glance()
        if state is None or self._write_state.is_read_only:
            return 0
        return max(size_limit_bytes - state.dat_end_bytes - state.idx_end_bytes, 0)

    @property
    def read_only_reasons(self) -> ReadOnlyReasons:
        """Why the volume refuses writes now; `is_read_only` of the result is False when it takes them."""
        self._refresh()
        return self._write_state.reasons

    @property
    def is_read_only(self) -> bool:
        self._refresh()
        return self._write_state.is_read_only

    def _refresh(self) -> None:
        with suppress(ReadFailed):  # the reasons are not on the disk
            self._handle.refresh()

    @property
    def is_damaged(self) -> bool:
        """Whether a read found damage since the volume was opened, or marked writable."""
        return bool(self._damage.count)

    def report(self, size_limit_bytes: int = 0, disk_now: DiskNow | None = None) -> VolumeReport | None:
        """The volume's report for heartbeats and /status; None when closed. The size limit matters for expiry only.

        Args:
            disk_now: the state of the volume's disk, where the caller knows it already. The disk is then not asked: the
                report may lack changes of other processes that memory does not hold.

        Raises:
            ReadFailed: without `disk_now`: the changes of other processes could not be read.
        """
        files, disk = self._handle, self._disk
        state = files.opened
        # Only in a shared volume another process may have changed the state.
        if state is not None and state.share is not None and not (disk_now and disk_now.is_unavailable):
            state = files.refresh() if disk_now is None else files.glance()
        if state is None:
            return None
        is_space_low, is_unavailable, lost = disk_now or DiskNow.of(disk)
        is_hidden = is_unavailable or self._write_state.is_failing or self in lost
        is_hidden = is_hidden or (files.super_block.ttl.count > 0 and self.is_expired(size_limit_bytes))
        flags = self._write_state.flags(is_space_low=is_space_low)
        return self._describer.describe(state, disk, flags, is_announced=not is_hidden)

    def is_expired(self, size_limit_bytes: int) -> bool:
        """Whether the TTL has passed since the last modification. Never while the size limit is unknown (0). Waits for
        no disk: without the volume's lock, a modification by another process may be missed.
        """
        if not (self.ttl and size_limit_bytes):
            return False
        state = self._handle.glance()
        if state is None or state.dat_end_bytes <= SUPER_BLOCK_BYTES:
            return False
        return is_expired(self.ttl, self._last_modified_s, self._clock_ns() // _NS)

    @property
    def _last_modified_s(self) -> int:
        state = self._handle.opened
        return state.last_modified_s if state else self._clock_ns() // _NS

    @property
    def is_expired_long_enough(self) -> bool:
        """Whether the volume expired so long ago that it is to be deleted."""
        return is_expired_long_enough(self.ttl, self._last_modified_s, self._clock_ns() // _NS)

    def file_sizes(self) -> tuple[int, int]:
        """The lengths of .dat and .idx at one moment: each row of .idx has its whole record. Raises VolumeClosed."""
        with self._handle.begin_write():
            state = self._handle.get()
            return state.dat_end_bytes, state.idx_end_bytes

    # ---- reading

    def open_for_copy(self, extension: str) -> FileReader:
        """Opens one of the volume's files for reading from its start. The caller closes it. For .dat and .idx these are
        the files that are open now; a swap, a close or a removal of the volume does not disturb the reader.

        Raises:
            VolumeClosed: the volume is not open.
            OSError: the file cannot be opened; FileNotFoundError when there is none.
            DiskUnavailable: the disk is out of service; no file was opened.
        """
        self._disk.check_in_service()
        while True:
            state = self._handle.get()
            try:
                return open_volume_file(self._files, state, extension)
            except FileRetired:
                # Swapped or closed in between: try again with the new state.
                continue

    def read(
        self,
        needle_id: int,
        *,
        cookie: int | None = None,
        read_deleted: bool = False,
        data: bool = True,
        cached_only: bool = False,
    ) -> NeedleRead:
        """Reads a needle. The caller releases the result.

        As in upstream, a needle with an empty payload is found whatever `cookie` says.

        Args:
            cookie: None does not compare.
            read_deleted: finds a needle that was deleted since the volume was opened.
            data: False leaves a large payload on disk, a compressed one too; see `NeedleRead.check_payload`.
            cached_only: never waits for a disk and never computes for long; for callers that must not block.

        Raises:
            NotCached: with `cached_only`, the needle is not in memory, or is too large to be checked on the event loop.
            NotFound: there is no such needle, it has expired, or the volume is closed.
            Deleted: the needle was deleted.
            CookieMismatch: the needle has another cookie.
            FormatError: the record is corrupt.
            ReadFailed: the disk failed.
            DiskUnavailable: the disk is out of service; nothing was read.
        """
        while True:
            state = self._handle.acquire()
            if state is None:
                raise NotFound(self.id, needle_id)
            try:
                return self._reader.read(
                    state, needle_id, cookie, read_deleted=read_deleted, data=data, cached_only=cached_only
                )
            except FilesSwapped:
                if cached_only:
                    raise NotCached from None
                self._handle.rejoin(state)
            finally:
                state.dat.release()

    def read_cookie(self, needle_id: int) -> int:
        """The cookie in the header of a needle's record, whatever the rest of the record is. Raises as `read`."""
        while True:
            state = self._handle.acquire()
            if state is None:
                raise NotFound(self.id, needle_id)
            try:
                return self._reader.read_cookie(state, needle_id)
            except FilesSwapped:
                self._handle.rejoin(state)
            finally:
                state.dat.release()

    def try_read_cached(
        self, needle_id: int, cookie: int, place: Callable[[int], memoryview | None] | None = None
    ) -> CachedNeedle | None:
        """The needle, if it is in memory, has no pairs and is no manifest. None means that the caller uses `read`.

        Args:
            place: gets the length of a record of more than 128 KiB and returns memory for it, or None; the needle's
                data is then a part of that memory. Without memory such a needle is not read.

        Raises:
            DiskUnavailable: the disk is out of service; nothing was read.
        """
        state = self._handle.acquire()
        if state is None:
            return None
        try:
            return self._reader.try_read_cached(state, needle_id, cookie, place)
        except FilesSwapped:
            return None
        finally:
            state.dat.release()

    def read_blob(self, offset_bytes: int, size: int) -> bytes:
        """The bytes at a place of .dat; see `blobs.read_blob`. Raises VolumeClosed as well."""
        with self._handle.held() as state:
            return read_blob(self._reader, state, offset_bytes, size)

    def read_meta(self, offset_bytes: int, size: int) -> Needle:
        """The needle at a place of .dat, without its payload; see `blobs.read_meta`. Raises VolumeClosed as well."""
        with self._handle.held() as state:
            return read_meta(self._reader, state, offset_bytes, size)

    def live_needles(self, is_wanted: Callable[[], bool]) -> Generator[Needle]:
        """Yields every live needle; see `walk_live_needles`. Closing or deleting the volume meanwhile does not wait.

        Close the iterator when it is not used to its end. Raises VolumeClosed as well.
        """
        with self._handle.held() as state:
            try:
                yield from walk_live_needles(self._reader, state, is_wanted)
            except FilesSwapped:
                raise VolumeClosed(self.id) from None

    @contextmanager
    def open_log(self) -> Iterator[AppendLog]:
        """The log of appends so far. Inside, the files stay open even if the volume is closed or deleted.

        Raises:
            VolumeClosed: the volume is not open.
            DiskUnavailable: the disk is out of service; nothing was read.
        """
        self._disk.check_in_service()
        with self._handle.begin_write():
            state = self._handle.get()
            log = log_of(self._files, state, self._width)
            state.dat.retain()
            state.idx.retain()
        try:
            yield log
        except FormatError as error:
            self._damage.found(0, error)
            raise
        finally:
            log.dat.release()
            log.idx.release()

    # ---- sharing

    def share(self, create: Callable[[Files, VolumePaths, int], tuple[int, VolumeSharing]]) -> int:
        """A descriptor with which another process opens this volume; `shared.attach.share_volume` calls this.

        `create` makes the descriptor and this process's share. A second call gives the same descriptor. A move of the
        data to a tier and a move of the index end the sharing: the other processes find the volume closed.

        Raises:
            VolumeClosed: the volume is closed.
            WriteFailed: there is no memory or no descriptor left, or the data is in a remote tier; nothing changed.
        """
        return self._handle.share(create)

    def detach(self) -> None:
        """Closes the volume for this process alone, which has attached to it. A change of this process that is under
        way is waited for. Readers under way finish.
        """
        self._handle.detach()

    # ---- writing

    def write(self, needle: Needle, *, check_cookie: bool = True, fsync: bool = False) -> WriteResult:
        """Stores `needle`. Computes its checksum and append time, and gives it the volume's TTL if it has none.

        Returns after both files hold the needle; with `fsync` after both are on disk. The same payload under the same
        cookie is not written again (unless the volume has a TTL).

        Args:
            check_cookie: False lets a needle with cookie 0 take over the cookie of the one it replaces.

        Raises:
            VolumeClosed, ReadOnly, SizeLimitExceeded, AppendOffsetExceeded, NeedleTooLarge: nothing was written.
            NeedleTooWide: the metadata does not fit a record; nothing was written.
            CookieMismatch: a needle of that id with another cookie exists, or existed since the volume was opened.
            ExistingNeedleUnreadable: the existing needle cannot be read; nothing was written.
            WriteFailed: the disk failed. The write was undone, or the volume is read-only from now on.
            DiskUnavailable: the disk is out of service; nothing was written.
        """
        return self._writer.write(needle, check_cookie=check_cookie, fsync=fsync)

    def try_together(self, changes: Sequence[SmallChange]) -> None:
        """Makes all `changes` that can be made without an error, with one write of each file, and sets their `result`.

        A change without a result has not happened: its caller uses `write` or `delete`, and gets the error from there.
        None happens where the disk fails, or where another thread has the volume's lock, which this does not wait for.
        """
        self._writer.try_together(changes)

    def try_synced(self, changes: Sequence[SmallChange]) -> None:
        """Stores the needles of all `changes` that can be stored without an error, has them on disk, and sets their
        `result`. Shares its syncs with `write`.

        A change without a result has not happened, as with `try_together`. Deletions are not for this.
        """
        self._writer.try_synced(changes)

    def write_blob(self, needle_id: int, blob: bytes, size: int) -> WriteResult:
        """Stores a record unchanged, except for its append time, under `needle_id`. Replaces the needle that was there.

        The cookie is not compared. A record that is stored already is not written again.

        Raises:
            VolumeClosed, ReadOnly, BlobRefused, SizeLimitExceeded, AppendOffsetExceeded: nothing was written.
            WriteFailed, DiskUnavailable: as with `write`.
        """
        return self._writer.write_blob(needle_id, blob, size)

    def delete(self, needle_id: int, cookie: int, *, checksum: int = 0) -> int:
        """Deletes a needle and returns the size of its body; 0 when there is none or it was deleted before.

        The cookie is recorded, not compared: callers read and compare first. `checksum` goes into the record of the
        deletion, where upstream leaves that of the needle it read.

        Raises:
            VolumeClosed, ReadOnly: nothing was written. Low disk space does not forbid deleting.
            WriteFailed: as with `write`.
            DiskUnavailable: the disk is out of service; nothing was written.
        """
        return self._writer.delete(needle_id, cookie, checksum=checksum)

    # ---- state

    @property
    def awaits_room(self) -> bool:
        """Whether a repair that opening the volume found necessary waits for room on the disk."""
        state = self._handle.opened
        return state is not None and state.awaits_room

    def repair(self) -> list[Finding]:
        """Does the repair that waits for room. Returns its findings. Raises as `VolumeMarks.mark_writable`."""
        findings: list[Finding] = []
        self._handle.repair(findings)
        return findings

    def move_index(self, directory: Path) -> None:
        """Moves .idx to `directory`; see `index_place.move_index`.

        Raises:
            VolumeClosed: the volume is not open.
            IndexMoveFailed: the .idx is where it was.
            DiskUnavailable: the disk is out of service; nothing was moved.
        """
        self._disk.check_in_service()
        with self._handle.begin_write():
            # Other processes find the .idx by the volume's paths.
            self._handle.unshare()
            move_index(self._files, self._handle.get(), directory)

    def sync(self) -> None:
        """Puts both files on disk. Does nothing when the volume is closed.

        Raises:
            WriteFailed: they may not be on disk.
        """
        with self._handle.begin_write():
            state = self._handle.opened
            if state is not None:
                self._appender.sync(state)

    def sync_in_passing(self) -> None:
        """As `sync`, but writes most of the data before it takes the lock, so writers wait less. Errors as `sync`."""
        state = self._handle.opened
        if state is not None:
            for file in (state.dat, state.idx):
                write_back(self._files, file.path)
        self.sync()

    def close(self) -> None:
        """Syncs and closes the volume. Readers under way finish; later callers get an error. A compaction under way
        ends, and its uncommitted copy is removed.

        The process that opened a shared volume closes it in every process; another one closes it for itself alone.

        Raises:
            WriteFailed: the sync failed; the volume is closed all the same.
        """
        with self.compaction.abandoned():
            self._handle.close(self._appender.sync)

    def destroy(
        self,
        *,
        keep_vif: bool,
        keep_index_dir: bool = False,
        may_go: Callable[[], bool] | None = None,
        forget: Callable[[], None] | None = None,
        keep_remote: bool = True,
    ) -> Destroyed | None:
        """Closes the volume and removes its files; `keep_vif` when erasure coding files share the .vif, and
        `keep_index_dir` when a volume of another data directory has the files in the index directory.

        The object of a tiered volume is not deleted here, because a tier may take long to answer. The caller deletes
        the object when the removal of the files is on disk, and holds no lock then.

        Args:
            may_go: asked under the lock, when no write is possible; on False nothing changes and None is returned.
            forget: called after the close, before the files are removed.
            keep_remote: the result names no object, because the object is to stay.

        Raises:
            OSError: some files could not be removed; the volume is closed. The object stays, and the log names it.
            StorageError: of `may_go`, or the lock of a shared volume could not be taken; nothing changed.
        """
        with self.compaction.abandoned():
            kept = {"keep_vif": keep_vif, "keep_index_dir": keep_index_dir, "keep_remote": keep_remote}
            return self._handle.destroy(**kept, may_go=may_go, forget=forget)


def open_existing(
    request: OpenRequest,
    disk: DiskContext,
    clock_ns: Callable[[], int],
    findings: list[Finding],
    seen: SeenFiles = NOTHING_SEEN,
) -> Volume:
    """Opens the volume of `request`. `seen`, errors and `findings` are those of `open_volume`."""
    return Volume(open_volume(request, findings, seen), disk, request, clock_ns)
