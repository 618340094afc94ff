"""The open files of a volume: the lock that orders their changes, their readers, and the processes that share them.

Readers take no lock: they retain the open files while they read. So closing, deleting or swapping waits for no reader
and disturbs none. Where other processes have the volume open too, taking the lock brings `opened` up to date, and
releasing it publishes the changes; see docs/sharing.md.
"""

from __future__ import annotations

import errno
import logging
import threading
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.errors import FormatError
from native_handlers.storage.model.errors import (
    LeftToOwner,
    ReadFailed,
    StorageError,
    VolumeClosed,
    VolumeLoadFailed,
    WriteFailed,
)
from native_handlers.storage.system.files import FileRetired
from native_handlers.storage.volume.compaction_swap import finish_swap, is_decided
from native_handlers.storage.volume.info_file import save_volume_info
from native_handlers.storage.volume.open import open_volume
from native_handlers.storage.volume.state import FilesSwapped, OpenRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.format.vif import RemoteFile
    from native_handlers.storage.model.report import Finding
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths
    from native_handlers.storage.volume.state import VolumeSharing, VolumeState
    from native_handlers.storage.volume.write_state import DiskContext, WriteState

_log = logging.getLogger(__name__)
_NS = 10**9


class Destroyed(NamedTuple):
    """A volume is closed, and its files are gone. `remote`: its object in a tier, which nothing names any more."""

    remote: RemoteFile | None = None


class VolumeHandle:
    """The open files of a volume, and its lock. A new handle is open, with the result of `open_volume` or
    `attach_share`. Some methods need the lock; their docstrings say so.
    """

    def __init__(
        self,
        state: VolumeState,
        request: OpenRequest,
        disk: DiskContext,
        write_state: WriteState,
        clock_ns: Callable[[], int],
    ) -> None:
        self.paths = request.paths
        self.files: Files = request.files
        self.offset_width_bytes = request.offset_width_bytes
        self.opened: VolumeState | None = state
        """The open state as this process last saw it; None when the volume is closed."""
        self.info = state.info
        self.super_block = state.super_block
        self._lock = _WriterLock()
        self._volume_id = state.paths.volume_id
        self._request = replace(request, create=None, preallocate_bytes=0) if request.create else request
        self._disk = disk
        self.write_state = write_state
        self._clock_ns = clock_ns
        self._shared_fd: int | None = None
        if state.share is not None:
            state.share.bind(write_state)
            self._take_part(state.share)

    # ---- writing

    @property
    def is_locked(self) -> bool:
        """Whether a thread of this process is inside `begin_write`."""
        return self._lock.is_locked

    def begin_write(self) -> AbstractContextManager[None]:
        """The context of all changes of the volume: appends, deletes, and replacing `opened` or the read-only state.

        Waits for the volume's one lock and holds the lock inside the context. Where other processes share the volume,
        entering also takes the lock between processes, brings `opened` and the index up to date, repairs the files
        where the last holder died, and opens them anew where another process swapped them. Leaving commits the changes.

        Raises:
            WriteFailed, ReadFailed: for a shared volume only: the lock between processes could not be taken, or the
                changes of others could not be followed. No lock is held.
            LeftToOwner: in a process that only appends to a shared volume: the owner must take the lock first. No lock
                is held.
        """
        return self._lock

    def begin_write_at_once(self) -> AbstractContextManager[None] | None:
        """As `begin_write`, but waits for no other thread of this process: None where one of them has the lock.

        The lock is held from this call on, so the caller enters the context at once.
        """
        return _Entered(self._lock) if self._lock.try_enter() else None

    # ---- holding

    @property
    def is_closed(self) -> bool:
        """Whether the volume is closed, for all processes or for this one. Waits for nothing."""
        state = self.opened
        return state is None or (state.share is not None and state.share.is_closed)

    def get(self) -> VolumeState:
        """The open state as this process last saw it. Raises VolumeClosed."""
        if self.opened is None:
            raise VolumeClosed(self._volume_id)
        return self.opened

    def acquire(self) -> VolumeState | None:
        """The open state, with its .dat retained until the caller releases it; None when the volume is closed.

        Raises:
            DiskUnavailable: the disk is out of service.
        """
        self._disk.check_in_service()
        while True:
            state = self.opened
            if state is None:
                return None
            try:
                state.dat.retain()
            except FileRetired:
                # Swapped or closed in between: try again with the new state.
                continue
            return state

    @contextmanager
    def held(self) -> Iterator[VolumeState]:
        """The open state, up to date; .dat stays open inside. Raises VolumeClosed, and as `acquire` and `refresh`."""
        self.refresh()
        state = self.acquire()
        if state is None:
            raise VolumeClosed(self._volume_id)
        try:
            yield state
        finally:
            state.dat.release()

    def refresh(self) -> VolumeState | None:
        """The open state, up to date with the changes of other processes. Raises ReadFailed when those cannot be
        read.
        """
        while (state := self.opened) is not None and state.share is not None:
            try:
                state.share.refresh(state)
            except FilesSwapped:
                self.rejoin(state)
            else:
                return state
        return state

    def glance(self) -> VolumeState | None:
        """The open state, with the changes of other processes if memory holds them, and else as this process last saw
        it. Waits for no disk, lock or thread. None when the volume is closed.
        """
        state = self.opened
        if state is None or (share := state.share) is None:
            return state
        try:
            share.refresh_at_once(state)
        except (FilesSwapped, ReadFailed):
            # Where the owner ends the sharing, the share is closed a moment before the volume has none.
            is_owner = self._shared_fd is not None
            return None if not is_owner and share.is_closed else state
        return state

    def rejoin(self, state: VolumeState) -> None:
        """Opens the volume's new files, or notices that it was closed, by taking the lock. Raises ReadFailed."""
        try:
            self.repair_left_busy()
        except (WriteFailed, LeftToOwner) as error:
            raise ReadFailed(state.dat.path, 0, OSError(str(error))) from error

    # ---- sharing

    def share(self, create: Callable[[Files, VolumePaths, int], tuple[int, VolumeSharing]]) -> int:
        """See `Volume.share`."""
        with self.begin_write():
            state = self.get()
            if state.is_tiered:
                raise WriteFailed(state.idx.path, 0, OSError(errno.EOPNOTSUPP, "its data is in a remote tier"))
            if self._shared_fd is None:
                try:
                    fd, share = create(self.files, state.paths, self.offset_width_bytes)
                    share.bind(self.write_state, self.files_with_reserve)
                    share.adopt(state, files_generation=1)
                except OSError as error:
                    raise WriteFailed(state.idx.path, 0, error) from error
                self._shared_fd = fd
                self._take_part(share)
            return self._shared_fd

    @property
    def share_memory(self) -> tuple[int, int] | None:
        """The device and the inode of the file in memory by which this process shares the volume; None where it does
        not.
        """
        fd = self._shared_fd
        return None if fd is None else self.files.facts_of(fd).identity

    @property
    def lock_wait_s(self) -> float:
        """For how long a thread of this process has been waiting for the lock between processes; 0 for none."""
        state = self.opened
        return state.share.lock_wait_s if state is not None and state.share is not None else 0.0

    @property
    def was_left_busy(self) -> bool:
        """Whether a process that shares the volume is in a change, or has died in one. Waits for nothing."""
        state = self.opened
        return state is not None and state.share is not None and state.share.was_left_busy

    def repair_left_busy(self) -> None:
        """Waits for changes under way, and repairs what a process left that died in one. Raises as `begin_write`."""
        with self.begin_write():
            pass

    @property
    def share_generation(self) -> int:
        """The number of the volume's files since it was shared. 0 where no other process shares the volume now."""
        state = self.opened
        return state.files_generation if state is not None and state.share is not None else 0

    @property
    def is_behind(self) -> bool:
        """Whether other processes have made changes that this one has not followed yet. Waits for nothing."""
        state = self.opened
        return state is not None and state.share is not None and state.share.is_behind(state)

    def unshare(self) -> None:
        """Ends the sharing, if the volume is shared: all other processes find the volume closed, and this process goes
        on alone. Needs the lock, in the process that shares.
        """
        state = self.get()
        if state.share is not None:
            assert self._shared_fd is not None, "the process that has attached ends nothing for others"
            state.unshared(state.share.end(state))

    def detach(self) -> None:
        """Closes the files for this process, which has attached to the volume. Waits for a change of this process that
        is under way, and for no reader. Takes no lock between processes.
        """
        with self._lock.between_threads:
            # Not before: a change under way must have its end committed, and the next one finds no open files.
            self._lock.on_acquire = self._lock.on_release = None
            state = self.opened
            self._replace(None)
        if state is not None and state.share is not None:
            state.share.release()

    def _take_part(self, share: VolumeSharing) -> None:
        def follow_others() -> None:
            if self.opened is None:
                return  # detached meanwhile
            state, problem = share.join_work(self.opened, self._replace, self._reopen_for_repair)
            if state is None:
                self._replace(None)
            if problem is not None:
                self.write_state.stop(problem)

        def commit(is_sound: bool) -> None:  # noqa: FBT001  called by the lock alone
            opened = self.opened if self.opened is not None and self.opened.share is share else None
            share.finish(opened, is_sound=is_sound)
            if opened is None:
                self._lock.on_acquire = self._lock.on_release = None
                share.release()
                if self._shared_fd is not None:
                    self.files.close(self._shared_fd)
                    self._shared_fd = None

        self._lock.on_acquire, self._lock.on_release = follow_others, commit

    @property
    def files_with_reserve(self) -> Files:
        """The files to use for operations that must work on a full disk."""
        return self._request.files_with_reserve

    # ---- replacing

    def _replace(self, state: VolumeState | None) -> None:
        old, self.opened = self.opened, state
        if state is not None:
            self.super_block, self.info = state.super_block, state.info
        if old is not None:
            old.release()

    def reopen(self, old: VolumeState, findings: list[Finding]) -> VolumeState:
        """Opens the volume anew for writing, replaces `old`, and shares the new state if `old` was shared. Needs the
        lock.

        Raises:
            VolumeLoadFailed: the files cannot be opened, or not for writing; `old` stays open.
            WriteFailed: the new state cannot be shared; `old` stays open.
        """
        request = replace(
            self._request,
            now_s=self._clock_ns() // _NS,
            force_repair=True,
            forced_reason=None,
            uploaded_super_block=None if old.is_tiered else old.super_block,
        )
        try:
            if is_decided(self.files, old.paths):
                # A process that compacted the volume died, or its disk failed, after the decision and before the
                # renames.
                finish_swap(self.files, old.paths)
        except OSError as error:
            raise VolumeLoadFailed(self.paths.base, f"an unfinished vacuum cannot be finished: {error}") from error
        state = open_volume(request, findings)
        state.replaced(old)
        if not state.is_writable:
            state.release()
            raise VolumeLoadFailed(old.dat.path.with_suffix(""), state.damage or "its files cannot be written")
        try:
            self.adopt(old, state)
        except WriteFailed:
            state.release()
            raise
        self._replace(state)
        return state

    def adopt(self, old: VolumeState, new: VolumeState) -> None:
        """Makes every process that shares the volume use the files of `new`. Needs the lock. Call `install` next.

        Raises:
            WriteFailed: there is no memory for that; `old` stays shared.
        """
        if old.share is None:
            return
        try:
            old.share.adopt(new, files_generation=old.files_generation + 1)
        except OSError as error:
            raise WriteFailed(new.idx.path, 0, error) from error

    def install(self, new: VolumeState) -> None:
        """Replaces the open state by `new`. Readers of the old state go on with it. Needs the lock."""
        self._replace(new)

    def repair(self, findings: list[Finding]) -> None:
        """Does repairs that waited for room, if there is room now. Raises as `reopen`."""
        with self.begin_write():
            old = self.get()
            if old.awaits_room:
                new = self.reopen(old, findings)
                self.write_state.reopened(old.damage, new.damage, new.info)

    def _reopen_for_repair(self, old: VolumeState) -> VolumeState:
        return self.reopen(old, [])

    def save_info(self, state: VolumeState, *, read_only: bool, can_delete: bool) -> None:
        """Writes the volume's mark to the .vif. Needs the lock.

        Raises:
            WriteFailed: the .vif could not be written; `info` is unchanged.
        """
        info = replace(self.info, read_only=read_only, read_only_can_delete=read_only and can_delete)
        path = state.paths.file(".vif")
        try:
            files = self._request.files_with_reserve
            self.info = save_volume_info(files, path, info, self.super_block.ttl, self._clock_ns() // _NS)
        except OSError as error:
            raise WriteFailed(path, 0, error) from error

    # ---- closing

    def close(self, sync: Callable[[VolumeState], None]) -> None:
        """Closes the volume after `sync`, if it is open for writing. Closes it also when `sync` raises. See
        `Volume.close`.
        """
        with self.begin_write():
            state = self.opened
            if state is None:
                return
            try:
                if state.is_writable:
                    sync(state)
            finally:
                self._shut(state)

    def destroy(
        self,
        *,
        keep_vif: bool,
        keep_index_dir: bool = False,
        may_go: Callable[[], bool] | None = None,
        forget: Callable[[], None] | None = None,
        keep_remote: bool = True,
    ) -> Destroyed | None:
        """Closes without a sync, and removes the files. Returns None where nothing changed. See `Volume.destroy`.

        The removal is on disk after the caller has synced the directories.
        """
        with self.begin_write():
            # Asked under the lock: before, another write could still be acknowledged.
            if may_go is not None and not may_go():
                return None
            remote = None
            if self.opened is not None:
                remote = self.opened.info.files[0] if self.opened.is_tiered and not keep_remote else None
                self._shut(self.opened)
            if forget is not None:
                forget()
            try:
                for path in self.paths.owned(keep_vif=keep_vif, keep_index_dir=keep_index_dir):
                    self.files.unlink(path)
            except OSError:
                if remote is not None:
                    _log.warning(
                        "the object %s of volume %d stays in %s", remote.key, self._volume_id, remote.backend_name
                    )
                raise
            return Destroyed(remote)

    def _shut(self, state: VolumeState) -> None:
        if state.share is not None and self._shared_fd is not None:
            state.share.retire()
        self._replace(None)


class _WriterLock:
    """A volume's one lock, as a context manager: between threads and, for a shared volume, between processes.

    Writers hold the lock from the look-up of the old needle to the published index entry. `on_acquire` is called with
    the lock between threads held; when it raises, that lock is released. `on_release` gets whether the block ended
    normally or with an error of the store, after which files and index agree.
    """

    __slots__ = ("_entered", "between_threads", "on_acquire", "on_release")

    def __init__(self) -> None:
        self.between_threads = threading.Lock()
        self.on_acquire: Callable[[], None] | None = None
        self.on_release: Callable[[bool], None] | None = None
        self._entered: Callable[[bool], None] | None = None

    @property
    def is_locked(self) -> bool:
        """Whether a thread of this process holds the lock."""
        return self.between_threads.locked()

    def __enter__(self) -> None:
        self.between_threads.acquire()
        self._begin()

    def try_enter(self) -> bool:
        """As `__enter__`, unless another thread of this process has the lock. `__exit__` must follow on True."""
        if not self.between_threads.acquire(blocking=False):
            return False
        self._begin()
        return True

    def _begin(self) -> None:
        if self.on_acquire is not None:
            try:
                self.on_acquire()
            except BaseException:
                self.between_threads.release()
                raise
            self._entered = self.on_release

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        release, self._entered = self._entered, None
        try:
            if release is not None:
                release(kind is None or issubclass(kind, StorageError | FormatError))
        finally:
            self.between_threads.release()


class _Entered:
    """The rest of a block whose lock has been taken: leaving it leaves the lock."""

    __slots__ = ("_lock",)

    def __init__(self, lock: _WriterLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        """The lock is held already."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._lock.__exit__(kind)
