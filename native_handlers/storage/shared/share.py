"""One process's share in a volume that several processes read and write: following, locking, publishing.

Readers compare one shared number at each look-up. When it has changed, they read the new rows of .idx. Writers hold a
lock that the kernel releases when the holder dies. The next holder brings itself up to date first, and repairs the
files when the last holder did not finish. docs/sharing.md describes the protocol, and the state after each death.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from native_handlers.format.idx import iter_entries
from native_handlers.format.types import TOMBSTONE_SIZE
from native_handlers.storage.index.needle_map import Counters, Layers
from native_handlers.storage.index.sorted_segment import empty_base
from native_handlers.storage.model.errors import ReadFailed, VolumeClosed, WriteFailed
from native_handlers.storage.shared.index import SharedNeedleIndex, counters_of, give_back, map_columns, write_columns
from native_handlers.storage.shared.repair import repair_files
from native_handlers.storage.shared.state import BUSY, HELD, INTACT, SEQUENCE, IndexTable, RefusalTexts
from native_handlers.storage.system.files import NotCached, SharedFile
from native_handlers.storage.volume.compaction_swap import is_decided
from native_handlers.storage.volume.dat_head import read_super_block
from native_handlers.storage.volume.info_file import load_volume_info
from native_handlers.storage.volume.open import with_placement
from native_handlers.storage.volume.state import FilesSwapped, VolumeState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.storage.index.needle_map import NeedleIndex
    from native_handlers.storage.index.sorted_segment import SortedSegment
    from native_handlers.storage.shared.state import CommittedState, SharedState
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths
    from native_handlers.storage.volume.write_state import WriteState

_log = logging.getLogger(__name__)

TRIES = 3
"""How often files are opened that are just being swapped. In the milliseconds of a swap another process answers."""

PASSING_BYTES = 4096
"""The most rows that an event loop follows itself: 256 of 16 bytes, some tenths of a millisecond."""


class VolumeShare:
    """A volume's shared head, this process's lock on it, and the last state that this process has seen.

    Attributes:
        loop_thread: the thread of an event loop, which must not wait for a disk or for other threads; None where each
            thread may. Where following takes more than a moment, this thread gets FilesSwapped, which sends a read to
            another thread.
    """

    reads_only = False
    """Whether this process opens the volume's files for reading alone."""

    def __init__(self, files: Files, fd: int, state: SharedState, offset_width_bytes: int) -> None:
        """`fd` is an open file description of the file in memory that only this process uses."""
        self.files, self.fd, self.state, self.width = files, fd, state, offset_width_bytes
        self._write_state: WriteState | None = None
        self._seen: CommittedState | None = None
        self._texts = RefusalTexts(None, None)
        # Protects _seen and _texts, and makes each follow and each publication one step for this process's threads.
        self._mutex = threading.RLock()
        self._publish_at_entries = 0
        self._files_of_owner: Files | None = None
        self.loop_thread: int | None = None
        self._lock_wanted_at_s: float | None = None

    def bind(self, write_state: WriteState, files_of_owner: Files | None = None) -> None:
        """See `VolumeSharing.bind`.

        A process that has just attached takes over the present reasons for refusing writes: the .vif may lack them.
        """
        if files_of_owner is not None:
            write_state.on_hold = partial(self._publish_hold, write_state)
            write_state.on_hold()
            self._files_of_owner = files_of_owner
        with self._mutex:
            self._write_state = write_state
            while self._seen is not None and not self._adopt_texts(self.state.read()):
                pass

    def _publish_hold(self, write_state: WriteState) -> None:
        """Tells the other processes whether they may write. A process that takes the lock after this knows."""
        with self._mutex:  # a hold that begins and one that ends are told in their order
            self.state.words[HELD] = int(write_state.is_held)

    @property
    def is_closed(self) -> bool:
        """Whether the volume was closed for all processes. Waits for nothing."""
        return bool(self.state.read().is_closed)

    @property
    def _has_high(self) -> bool:
        return self.width == 5

    # ---- following

    def follow(self, opened: VolumeState, *, may_wait: bool = False) -> None:
        """Brings `opened`, its index and the write state up to the last commit.

        Args:
            may_wait: waits on `loop_thread` too, for a caller that waits for the lock in any case.

        Raises:
            FilesSwapped: the volume has other files than `opened` now. Also on `loop_thread`, where following might
                take long.
            ReadFailed: .idx could not be read; nothing changed.
        """
        if may_wait or threading.get_ident() != self.loop_thread:
            with self._mutex:
                while not self._follow_once(opened, is_hurried=False):
                    pass
            return
        self._follow_at_once(opened, self._refuse_long_following)

    def _follow_at_once(self, opened: VolumeState, check: Callable[[VolumeState], None] | None = None) -> None:
        """Follows without waiting for a disk or a thread, unless `check` raises. Raises FilesSwapped, ReadFailed."""
        if not self._mutex.acquire(blocking=False):
            raise FilesSwapped
        try:
            if check is not None:
                check(opened)
            while not self._follow_once(opened, is_hurried=True):
                pass
        finally:
            self._mutex.release()

    def _refuse_long_following(self, opened: VolumeState) -> None:
        state, index = self.state.read(), opened.index
        is_known = getattr(index, "sequence", -1) >= 0 and index.layers.generation == state.index_generation
        if not is_known or state.idx_end_bytes - opened.idx_end_bytes > PASSING_BYTES:
            raise FilesSwapped

    def refresh(self, opened: VolumeState) -> None:
        """As `follow`, but only where there is a newer commit."""
        if self.is_behind(opened):
            self.follow(opened)

    def refresh_at_once(self, opened: VolumeState) -> None:
        """As `refresh`, but waits for no disk and no other thread. Raises FilesSwapped also where it would have to."""
        if self.is_behind(opened):
            self._follow_at_once(opened)

    def is_behind(self, opened: VolumeState) -> bool:
        """Whether there is a newer commit than `opened` has. Waits for nothing."""
        return bool(self.state.words[SEQUENCE] != getattr(opened.index, "sequence", -1))

    def end(self, opened: VolumeState) -> NeedleIndex:
        """Tells every other process that the volume is closed, and returns an index of this process's own; under the
        lock.
        """
        index = opened.index
        assert isinstance(index, SharedNeedleIndex)
        own = index.private_copy()
        self.retire()
        return own

    def _follow_once(self, opened: VolumeState, *, is_hurried: bool) -> bool:
        index = opened.index
        if not isinstance(index, SharedNeedleIndex):
            raise FilesSwapped  # the sharing has ended meanwhile
        state = self.state.read()
        if state.is_closed or state.files_generation != opened.files_generation:
            raise FilesSwapped
        start, layers, counters = opened.idx_end_bytes, index.layers, index.counters
        if index.sequence < 0 or layers.generation != state.index_generation:
            table = self.state.read_table(state)
            if not self.state.is_present(state):
                return False
            try:
                layers = self._map_layers(table, state)
            except OSError as error:
                raise ReadFailed(opened.idx.path, 0, error) from error
            start, counters = table.rows_end_bytes, counters_of(table)
        if not self._follow_write_state(state):
            return False
        rows = self._read_rows(opened, start, state.idx_end_bytes, is_hurried=is_hurried)
        replay = SharedNeedleIndex(layers, counters, self.state.words, index.follow)
        for needle_id, offset, size in iter_entries(rows, self.width):
            if size == TOMBSTONE_SIZE:
                replay.delete(needle_id)
            else:
                replay.put(needle_id, offset, size)
        if self.state.words[INTACT] > layers.generation:
            # The old needles were looked up in memory that was freed meanwhile.
            index.sequence = -1
            return False
        index.layers, index.counters = layers, counters
        opened.followed(state.progress)
        self._seen = state
        index.sequence = state.sequence
        return True

    def _map_layers(self, table: IndexTable, state: CommittedState) -> Layers:
        if self.fd < 0:
            # Closed in this process meanwhile. A mapping of descriptor -1 would be anonymous memory.
            raise FilesSwapped
        parts = [
            map_columns(self.fd, start, count, has_high=self._has_high) if count else None
            for start, count in ((table.base_at, table.base_count), (table.recent_at, table.recent_count))
        ]
        base = parts[0] or empty_base(has_high=self._has_high)
        return Layers(base, parts[1], {}, state.index_generation)

    def _follow_write_state(self, state: CommittedState) -> bool:
        if self._seen is not None and self._seen.texts_generation == state.texts_generation:
            return True
        return self._adopt_texts(state)

    def _adopt_texts(self, state: CommittedState) -> bool:
        """Takes over the reasons of `state`. Returns False where `state` is not the present one any more."""
        if self._write_state is None:
            return True
        try:
            texts = self.state.read_texts(state)
        except ValueError:
            if self.state.is_present(state):
                raise
            return False
        if not self.state.is_present(state):
            return False
        self._write_state.adopt(*texts)
        self._texts = texts
        return True

    def _read_rows(self, opened: VolumeState, start: int, end: int, *, is_hurried: bool) -> bytes:
        if start == end:
            return b""
        try:
            read = self.files.read_cached if is_hurried else self.files.read
            rows = read(opened.idx.fd, end - start, start)
            if len(rows) != end - start:
                raise OSError(f"{len(rows)} bytes of rows, {end - start} were committed")
        except NotCached:
            raise FilesSwapped from None
        except OSError as error:
            raise ReadFailed(opened.idx.path, start, error) from error
        return rows

    # ---- the lock

    def lock(self) -> CommittedState:
        """Waits for the lock, and returns the state that the last holder committed. Raises OSError."""
        self._lock_wanted_at_s = monotonic()
        try:
            self.files.wait_lock(self.fd)
        finally:
            self._lock_wanted_at_s = None
        return self.state.read()

    @property
    def lock_wait_s(self) -> float:
        """For how long a thread of this process has been waiting for the lock between processes; 0 for none."""
        wanted_at_s = self._lock_wanted_at_s
        return 0.0 if wanted_at_s is None else monotonic() - wanted_at_s

    def join_work(
        self,
        opened: VolumeState,
        replace_opened: Callable[[VolumeState], None],
        reopen: Callable[[VolumeState], VolumeState],
    ) -> tuple[VolumeState | None, str | None]:
        """Takes the lock of a shared volume, brings `opened` up to date, and repairs the files that the last holder
        left.

        Returns the open state now (None when the volume was closed), and the reason why its files can take no more
        writes, or None. `replace_opened` gets the state that takes the place of `opened`. `reopen` opens the files
        anew, repairs and shares them.

        Raises:
            WriteFailed: a file operation failed. The lock is free, and the next holder tries again.
        """
        try:
            state = self._lock_for(opened)
        except OSError as error:
            raise WriteFailed(opened.dat.path, 0, error) from error
        try:
            return self._join(state, opened, replace_opened, reopen)
        except OSError as error:
            self.unlock()
            raise WriteFailed(opened.dat.path, 0, error) from error
        except BaseException:
            self.unlock()
            raise

    def _lock_for(self, opened: VolumeState) -> CommittedState:  # noqa: ARG002  for errors of other kinds of shares
        """Takes the lock for a change of `opened`, and returns the committed state. Raises OSError."""
        return self.lock()

    def _join(
        self,
        state: CommittedState,
        opened: VolumeState,
        replace_opened: Callable[[VolumeState], None],
        reopen: Callable[[VolumeState], VolumeState],
    ) -> tuple[VolumeState | None, str | None]:
        """`join_work`, under the lock. Raises OSError."""
        problem = None
        if state.is_closed:
            self.begin()
            return None, None
        if state.files_generation != opened.files_generation:
            # Where the last holder died in a swap, the paths may lead to files that no state names.
            is_sure = not self.was_left_busy
            opened = open_present(self, opened.paths, tries=1) if is_sure else open_shared(self, opened.paths)
            replace_opened(opened)
        if self.was_left_busy:
            if self.is_swapped(opened):
                opened = reopen(opened)
            else:
                problem = self.repair(opened)
        if self.is_behind(opened):
            try:
                self.follow(opened, may_wait=True)
            except ReadFailed:
                if problem is None:  # else that is the reason; readers get this error, and try again
                    raise
        self.begin()
        return opened, problem

    def unlock(self) -> None:
        self.files.unlock(self.fd)

    @property
    def was_left_busy(self) -> bool:
        """Whether the last holder of the lock did not finish."""
        return self.state.words[BUSY] != 0

    def begin(self) -> None:
        """Marks the lock's holder as busy: after a death of this process from here on, the next holder checks the
        files.
        """
        self.state.words[BUSY] = os.getpid()

    def is_swapped(self, opened: VolumeState) -> bool:
        """Whether the volume's paths lead to other files than the state says. Also true where a compacted copy is
        decided but not renamed yet. Under the lock. Raises OSError.
        """
        if is_decided(self.files, opened.paths):
            return True
        there = [self.files.facts(file.path) for file in (opened.dat, opened.idx)]
        return [facts and facts.identity for facts in there] != self._identities(self.state.read())

    def _identities(self, state: CommittedState) -> list[tuple[int, int]]:
        """Device and inode of the .dat and the .idx that `state` names."""
        table = self.state.read_table(state)
        return [(table.dat_device, table.dat_inode), (table.idx_device, table.idx_inode)]

    def shows(self, opened: VolumeState) -> bool:
        """Whether the files of `opened` are those that the present state names. In a swap the paths lead to new files
        before the state does. Raises OSError.
        """
        state = self.state.read()
        there = [self.files.facts_of(file.fd).identity for file in (opened.dat, opened.idx)]
        is_same = there == self._identities(state) and state.files_generation == opened.files_generation
        return is_same and self.state.is_present(state)

    def repair(self, opened: VolumeState) -> str | None:
        """Repairs the files and commits the result; under the lock. Returns the reason why that is not possible, or
        None.

        `opened` is then as of the last commit, and its index unchanged.

        Raises OSError: the repair must be repeated. The index is followed as before.
        """
        state = self.state.read()
        index = opened.index
        assert isinstance(index, SharedNeedleIndex)
        with self._mutex:
            if index.sequence != state.sequence:
                index.sequence = -1  # the index lacks rows before the end that `opened` has from here on
            opened.followed(state.progress)
        repaired = repair_files(self._files_of_owner or self.files, opened, self.width)
        if repaired.problem is not None:
            self._seen = state
            return repaired.problem
        # Entries of an unfinished append of this process are dropped.
        index.sequence = -1
        self._commit(
            state._replace(
                dat_end_bytes=repaired.dat_end_bytes,
                idx_end_bytes=repaired.idx_end_bytes,
                last_append_at_ns=repaired.last_append_at_ns,
            )
        )
        return None

    def finish(self, opened: VolumeState | None, *, is_sound: bool) -> None:
        """Ends the work under the lock. Unless `is_sound`, the next holder checks the files.

        Commits the changes of `opened` and of the write state. Merges and publishes an index that has grown.
        """
        try:
            if not is_sound:
                if opened is not None and isinstance(opened.index, SharedNeedleIndex):
                    opened.index.sequence = -1
                return
            if opened is not None:
                with self._mutex:
                    self._save(opened)
                    self._publish_if_full(opened)
            self.state.words[BUSY] = 0
        finally:
            self.unlock()

    # ---- publishing

    @contextmanager
    def publishing(self, opened: VolumeState) -> Iterator[None]:
        """Commits the changes that the block makes to `opened` and its index; under the lock."""
        with self._mutex:
            yield
            self._save(opened)

    def _save(self, opened: VolumeState) -> None:
        seen = self._seen
        assert seen is not None
        state = seen
        if opened.progress != seen.progress:
            state = seen.at(opened.progress)
        state = self._save_write_state(state)
        if state is not seen:
            assert isinstance(opened.index, SharedNeedleIndex)
            sequence = self._commit(state).sequence
            opened.index.sequence = sequence if opened.index.sequence >= 0 else -1

    def _save_write_state(self, state: CommittedState) -> CommittedState:
        if self._write_state is None or self._write_state.texts == self._texts:
            return state
        self._texts = RefusalTexts(*self._write_state.texts)
        self.state.write_texts(state.texts_generation + 1, self._texts)
        return state._replace(texts_generation=state.texts_generation + 1)

    def _commit(self, state: CommittedState) -> CommittedState:
        self._seen = self.state.commit(state)
        return self._seen

    def _publish_if_full(self, opened: VolumeState) -> None:
        entries = len(opened.index.layers.delta)
        index = opened.index
        assert isinstance(index, SharedNeedleIndex)
        if not index.is_delta_full or entries < self._publish_at_entries or index.sequence < 0:
            return
        try:
            self._publish(opened, index, files_generation=opened.files_generation)
            self._publish_at_entries = 0
        except OSError as error:
            # No memory: the index stays correct and takes more memory. Publishing is tried again when the index has
            # doubled.
            self._publish_at_entries = 2 * entries
            _log.warning("%s: the merged index was not published: %s", opened.idx.path, error)

    def adopt(self, opened: VolumeState, *, files_generation: int) -> None:
        """Makes `opened`, whose index is this process's own, the shared volume; under the lock.

        Raises OSError; the shared volume is then unchanged.
        """
        private = opened.index
        index = SharedNeedleIndex(private.layers, private.counters, self.state.words, lambda: self.follow(opened))
        with self._mutex:
            self._seen = self.state.read()
            self._publish(opened, index, files_generation=files_generation)
            opened.shared(self, files_generation, index)

    def _publish(self, opened: VolumeState, index: SharedNeedleIndex, *, files_generation: int) -> None:
        """Writes the merged index as columns, commits them, and frees the old columns."""
        state = self._seen
        assert state is not None
        generation = state.index_generation + 1
        old = self.state.read_table(state)
        merged = index.layers.merged()
        is_same_base = merged.base is index.layers.base and index.layers.generation == state.index_generation > 0
        base_at = old.base_at if is_same_base else self._write(merged.base)
        recent_at = self._write(merged.recent) if merged.recent is not None else 0
        counters = index.counters
        table = IndexTable(
            base_at,
            len(merged.base),
            recent_at,
            len(merged.recent) if merged.recent is not None else 0,
            opened.idx_end_bytes,
            counters.file_count,
            counters.content_bytes,
            counters.deleted_count,
            counters.deleted_bytes,
            counters.max_needle_id,
            *self.files.facts_of(opened.dat.fd).identity,
            *self.files.facts_of(opened.idx.fd).identity,
            int(opened.is_writable),
        )
        new = state._replace(index_generation=generation, files_generation=files_generation)
        layers = self._map_layers(table, new)
        self.state.write_table(generation, table)
        new = self._commit(self._save_write_state(new.at(opened.progress)))
        index.layers = layers
        index.sequence = new.sequence
        self.state.words[INTACT] = generation
        try:
            give_back(self.files, self.fd, table, has_high=self._has_high)
        except OSError as error:
            # The new columns are valid; the next publication frees what this one could not.
            _log.warning("%s: memory of the old index was not given back: %s", opened.idx.path, error)

    def _write(self, base: SortedSegment) -> int:
        return write_columns(self.files, self.fd, base) if len(base) else 0

    def retire(self) -> None:
        """Tells every process that the volume is closed; under the lock."""
        with self._mutex:
            self._commit(self.state.read()._replace(is_closed=1))

    def release(self) -> None:
        """Ends this process's share: closes its descriptor, which also releases the lock."""
        if self._files_of_owner is not None and self._write_state is not None:
            self._write_state.on_hold = None
        with self._mutex:
            fd, self.fd = self.fd, -1
        if fd >= 0:
            self.files.close(fd)


def open_present(share: VolumeShare, paths: VolumePaths, *, tries: int = TRIES) -> VolumeState:
    """Opens the files that the present state names. Their index is empty: the caller calls `VolumeShare.follow` next.

    In a swap, and after one whose renames failed, the paths lead to other files than the state names. Records that were
    appended to those would be lost.

    Raises:
        VolumeClosed: the volume was closed.
        OSError, FormatError: the files cannot be opened.
    """
    for _ in range(tries):
        try:
            opened = open_shared(share, paths)
        except FileNotFoundError:
            if share.state.read().is_closed:
                raise VolumeClosed(paths.volume_id) from None
            raise
        try:
            if share.shows(opened):
                return opened
        except BaseException:
            opened.release()
            raise
        opened.release()
    raise OSError(f"{paths.base}: its files are not those that the volume has")


def open_shared(share: VolumeShare, paths: VolumePaths) -> VolumeState:
    """Opens the files that the volume's paths lead to, with an empty index. See `open_present`."""
    files = share.files
    while True:
        state = share.state.read()
        if state.is_closed:
            raise VolumeClosed(paths.volume_id)
        table = share.state.read_table(state)
        if share.state.is_present(state):
            break
    is_writable = bool(table.is_writable) and not share.reads_only
    flags = os.O_RDWR if is_writable else os.O_RDONLY
    dat = SharedFile.open(files, paths.file(".dat"), flags)
    try:
        idx = SharedFile.open(files, paths.file(".idx"), flags)
        try:
            info = load_volume_info(files, paths.file(".vif")).info
            super_block = with_placement(read_super_block(files, dat.fd), info)
        except BaseException:
            idx.release()
            raise
    except BaseException:
        dat.release()
        raise
    layers = Layers(empty_base(has_high=share.width == 5), None, {})
    index = SharedNeedleIndex(layers, Counters(), share.state.words, lambda: share.follow(opened))
    opened = VolumeState(
        paths=paths,
        info=info,
        dat=dat,
        idx=idx,
        super_block=super_block,
        index=index,
        dat_end_bytes=0,
        idx_end_bytes=0,
        last_append_at_ns=0,
        modified_at_s=0,
        is_writable=is_writable,
        damage="this process reads it only" if share.reads_only else None,
        share=share,
        files_generation=state.files_generation,
    )
    return opened
