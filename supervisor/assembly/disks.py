"""Has each disk looked at from time to time, every disk by a task of its own: one that hangs delays no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.disk_watch import DiskWatch

LOOK_INTERVAL_S = 60.0
"""Between two questions for the size of a file system. Source: weed/storage/disk_location.go:NewDiskLocation."""
MIN_PROBE_INTERVAL_S = 1.0
"""A configured interval of nothing would write without a pause."""


async def serve_disk_watch(
    watch: DiskWatch,
    *,
    look_interval_s: float = LOOK_INTERVAL_S,
    min_probe_interval_s: float = MIN_PROBE_INTERVAL_S,
) -> None:
    """Watches one disk until cancelled.

    Cancellation: safe. What is under way is left to end by itself, for the disk may hang.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_repeat, watch.look, look_interval_s)
        if watch.config.is_enabled:
            nursery.start_soon(_repeat, watch.probe, max(watch.config.interval_s, min_probe_interval_s))


async def _repeat(work: Callable[[], None], interval_s: float) -> None:
    # Its own: when a disk hangs, those who wait for it may have taken all threads that are shared.
    limiter = trio.CapacityLimiter(1)
    while True:
        await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
        await trio.sleep(interval_s)
