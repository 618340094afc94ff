"""Files that are written beside existing ones, and replace them when all are complete and on disk."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Self

from native_handlers.storage.model.file_kinds import receiving_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from native_handlers.storage.system.files import Files

_log = logging.getLogger(__name__)


class StagedFiles:
    """Several files under names that a start removes. Leaving the context removes the unpublished ones.

    Several threads may write different parts of a file at the same time.
    """

    def __init__(self, files: Files, targets: Iterable[Path]) -> None:
        """Makes the files. Raises OSError; then there are none."""
        self._files = files
        self._open: dict[Path, tuple[Path, int]] = {}
        try:
            for target in targets:
                path = receiving_path(target)
                self._open[target] = path, files.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except OSError:
            self.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def descriptor(self, target: Path) -> int:
        """The descriptor of the file that will become `target`."""
        return self._open[target][1]

    def publish(self, *, lazily: bool = False) -> None:
        """Syncs all files, and then renames each to its target, in the order of the targets.

        Args:
            lazily: does not sync the content. After a power cut the names may exist with less content.

        Raises OSError; the files that were renamed before stay, complete.
        """
        if not lazily:
            for _, fd in self._open.values():
                self._files.sync(fd)
        directories = {target.parent for target in self._open}
        for target, (path, fd) in list(self._open.items()):
            self._files.rename(path, target)
            del self._open[target]
            self._files.close(fd)
        for directory in directories:
            self._files.sync_directory(directory)

    def discard(self) -> None:
        """Removes the files that were not published."""
        for target, (path, fd) in list(self._open.items()):
            del self._open[target]
            try:
                self._files.close(fd)
                self._files.unlink(path)
            except OSError as error:
                _log.warning("%s is unfinished and could not be removed: %s", path, error)
