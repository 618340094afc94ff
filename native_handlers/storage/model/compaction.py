"""The options of a compaction. `volume.compaction` does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable


def _no_pace(_written_bytes: int) -> None:
    """Does not wait: the compaction runs at the speed of the disk."""


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class CompactionOptions:
    """The options of a compaction.

    Args:
        preallocate_bytes: how much space to reserve for the copy at once, where the file system can.
        pace: called with the number of bytes written; returns when more may be written.
        is_wanted: whether a caller still waits for the compaction.
    """

    preallocate_bytes: int = 0
    pace: Callable[[int], object] = _no_pace
    is_wanted: Callable[[], bool] = _always
