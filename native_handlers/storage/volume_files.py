"""The open files of a volume: the lock that orders what changes them, who holds them, and who shares them.

Readers take no lock: they hold on to what is open while they read, so closing, deleting or swapping waits for nobody
and disturbs nobody. Where other processes have the volume open too, taking the lock brings `opened` up to date, and
leaving it tells them; see docs/sharing.md.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.storage.errors import ReadFailed, VolumeClosed, VolumeLoadFailed, WriteFailed
from native_handlers.storage.files import FileRetired
from native_handlers.storage.volume_attach import create_share, join_work
from native_handlers.storage.volume_info_file import save_volume_info
from native_handlers.storage.volume_open import OpenRequest, open_volume
from native_handlers.storage.volume_share import FilesSwapped
from native_handlers.storage.writer_lock import WriterLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.storage.files import Files
    from native_handlers.storage.report import Finding
    from native_handlers.storage.volume_open import Opened
    from native_handlers.storage.volume_share import VolumeShare
    from native_handlers.storage.write_gate import VolumeHome, WriteGate

_NS = 10**9


class VolumeFiles:
    """Made open, with what `open_volume` or `attach_share` gave. Methods that say so are called with the lock held."""

    def __init__(
        self, opened: Opened, request: OpenRequest, home: VolumeHome, gate: WriteGate, clock_ns: Callable[[], int]
    ) -> None:
        self.paths = request.paths
        self.files: Files = request.files
        self.offset_width_bytes = request.offset_width_bytes
        self.opened: Opened | None = opened
        """What is open, as this process last saw it; None when the volume is closed."""
        self.info = opened.info
        self.super_block = opened.super_block
        self.lock = WriterLock()
        """Serialises appends, deletes, and everything that changes or replaces `opened` or the read-only state."""
        self._volume_id = opened.paths.volume_id
        self._request = replace(request, create=None, preallocate_bytes=0)
        self._home = home
        self._gate = gate
        self._clock_ns = clock_ns
        self._shared_fd: int | None = None
        if opened.share is not None:
            self._take_part(opened.share)

    # ---- holding

    def get(self) -> Opened:
        """What is open, as this process last saw it. Raises VolumeClosed."""
        if self.opened is None:
            raise VolumeClosed(self._volume_id)
        return self.opened

    def hold(self) -> Opened | None:
        """The open files, whose .dat stays open until the caller releases it; None when the volume is closed.

        Raises:
            DiskUnavailable: the disk is out of service.
        """
        self._home.check_in_service()
        while True:
            opened = self.opened
            if opened is None:
                return None
            try:
                opened.dat.retain()
            except FileRetired:
                # Swapped or closed in between: look again.
                continue
            return opened

    @contextmanager
    def held(self) -> Iterator[Opened]:
        """The open files, up to date; .dat stays open inside. Raises VolumeClosed, and as `hold` and `look`."""
        self.look()
        opened = self.hold()
        if opened is None:
            raise VolumeClosed(self._volume_id)
        try:
            yield opened
        finally:
            opened.dat.release()

    def look(self) -> Opened | None:
        """What is open, up to date with what other processes did. Raises ReadFailed when that cannot be found out."""
        while (opened := self.opened) is not None and opened.share is not None:
            try:
                opened.share.look(opened)
            except FilesSwapped:
                self.rejoin(opened)
            else:
                return opened
        return opened

    def rejoin(self, opened: Opened) -> None:
        """Other files are the volume's now, or it was closed: whoever takes the lock finds out. Raises ReadFailed."""
        try:
            with self.lock:
                pass
        except WriteFailed as error:
            raise ReadFailed(opened.dat.path, 0, OSError(str(error))) from error

    # ---- sharing

    def share(self) -> int:
        """See `Volume.share`."""
        with self.lock:
            opened = self.get()
            if self._shared_fd is None:
                try:
                    fd, share = create_share(self.files, opened.paths, self.offset_width_bytes)
                    share.bind(self._gate)
                    share.adopt(opened, files_generation=1)
                except OSError as error:
                    raise WriteFailed(opened.idx.path, 0, error) from error
                self._shared_fd = fd
                self._take_part(share)
            return self._shared_fd

    def _take_part(self, share: VolumeShare) -> None:
        share.bind(self._gate)

        def join() -> None:
            assert self.opened is not None
            opened, problem = join_work(share, self.opened, self._replace, self._reopen_for_repair)
            if opened is None:
                self._replace(None)
            if problem is not None:
                self._gate.stop(problem)

        def part(is_sound: bool) -> None:  # noqa: FBT001  called by the lock alone
            share.finish(self.opened, is_sound=is_sound)
            if self.opened is None:
                self.lock.join = self.lock.part = None
                share.release()
                if self._shared_fd is not None:
                    self.files.close(self._shared_fd)
                    self._shared_fd = None

        self.lock.join, self.lock.part = join, part

    # ---- replacing

    def _replace(self, opened: Opened | None) -> None:
        old, self.opened = self.opened, opened
        if opened is not None:
            self.super_block, self.info = opened.super_block, opened.info
        if old is not None:
            old.release()

    def reopen(self, old: Opened, findings: list[Finding]) -> Opened:
        """Opens the volume anew for writing in place of `old`, and has it shared as that was. Hold the lock.

        Raises:
            VolumeLoadFailed: its files cannot be opened, or not for writing; `old` is what is open.
            WriteFailed: it cannot be shared; `old` is what is open.
        """
        request = replace(self._request, now_s=self._clock_ns() // _NS, force_repair=True, forced_reason=None)
        opened = open_volume(request, findings)
        if not opened.is_writable:
            opened.release()
            raise VolumeLoadFailed(old.dat.path.with_suffix(""), opened.damage or "its files cannot be written")
        if old.share is not None:
            try:
                old.share.adopt(opened, files_generation=old.files_generation + 1)
            except OSError as error:
                opened.release()
                raise WriteFailed(opened.idx.path, 0, error) from error
        self._replace(opened)
        return opened

    def _reopen_for_repair(self, old: Opened) -> Opened:
        return self.reopen(old, [])

    def save_info(self, opened: Opened, *, read_only: bool, can_delete: bool) -> None:
        """Has the .vif say how the volume is marked. Hold the lock.

        Raises:
            WriteFailed: it could not be written; `info` is as before.
        """
        info = replace(self.info, read_only=read_only, read_only_can_delete=read_only and can_delete)
        path = opened.paths.file(".vif")
        try:
            self.info = save_volume_info(self.files, path, info, self.super_block.ttl, self._clock_ns() // _NS)
        except OSError as error:
            raise WriteFailed(path, 0, error) from error

    # ---- closing

    def close(self, sync: Callable[[Opened], None]) -> None:
        """Closes, after `sync` of what is open for writing; closes too when that raises. See `Volume.close`."""
        with self.lock:
            opened = self.opened
            if opened is None:
                return
            try:
                if opened.is_writable:
                    sync(opened)
            finally:
                self._shut(opened)

    def destroy(
        self, *, keep_vif: bool, may_go: Callable[[], bool] | None = None, forget: Callable[[], None] | None = None
    ) -> bool:
        """Closes without a sync, and removes the files; returns whether it did. See `Volume.destroy`."""
        with self.lock:
            # Here and not before: until the lock is had, a write may be acknowledged.
            if may_go is not None and not may_go():
                return False
            if self.opened is not None:
                self._shut(self.opened)
            if forget is not None:
                forget()
            for path in self.paths.owned(keep_vif=keep_vif):
                self.files.unlink(path)
            for directory in dict.fromkeys((self.paths.data_dir, self.paths.index_dir)):
                self.files.sync_directory(directory)
            return True

    def _shut(self, opened: Opened) -> None:
        if opened.share is not None and self._shared_fd is not None:
            opened.share.retire()
        self._replace(None)
