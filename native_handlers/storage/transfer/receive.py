"""Files as they arrive from elsewhere: nobody sees one under its name before it is whole and on disk.

Source: weed/server/volume_grpc_copy.go (writeToFile, ReceiveFile). Upstream writes ReceiveFile's in place.
"""

from __future__ import annotations

import itertools
import logging
import os
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from native_handlers.storage.files import Files
    from native_handlers.storage.volume_paths import VolumePaths

_log = logging.getLogger(__name__)
RECEIVING = ".receiving"
"""Ends the name of a file that is not whole yet. No volume's file is called so: `sweep_unfinished` may remove them."""
_numbers = itertools.count(1)


class IncomingFile:
    """A file that is being written from its start. Leaving the context without `commit` leaves nothing of it.

    Used by one thread.
    """

    def __init__(self, files: Files, target: Path, *, in_place: bool = False) -> None:
        """Makes the file. Raises OSError; there is then none.

        Args:
            in_place: writes to `target` at once, for what lies there is marked as unfinished in some other way.
        """
        self.target = target
        self.size_bytes = 0
        self._files = files
        self._path = target if in_place else target.with_name(f"{target.name}.{next(_numbers)}{RECEIVING}")
        flags = os.O_TRUNC if in_place else os.O_EXCL
        self._fd: int | None = files.open(self._path, os.O_WRONLY | os.O_CREAT | flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def reserve(self, size_bytes: int) -> None:
        """Takes the space, if the file system knows how to; raises OSError where it does not, or has not as much."""
        self._files.allocate(self._open_fd, size_bytes)

    def write(self, data: bytes | memoryview) -> None:
        """Adds to the end. Raises OSError; the file is then to be discarded."""
        self._files.write(self._open_fd, [data], self.size_bytes)
        self.size_bytes += len(data)

    def commit(self, modified_at_ns: int = 0) -> None:
        """Gives the file its name, durably, and the time of its modification if that is not 0.

        Raises:
            OSError: nothing of it is there, and what had the name before is. Only if putting the name itself on disk
                failed, the file has it all the same, maybe not for long.
        """
        fd = self._open_fd
        try:
            if modified_at_ns:
                self._files.set_modified(fd, modified_at_ns)
            self._files.sync(fd)
            self._fd = None
            self._files.close(fd)
            if self._path != self.target:
                self._files.rename(self._path, self.target)
            self._files.sync_directory(self.target.parent)
        except OSError:
            self._remove()
            raise

    def discard(self) -> None:
        """Closes the file and removes what there is of it. After `commit` it does nothing."""
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


def sweep_unfinished(files: Files, directory: Path) -> None:
    """Removes what a crash left of files that were arriving. Raises OSError.

    To be called while nothing arrives in the directory.
    """
    for name in files.list_directory(directory):
        if name.endswith(RECEIVING):
            _log.warning("%s was not received whole; removed", directory / name)
            files.unlink(directory / name)


def remove_unfinished_copy(files: Files, paths: VolumePaths, *, keep_vif: bool) -> None:
    """Removes a volume whose .note says that it was being copied here: what there is of it is no volume.

    Raises OSError. The marker goes last: a crash on the way leaves it to be found again.
    """
    for path in paths.owned(keep_vif=keep_vif):
        if not path.name.endswith(".note"):
            files.unlink(path)
    for path in paths.sidecars(".note"):
        files.unlink(path)
