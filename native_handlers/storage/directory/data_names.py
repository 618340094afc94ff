"""Which volume ids have data files in a data directory, open or not. The directory is not listed for each question.

A request that makes a volume has to know whether files of that id are here in any collection, and only a listing finds
them. Thousands of volumes are allocated in a row, and a listing for each would cost the square of their number. So the
ids of the last listing are kept while the directory has the modification time that it had then. `adding` takes the
time over that the making of a volume gives the directory.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadVolumeName
from native_handlers.format.volume_name import format_volume_name, parse_volume_name
from native_handlers.records import dataclass
from native_handlers.storage.directory.scan import list_names
from native_handlers.storage.model.errors import DiskUnavailable
from native_handlers.storage.model.file_kinds import ARRIVED, SHARD_EXTENSIONS, SHARDS_ARRIVED
from native_handlers.storage.system.bounded_call import BoundedCall, CallTimedOut

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from native_handlers.storage.system.files import Files

LISTING_LIMIT_S = 5.0
"""How long a caller waits for the disk. The caller holds up all other changes of the set of volumes."""
_EXTENSIONS = frozenset((".dat", ".vif", ARRIVED, SHARDS_ARRIVED, *SHARD_EXTENSIONS))
"""The extensions of files that hold data, or may say where data is."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """The ids of a listing, and the modification time of the directory just before it."""

    changed_at_ns: int
    ids: set[int]


class DataNames:
    """The data files of one directory, by volume id. Safe from any thread.

    A file that another program puts in the directory within one tick of the file system's clock after a listing, or
    while `adding` holds, is seen after the next change of the directory. This process calls `forget` after it has put
    such a file there.
    """

    def __init__(self, files: Files, directory: Path) -> None:
        self._files, self._directory = files, directory
        self._bounded = BoundedCall(f"listing {directory}", LISTING_LIMIT_S)
        self._kept: _Kept | None = None
        self._forgotten = 0
        # Protects the fields above. No file is used inside.
        self._lock = threading.Lock()

    def of(self, volume_id: int) -> list[str]:
        """The names of the volume's files that hold data, or may say where data is, in any collection and in order.
        The directory has just been listed where the result is not empty.

        Raises:
            DiskUnavailable: the directory cannot be listed, or not within `LISTING_LIMIT_S`.
        """
        try:
            return self._bounded.run(lambda: self._of(volume_id))
        except CallTimedOut as error:
            raise DiskUnavailable(self._directory, str(error), "does not answer") from error
        except OSError as error:
            raise DiskUnavailable(self._directory, error.strerror or str(error), "cannot be looked at") from error

    def _of(self, volume_id: int) -> list[str]:
        forgotten, changed_at_ns = self._forgotten, self._changed_at_ns()
        kept = self._kept
        if kept is not None and kept.changed_at_ns == changed_at_ns and volume_id not in kept.ids:
            return []
        names = list_names(self._files, self._directory)
        ids = _ids_of(names)
        with self._lock:
            if changed_at_ns and forgotten == self._forgotten:
                self._kept = _Kept(changed_at_ns, ids)
        ending = f"{volume_id}."
        return sorted(name for name in names if ending in name and volume_of(name, volume_id) is not None)

    @contextmanager
    def adding(self, volume_id: int) -> Iterator[None]:
        """The files of a new volume are made inside. What was known of the directory stays known."""
        kept, is_current = self._kept, False
        try:
            is_current = kept is not None and kept.changed_at_ns == self._changed_at_ns()
            yield
        finally:
            changed_at_ns = self._changed_at_ns() if is_current else 0
            with self._lock:
                # A listing of the meantime, or `forget`, counts more.
                if kept is not None and self._kept is kept:
                    kept.ids.add(volume_id)
                    self._kept = _Kept(changed_at_ns, kept.ids) if changed_at_ns else None

    def forget(self) -> None:
        """Has the next question list the directory."""
        with self._lock:
            self._kept = None
            self._forgotten += 1

    def _changed_at_ns(self) -> int:
        """0 where that is not known."""
        try:
            facts = self._files.facts(self._directory)
        except OSError:
            # The listing says why.
            return 0
        return facts.modified_at_ns if facts is not None else 0


def volume_of(name: str, volume_id: int) -> str | None:
    """The collection of the volume of that id to which a data file belongs; None for another file."""
    base, dot, extension = name.rpartition(".")
    if dot + extension not in _EXTENSIONS:
        return None
    try:
        collection, found_id = parse_volume_name(base)
    except BadVolumeName:
        return None
    return collection if found_id == volume_id and format_volume_name(collection, found_id) == base else None


def _ids_of(names: Iterable[str]) -> set[int]:
    bases = {
        base for base, dot, extension in (name.rpartition(".") for name in names) if dot + extension in _EXTENSIONS
    }
    found: set[int] = set()
    for base in bases:
        try:
            found.add(parse_volume_name(base)[1])
        except BadVolumeName:
            continue
    return found
