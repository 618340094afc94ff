"""Watches one disk location: asks its file system for its size, times small synced writes, and tells when it fails.

A disk out of service is left out of heartbeats and placements, and its volumes refuse reads and writes, until the disk
is sound again. Each disk is watched separately. The server calls `look` and `probe` from time to time, for each disk
from a task of its own; neither takes longer than its time limit. Source: weed/stats/disk.go,
weed/storage/disk_location.go:CheckDiskSpace.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.records import dataclass
from native_handlers.storage.disk.room import is_full
from native_handlers.storage.system.bounded_call import BoundedCall, CallTimedOut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from native_handlers.storage.disk.space import DiskUsage
    from native_handlers.storage.system.files import Files

_log = logging.getLogger(__name__)
PROBE_FILE_NAME = ".disk-health-check"
PROBE_BYTES = 4096
_NOT_ITS_HEALTH = (errno.EMFILE, errno.ENFILE)
"""A lack of descriptors says nothing about the disk. Upstream counts these errors as failures."""
_SHORT_INTERVAL_S = 5.0
"""The time between two looks at a full disk, so that it takes writes again soon after there is room."""


class DiskHealth:
    """The known health of one disk. `problem` is the reason why it is out of service, or "" when it is in service."""

    def __init__(
        self,
        files: Files,
        path: Path,
        usage: DiskUsage,
        config: ProbeConfig,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.problem = ""
        self._files, self._path, self._usage = files, path, usage
        self._monotonic_s = monotonic_s
        self.after_look: Callable[[], bool] | None = None
        """Called after each answer; returns whether the disk has its full reserve."""
        self.is_short: Callable[[], bool] = lambda: False
        """Whether the disk is known to lack its full reserve."""
        self._listeners: list[Callable[[bool], None]] = []
        self._has_room = True
        self._answers = SpaceAnswers(config)
        self._times = WriteTimes(config)
        self._bounded = BoundedCall("disk io", config.timeout_s)
        # Held while a measurement is entered and judged.
        self._judging = threading.Lock()
        if config.is_enabled and config.effective_window_s > config.window_s:
            counts = f"{config.min_samples} samples, one every {config.interval_s:g} s"
            wide = f"{config.effective_window_s:g} s instead of {config.window_s:g} s"
            _log.warning("disk probe: the window is %s, for it has to hold %s", wide, counts)

    def add_listener(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Registers `callback`, which gets whether the disk is out of service, when that has changed. The thread that
        has found out calls it. Returns a function that removes the callback. A callback must neither wait nor raise.
        """
        self._listeners = [*self._listeners, callback]

        def remove() -> None:
            self._listeners = [one for one in self._listeners if one is not callback]

        return remove

    def look(self) -> None:
        """Asks the file system for its size, and judges by the answer or its absence."""
        why = self._usage.ask()
        with self._judging:
            if why:
                self._answers.failed(why)
            else:
                self._answers.succeeded()
            self._judge()
        if not why and not self.problem and self.after_look is not None:
            self._has_room = self.after_look()
            self._usage.tell()

    def next_look_within_s(self) -> float | None:
        """The longest time until the next look, in seconds; None where nothing waits for it."""
        is_well = self._has_room and not self._usage.is_low and not self.is_short()
        return None if is_well else _SHORT_INTERVAL_S

    def probe(self) -> None:
        """Times a synced write of 4 KiB and judges by that. Does nothing while the file system gives no answer."""
        if not self.config.is_enabled or not self._usage.is_answering:
            return
        started_at_s = self._monotonic_s()
        why = ""
        try:
            self._bounded.run(self._write)
        except CallTimedOut as failure:
            why = str(failure)
        except OSError as error:
            if is_full(error) or error.errno in _NOT_ITS_HEALTH:
                # A full disk still serves reads. Upstream counts this as a failure.
                return
            why = error.strerror or str(error)
        now_s = self._monotonic_s()
        with self._judging:
            if why:
                self._times.failed(why, now_s)
            else:
                self._times.took(now_s - started_at_s, now_s)
            self._judge()

    def _write(self) -> None:
        fd = self._files.open(self._path / PROBE_FILE_NAME, os.O_RDWR | os.O_CREAT)
        try:
            self._files.write(fd, [bytes(PROBE_BYTES)], 0)
            self._files.sync(fd)
        finally:
            self._files.close(fd)

    def _judge(self) -> None:
        problem = describe((self._answers.problem, self._times.problem))
        was, self.problem = self.problem, problem
        for tell in self._listeners if bool(problem) != bool(was) else ():
            tell(bool(problem))
        if problem and not was:
            _log.error("%s is out of service: %s. Its volumes are not announced, and answer 503", self._path, problem)
        elif was and not problem:
            _log.warning("%s is well again and back in service", self._path)


# ---- The rules by which a disk counts as failing, slow, and sound again. They use measurements only and touch no disk.
#
# There are two measurements. The first is the answer to the query of the size: `max_stat_failures` failures in a row
# make the disk unavailable, and some answers in a row make it available again. The second, if enabled, is the time of a
# small synced write: too large a share of slow or failed writes within a window makes the disk unavailable, and a share
# below `recovery_coefficient` times that makes it available again.
#
# Wilful differences from upstream: a window too short to ever hold `min_samples` is widened, because with upstream's
# own defaults (10 samples, one a minute, a window of a minute) the probe can reach no verdict. And an interval below a
# minute is used. Source: weed/stats/disk.go.


@dataclass(frozen=True, slots=True)
class ProbeConfig:
    """volume.disk.io.*; `is_enabled` concerns the timed writes only."""

    is_enabled: bool = False
    interval_s: float = 60.0
    slow_s: float = 0.5
    timeout_s: float = 2.0
    window_s: float = 60.0
    min_samples: int = 10
    slow_percent: float = 20.0
    error_percent: float = 10.0
    max_stat_failures: int = 5
    recovery_coefficient: float = 0.5

    @property
    def effective_window_s(self) -> float:
        """The window, wide enough for `min_samples`, each of which may take `timeout_s`."""
        return max(self.window_s, (self.min_samples + 1) * (self.interval_s + self.timeout_s))

    @property
    def stat_successes_to_recover(self) -> int:
        """The number of answers in a row that make an unavailable disk available again."""
        failures = self.max_stat_failures
        if failures <= 1:
            return 1
        if self.recovery_coefficient <= 0:
            return failures * 2
        return max(int(failures * (1 / self.recovery_coefficient - 1)), 1)


class _Sample(NamedTuple):
    at_s: float
    is_slow: bool
    is_failed: bool


class SpaceAnswers:
    """The consecutive answers and failures of queries for the size."""

    def __init__(self, config: ProbeConfig) -> None:
        self._config = config
        self._failures = 0
        self._successes = 0
        self._last_failure = ""

    def failed(self, why: str) -> None:
        self._failures += 1
        self._successes = 0
        self._last_failure = why

    def succeeded(self) -> None:
        if self.problem:
            self._successes += 1
            if self._successes < self._config.stat_successes_to_recover:
                return
        self._failures = self._successes = 0
        self._last_failure = ""

    @property
    def problem(self) -> str:
        """The reason why the disk is unavailable, or ""."""
        limit = max(self._config.max_stat_failures, 1)
        return f"statfs: {self._last_failure}" if self._failures >= limit else ""


class WriteTimes:
    """The timed writes within the window. `now_s` is of any monotonic clock."""

    def __init__(self, config: ProbeConfig) -> None:
        self._config = config
        self._samples: deque[_Sample] = deque()
        self._is_degraded = False
        self._last_problem = ""

    def took(self, duration_s: float, now_s: float) -> None:
        """Enters a successful write."""
        self._add(duration_s, f"disk io degradation detected latency={duration_s * 1000:.0f}ms", now_s, is_failed=False)

    def failed(self, why: str, now_s: float) -> None:
        """Enters a write that failed or did not end in time."""
        self._add(self._config.timeout_s, why, now_s, is_failed=True)

    def _add(self, duration_s: float, why: str, now_s: float, *, is_failed: bool) -> None:
        is_slow = duration_s >= self._config.slow_s
        self._samples.append(_Sample(now_s, is_slow, is_failed))
        while self._samples[0].at_s <= now_s - self._config.effective_window_s:
            self._samples.popleft()
        if is_slow or is_failed:
            self._last_problem = why
        self._is_degraded = self._is_degraded_now()

    def _is_degraded_now(self) -> bool:
        config, total = self._config, len(self._samples)
        if total < max(config.min_samples, 1):
            return self._is_degraded
        slow_percent = 100 * sum(sample.is_slow for sample in self._samples) / total
        error_percent = 100 * sum(sample.is_failed for sample in self._samples) / total
        if not self._is_degraded:
            return slow_percent >= config.slow_percent or error_percent >= config.error_percent
        ease = config.recovery_coefficient
        return slow_percent > config.slow_percent * ease or error_percent > config.error_percent * ease

    @property
    def problem(self) -> str:
        """The reason why the disk is unavailable, or ""."""
        return f"io: {self._last_problem}" if self._is_degraded else ""


def describe(problems: tuple[str, ...]) -> str:
    """Joins several problems into one text; "" entries are left out. Source: weed/stats/disk.go:updateErrorLocked."""
    found = [problem for problem in problems if problem]
    return "disk health check failed: " + "; ".join(found) if found else ""
