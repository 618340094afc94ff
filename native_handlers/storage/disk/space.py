"""The free space of a location's file system. Queries have a time limit: a file system that hangs must not stop
callers.

Source: weed/storage/disk_location.go:CheckDiskSpace, weed/util/minfreespace.go, weed/stats/disk_supported.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from native_handlers.storage.model.report import DiskStatus
from native_handlers.storage.system.bounded_call import BoundedCall, CallTimedOut
from native_handlers.storage.system.files import DiskSpace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from native_handlers.storage.system.files import Files

STATFS_TIMEOUT_S = 0.5


@dataclass(frozen=True, slots=True)
class MinFree:
    """The free space below which a disk takes no more: in bytes when that is set, else in percent of the disk."""

    percent: float | None
    size_bytes: int | None

    def is_low(self, space: DiskSpace) -> bool:
        if self.size_bytes is not None:
            return space.free_bytes < self.size_bytes
        return self.percent is not None and percent_of(space.free_bytes, space.all_bytes) < self.percent

    def available_bytes(self, space: DiskSpace) -> int:
        """The bytes that may be taken before the limit is reached."""
        reserve = self.size_bytes
        if reserve is None:
            reserve = int(space.all_bytes * (self.percent or 0.0) / 100)
        return max(space.free_bytes - reserve, 0)


def percent_of(part: int, whole: int) -> float:
    return part / whole * 100 if whole else 0.0


class DiskUsage:
    """The space of one directory's file system at its last answer. Safe from any thread.

    The properties never wait. Before the first answer the disk counts as having room. The reserve for deletions counts
    as free, so that -minFreeSpace has the same meaning as without a reserve.
    """

    def __init__(self, files: Files, path: Path, min_free: MinFree) -> None:
        self._files, self._path, self._min_free = files, path, min_free
        self._bounded = BoundedCall("statfs", STATFS_TIMEOUT_S)
        self._space = DiskSpace(0, 0)
        self.left_bytes = 0
        """How many bytes this process may append before -minFreeSpace may be reached, if others append nothing."""
        self.appended_elsewhere: Callable[[], int] = lambda: 0
        """Tells how many bytes other processes of the server have appended since they began. It never shrinks."""
        self.elsewhere_at_look = 0
        """The result of `appended_elsewhere` at the last answer."""
        self.on_change: Callable[[], None] | None = None
        """Called when the known room may have changed; see `tell`."""
        self.reserved_bytes = 0
        """The size of the reserve at the last look."""
        self.is_low = False
        self.is_answering = True
        """Whether the file system answered the last query."""

    def ask(self) -> str:
        """Queries the file system now, for half a second at most. Returns the reason why it gave no answer, or ""."""
        elsewhere = self.appended_elsewhere()
        try:
            space = self._bounded.run(lambda: self._files.disk_space(self._path))
        except CallTimedOut as failure:
            self.is_answering = False
            self.tell()
            return str(failure)
        except OSError as error:
            self.is_answering = False
            self.tell()
            return error.strerror or str(error)
        self.elsewhere_at_look = elsewhere
        self._space = space
        counted = self._counted
        self.is_low = self._min_free.is_low(counted)
        self.left_bytes = self._min_free.available_bytes(counted)
        self.is_answering = True
        self.tell()
        return ""

    def tell(self) -> None:
        """Tells that the room may have changed: the free space, the reserve, or another reason to refuse writes."""
        if self.on_change is not None:
            self.on_change()

    def note_appended(self, count: int) -> None:
        """This process has appended `count` bytes, or is about to."""
        self.left_bytes -= count
        if self.left_bytes < 0 or self.on_change is not None:
            self.look_if_used_up()

    def look_if_used_up(self) -> None:
        """Queries again where -minFreeSpace may be reached by what this process and others have appended, unless the
        disk is known to be low. Others append only where `on_change` is set.
        """
        is_used_up = self.left_bytes < self.appended_elsewhere() - self.elsewhere_at_look
        if is_used_up and self.is_answering and not self.is_low:
            self.ask()
        else:
            self.tell()

    @property
    def _counted(self) -> DiskSpace:
        return DiskSpace(self._space.all_bytes, self._space.free_bytes + self.reserved_bytes)

    @property
    def free_bytes(self) -> int:
        """Free space, the reserve included."""
        return self._counted.free_bytes

    @property
    def available_bytes(self) -> int:
        """Free space above -minFreeSpace."""
        return self._min_free.available_bytes(self._counted)

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
