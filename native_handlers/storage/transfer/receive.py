"""Files that arrive from other servers. A file gets its name only when it is complete and on disk.

Source: weed/server/volume_grpc_copy.go (writeToFile, ReceiveFile). Upstream's ReceiveFile writes in place.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Protocol, Self

from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.model.file_kinds import receiving_path
from native_handlers.storage.system.files import read_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from native_handlers.storage.disk.space import DiskUsage
    from native_handlers.storage.system.files import Files

_log = logging.getLogger(__name__)


class ArrivingFile(Protocol):
    """The place of the content that another server sends of a file, written from its start. For one thread."""

    @property
    def target(self) -> Path:
        """The path that errors name."""
        ...

    @property
    def size_bytes(self) -> int:
        """The number of bytes written so far."""
        ...

    def write(self, data: bytes | memoryview) -> None:
        """Appends `data`. Raises OSError; the caller then discards the file."""
        ...

    def commit(self, modified_at_ns: int = 0) -> None:
        """All content has come. `modified_at_ns` is the modification time of the source's file; 0 where it is not
        known. Raises OSError, StorageError: nothing is kept.
        """
        ...

    def discard(self) -> None:
        """Gives the content up. After `commit` it does nothing."""
        ...


class StagedFile:
    """An `ArrivingFile` that is a file on disk. Leaving the context without `commit` removes it."""

    def __init__(
        self,
        files: Files,
        target: Path,
        *,
        in_place: bool = False,
        check: Callable[[bytes], None] | None = None,
        max_bytes: int | None = None,
        usage: DiskUsage | None = None,
    ) -> None:
        """Makes the file. Raises OSError; then there is no file.

        Args:
            in_place: write to `target` directly, because `target` is marked as incomplete in some other way.
            check: gets the content of a small file before the file gets its name; raises StorageError to forbid that.
            max_bytes: `write` raises OSError (EFBIG) beyond it.
            usage: the space of the disk; `write` raises OSError (ENOSPC) while less than -minFreeSpace is free.
        """
        self.target = target
        self.size_bytes = 0
        self._files, self._check, self._max_bytes, self._usage = files, check, max_bytes, usage
        self._path = target if in_place else receiving_path(target)
        flags = os.O_TRUNC if in_place else os.O_EXCL
        self._fd: int | None = files.open(self._path, os.O_WRONLY | os.O_CREAT | flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def reserve(self, size_bytes: int) -> None:
        """Reserves the space. Raises OSError where the file system cannot, or has not enough."""
        self._files.allocate(self._open_fd, size_bytes)

    def write(self, data: bytes | memoryview) -> None:
        """Appends `data`. Raises OSError; the caller then discards the file."""
        if self._max_bytes is not None and self.size_bytes + len(data) > self._max_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(self.target))
        if self._usage is not None:
            self._take_room(self._usage, len(data))
        self._files.write(self._open_fd, [data], self.size_bytes)
        self.size_bytes += len(data)

    def _take_room(self, usage: DiskUsage, count: int) -> None:
        usage.note_appended(count)
        if usage.is_low:
            raise OSError(errno.ENOSPC, "no space left above -minFreeSpace", str(self.target))

    def commit(self, modified_at_ns: int = 0) -> None:
        """Renames the file to its target, durably, and sets its modification time if `modified_at_ns` is not 0.

        Raises:
            StorageError: of `check`; the file is removed.
            OSError: the file is removed, and an older file of that name stays. Only where syncing the directory failed,
                the new file has the name, but a crash may undo that.
        """
        self.complete(modified_at_ns)
        self.publish()

    def complete(self, modified_at_ns: int = 0) -> None:
        """The first half of `commit`: the content is on disk, and has no name yet. `publish` or `discard` follows.

        Raises:
            StorageError: of `check`; the file is removed.
            OSError: the file is removed.
        """
        fd = self._open_fd
        try:
            if self._check is not None:
                self._check(read_file(self._files, self._path) or b"")
            if modified_at_ns:
                self._files.set_modified(fd, modified_at_ns)
            self._files.sync(fd)
        except (OSError, StorageError):
            self._remove()
            raise

    def publish(self) -> None:
        """The second half of `commit`. Raises OSError as `commit`."""
        fd = self._open_fd
        try:
            self._fd = None
            self._files.close(fd)
            if self._path != self.target:
                self._files.rename(self._path, self.target)
            self._files.sync_directory(self.target.parent)
        except OSError:
            self._remove()
            raise

    @property
    def path(self) -> Path:
        """The path that the file has now: another one than `target` until it has its name."""
        return self._path

    def close_complete(self) -> None:
        """Closes the complete file, which stays. The caller gives the file its name, or removes it. Raises OSError."""
        fd, self._fd = self._open_fd, None
        self._files.close(fd)

    def discard(self) -> None:
        """Closes and removes the file. After `commit` it does nothing."""
        if self._fd is not None:
            self._remove()

    @property
    def _open_fd(self) -> int:
        assert self._fd is not None, "the file is committed or discarded"
        return self._fd

    def _remove(self) -> None:
        fd, self._fd = self._fd, None
        try:
            if fd is not None:
                self._files.close(fd)
        except OSError as error:
            _log.warning("closing %s: %s", self._path, error)
        try:
            self._files.unlink(self._path)
        except OSError as error:
            _log.warning("%s is unfinished and could not be removed: %s", self._path, error)
