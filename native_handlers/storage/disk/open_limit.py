"""Limits how many volumes a process may have open: each holds descriptors, and connections need some too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from native_handlers.storage.model.errors import TooManyVolumes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VOLUME_DESCRIPTORS = 2
"""An open volume holds its .dat and its .idx."""


@dataclass(frozen=True, slots=True)
class OpenLimit:
    """The limits of one process.

    Args:
        descriptors: the number that the process may have open in all.
        most_new: a volume is created or copied here only while fewer are open.
        most_found: a volume that is on a disk already is opened only while fewer are open. It is greater than
            `most_new`: unreadable data is worse than few connections.
    """

    descriptors: int
    most_new: int
    most_found: int

    @property
    def advice(self) -> str:
        """The action for an operator, as text."""
        return (
            f"the process may open {self.descriptors} files: raise the hard limit of open files"
            " (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of a container) and restart"
        )


class OpenVolumes:
    """Compares the open volumes in all locations of a store with a limit. Safe from any thread. Shards count as
    volumes, by their descriptors.

    Volumes that are opened at the same moment are not counted: the limit keeps a reserve for them.
    """

    def __init__(self, limit: OpenLimit | None = None, count: Callable[[], int] = lambda: 0) -> None:
        self._limit = limit
        self._count = count

    @property
    def is_full(self) -> bool:
        """Whether no volume can be opened, not even one whose files are on a disk already."""
        return self._limit is not None and self._count() >= self._limit.most_found

    def check(self, base: Path, *, is_new: bool = False) -> None:
        """Raises TooManyVolumes where no volume at `base` can be opened; no file was touched."""
        limit = self._limit
        if limit is None:
            return
        count = self._count()
        if count >= (limit.most_new if is_new else limit.most_found):
            raise TooManyVolumes(base, count, limit.advice)
