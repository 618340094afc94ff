"""Keeps copies to a number of bytes a second. Source: weed/util/throttler.go, which checks each 100 ms."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_NS = 10**9
_LEEWAY_NS = _NS // 100
"""Shorter pauses are put off, because they cost more than they gain."""


class WriteThrottler:
    """A pace from the first byte on. Time that a slow server or disk has lost is not made up for.

    Args:
        bytes_per_s: 0 or less means no bound.
        pause: waits for so many seconds, or less where waiting has no use any more.
    """

    def __init__(
        self, bytes_per_s: int, pause: Callable[[float], object], clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._bytes_per_s, self._pause, self._clock_ns = bytes_per_s, pause, clock_ns
        self._due_ns = clock_ns()

    def passed(self, count_bytes: int) -> None:
        """Counts copied bytes, and returns when more may be copied."""
        if self._bytes_per_s <= 0:
            return
        now_ns = self._clock_ns()
        self._due_ns = max(self._due_ns, now_ns - _LEEWAY_NS) + count_bytes * _NS // self._bytes_per_s
        if self._due_ns - now_ns > _LEEWAY_NS:
            self._pause((self._due_ns - now_ns) / _NS)
