"""Threads for each disk by itself: requests that wait for a disk that hangs leave the other disks theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.volume import Volume

T = TypeVar("T")

THREADS_PER_DISK = 40
"""As many as trio gives a whole program by default."""


class DiskThreads:
    """Where needles are read and written that memory does not hold."""

    def __init__(self, per_disk: int = THREADS_PER_DISK) -> None:
        self._per_disk = per_disk
        self._limiters: dict[int, trio.CapacityLimiter] = {}

    async def run(self, volume: Volume, work: Callable[[], T]) -> T:
        """What `work`, which waits for the disk of `volume`, returns or raises.

        Raises:
            DiskUnavailable: the disk is out of service; `work` was not called, nor waited for a thread.

        Cancellation: before `work` has begun only.
        """
        volume.check_in_service()
        limiter = self._limiters.setdefault(volume.disk_id, trio.CapacityLimiter(self._per_disk))
        return await trio.to_thread.run_sync(work, limiter=limiter)
