"""The small changes of one turn of the event loop, made together: for each disk one thread, for each volume one write.

The event loop forms the needles. A thread of the disk appends them, and the loop waits for the thread, a few
milliseconds at most; see `BriefThread`. A disk that takes longer gets no work in this way for a while.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import trio

from native_handlers.runtime.brief_thread import WAIT_S, BriefThread
from supervisor.fast_path.sync_batch import SyncBatches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from native_handlers.runtime.brief_thread import BriefWork
    from native_handlers.storage.volume.volume import Volume
    from native_handlers.storage.volume.write import SmallChange


class TurnBatch:
    """The changes of one turn. `DiskBatches.add` makes it; only the event loop uses it."""

    __slots__ = ("_disks", "_ended", "_is_over", "_late", "_leave", "_retire", "_threads", "_wait_s")

    def __init__(self, threads: Mapping[int, BriefThread], retire: Callable[[], None], wait_s: float) -> None:
        self._threads = threads
        self._wait_s = wait_s
        self._retire = retire
        self._disks: dict[int, dict[Volume, list[SmallChange]]] = {}
        self._leave: list[Callable[[], None]] = []
        self._late: list[BriefWork] | None = None
        self._ended: trio.Event | None = None
        self._is_over = False

    def add(self, volume: Volume, change: SmallChange, leave: Callable[[], None]) -> None:
        """Adds a change of `volume`. `leave` is called when the batch is over."""
        self._disks.setdefault(volume.disk_id, {}).setdefault(volume, []).append(change)
        self._leave.append(leave)

    def try_finish(self) -> bool:
        """Makes the changes at the first call. Returns whether all threads are done."""
        if self._late is None:
            self._retire()
            begun = [
                (self._threads[disk], self._threads[disk].begin(partial(_make, volumes)))
                for disk, volumes in self._disks.items()
            ]
            until_s = monotonic() + self._wait_s
            self._late = [work for thread, work in begun if not thread.wait(work, max(until_s - monotonic(), 0.0))]
            if self._late:
                self._watch(self._late)
            else:
                self._end()
        return self._is_over

    def _end(self) -> None:
        self._is_over = True
        for leave in self._leave:
            leave()

    async def wait(self) -> None:
        """Returns when all threads are done. Cancellation: safe."""
        if not self._is_over:
            assert self._ended is not None, "`try_finish` came first"
            await self._ended.wait()

    def _watch(self, late: list[BriefWork]) -> None:
        ended = self._ended = trio.Event()
        token, left = trio.lowlevel.current_trio_token(), set(late)

        def note(work: BriefWork) -> None:
            left.discard(work)
            if not left:
                self._end()
                ended.set()

        def tell(work: BriefWork) -> None:
            with suppress(trio.RunFinishedError):  # the event loop has ended, so no task waits
                token.run_sync_soon(note, work)

        for work in late:
            work.when_done(partial(tell, work))


def _make(volumes: Mapping[Volume, list[SmallChange]]) -> None:
    for volume, changes in volumes.items():
        volume.try_together(changes)


class DiskBatches:
    """Collects changes for the next batch. Only the event loop uses it. To be closed.

    Args:
        wait_s: how long the event loop waits for the disks of a batch.

    Attributes:
        synced: collects the writes that are to be on disk before they are answered.
    """

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self.synced = SyncBatches()
        self._wait_s = wait_s
        self._threads: dict[int, BriefThread] = {}
        self._open: TurnBatch | None = None

    def is_free(self, volume: Volume) -> bool:
        """Whether the disk of `volume` takes changes in this way now."""
        thread = self._threads.get(volume.disk_id)
        if thread is None:
            thread = self._threads[volume.disk_id] = BriefThread(f"small writes {volume.disk_id}")
        return thread.is_free

    def add(self, volume: Volume, change: SmallChange, leave: Callable[[], None]) -> TurnBatch:
        """Adds a change to the batch that is open. Only while `is_free`. `leave` is called when the change is over."""
        batch = self._open
        if batch is None:
            batch = self._open = TurnBatch(self._threads, self._close_batch, self._wait_s)
        batch.add(volume, change, leave)
        return batch

    def _close_batch(self) -> None:
        self._open = None

    def close(self) -> None:
        """Ends the threads, each after the work that it has."""
        for thread in self._threads.values():
            thread.close()
