"""One volume: append, read and delete needles in a .dat file through its index.

Its jobs lie beside it: `volume_files` owns the lock and what is open, `volume_writer` appends, `volume_read` reads.

Writers hold the volume's one lock from the look at the old needle to the published index entry. An append writes
.dat, then the .idx row, then enters the needle in the index; it is acknowledged after that, and with `fsync` after
both files are on disk. A failed append takes back what it wrote; if that fails too the volume stops writing.

Readers take no lock: they look the needle up and read its record with one pread. They hold on to the open files
while they do, so closing, deleting or swapping the volume waits for nobody and disturbs nobody.

Source: weed/storage/volume_write.go, volume_read.go, volume.go.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.storage import expiry
from native_handlers.storage.append import Appender
from native_handlers.storage.append_log import log_of
from native_handlers.storage.blobs import read_blob, read_meta
from native_handlers.storage.errors import (
    IndexMoveFailed,
    NotFound,
    VolumeClosed,
)
from native_handlers.storage.files import OS_FILES, FileRetired, NotCached
from native_handlers.storage.index_place import move_index
from native_handlers.storage.io_health import IoHealth
from native_handlers.storage.live_needles import walk_live_needles
from native_handlers.storage.outgoing import open_volume_file, write_back
from native_handlers.storage.volume_attach import attach_share
from native_handlers.storage.volume_files import VolumeFiles
from native_handlers.storage.volume_open import OpenRequest, open_volume
from native_handlers.storage.volume_read import VolumeReader
from native_handlers.storage.volume_report import PhantomCheck, describe_volume
from native_handlers.storage.volume_share import FilesSwapped
from native_handlers.storage.volume_writer import VolumeWriter
from native_handlers.storage.write_gate import WriteGate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from native_handlers.format.needle import Needle
    from native_handlers.format.plain_needle import PlainNeedle
    from native_handlers.format.replica_placement import ReplicaPlacement
    from native_handlers.format.ttl import Ttl
    from native_handlers.format.vif import VolumeInfo
    from native_handlers.storage.append_log import AppendLog
    from native_handlers.storage.files import Files
    from native_handlers.storage.group_commit import WriteResult
    from native_handlers.storage.needle_read import NeedleRead
    from native_handlers.storage.outgoing import OutgoingFile
    from native_handlers.storage.report import Finding, ReadOnlyReasons, VolumeReport
    from native_handlers.storage.volume_open import Opened
    from native_handlers.storage.volume_paths import VolumePaths
    from native_handlers.storage.write_gate import VolumeHome

_NS = 10**9


class Volume:
    """An open volume. Every method may be called from any thread."""

    def __init__(self, opened: Opened, home: VolumeHome, request: OpenRequest, clock_ns: Callable[[], int]) -> None:
        self.id = opened.paths.volume_id
        self.collection = opened.paths.collection
        self._home = home
        self._files: Files = request.files
        self._clock_ns = clock_ns
        self._width = request.offset_width_bytes
        self._health = IoHealth()
        self._gate = WriteGate(opened, home, self._health)
        self._reader = VolumeReader(self._files, self.id, self._width, clock_ns, self._health)
        self._phantom = PhantomCheck(home)
        self._open_files = VolumeFiles(opened, request, home, self._gate, clock_ns)
        self._lock = self._open_files.lock
        self._appender = Appender(self._files, self._width, clock_ns, self._health, self._gate.stop)
        self._writer = VolumeWriter(self._open_files, home, self._gate, self._reader, self._appender)

    # ---- facts

    @property
    def paths(self) -> VolumePaths:
        return self._open_files.paths

    @property
    def version(self) -> int:
        return self._open_files.super_block.version

    @property
    def ttl(self) -> Ttl:
        return self._open_files.super_block.ttl

    @property
    def replica_placement(self) -> ReplicaPlacement:
        return self._open_files.super_block.replica_placement

    @property
    def compaction_revision(self) -> int:
        return self._open_files.super_block.compaction_revision

    @property
    def disk_type(self) -> str:
        return self._home.disk_type

    @property
    def disk_id(self) -> int:
        return self._home.disk_id

    @property
    def is_in_service(self) -> bool:
        """False while its disk is out of service: it refuses reads and writes then."""
        return not self._home.is_unavailable

    def check_in_service(self) -> None:
        """Raises DiskUnavailable while its disk is out of service."""
        self._home.check_in_service()

    @property
    def needs_replication(self) -> bool:
        return self.replica_placement.copy_count > 1

    @property
    def is_closed(self) -> bool:
        return self._open_files.look() is None

    @property
    def info(self) -> VolumeInfo:
        """What its .vif says, as this process last read or wrote it; see docs/sharing.md for who may write it."""
        return replace(self._open_files.info, version=self.version, bytes_offset=self._width)

    @property
    def has_remote_file(self) -> bool:
        """Whether its data is in remote storage; no such volume can be open yet."""
        return bool(self._open_files.info.files)

    @property
    def size_bytes(self) -> int:
        """The length of .dat; 0 when closed."""
        opened = self._open_files.look()
        return opened.dat_end_bytes if opened else 0

    @property
    def index_size_bytes(self) -> int:
        """The length of .idx; 0 when closed."""
        opened = self._open_files.look()
        return opened.idx_end_bytes if opened else 0

    @property
    def is_empty(self) -> bool:
        """Whether it has never held a needle. Raises VolumeClosed: of a closed one nothing is known."""
        self._open_files.look()
        opened = self._open_files.get()
        return opened.dat_end_bytes <= SUPER_BLOCK_BYTES and not opened.index.counters.content_bytes

    @property
    def read_only_reasons(self) -> ReadOnlyReasons:
        """Why it refuses writes now; `is_read_only` of the result is False when it takes them."""
        self._open_files.look()
        return self._gate.reasons

    @property
    def is_read_only(self) -> bool:
        return self.read_only_reasons.is_read_only

    @property
    def is_marked_on_disk(self) -> bool:
        """Whether its .vif says that it is read-only, so that whoever opens it next knows."""
        return self._open_files.info.read_only

    def report(self, size_limit_bytes: int = 0) -> VolumeReport | None:
        """What a heartbeat and /status say of it; None when it is closed. The limit matters for expiry only."""
        opened = self._open_files.look()
        if opened is None:
            return None
        is_out = self._health.is_quarantined or self._home.is_unavailable or self.is_expired(size_limit_bytes)
        is_hidden = is_out or self._phantom.is_phantom(opened, self._clock_ns())
        return describe_volume(self, opened, is_announced=not is_hidden)

    def is_expired(self, size_limit_bytes: int) -> bool:
        """Whether its TTL has passed since the last modification. Never while the size limit is unknown (0)."""
        if not size_limit_bytes or self.size_bytes <= SUPER_BLOCK_BYTES:
            return False
        return expiry.is_expired(self.ttl, self._last_modified_s, self._clock_ns() // _NS)

    @property
    def _last_modified_s(self) -> int:
        opened = self._open_files.opened
        return opened.last_modified_s if opened else self._clock_ns() // _NS

    @property
    def is_expired_long_enough(self) -> bool:
        """Whether it expired so long ago that it is to be deleted."""
        return expiry.is_expired_long_enough(self.ttl, self._last_modified_s, self._clock_ns() // _NS)

    def file_sizes(self) -> tuple[int, int]:
        """The lengths of .dat and .idx at one moment: every row of the one leads to a whole record of the other.

        Raises:
            VolumeClosed: the volume is not open.
        """
        with self._lock:
            opened = self._open_files.get()
            return opened.dat_end_bytes, opened.idx_end_bytes

    # ---- reading

    def open_for_copy(self, extension: str) -> OutgoingFile:
        """One of the volume's files, to be read from its start and closed by the caller. .dat and .idx are those that
        are open now; a swap, a close or a removal of the volume does not disturb the reader.

        Raises:
            VolumeClosed: the volume is not open.
            OSError: the file cannot be opened; FileNotFoundError when there is none.
            DiskUnavailable: the disk is out of service; nothing was tried.
        """
        self._home.check_in_service()
        while True:
            opened = self._open_files.get()
            try:
                return open_volume_file(self._files, opened, extension)
            except FileRetired:
                # Swapped or closed in between: look again.
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
        """The needle. The caller releases what it gets.

        A needle with an empty payload is found whatever `cookie` says: its record is not read.

        Args:
            cookie: None does not compare.
            read_deleted: finds a needle that was deleted since the volume was opened.
            data: False leaves a large payload on disk, a compressed one too; see `NeedleRead.check_payload`.
            cached_only: never waits for a disk, nor works long; for who must not block.

        Raises:
            NotCached: with `cached_only`, the needle is not in memory, or is too large to be checked in passing.
            NotFound: no such needle, an expired one, or the volume is closed.
            Deleted: it was deleted.
            CookieMismatch: it has another cookie.
            FormatError: its record is corrupt.
            ReadFailed: the disk failed.
            DiskUnavailable: the disk is out of service; nothing was tried.
        """
        while True:
            opened = self._open_files.hold()
            if opened is None:
                raise NotFound(self.id, needle_id)
            try:
                return self._reader.read(
                    opened, needle_id, cookie, read_deleted=read_deleted, data=data, cached_only=cached_only
                )
            except FilesSwapped:
                if cached_only:
                    raise NotCached from None
                self._open_files.rejoin(opened)
            finally:
                opened.dat.release()

    def read_plain(
        self, needle_id: int, cookie: int, place: Callable[[int], memoryview | None] | None = None
    ) -> PlainNeedle | None:
        """The needle, if it is a plain one that can be had at once from memory; None leaves it to `read`.

        Args:
            place: asked where to put a record of more than 128 KiB, as long as it is; the needle's data is then a part
                of that. Without one, or where it has no place, such a needle cannot be had at once.

        Raises:
            DiskUnavailable: the disk is out of service; nothing was tried.
        """
        opened = self._open_files.hold()
        if opened is None:
            return None
        try:
            return self._reader.read_plain(opened, needle_id, cookie, place)
        except FilesSwapped:
            return None
        finally:
            opened.dat.release()

    def read_blob(self, offset_bytes: int, size: int) -> bytes:
        """What lies at a place of .dat; see `blobs.read_blob`. Raises VolumeClosed as well."""
        with self._open_files.held() as opened:
            return read_blob(self._reader, opened, offset_bytes, size)

    def read_meta(self, offset_bytes: int, size: int) -> Needle:
        """The needle at a place of .dat, without its payload; see `blobs.read_meta`. Raises VolumeClosed as well."""
        with self._open_files.held() as opened:
            return read_meta(self._reader, opened, offset_bytes, size)

    def live_needles(self, is_wanted: Callable[[], bool]) -> Generator[Needle]:
        """Every live needle; see `walk_live_needles`. The volume may be closed or deleted meanwhile: nobody waits.

        Close the iterator when it is not taken to its end. Raises VolumeClosed as well.
        """
        with self._open_files.held() as opened:
            try:
                yield from walk_live_needles(self._reader, opened, is_wanted)
            except FilesSwapped:
                raise VolumeClosed(self.id) from None

    @contextmanager
    def open_log(self) -> Iterator[AppendLog]:
        """What was appended so far. Inside, the files stay open whatever becomes of the volume.

        Raises:
            VolumeClosed: the volume is not open.
            DiskUnavailable: the disk is out of service; nothing was tried.
        """
        self._home.check_in_service()
        with self._lock:
            opened = self._open_files.get()
            log = log_of(self._files, opened, self._width)
            opened.dat.retain()
            opened.idx.retain()
        try:
            yield log
        finally:
            log.dat.release()
            log.idx.release()

    # ---- sharing

    def share(self) -> int:
        """A descriptor with which `attach_volume` opens this volume in another process, which may then read and write.

        It stays this volume's: hand it over by inheritance, over a socket, or as a path in /proc. Asking again gives
        the same one. From the first time on each write takes a lock between processes.

        Raises:
            VolumeClosed: the volume is closed.
            WriteFailed: there is no memory or no descriptor for it; nothing changed.
        """
        return self._open_files.share()

    # ---- writing

    def write(self, needle: Needle, *, check_cookie: bool = True, fsync: bool = False) -> WriteResult:
        """Stores `needle`, computing its checksum and append time and giving it the volume's TTL if it has none.

        Returns after both files hold it; with `fsync` after both are on disk. The same payload again under the same
        cookie is not written again (unless the volume has a TTL).

        Args:
            check_cookie: False lets a needle with cookie 0 take over the cookie of the one it replaces.

        Raises:
            VolumeClosed, ReadOnly, SizeLimitExceeded, AppendOffsetExceeded, NeedleTooLarge: nothing was written.
            NeedleTooWide: its metadata does not fit a record; nothing was written.
            CookieMismatch: a needle of that id with another cookie exists, or existed since the volume was opened.
            ExistingNeedleUnreadable: that could not be found out.
            WriteFailed: the disk failed; what was written was taken back, or the volume is read-only from now on.
            DiskUnavailable: the disk is out of service; nothing was written.
        """
        return self._writer.write(needle, check_cookie=check_cookie, fsync=fsync)

    def write_blob(self, needle_id: int, blob: bytes, size: int) -> WriteResult:
        """Stores a record as it is, but for its append time, under `needle_id`, whatever was there before.

        The cookie is not compared. A record that is there already is not written again.

        Raises:
            VolumeClosed, ReadOnly, BlobRefused, SizeLimitExceeded, AppendOffsetExceeded: nothing was written.
            WriteFailed, DiskUnavailable: as with `write`.
        """
        return self._writer.write_blob(needle_id, blob, size)

    def delete(self, needle_id: int, cookie: int, *, checksum: int = 0) -> int:
        """Deletes a needle and returns the size of its body; 0 when it is not there or was deleted before.

        The cookie is recorded, not compared: callers compare by reading first. `checksum` goes into the record of
        the deletion, where upstream leaves that of the needle it read.

        Raises:
            VolumeClosed, ReadOnly: nothing was written. Low disk space does not forbid deleting.
            WriteFailed: as with `write`.
            DiskUnavailable: the disk is out of service; nothing was written.
        """
        return self._writer.delete(needle_id, cookie, checksum=checksum)

    # ---- state

    def mark_read_only(self, *, can_delete: bool, persist: bool) -> None:
        """Refuses writes from now on, and deletes too unless `can_delete`; with `persist` also after a restart.

        Raises:
            VolumeClosed: the volume is not open.
            WriteFailed: the .vif could not be written; the state is as before.
            DiskUnavailable: the same, for the disk is out of service. Without `persist` it is not asked.
        """
        if persist:
            self._home.check_in_service()
        with self._lock:
            opened = self._open_files.get()
            if persist:
                self._open_files.save_info(opened, read_only=True, can_delete=can_delete)
            self._gate.mark_read_only(can_delete=can_delete)

    def mark_writable(self) -> list[Finding]:
        """Takes writes again, and forgets I/O errors. Returns what was found if the files had to be opened anew.

        An operator's word stands above what is known of damage, as upstream has it.

        Raises:
            VolumeClosed: the volume is not open.
            VolumeLoadFailed: its files cannot be opened for writing; it is as before.
            WriteFailed: the .vif could not be written; it stays read-only.
            DiskUnavailable: the disk is out of service; nothing changed.
        """
        self._home.check_in_service()
        findings: list[Finding] = []
        with self._lock:
            opened = self._open_files.get()
            # What stopped a shared volume, another process may have found.
            is_stopped = opened.share is not None and self._gate.is_stopped
            if opened.damage is not None or not opened.is_writable or is_stopped:
                opened = self._open_files.reopen(opened, findings)
            self._open_files.save_info(opened, read_only=False, can_delete=False)
            opened.damage = None
            self._gate.mark_writable()
        return findings

    def move_index(self, directory: Path) -> None:
        """Has .idx lie in `directory` from now on; see `index_place.move_index`.

        Raises:
            VolumeClosed: the volume is not open.
            IndexMoveFailed: it is where it was; so for a shared volume, which other processes find by its paths.
            DiskUnavailable: the disk is out of service; nothing was tried.
        """
        self._home.check_in_service()
        with self._lock:
            opened = self._open_files.get()
            if opened.share is not None:
                raise IndexMoveFailed(self.id, OSError(errno.EBUSY, "it is shared with other processes"))
            move_index(self._files, opened, directory)

    def sync(self) -> None:
        """Puts both files on disk. Nothing happens when the volume is closed.

        Raises:
            WriteFailed: they may not be there.
        """
        with self._lock:
            opened = self._open_files.opened
            if opened is not None:
                self._appender.sync(opened)

    def sync_in_passing(self) -> None:
        """As `sync`, but what there is to write is written before writers have to wait. Errors as `sync`."""
        opened = self._open_files.opened
        if opened is not None:
            for file in (opened.dat, opened.idx):
                write_back(self._files, file.path)
        self.sync()

    def close(self) -> None:
        """Syncs and closes. Readers under way finish; whoever comes later is told that it is closed.

        Closed by who opened it, a shared volume is closed in every process; by who attached to it, only there.

        Raises:
            WriteFailed: the sync failed; it is closed all the same.
        """
        self._open_files.close(self._appender.sync)

    def destroy(
        self, *, keep_vif: bool, may_go: Callable[[], bool] | None = None, forget: Callable[[], None] | None = None
    ) -> bool:
        """Closes the volume and removes its files; `keep_vif` when erasure coding files share the .vif.

        Args:
            may_go: asked when nobody can write any more; where it says False, False is returned and nothing changed.
            forget: called when it is closed, before its files go.

        Raises:
            OSError: some files could not be removed; the volume is closed.
            StorageError: of `may_go`, or the lock of a shared volume could not be had; nothing changed.
        """
        return self._open_files.destroy(keep_vif=keep_vif, may_go=may_go, forget=forget)


def open_existing(
    request: OpenRequest, home: VolumeHome, clock_ns: Callable[[], int], findings: list[Finding]
) -> Volume:
    """The volume that `request` describes, open. Errors and `findings` are those of `open_volume`."""
    return Volume(open_volume(request, findings), home, request, clock_ns)


def attach_volume(fd: int, home: VolumeHome, clock_ns: Callable[[], int], files: Files = OS_FILES) -> Volume:
    """A volume that another process has open and shares, for reading and writing here. `fd` stays the caller's.

    Opening, marking read-only or writable and destroying are for the process that opened it.

    Raises:
        ShareLost: `fd` is no shared volume.
        VolumeClosed: it was closed.
        OSError, FormatError: its files cannot be opened.
    """
    share, opened = attach_share(files, fd)
    return Volume(opened, home, OpenRequest(files, opened.paths, share.width, now_s=0), clock_ns)
