"""Compacts a volume: copies its live needles beside it while it serves, and replaces it by the copy.

The copy is made from the index rows at the start, in the order of needle ids, as upstream. Later appends are in the
rows that .idx gains: a commit copies the records of those rows, most of them before it takes the volume's lock. Under
the lock it copies the rest, puts both files on disk and swaps them in; `compaction_swap` describes the traces of a
crash. Readers go on with the files that they hold.

Records are copied unchanged. Where .dat holds no record for a row, the row is dropped with a warning, as upstream; a
record with a damaged payload stays.

Source: weed/storage/volume_vacuum.go (CompactByIndex, CommitCompact, makeupDiff, cleanupCompact), store_vacuum.go.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from native_handlers.format.idx import row_bytes
from native_handlers.format.types import TOMBSTONE_SIZE
from native_handlers.storage.model.errors import (
    CompactionEnded,
    CompactionRefused,
    CompactionRunning,
    NoSpaceForCompaction,
    ReadFailed,
    WriteFailed,
)
from native_handlers.storage.volume.compacted_copy import CompactedCopy, live_rows
from native_handlers.storage.volume.compaction_swap import (
    decide,
    drop_copy,
    finish_swap,
    is_decided,
    undo_decision,
)
from native_handlers.storage.volume.record_facts import record_lengths
from native_handlers.storage.volume.record_mover import Expiry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.storage.index.needle_map import NeedleIndex
    from native_handlers.storage.model.compaction import CompactionOptions
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.claim import FilesClaim
    from native_handlers.storage.volume.handle import VolumeHandle
    from native_handlers.storage.volume.paths import VolumePaths
    from native_handlers.storage.volume.record_mover import Rows
    from native_handlers.storage.volume.state import VolumeState
    from native_handlers.storage.volume.write_state import DiskContext, IoHealth, WriteState

_log = logging.getLogger(__name__)
_NS = 10**9
FEW_ROWS, FEW_BYTES = 1024, 4 << 20
"""So many appends, and so many bytes of .dat, are copied under the lock: some milliseconds."""
_ROUNDS = 8
"""How many times a commit copies the latest appends without the lock, before it makes writers wait."""
_LOOK_S = 0.05
_SMALL_COPY_BYTES = 1 << 20
"""A copy up to this size may use the reserve of a full disk: the vacuum gives more room back than it takes."""
_BLOCK_BYTES = 4096
_MAX_NAMED = 100


class Compaction:
    """The compaction of one volume, and its uncommitted copy. Safe from any thread."""

    def __init__(
        self,
        handle: VolumeHandle,
        disk: DiskContext,
        write_state: WriteState,
        health: IoHealth,
        clock_ns: Callable[[], int],
        claim: FilesClaim,
    ) -> None:
        self._handle, self._disk, self._write_state, self._health = handle, disk, write_state, health
        self._claim = claim
        self._clock_ns = clock_ns
        self._files: Files = handle.files
        self._width = handle.offset_width_bytes
        self._volume_id = handle.paths.volume_id
        # Held while a copy is made, committed or removed. Protects _copy.
        self._working = threading.Lock()
        self._copy: CompactedCopy | None = None
        self._lacks_names = False
        """Whether the open files were swapped in, but could not be renamed then."""
        # Protects _stops.
        self._stopping = threading.Condition()
        self._stops = 0
        """Grows while a caller waits for the work under way to end."""

    @property
    def is_running(self) -> bool:
        """Whether a copy is being made or put in place."""
        return self._working.locked()

    # ---- the copy

    def run(self, options: CompactionOptions) -> Iterator[int]:
        """Makes a compacted copy. Yields after each piece of work how far in .dat the copying has come, in bytes.

        While another call makes a copy, this call does nothing, as upstream. Closing the iterator ends the work.

        Raises:
            VolumeClosed: the volume is not open.
            DiskUnavailable: the disk is out of service; nothing was copied.
            CompactionRefused: the volume's files are damaged, or an earlier swap is unfinished.
            CompactionRunning: another process compacts the volume.
            NoSpaceForCompaction: there is no room. Nothing was written.
            CompactionEnded: no caller wants the copy any more.
            ReadFailed, WriteFailed: the disk failed.
            In every case there is no copy afterwards, and the volume is unchanged.
        """
        self._disk.check_in_service()
        if not self._working.acquire(blocking=False):
            _log.info("volume %d is being compacted already", self._volume_id)
            return
        stops = self._stops
        try:
            # An uncommitted copy takes room that this one may need.
            self._remove_in_vain()
            for done_bytes in self._make(options):
                if self._stops != stops or not options.is_wanted():
                    raise CompactionEnded(self._volume_id)
                yield done_bytes
        except BaseException:
            self._remove_in_vain()
            raise
        finally:
            self._working.release()

    def pause(self, seconds: float, is_wanted: Callable[[], bool]) -> None:
        """Waits so long, or less where the copy that is being made is not wanted any more: for the pace of `run`."""
        ends_at_s = monotonic() + seconds
        with self._stopping:
            stops = self._stops
            while self._stops == stops and is_wanted() and (left_s := ends_at_s - monotonic()) > 0:
                self._stopping.wait(min(left_s, _LOOK_S))

    def _make(self, options: CompactionOptions) -> Iterator[int]:
        source, rows_end, dat_end, live_bytes = self._hold_source()
        try:
            self._clear(source.paths)
            rows = live_rows(self._files, source, rows_end, self._width, self._health)
            self._check_whole(rows, live_bytes)
            files, preallocate_bytes = self._room_for(source, rows, options.preallocate_bytes)
            copy = CompactedCopy.begin(files, source, rows_end, self._width, self._health, preallocate_bytes)
        except BaseException:
            source.dat.release()
            source.idx.release()
            raise
        self._copy = copy
        dropped: list[int] = []
        expiry = Expiry(source.super_block.ttl.minutes, self._clock_ns() // _NS)
        reached_bytes = 0
        for moved in copy.add(rows, dat_end, expiry):
            dropped += moved.missing.keys.tolist()
            options.pace(moved.written_bytes)
            reached_bytes = max(reached_bytes, moved.source_bytes)
            yield reached_bytes
        self._report_dropped(source, dropped, len(rows.keys))
        copy.sync()

    def _hold_source(self) -> tuple[VolumeState, int, int, int]:
        """The open state, and at one moment the ends of .idx and .dat and the number of live bytes.

        Both files stay open until the caller releases them.
        """
        with self._handle.begin_write():
            source = self._handle.get()
            if source.is_tiered:
                raise CompactionRefused(self._volume_id, "is not compacted, for its data is in a remote tier")
            if source.damage is not None or not source.is_writable:
                why = source.damage or "they may not be written"
                raise CompactionRefused(self._volume_id, f"is not compacted, for its files are damaged: {why}")
            source.dat.retain()
            source.idx.retain()
            counters = source.index.counters
            live_bytes = counters.content_bytes - counters.deleted_bytes
            return source, source.idx_end_bytes, source.dat_end_bytes, live_bytes

    def _check_whole(self, rows: Rows, live_bytes: int) -> None:
        """Compares the live bytes of .idx with those that this process counts: nothing that either counts as live may
        be left out.
        """
        found_bytes = int(rows.sizes.sum(dtype="int64"))
        if found_bytes < live_bytes:
            why = f"its index file has {found_bytes} bytes of live needles, and there are {live_bytes}"
            raise CompactionRefused(self._volume_id, f"is not compacted: {why}")

    def _clear(self, paths: VolumePaths) -> None:
        """Makes sure that no file of an earlier compaction is taken for a part of this one."""
        try:
            if self._lacks_names:
                self._give_names(paths)
            if not is_decided(self._files, paths):
                return
            temporary = (path for extension in (".cpd", ".cpx") for path in paths.sidecars(extension))
            if any(self._files.facts(path) is not None for path in temporary):
                why = "has an unfinished vacuum (.cpc): unmount and mount the volume, which finishes it"
                raise CompactionRefused(self._volume_id, why)
            # The swap was finished, but its mark could not be removed.
            undo_decision(self._files, paths)
        except OSError as error:
            raise WriteFailed(paths.file(".cpc"), 0, error) from error

    def _room_for(self, source: VolumeState, rows: Rows, preallocate_bytes: int) -> tuple[Files, int]:
        """The files by which a copy of `rows` can be written, and how much to reserve for it. Raises
        NoSpaceForCompaction, ReadFailed.

        The room is compared with the size of the copy. Upstream asks for the present size of the volume, with its
        garbage, and for the reservation. Here nothing is reserved where the copy fits and the reservation does not: a
        vacuum is how a full disk gets room.
        """
        paths = source.paths
        data_bytes = source.super_block.size_bytes
        data_bytes += int(record_lengths(rows.sizes, source.super_block.version).sum())
        index_bytes = len(rows.keys) * row_bytes(self._width)
        data_blocks, index_blocks = (-(-one // _BLOCK_BYTES) * _BLOCK_BYTES for one in (data_bytes, index_bytes))
        try:
            needs = {paths.data_dir: data_blocks, paths.index_dir: index_blocks}
            if self._is_one_disk(paths):
                needs = {paths.data_dir: data_blocks + index_blocks}
            for directory, copy_bytes in needs.items():
                free_bytes = self._files.disk_space(directory).free_bytes
                if free_bytes < copy_bytes and data_blocks + index_blocks <= _SMALL_COPY_BYTES:
                    return self._handle.files_with_reserve, 0
                if free_bytes < copy_bytes:
                    raise NoSpaceForCompaction(copy_bytes, data_bytes, index_bytes, free_bytes)
                more_bytes = max(preallocate_bytes - data_blocks, 0) if directory == paths.data_dir else 0
                if free_bytes < copy_bytes + more_bytes:
                    why = f"{preallocate_bytes} bytes are not reserved: {free_bytes} are free"
                    _log.warning("volume %d is compacted without a reservation: %s", self._volume_id, why)
                    preallocate_bytes = 0
        except OSError as error:
            raise ReadFailed(paths.data_dir, 0, error) from error
        return self._files, preallocate_bytes

    def _is_one_disk(self, paths: VolumePaths) -> bool:
        facts = [self._files.facts(directory) for directory in (paths.data_dir, paths.index_dir)]
        return len({one.identity[0] for one in facts if one is not None}) == 1

    def _report_dropped(self, source: VolumeState, dropped: list[int], count: int) -> None:
        if not dropped:
            return
        if 2 * len(dropped) > count:
            why = f"{len(dropped)} of {count} rows lead to no record, so {source.idx.path} is not its index"
            raise CompactionRefused(self._volume_id, f"is not compacted: {why}")
        _log.warning(
            "volume %d: compaction drops %d needles, for there is no record where the index has them: %s",
            self._volume_id,
            len(dropped),
            ", ".join(f"{key:x}" for key in dropped[:_MAX_NAMED]),
        )

    # ---- the swap

    def commit(self) -> None:
        """Replaces the volume's files by the compacted copy, with all later appends.

        Raises:
            CompactionRunning: the copy is still being made; that goes on.
            CompactionRefused: there is no copy, it does not fit any more, or another operation has a claim on the
                volume's files.
            VolumeClosed: the volume is not open.
            ReadFailed, WriteFailed: the disk failed. Where even the decision to swap cannot be undone, the volume takes
                no writes until it is mounted anew, which finishes the swap.
            DiskUnavailable: the disk is out of service; nothing was changed.
            The volume goes on with its old files. Except for CompactionRunning and DiskUnavailable there is no copy
            afterwards.
        """
        self._disk.check_in_service()
        if not self._working.acquire(blocking=False):
            raise CompactionRunning(self._volume_id)
        try:
            copy = self._copy
            if copy is None:
                raise CompactionRefused(self._volume_id, "compact swap aborted: missing .cpd/.cpx")
            self._commit(copy)
        except BaseException:
            self._remove_in_vain()
            raise
        finally:
            self._working.release()

    def _commit(self, copy: CompactedCopy) -> None:
        self._catch_up_in_passing(copy)
        copy.sync()
        index = copy.index()
        # Records that were appended during the sync and the making of the index.
        self._catch_up_in_passing(copy, index)
        copy.sync()
        with self._handle.begin_write():
            source = self._source_of(copy)
            rows = copy.catch_up(source.idx_end_bytes, source.dat_end_bytes)
            _enter(index, rows)
            copy.date_back()
            copy.sync()
            self._swap(copy, copy.state(index, self._handle.info))
        _log.info("volume %d: compacted from %d to %d bytes", self._volume_id, source.dat_end_bytes, copy.end_bytes)

    def _catch_up_in_passing(self, copy: CompactedCopy, index: NeedleIndex | None = None) -> None:
        """Copies appends without the lock, until few are left for the time under the lock.

        Args:
            index: gets the rows, if there is one.
        """
        few_rows_bytes = FEW_ROWS * row_bytes(self._width)
        for _ in range(_ROUNDS):
            with self._handle.begin_write():
                source = self._source_of(copy)
                rows_end, dat_end = source.idx_end_bytes, source.dat_end_bytes
            is_little = (
                rows_end - copy.rows_end_bytes <= few_rows_bytes and dat_end - copy.source_end_bytes <= FEW_BYTES
            )
            rows = copy.catch_up(rows_end, dat_end)
            if index is not None:
                _enter(index, rows)
            if is_little:
                return

    def _source_of(self, copy: CompactedCopy) -> VolumeState:
        """The state from which the copy was made, if the copy may replace it. Needs the lock."""
        source = self._handle.get()
        if self._claim.reason is not None:
            raise CompactionRefused(self._volume_id, f"{self._claim.reason}; compact it again later")
        if source is not copy.source:
            raise CompactionRefused(self._volume_id, "was opened anew since it was compacted; compact it again")
        if source.paths != copy.paths:
            raise CompactionRefused(self._volume_id, "has its index elsewhere since it was compacted; compact it again")
        return source

    def _swap(self, copy: CompactedCopy, new: VolumeState) -> None:
        """Decides the swap and renames the files. Needs the lock. Releases `new` where it is not put in place."""
        paths, source = copy.paths, copy.source
        try:
            # Names take room too, and a full disk needs a vacuum most.
            decide(self._handle.files_with_reserve, paths)
            self._handle.adopt(source, new)
        except BaseException as error:
            new.release()
            self._undo(paths)
            if isinstance(error, OSError):
                raise WriteFailed(paths.file(".cpc"), 0, error) from error
            raise
        # From here on the copy is the volume, even if the renames fail: the next opening does them.
        new.dat.path, new.idx.path = source.dat.path, source.idx.path
        self._handle.install(new)
        self._let_go()
        self._lacks_names = True
        self._try_give_names(paths)

    def _try_give_names(self, paths: VolumePaths) -> None:
        try:
            self._give_names(paths)
        except OSError as error:
            _log.error("volume %d: its compacted files get their names later: %s", self._volume_id, error)

    def _give_names(self, paths: VolumePaths) -> None:
        finish_swap(self._handle.files_with_reserve, paths)
        self._lacks_names = False

    def _undo(self, paths: VolumePaths) -> None:
        try:
            undo_decision(self._files, paths)
        except OSError as error:
            self._write_state.stop(f"a vacuum was decided on, and that cannot be taken back: {error}")

    # ---- the end

    def cleanup(self) -> None:
        """Ends a compaction under way, and removes the copy, if there is one.

        Raises:
            CompactionRefused: a swap was decided and is not finished. Nothing was removed.
            CompactionRunning: another process compacts the volume.
            WriteFailed: the disk failed.
            DiskUnavailable: the disk is out of service; nothing was removed.
        """
        self._disk.check_in_service()
        with self._stopped():
            paths = self._handle.paths
            try:
                if self._lacks_names:
                    self._give_names(paths)
                if is_decided(self._files, paths):
                    raise CompactionRefused(self._volume_id, "refusing cleanup while commit marker present")
                self._let_go()
                self._check_alone(paths)
                drop_copy(self._files, paths)
            except OSError as error:
                raise WriteFailed(paths.file(".cpd"), 0, error) from error

    def _check_alone(self, paths: VolumePaths) -> None:
        path = paths.file(".cpd")
        if self._files.facts(path) is None:
            return
        fd = self._files.open(path, os.O_RDWR)
        try:
            if not self._files.lock(fd):
                raise CompactionRunning(self._volume_id)
        finally:
            self._files.close(fd)

    @contextmanager
    def abandoned(self) -> Iterator[None]:
        """Ends a compaction under way, and removes the copy, for a block that closes or deletes the volume. So does its
        end: another compaction may have begun before the volume was closed.
        """
        self._abandon()
        try:
            yield
        finally:
            self._abandon()

    def _abandon(self) -> None:
        with self._stopped():
            self._remove_in_vain()
            if self._lacks_names:
                self._try_give_names(self._handle.paths)

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        """Stops the work under way, waits for its end, and keeps new work waiting inside the block."""
        while not self._working.acquire(timeout=_LOOK_S):
            with self._stopping:
                self._stops += 1
                self._stopping.notify_all()
        try:
            yield
        finally:
            self._working.release()

    def _remove_in_vain(self) -> None:
        """Removes the copy, if there is one. A failure is logged: the next compaction starts anew."""
        copy = self._copy
        if copy is None:
            return
        try:
            if not is_decided(self._files, copy.paths):
                drop_copy(self._files, copy.paths)
        except OSError as error:
            _log.warning("volume %d: its compacted copy stays: %s", self._volume_id, error)
        self._let_go()

    def _let_go(self) -> None:
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.close()


def _enter(index: NeedleIndex, rows: Rows) -> None:
    for key, offset, size in zip(rows.keys.tolist(), rows.offsets.tolist(), rows.sizes.tolist(), strict=True):
        if size == TOMBSTONE_SIZE:
            index.delete(key)
        else:
            index.put(key, offset, size)
