"""Writes that are to be on disk before they are answered, made together: one thread for each volume that has some.

The event loop forms the needles, and never waits for a sync. While the writes of one batch are synced, those that come
for the same volume make the next batch. `GroupCommit` of the volume joins them with the synced writes of the ordinary
way.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.http.disk_threads import THREADS_PER_DISK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from native_handlers.storage.volume.volume import Volume
    from native_handlers.storage.volume.write import SmallChange

log = logging.getLogger(__name__)


class SyncBatch:
    """Synced writes of one volume that are made together. `SyncBatches.add` makes it; only the event loop uses it."""

    __slots__ = ("_begin", "_ended", "_leave", "changes")

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin
        self._ended = trio.Event()
        self._leave: list[Callable[[], None]] = []
        self.changes: list[SmallChange] = []

    def add(self, change: SmallChange, leave: Callable[[], None]) -> None:
        """Adds a change. `leave` is called when the batch is over."""
        self.changes.append(change)
        self._leave.append(leave)

    def try_finish(self) -> bool:
        """Begins with the changes, unless an earlier batch of the volume runs. Returns whether they are made."""
        self._begin()
        return self._ended.is_set()

    async def wait(self) -> None:
        """Returns when the changes are made. Cancellation: safe."""
        await self._ended.wait()

    def end(self) -> None:
        """The changes are made, as far as they could be."""
        self._ended.set()
        for leave in self._leave:
            leave()


class SyncBatches:
    """Collects synced writes for the next batch of their volumes. Only the event loop uses it.

    Args:
        per_disk: how many volumes of one disk may have a batch that runs: a disk that hangs keeps as many threads.
    """

    def __init__(self, per_disk: int = THREADS_PER_DISK) -> None:
        self._per_disk = per_disk
        self._running: set[Volume] = set()
        self._on_disk: Counter[int] = Counter()
        self._open: dict[Volume, SyncBatch] = {}

    def is_free(self, volume: Volume) -> bool:
        """Whether writes of `volume` are taken now."""
        return volume in self._running or self._on_disk[volume.disk_id] < self._per_disk

    def add(self, volume: Volume, change: SmallChange, leave: Callable[[], None]) -> SyncBatch:
        """Adds a change to the batch of `volume` that is open. Only while `is_free`. `leave` is called when the change
        is over.
        """
        batch = self._open.get(volume)
        if batch is None:
            batch = self._open[volume] = SyncBatch(partial(self._begin, volume))
        batch.add(change, leave)
        return batch

    def _begin(self, volume: Volume) -> None:
        if volume in self._running or volume not in self._open:
            return
        batch, token = self._open.pop(volume), trio.lowlevel.current_trio_token()
        self._running.add(volume)
        self._on_disk[volume.disk_id] += 1

        def tell(_: object) -> None:
            with suppress(trio.RunFinishedError):  # the event loop has ended, so no task waits
                token.run_sync_soon(self._end, volume, batch)

        trio.lowlevel.start_thread_soon(partial(_make, volume, batch.changes), tell, f"synced writes {volume.id}")

    def _end(self, volume: Volume, batch: SyncBatch) -> None:
        self._running.discard(volume)
        self._on_disk[volume.disk_id] -= 1
        batch.end()
        self._begin(volume)


def _make(volume: Volume, changes: Sequence[SmallChange]) -> None:
    try:
        volume.try_synced(changes)
    except Exception:
        log.exception("synced writes of volume %d broke off by a bug of ours", volume.id)
