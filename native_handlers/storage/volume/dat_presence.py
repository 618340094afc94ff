"""The looks at files of open volumes that a report needs: whether a .dat was unlinked, what other processes wrote.

A volume without its .dat still serves, but the next restart loses it.

Such a volume is not announced, so that the master replicates it again. One listing of the directory checks all volumes
of a disk, with a time limit: a disk that hangs delays a report by that limit, however many volumes it has. Source:
weed/storage/store.go:CollectHeartbeat.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from native_handlers.format.errors import FormatError
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.system.bounded_call import CallTimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from native_handlers.storage.system.bounded_call import BoundedCall
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.volume import Volume

_log = logging.getLogger(__name__)

LOOK_NS = 30 * 10**9
"""The time between two checks while no file is missing. While one is missing, each report checks anew."""


class DatPresence:
    """The known state of the .dat files of one directory. `missing` may be read from any thread."""

    def __init__(self, files: Files, directory: Path, bounded: BoundedCall, clock_ns: Callable[[], int]) -> None:
        self.missing: frozenset[Volume] = frozenset()
        """The volumes with needles whose .dat does not exist."""
        self._files, self._directory = files, directory
        self._bounded = bounded
        self._clock_ns = clock_ns
        self._looked_at_ns = -LOOK_NS

    def look(self, volumes: Iterable[Volume]) -> None:
        """Checks which of `volumes` have no .dat, if the last check was long ago or found one missing.

        Only a definite "no such file" counts. Without an answer the last result stays. A volume without needles loses
        nothing with its file, and is not checked.
        """
        now_ns = self._clock_ns()
        if not self.missing and now_ns - self._looked_at_ns <= LOOK_NS:
            return
        wanted = [volume for volume in volumes if volume.has_needles and not volume.is_tiered]
        try:
            self.missing = self._bounded.run(lambda: self._find_missing(wanted))
        except OSError:
            self.missing = frozenset()
        except CallTimedOut:
            return
        else:
            self._looked_at_ns = now_ns

    def _find_missing(self, volumes: list[Volume]) -> frozenset[Volume]:
        if not volumes:
            return frozenset()
        names = set(self._files.list_directory(self._directory))
        unlisted = [volume for volume in volumes if f"{volume.paths.name}.dat" not in names]
        return frozenset(volume for volume in unlisted if self._files.facts(volume.paths.file(".dat")) is None)

    def follow(self, volumes: Iterable[Volume]) -> None:
        """Brings volumes up to date that other processes have changed, also where memory does not hold the changes.
        Takes half a second at most. A volume whose changes cannot be read stays as this process last saw it.
        """
        behind = [volume for volume in volumes if volume.handle.is_behind]
        for volume in behind:
            volume.handle.glance()
        behind = [volume for volume in behind if volume.handle.is_behind]
        if behind:
            with suppress(CallTimedOut):
                self._bounded.run(lambda: _refresh(behind))


def _refresh(volumes: Iterable[Volume]) -> None:
    for volume in volumes:
        try:
            volume.handle.refresh()
        except (StorageError, FormatError) as error:
            _log.debug("volume %d: what other processes wrote cannot be read: %s", volume.id, error)
