"""Which volumes of an id are on this server or come here. All requests that make a volume, or bring files of one, ask.

A server has one volume of an id. The files of another collection's volume of the id count, open or not, and so do
shards of erasure coding: the next start would serve one of the two, and the needles of the other would not be found.
Wilful difference: upstream looks at the open volumes of the id alone, and VolumeCopy replaces that of another
collection.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from native_handlers.storage.directory.same_id import check_no_other_collection, find_data
from native_handlers.storage.locations import copies_of
from native_handlers.storage.model.errors import IdTaken, VolumeArriving
from native_handlers.storage.model.file_kinds import other_collection_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.directory.same_id import FoundFile
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.system.files import Files


class VolumeIds:
    """The ids of a store.

    Args:
        shards_of: the open shards of an id, one object for each disk.
        changing: the lock that serialises changes of the set of volumes.
    """

    def __init__(
        self,
        files: Files,
        locations: Sequence[DiskLocation],
        shards_of: Callable[[int], Sequence[EcVolume]],
        changing: AbstractContextManager[None],
    ) -> None:
        self._files, self._locations = files, locations
        self._shards_of, self._changing = shards_of, changing
        self._coming: dict[int, tuple[str, int]] = {}
        """By volume id: the collection of the files that come, and the number of `naming` blocks."""
        # Protects `_coming`. A block ends without `_changing`, also when the store is closed.
        self._lock = threading.Lock()

    def check(self, collection: str, volume_id: int) -> None:
        """Raises IdTaken where the id is that of another collection's volume, and DiskUnavailable where a disk in
        service cannot tell. For a first answer: files that come get their names inside `naming`.
        """
        with self._changing:
            self.find(collection, volume_id)

    @contextmanager
    def naming(self, collection: str, volume_id: int) -> Iterator[None]:
        """Inside, the caller brings files of that volume and gives them their names. No volume of that id is made or
        copied here, and no files of another collection's volume of the id come.

        Raises:
            VolumeArriving: the volume is being copied here.
            IdTaken, DiskUnavailable: as `check`.
            StoreClosed: the store is closed.
        """
        with self._changing:
            if any(volume_id in location.arriving for location in self._locations):
                raise VolumeArriving(volume_id)
            self.find(collection, volume_id)
            with self._lock:
                self._coming[volume_id] = collection, self._count(volume_id) + 1
        try:
            yield
        finally:
            # The volume counts as coming until the next listing is sure to have its files.
            self.forget_listings()
            with self._lock:
                left = self._count(volume_id) - 1
                if left:
                    self._coming[volume_id] = collection, left
                else:
                    del self._coming[volume_id]

    def is_coming(self, volume_id: int) -> bool:
        """Whether a caller is inside `naming` of that id."""
        return volume_id in self._coming

    def has_shards_open(self, volume_id: int) -> bool:
        return bool(self._shards_of(volume_id))

    def find(self, collection: str, volume_id: int, *, skips_failing: bool = False) -> list[FoundFile]:
        """The files with data of that volume, open or not. The caller holds the lock. Raises as `check`, except that
        `skips_failing` counts a disk that cannot tell as one out of service.
        """
        open_here = [volume.collection for _, volume in copies_of(self._locations, volume_id)]
        open_here += [shards.collection for shards in self._shards_of(volume_id)]
        for other in open_here:
            if other != collection:
                raise IdTaken(other_collection_text(volume_id, other, collection))
        coming = self._coming.get(volume_id)
        if coming is not None and coming[0] != collection:
            text = f"files of volume {volume_id} of collection {coming[0]!r} come here just now"
            raise IdTaken(f"{text}; there cannot be one of collection {collection!r} too")
        found = find_data(self._files, self._locations, volume_id, skips_failing=skips_failing)
        check_no_other_collection(found, collection, volume_id)
        return found

    def forget_listings(self) -> None:
        """Call it when files of a volume have got their names: see `DataNames.forget`."""
        for location in self._locations:
            location.data_names.forget()

    def _count(self, volume_id: int) -> int:
        return self._coming.get(volume_id, ("", 0))[1]
