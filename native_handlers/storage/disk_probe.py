"""When a disk counts as failing, slow, and well again: rules over what was measured; nothing here touches a disk.

Two things are measured. How the file system answers the question for its size: `max_stat_failures` failures in a row
make the disk unavailable, and some answers in a row make it available again. And, if switched on, how long a small
synced write takes: too large a share of slow or failed ones within a window makes it unavailable, and a share below
`recovery_coefficient` times that makes it available again.

Wilful differences from upstream: a window too short to ever hold `min_samples` is widened, for with upstream's own
defaults (10 samples, one a minute, a window of a minute) the probe can reach no verdict; and the interval is heeded
where it is below a minute. Source: weed/stats/disk.go.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class ProbeConfig:
    """volume.disk.io.*; `is_enabled` is about the timed writes only."""

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
        """The window, wide enough for `min_samples`, of which each may take `timeout_s`."""
        return max(self.window_s, (self.min_samples + 1) * (self.interval_s + self.timeout_s))

    @property
    def stat_successes_to_recover(self) -> int:
        """Answers in a row that make an unavailable disk available again."""
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
    """The run of answers and failures of asking a file system for its size."""

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
        """Why the disk is unavailable; "" when it is not."""
        limit = max(self._config.max_stat_failures, 1)
        return f"statfs: {self._last_failure}" if self._failures >= limit else ""


class WriteTimes:
    """The timed writes of the last while. `now_s` is of any clock that only goes forward."""

    def __init__(self, config: ProbeConfig) -> None:
        self._config = config
        self._samples: deque[_Sample] = deque()
        self._is_degraded = False
        self._last_problem = ""

    def took(self, duration_s: float, now_s: float) -> None:
        """A write succeeded."""
        self._add(duration_s, f"disk io degradation detected latency={duration_s * 1000:.0f}ms", now_s, is_failed=False)

    def failed(self, why: str, now_s: float) -> None:
        """A write failed, or did not end in time."""
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
        """Why the disk is unavailable; "" when it is not."""
        return f"io: {self._last_problem}" if self._is_degraded else ""


def describe(problems: tuple[str, ...]) -> str:
    """One text for people out of several, of which "" is none. Source: weed/stats/disk.go:updateErrorLocked."""
    found = [problem for problem in problems if problem]
    return "disk health check failed: " + "; ".join(found) if found else ""
