"""Lets many writers that want their needles on disk share one pair of syncs.

There is no thread for that: a writer that finds no commit under way commits the waiting writes, its own first, and
passes the commit on to the next waiting writer. While one batch is synced the next one gathers. So the batch size
follows the load, and a lone writer waits for no other.

Source of the bounds: weed/storage/volume_write.go:startWorker.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from native_handlers.format.errors import FormatError
from native_handlers.records import dataclass
from native_handlers.storage.model.errors import StorageError, WriteFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from native_handlers.format.needle import Needle

MAX_WRITES = 128
MAX_BYTES = 4 << 20
"""A batch is closed at the write that reaches either bound, so that its first writer does not wait long for the
others."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The result of a write. `offset` is the record's, in bytes; `size_bytes` is the payload's length. `is_unchanged`
    means that the same content was stored already and nothing was written.
    """

    offset: int
    size_bytes: int
    is_unchanged: bool


class BatchAborted(Exception):
    """Another thread failed by a defect while it committed the batch. Whether the needle was stored is not known."""


class PendingWrite:
    """One writer's needle. The committing thread sets `result` or `error`."""

    __slots__ = ("_is_awake", "check_cookie", "error", "needle", "result")

    def __init__(self, needle: Needle, *, check_cookie: bool) -> None:
        self.needle = needle
        self.check_cookie = check_cookie
        self.result: WriteResult | None = None
        self.error: BaseException | None = None
        self._is_awake = threading.Event()

    @property
    def is_finished(self) -> bool:
        return self.result is not None or self.error is not None

    def wake(self) -> None:
        """Wakes the writer: its result is known, or its turn to commit has come."""
        self._is_awake.set()

    def wait(self) -> None:
        self._is_awake.wait()

    def outcome(self) -> WriteResult:
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


def stage_and_commit(
    writes: Sequence[PendingWrite], stage: Callable[[PendingWrite], WriteResult], commit: Callable[[], None]
) -> None:
    """Stages each of `writes`, then commits once. A write that cannot be staged does not affect the others.

    Needles that were stored already are committed, too: they are to be on disk as well.
    """
    staged: list[tuple[PendingWrite, WriteResult]] = []
    for write in writes:
        try:
            staged.append((write, stage(write)))
        except (StorageError, FormatError) as error:
            write.error = error
    if not staged:
        return
    try:
        commit()
    except WriteFailed as error:
        for write, _ in staged:
            write.error = error.copy()
    else:
        for write, result in staged:
            write.result = result


class GroupCommit:
    """The writers of one volume that wait for the disk. `commit` gives every write its result or its error."""

    def __init__(self, commit: Callable[[Sequence[PendingWrite]], None]) -> None:
        self._commit = commit
        self._waiting: list[PendingWrite] = []
        self._is_committing = False
        # Protects _waiting and _is_committing.
        self._lock = threading.Lock()

    @property
    def waiting_count(self) -> int:
        """The number of writes that no batch has taken yet."""
        return len(self._waiting)

    def write(self, write: PendingWrite) -> WriteResult:
        """Commits `write`. Returns its result, or raises its error."""
        self.write_all((write,))
        return write.outcome()

    def write_all(self, writes: Sequence[PendingWrite]) -> None:
        """Commits all `writes`, which wait together. Each then has its result or its error.

        Raises:
            Exception: a defect in a batch of this caller. The writes of that batch may have no result and no error.
        """
        if not writes:
            return
        with self._lock:
            self._waiting.extend(writes)
            is_leader, self._is_committing = not self._is_committing, True
        defect: BaseException | None = None
        for write in writes:
            if not is_leader:
                write.wait()
            is_leader = False
            if not write.is_finished:
                # Each of the writes may be the one to which a commit is passed on, so each is waited for.
                try:
                    self._lead()
                except BaseException as error:  # noqa: BLE001  raised below
                    defect = defect or error
        if defect is not None:
            raise defect

    def _lead(self) -> None:
        """Commits one batch. The caller's own write is the oldest, so the batch begins with it."""
        with self._lock:
            batch = self._take()
        try:
            self._commit(batch)
        except BaseException as error:
            for write in batch[1:]:
                write.error = write.error or BatchAborted(repr(error))
            raise
        finally:
            self._appoint_leader()
            for write in batch[1:]:
                write.wake()

    def _take(self) -> list[PendingWrite]:
        batch: list[PendingWrite] = []
        size_bytes = 0
        for write in self._waiting:
            if len(batch) == MAX_WRITES or size_bytes >= MAX_BYTES:
                break
            batch.append(write)
            size_bytes += len(write.needle.data)
        del self._waiting[: len(batch)]
        return batch

    def _appoint_leader(self) -> None:
        with self._lock:
            self._is_committing = bool(self._waiting)
            heir = self._waiting[0] if self._waiting else None
        if heir is not None:
            heir.wake()
