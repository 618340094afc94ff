"""How full a location's file system is, looked at no more than once a minute.

Source: weed/storage/disk_location.go:CheckDiskSpace, weed/util/minfreespace.go, weed/stats/disk_supported.go.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.storage.files import DiskSpace
from native_handlers.storage.report import DiskStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from native_handlers.storage.files import Files

CHECK_INTERVAL_NS = 60 * 10**9


@dataclass(frozen=True, slots=True)
class MinFree:
    """The reserve below which a disk takes no more: in bytes when that is set, else in percent of the disk."""

    percent: float | None
    size_bytes: int | None

    def is_low(self, space: DiskSpace) -> bool:
        if self.size_bytes is not None:
            return space.free_bytes < self.size_bytes
        return self.percent is not None and percent_of(space.free_bytes, space.all_bytes) < self.percent

    def available_bytes(self, space: DiskSpace) -> int:
        """What may be taken before the reserve is touched."""
        reserve = self.size_bytes
        if reserve is None:
            reserve = int(space.all_bytes * (self.percent or 0.0) / 100)
        return max(space.free_bytes - reserve, 0)


def percent_of(part: int, whole: int) -> float:
    return part / whole * 100 if whole else 0.0


class DiskGauge:
    """The space of one directory's file system; the last answer is kept for a minute. Safe from any thread."""

    def __init__(self, files: Files, path: Path, min_free: MinFree, clock_ns: Callable[[], int]) -> None:
        self._files, self._path, self._min_free, self._clock_ns = files, path, min_free, clock_ns
        self._space = DiskSpace(0, 0)
        self._is_low = False
        self._is_unavailable = False
        # Held while the file system is asked, so that one that hangs keeps one thread only.
        self._asking = threading.Lock()
        self._asked_at_ns = -CHECK_INTERVAL_NS
        self.check()

    def check(self) -> None:
        """Asks the file system now, unless somebody else is asking."""
        if not self._asking.acquire(blocking=False):
            return
        try:
            self._asked_at_ns = self._clock_ns()
            self._space = self._files.disk_space(self._path)
            self._is_low = self._min_free.is_low(self._space)
            self._is_unavailable = False
        except OSError:
            # What cannot even be asked for its size is not there: reports leave its volumes out until it is back.
            self._is_unavailable = True
        finally:
            self._asking.release()

    def _current(self) -> None:
        if self._clock_ns() - self._asked_at_ns > CHECK_INTERVAL_NS:
            self.check()

    @property
    def is_low(self) -> bool:
        self._current()
        return self._is_low

    @property
    def is_unavailable(self) -> bool:
        self._current()
        return self._is_unavailable

    @property
    def space(self) -> DiskSpace:
        self._current()
        return self._space

    @property
    def available_bytes(self) -> int:
        return self._min_free.available_bytes(self.space)

    def status(self, disk_type: str) -> DiskStatus:
        """The space as of now. On failure, as of the last answer."""
        self.check()
        space = self._space
        used = space.all_bytes - space.free_bytes
        free_percent, used_percent = percent_of(space.free_bytes, space.all_bytes), percent_of(used, space.all_bytes)
        directory = str(self._path)
        return DiskStatus(directory, space.all_bytes, used, space.free_bytes, free_percent, used_percent, disk_type)
