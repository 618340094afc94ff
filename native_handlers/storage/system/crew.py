"""Opens or closes many volumes in parallel, with as many threads as the disk can use.

Opening a volume is partly computing and partly waiting: for the disk, or for the tier that has the volume. Where memory
holds the files it is all computing, and more threads only compete for the interpreter: ten take twice as long as one.
Where the disk has to seek, or a tier has to answer, one thread leaves it idle between two reads. So one thread begins,
and another joins while the processor has idle time and there was a wait. Time in which other programs keep the
processors busy does not count as idle. The host of a virtual machine takes the processor away without a trace; such
time looks idle, but nothing was waited for.
"""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

_log = logging.getLogger(__name__)
MAX_THREADS = max(os.cpu_count() or 1, 10)
"""As upstream. Source: weed/storage/disk_location.go:concurrentLoadingVolumes."""
_LOOK_S = 0.01
"""How long the processor time is measured before another thread joins."""
_IDLE_SHARE = 0.5
"""Another thread joins when this process was idle for this share of the time."""


class Crew(Generic[T]):
    """Runs `work` for each item, in the order of the items, several at the same time.

    Args:
        waits: a count that grows when the work waits: `blocks_read` or `times_blocked`, and what else is waited for.
    """

    def __init__(self, items: Iterable[T], work: Callable[[T], object], waits: Callable[[], int]) -> None:
        self._items = iter(items)
        self._work = work
        self._count_waits = waits
        # Protects the fields below, and `_items`.
        self._lock = threading.Lock()
        self._failures: list[Exception] = []
        self._helpers: list[threading.Thread] = []
        self._may_grow = True
        self._looked_at_s = 0.0
        self._busy_s = 0.0
        self._waits = 0
        self._waited_s = threading.local()
        """For each thread: how long it had waited for a processor at its last measurement."""

    def run(self) -> None:
        """Runs all work and returns when it is done. Then raises the first error, if there was one."""
        self._looked_at_s, self._busy_s, self._waits = time.monotonic(), time.process_time(), self._count_waits()
        self._waited_for_processor_s()
        self._take_part()
        for helper in self._helpers:
            helper.join()
        if self._failures:
            raise self._failures[0]

    def _take_part(self) -> None:
        while True:
            with self._lock:
                try:
                    item = next(self._items)
                except StopIteration:
                    return
            try:
                self._work(item)
            except Exception as error:  # noqa: BLE001  raised again when all is done
                with self._lock:
                    self._failures.append(error)
            self._look()

    def _look(self) -> None:
        """Starts another thread where the processor was idle for a part of the time."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s < _LOOK_S:
            return
        with self._lock:
            passed_s, busy_s = now_s - self._looked_at_s, time.process_time()
            is_idle = busy_s - self._busy_s + self._waited_for_processor_s() < passed_s * (1 - _IDLE_SHARE)
            waits = self._count_waits()
            has_waited = waits > self._waits
            self._looked_at_s, self._busy_s, self._waits = now_s, busy_s, waits
            if passed_s < _LOOK_S or not (is_idle and has_waited and self._may_grow):
                return
            helper = threading.Thread(target=self._take_part, name="volume-crew", daemon=True)
            try:
                helper.start()
            except RuntimeError as error:
                # The system gives no thread (`ulimit -u`, `pids.max`).
                _log.warning("volumes are worked on with %d threads: %s", len(self._helpers) + 1, error)
                self._may_grow = False
                return
            self._helpers.append(helper)
            self._may_grow = len(self._helpers) < MAX_THREADS - 1

    def _waited_for_processor_s(self) -> float:
        """How long this thread has waited for a processor since its last measurement."""
        total_s = run_delay_s()
        before_s: float = getattr(self._waited_s, "total", total_s)
        self._waited_s.total = total_s
        return total_s - before_s


def blocks_read() -> int:
    """How many blocks this process has read from disks, and not from the page cache. For work that reads."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock


def times_blocked() -> int:
    """How often a thread of this process has waited, for a disk or another thread. For work that writes and syncs."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def run_delay_s() -> float:
    """How long the calling thread has been ready to run while the processors were busy; 0 where that is unknown.

    Source: Linux, Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat.
    """
    try:
        with open("/proc/thread-self/schedstat", "rb") as stat:
            return int(stat.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
