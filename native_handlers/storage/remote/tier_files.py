"""The file system, with descriptors that stand for objects in a remote tier.

A volume whose .dat is in a tier is read like any other: `Files`, the store's seam to files, fetches the bytes of such a
descriptor. The descriptor is that of an empty file in memory, opened for reading. So no number is given out twice, a
check for cached bytes finds none, and the kernel refuses writes.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Protocol

from native_handlers.records import dataclass
from native_handlers.storage.remote.tiers import TierFailed, TierSilent
from native_handlers.storage.system.files import FileFacts, NotCached, OsFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from native_handlers.format.vif import RemoteFile
    from native_handlers.storage.remote.tiers import Tier, Tiers

_log = logging.getLogger(__name__)
SILENT_FOR_S = 60.0
"""How long a tier that did not answer is not asked for the heads of more volumes: a start opens many, in a row."""


class TieredFiles(Protocol):
    """Opens the .dat of volumes in tiers."""

    @property
    def tiers(self) -> Tiers:
        """The tiers of the objects."""
        ...

    @property
    def heads_asked(self) -> int:
        """How many heads have been asked of tiers. Grows at the beginning of each wait for a tier in `read_head`."""
        ...

    def open_remote(self, file: RemoteFile) -> int:
        """A descriptor of the object, for `Files` of the same store. Fetches nothing.

        Raises:
            TierFailed: there is no tier of that name.
        """
        ...

    def read_head(self, fd: int, length_bytes: int, *, is_hurried: bool) -> bytes:
        """The first bytes of the object, for opening a volume.

        Where `is_hurried`, a few seconds are waited for the tier, and none where it did not answer within the last
        SILENT_FOR_S.

        Raises OSError, as reading does.
        """
        ...

    def delete_objects(self, files: Sequence[RemoteFile]) -> None:
        """Deletes the objects of volumes that are gone. Waits a few seconds for a tier that does not answer, and does
        not ask that tier again. The log names each object that stays.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Object:
    """An open object. Its size is the one that the .vif got when the object was uploaded."""

    tier: Tier
    key: str
    size_bytes: int
    modified_at_s: int


class TierFiles(OsFiles):
    """The real file system, with objects of `tiers` in it. Reading an object takes a request, and raises OSError as
    disks do.

    Where the tier cannot be reached the error is EREMOTEIO, which does not count against a disk.
    """

    def __init__(self, tiers: Tiers, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.tiers = tiers
        self._clock_s = clock_s
        # When a tier last did not answer. Threads that open volumes change and read it, each in one atomic operation.
        self._silent_at_s: dict[Tier, float] = {}
        self._lock = threading.Lock()  # protects _heads_asked
        self._heads_asked = 0
        # Any thread changes and reads it; each operation on it is atomic in the interpreter.
        self._objects: dict[int, _Object] = {}

    @property
    def heads_asked(self) -> int:
        """See `TieredFiles`."""
        return self._heads_asked

    def open_remote(self, file: RemoteFile) -> int:
        """See `TieredFiles`."""
        tier = self.tiers.find(file.backend_name)
        if tier is None:
            raise TierFailed(f"backend storage {file.backend_name} not found")
        writable = self.memory_file(f"tiered-{file.key[:64]}")
        try:
            fd = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(writable)
        self._objects[fd] = _Object(tier, file.key.removeprefix("/"), file.file_size, file.modified_time)
        return fd

    def read_head(self, fd: int, length_bytes: int, *, is_hurried: bool) -> bytes:
        """See `TieredFiles`."""
        found = self._objects[fd]
        silent_at_s = self._silent_at_s.get(found.tier)
        if is_hurried and silent_at_s is not None and self._clock_s() - silent_at_s < SILENT_FOR_S:
            raise OSError(errno.EREMOTEIO, f"{found.key}: its tier did not answer a moment ago")
        with self._lock:
            self._heads_asked += 1
        try:
            data = _fetch(found, length_bytes, 0, is_hurried=is_hurried)
        except OSError as error:
            if isinstance(error.__cause__, TierSilent):
                self._silent_at_s[found.tier] = self._clock_s()
            raise
        self._silent_at_s.pop(found.tier, None)
        return data

    def delete_objects(self, files: Sequence[RemoteFile]) -> None:
        """See `TieredFiles`."""
        silent: set[str] = set()
        for file in files:
            try:
                self._delete_object(file, is_silent=file.backend_name in silent)
            except TierFailed as error:
                if isinstance(error, TierSilent):
                    silent.add(file.backend_name)
                _log.warning("the object %s of a deleted volume stays in %s: %s", file.key, file.backend_name, error)

    def _delete_object(self, file: RemoteFile, *, is_silent: bool) -> None:
        tier = self.tiers.find(file.backend_name)
        if tier is None:
            raise TierFailed(f"backend storage {file.backend_name} not found")
        if is_silent:
            raise TierSilent("its tier did not answer a moment ago")
        tier.delete(file.key.removeprefix("/"), is_hurried=True)

    def close(self, fd: int) -> None:
        # First, because the number may be given to another file after the close.
        self._objects.pop(fd, None)
        super().close(fd)

    def read(self, fd: int, length_bytes: int, offset_bytes: int) -> bytes:
        found = self._objects.get(fd)
        return (
            super().read(fd, length_bytes, offset_bytes) if found is None else _fetch(found, length_bytes, offset_bytes)
        )

    def read_into(self, fd: int, buffer: memoryview, offset_bytes: int) -> int:
        found = self._objects.get(fd)
        if found is None:
            return super().read_into(fd, buffer, offset_bytes)
        data = _fetch(found, len(buffer), offset_bytes)
        buffer[: len(data)] = data
        return len(data)

    def send_cached(self, socket_fd: int, fd: int, length_bytes: int, offset_bytes: int) -> int:
        if fd in self._objects:
            raise NotCached
        return super().send_cached(socket_fd, fd, length_bytes, offset_bytes)

    def sync(self, fd: int) -> None:
        if fd not in self._objects:
            super().sync(fd)

    def facts_of(self, fd: int) -> FileFacts:
        found = self._objects.get(fd)
        if found is None:
            return super().facts_of(fd)
        seconds = found.modified_at_s
        return FileFacts(
            size_bytes=found.size_bytes,
            modified_at_s=seconds,
            is_readable_by_owner=True,
            is_writable_by_owner=False,
            is_directory=False,
            modified_at_ns=seconds * 10**9,
        )


def _fetch(found: _Object, length_bytes: int, offset_bytes: int, *, is_hurried: bool = False) -> bytes:
    length_bytes = min(length_bytes, found.size_bytes - offset_bytes)
    if length_bytes <= 0:
        return b""
    try:
        data = found.tier.read(found.key, offset_bytes, length_bytes, is_hurried=is_hurried)
    except TierFailed as error:
        raise OSError(errno.EREMOTEIO, str(error)) from error
    if len(data) != length_bytes:
        # A short answer must not look like the end of the file.
        raise OSError(errno.EREMOTEIO, f"{found.key}: {len(data)} of {length_bytes} bytes at {offset_bytes} came")
    return data
