"""Decides which operations may still write to a full disk: deletions, marks and repairs. Other writes are refused.

They use a reserve (`reserve_file`) that writes cannot take. From the first use of the reserve on, writes are refused
until the reserve is complete again; otherwise they would take the room that was given up. That holds for the writes of
all directories of the server on one disk. Appended bytes are subtracted
from the free space of the last look, so that -minFreeSpace is also noticed between two looks. The state ends without an
operator: each look at the disk tries to complete the reserve.
"""

from __future__ import annotations

import errno
import logging
import threading
from typing import TYPE_CHECKING, TypeVar, cast

from native_handlers.storage.disk.reserve_file import ReserveFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from native_handlers.storage.disk.space import DiskUsage
    from native_handlers.storage.system.files import Files

T = TypeVar("T")
_log = logging.getLogger(__name__)
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors that say that the disk, or the user's quota, is full."""


def is_full(error: OSError) -> bool:
    """Whether `error` says that there is no room."""
    return error.errno in FULL


class DiskRoom:
    """The room on the disk of one location. Safe from any thread.

    `files` are the location's files for operations that may use the reserve. When such an operation finds the disk
    full, a piece of the reserve is given up and the operation is tried again, until the reserve is used up.

    Args:
        places: where reserves lie, by disk; see `reserve_places`.
        usage: the space of the disk, which a writer tells how many bytes it has appended.
    """

    def __init__(self, files: Files, places: Mapping[int, Path], usage: DiskUsage) -> None:
        self._name = next(iter(places.values()))
        self.usage = usage
        self.disks = frozenset(places)
        self._reserves = [ReserveFile(files, directory) for directory in places.values()]
        self.lacks_reserve = False
        self.is_short = False
        """Whether writes are refused because the reserve is not complete, or that of another directory on the disk."""
        self._on_same_disk: tuple[DiskRoom, ...] = ()
        # Held while a reserve is given up or filled.
        self._lock = threading.Lock()
        self.files: Files = cast("Files", _ReserveUser(files, self))

    def share_disks(self, rooms: Sequence[DiskRoom]) -> None:
        """Makes the shortage of those of `rooms` that are on the same disk one of this room."""
        self._on_same_disk = tuple(one for one in rooms if one is not self and one.disks & self.disks)
        self.judge()

    def judge(self) -> None:
        """Works out `is_short` anew."""
        # Each write asks, so the answer is kept.
        self.is_short = self.lacks_reserve or any(one.lacks_reserve for one in self._on_same_disk)

    def met_full(self, error: OSError) -> None:
        """Handles an error of a write. Where the error says that the disk is full, the free space is measured at
        once.
        """
        if is_full(error) and self.usage.is_answering:
            self.usage.ask()

    def use(self, operation: Callable[[], T]) -> T:
        """Runs `operation` and returns its result or raises its error. `operation` may run several times, so it must be
        idempotent.
        """
        while True:
            try:
                return operation()
            except OSError as error:
                if not is_full(error) or not self._give():
                    raise

    def _give(self) -> bool:
        with self._lock:
            # Said first: a write that begins now would take the room that is given up.
            self._say_short("deletions and marks use the reserve")
            try:
                given = sum(reserve.give() for reserve in self._reserves)
            except OSError as error:
                _log.error("the reserve of %s cannot be used: %s", self._name, error)
                return False
            return bool(given)

    def _say_short(self, why: str) -> None:
        if not self.lacks_reserve:
            self.lacks_reserve = True
            self._tell()
            _log.error("%s is full: %s. Writes are refused until there is room", self._name, why)

    def _tell(self) -> None:
        """Tells that `lacks_reserve` has changed, here and in the other rooms on the disk."""
        for room in (self, *self._on_same_disk):
            room.judge()
            room.usage.tell()

    def keep(self) -> bool:
        """Completes the reserve where there is room. Returns whether it is complete. Waits for the disk."""
        with self._lock:
            try:
                # Fills each of them, also after one that could not be filled.
                is_whole = sum(reserve.fill() for reserve in self._reserves) == len(self._reserves)
                held_bytes = sum(reserve.held_bytes() for reserve in self._reserves)
            except OSError as error:
                if is_full(error):
                    self._say_short(f"its reserve cannot be made: {error}")
                return False
            self.usage.reserved_bytes = held_bytes
            if not is_whole:
                missing = sum(reserve.missing_bytes for reserve in self._reserves)
                self._say_short(f"{missing} bytes of its reserve are missing")
            elif self.lacks_reserve:
                self.lacks_reserve = False
                self._tell()
                _log.warning("%s has room again", self._name)
            return is_whole

    def release(self) -> None:
        """Ends the service of the directory. The reserve stays only where it could not be made again."""
        with self._lock:
            if self.lacks_reserve or self.usage.is_low:
                return
            for reserve in self._reserves:
                try:
                    reserve.remove()
                except OSError as error:
                    _log.warning("the reserve of %s stays: %s", self._name, error)


def reserve_places(files: Files, data_dir: Path, index_dir: Path) -> dict[int, Path]:
    """The directories of a location's reserves, by the number of their device: its own, and that of its indexes if that
    is on another disk.

    Raises OSError.
    """
    devices: dict[int, Path] = {}
    for directory in (data_dir, index_dir):
        facts = files.facts(directory)
        if facts is not None:
            devices.setdefault(facts.identity[0], directory)
    return devices


class _ReserveUser:
    """`Files` whose operations that take room may use the reserve. A failed sync is none of them: the kernel may have
    dropped data, and a second sync would report success.
    """

    def __init__(self, files: Files, room: DiskRoom) -> None:
        self._files = files
        self._room = room

    def __getattr__(self, name: str) -> object:
        return getattr(self._files, name)

    def open(self, path: Path | str, flags: int, mode: int = 0o644) -> int:
        return self._room.use(lambda: self._files.open(path, flags, mode))

    def write(self, fd: int, parts: Sequence[bytes | memoryview], offset_bytes: int) -> None:
        self._room.use(lambda: self._files.write(fd, parts, offset_bytes))

    def copy(self, source: int, source_at: int, target: int, target_at: int, length_bytes: int) -> None:
        self._room.use(lambda: self._files.copy(source, source_at, target, target_at, length_bytes))

    def rename(self, source: Path, target: Path) -> None:
        self._room.use(lambda: self._files.rename(source, target))
