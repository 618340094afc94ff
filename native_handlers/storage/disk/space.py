"""How full a location's file system is. It is asked with a time limit, for one that hangs must hang nobody.

Source: weed/storage/disk_location.go:CheckDiskSpace, weed/util/minfreespace.go, weed/stats/disk_supported.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.storage.files import DiskSpace
from native_handlers.storage.patience import NoAnswer, Patience
from native_handlers.storage.report import DiskStatus

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.files import Files

STATFS_TIMEOUT_S = 0.5


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
    """The space of one directory's file system, as it was when it answered last. Safe from any thread.

    The properties never wait. Before the first answer the disk counts as having room.
    """

    def __init__(self, files: Files, path: Path, min_free: MinFree) -> None:
        self._files, self._path, self._min_free = files, path, min_free
        self._patience = Patience("statfs", STATFS_TIMEOUT_S)
        self._space = DiskSpace(0, 0)
        self.is_low = False
        self.is_answering = True
        """Whether it answered when it was asked last."""

    def ask(self) -> str:
        """Asks the file system now, for half a second at most. Returns why it gave no answer, "" if it did."""
        try:
            space = self._patience.ask(lambda: self._files.disk_space(self._path))
        except NoAnswer as failure:
            self.is_answering = False
            return str(failure)
        except OSError as error:
            self.is_answering = False
            return error.strerror or str(error)
        self._space = space
        self.is_low = self._min_free.is_low(space)
        self.is_answering = True
        return ""

    @property
    def available_bytes(self) -> int:
        """Free space above the reserve."""
        return self._min_free.available_bytes(self._space)

    def status(self, disk_type: str, error: str = "") -> DiskStatus:
        """The space as of now; where the file system gives no answer, as of the last one."""
        self.ask()
        space = self._space
        used = space.all_bytes - space.free_bytes
        return DiskStatus(
            dir=str(self._path),
            all=space.all_bytes,
            used=used,
            free=space.free_bytes,
            percent_free=percent_of(space.free_bytes, space.all_bytes),
            percent_used=percent_of(used, space.all_bytes),
            disk_type=disk_type,
            error=error,
            available=self.available_bytes,
        )
