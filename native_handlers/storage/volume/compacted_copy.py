"""A compacted copy of a volume beside it: its data (.cpd) and its index (.cpx), as they grow.

Both stay open, and .cpd locked, until the copy is let go of: two processes never compact one volume.

Source: weed/storage/volume_vacuum.go (copyDataBasedOnIndexFile, makeupDiff).
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from native_handlers.arrays import np
from native_handlers.storage.index.build import build_index, encode_rows, parse_rows
from native_handlers.storage.model.errors import CompactionRefused, CompactionRunning, ReadFailed, WriteFailed
from native_handlers.storage.system.files import SharedFile
from native_handlers.storage.volume.compaction_swap import drop_copy
from native_handlers.storage.volume.record_mover import RecordMover, Rows, Target

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.format.vif import VolumeInfo
    from native_handlers.storage.index.needle_map import NeedleIndex
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.record_mover import Expiry, Moved
    from native_handlers.storage.volume.state import VolumeState
    from native_handlers.storage.volume.write_state import IoHealth

_log = logging.getLogger(__name__)
_WRITE_BACK_BYTES = 8 << 20
"""The disk is given so much at once while the copying goes on, rather than all of it at the end."""


class CompactedCopy:
    """Made with `begin`. `rows_end_bytes` is how far the rows of the source's .idx are in the copy.

    Methods raise ReadFailed and WriteFailed where a disk fails; the copy is of no use then.
    """

    def __init__(
        self,
        files: Files,
        source: VolumeState,
        descriptors: tuple[int, int],
        rows_end_bytes: int,
        offset_width_bytes: int,
        health: IoHealth,
    ) -> None:
        """Takes over both `descriptors`, of .cpd and .cpx, and the caller's hold on the files of `source`."""
        self.source, self.paths = source, source.paths
        self.dat_path, self.idx_path = self.paths.file(".cpd"), self.paths.file(".cpx")
        self.rows_end_bytes = rows_end_bytes
        self._files, self._health, self._width = files, health, offset_width_bytes
        self._dat_fd, self._idx_fd = descriptors
        self._idx_end_bytes = 0
        self._written_back_bytes = 0
        self._is_synced = False
        block = source.super_block
        target = Target(self.dat_path, self._dat_fd)
        self._mover = RecordMover(
            files, source.dat, target, block.size_bytes, block.version, offset_width_bytes, health
        )

    @classmethod
    def begin(  # noqa: PLR0913, PLR0917  what is copied, and how
        cls,
        files: Files,
        source: VolumeState,
        rows_end_bytes: int,
        offset_width_bytes: int,
        health: IoHealth,
        preallocate_bytes: int,
    ) -> Self:
        """A copy without records. The caller holds on to the files of `source` until it is closed.

        Raises:
            CompactionRunning: another process compacts the volume.
            WriteFailed: the files cannot be made. None is left.
        """
        path = source.paths.file(".cpd")
        descriptors: list[int] = []
        try:
            dat_fd = files.open(path, os.O_RDWR | os.O_CREAT)
            descriptors.append(dat_fd)
            # The lock comes before the truncation: another process may be writing to the file.
            if not files.lock(dat_fd):
                raise CompactionRunning(source.paths.volume_id)
            files.truncate(dat_fd, 0)
            if preallocate_bytes > 0:
                _reserve(files, dat_fd, path, preallocate_bytes)
            files.write(dat_fd, [_next_block(source).encode()], 0)
            path = source.paths.file(".cpx")
            idx_fd = files.open(path, os.O_RDWR | os.O_CREAT)
            descriptors.append(idx_fd)
            files.truncate(idx_fd, 0)
        except CompactionRunning:
            _close(files, descriptors)
            raise
        except OSError as error:
            with suppress(OSError):
                drop_copy(files, source.paths)
            _close(files, descriptors)
            raise WriteFailed(path, 0, error) from error
        return cls(files, source, (dat_fd, idx_fd), rows_end_bytes, offset_width_bytes, health)

    @property
    def source_end_bytes(self) -> int:
        """The `dat_end_bytes` of the last `add`: how much of the source's .dat the copy covers."""
        return self._mover.source_end_bytes

    @property
    def end_bytes(self) -> int:
        """The length of .cpd."""
        return self._mover.end_bytes

    def add(self, rows: Rows, dat_end_bytes: int, expiry: Expiry | None = None) -> Iterator[Moved]:
        """Copies the records of `rows`, which end before `dat_end_bytes`, and enters them; see `RecordMover.move`."""
        self._mover.source_end_bytes = dat_end_bytes
        for moved in self._mover.move(rows, expiry):
            self._append_rows(moved.rows)
            if self.end_bytes - self._written_back_bytes >= _WRITE_BACK_BYTES:
                self._files.begin_write_back(
                    self._dat_fd, self._written_back_bytes, self.end_bytes - self._written_back_bytes
                )
                self._written_back_bytes = self.end_bytes
            yield moved

    def _append_rows(self, rows: Rows) -> None:
        self._is_synced = False
        raw = encode_rows(*rows, self._width)
        try:
            self._files.write(self._idx_fd, [raw], self._idx_end_bytes)
        except OSError as error:
            self._health.failed(error)
            raise WriteFailed(self.idx_path, self._idx_end_bytes, error) from error
        self._idx_end_bytes += len(raw)

    # ---- what was appended since

    def catch_up(self, rows_end_bytes: int, dat_end_bytes: int) -> Rows:
        """Copies what the rows of the source up to `rows_end_bytes` name, of each needle the last, deletions too.

        Returns the rows that were entered.

        Raises:
            CompactionRefused: a row leads to no record. That is no garbage of long ago, so the copy is of no use.
        """
        if rows_end_bytes <= self.rows_end_bytes:
            return Rows(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int32))
        raw = read_rows(self._files, self.source, self.rows_end_bytes, rows_end_bytes, self._health)
        rows = Rows(*parse_rows(raw, self._width))
        rows = rows.take(_last_of_each(rows.keys))
        has_record = rows.offsets != 0
        # A deletion may have no record; it counts all the same.
        bare = rows.take(~has_record & (rows.sizes < 0))
        if len(bare.keys):
            self._append_rows(bare)
        entered: list[Rows] = []
        for moved in self.add(rows.take(has_record), dat_end_bytes):
            if len(moved.missing.keys):
                why = f"is not compacted: there is no record of needle {int(moved.missing.keys[0]):x}, just written"
                raise CompactionRefused(self.paths.volume_id, why)
            entered.append(moved.rows)
        self.rows_end_bytes = rows_end_bytes
        return bare.joined(*entered)

    # ---- the end

    def sync(self) -> None:
        """Puts both files on disk, but for their names, unless they are there."""
        if self._is_synced:
            return
        for fd, path in ((self._dat_fd, self.dat_path), (self._idx_fd, self.idx_path)):
            try:
                self._files.sync(fd)
            except OSError as error:
                self._health.failed(error)
                raise WriteFailed(path, 0, error) from error
        self._is_synced = True

    def date_back(self) -> None:
        """Gives .cpd the time of the source's last write, from which the age of a volume with a TTL counts.

        The time gets to the disk with the next change of a directory there, or is lost: the volume is younger then.
        """
        try:
            self._files.set_modified(self._dat_fd, self._files.facts_of(self.source.dat.fd).modified_at_ns)
        except OSError as error:
            raise WriteFailed(self.dat_path, 0, error) from error

    def index(self) -> NeedleIndex:
        """The needle index that .cpx leads to now."""
        try:
            rows = self._files.read(self._idx_fd, self._idx_end_bytes, 0)
        except OSError as error:
            self._health.failed(error)
            raise ReadFailed(self.idx_path, 0, error) from error
        return build_index(rows, self._width, self.source.super_block.version).index

    def state(self, index: NeedleIndex, info: VolumeInfo) -> VolumeState:
        """The copy as the files of the volume; both are on disk. The caller releases them."""
        path = self.dat_path
        opened: list[SharedFile] = []
        try:
            for path in (self.dat_path, self.idx_path):
                opened.append(SharedFile.open(self._files, path, os.O_RDWR))  # noqa: PERF401  released below
        except OSError as error:
            for file in opened:
                file.release()
            raise WriteFailed(path, 0, error) from error
        dat, idx = opened
        return replace(
            self.source,
            info=info,
            dat=dat,
            idx=idx,
            super_block=_next_block(self.source),
            index=index,
            dat_end_bytes=self.end_bytes,
            idx_end_bytes=self._idx_end_bytes,
            sync_failed_end_bytes=0,
            is_synced=True,
            share=None,
        )

    def close(self) -> None:
        """Lets go of both files, and of those of the source. Removes nothing."""
        _close(self._files, (self._dat_fd, self._idx_fd))
        self.source.dat.release()
        self.source.idx.release()


def live_rows(
    files: Files, source: VolumeState, rows_end_bytes: int, offset_width_bytes: int, health: IoHealth
) -> Rows:
    """The live needles of `source` in the order of their ids, by the first `rows_end_bytes` of .idx.

    Raises:
        ReadFailed: the disk failed.
    """
    raw = read_rows(files, source, 0, rows_end_bytes, health)
    base = build_index(raw, offset_width_bytes, source.super_block.version).index.layers.merged().base
    offsets = base.low.astype(np.int64)
    if base.high is not None:
        offsets |= base.high.astype(np.int64) << 32
    rows = Rows(base.keys, offsets, base.sizes)
    return rows.take((rows.sizes >= 0) & (rows.offsets != 0))


def read_rows(files: Files, source: VolumeState, start_bytes: int, end_bytes: int, health: IoHealth) -> bytes:
    """A range of the .idx of `source`. Raises ReadFailed, also where the file is shorter."""
    try:
        raw = files.read(source.idx.fd, end_bytes - start_bytes, start_bytes)
        if len(raw) != end_bytes - start_bytes:
            raise OSError(None, f"{len(raw)} bytes of rows, there should be {end_bytes - start_bytes}")
    except OSError as error:
        health.failed(error)
        raise ReadFailed(source.idx.path, start_bytes, error) from error
    return raw


def _next_block(source: VolumeState) -> SuperBlock:
    block = source.super_block
    return replace(block, compaction_revision=(block.compaction_revision + 1) & 0xFFFF)


def _reserve(files: Files, fd: int, path: Path, length_bytes: int) -> None:
    try:
        files.allocate(fd, length_bytes)
    except OSError as error:
        # As upstream: a convenience, which not every file system has. Room was asked for before.
        _log.warning("%s is not preallocated: %s", path, error)
        # Some file systems keep the part that they could reserve.
        files.truncate(fd, 0)


def _close(files: Files, descriptors: list[int] | tuple[int, ...]) -> None:
    for fd in descriptors:
        with suppress(OSError):
            files.close(fd)


def _last_of_each(keys: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The positions of the last row of each key, in order."""
    _, first_from_behind = np.unique(keys[::-1], return_index=True)
    return np.sort(len(keys) - 1 - first_from_behind)
