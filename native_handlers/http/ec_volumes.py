"""The erasure-coded volumes of a store, for the HTTP handlers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.storage.erasure_coding.errors import NotAllHere
from native_handlers.storage.system.files import NotCached

if TYPE_CHECKING:
    from native_handlers.format.needle import Needle
    from native_handlers.storage.store import Store

THREADS = 40
"""The threads of each pool; as many as one disk has for volumes."""


class StoreEcVolumes:
    """Implements `EcVolumes` for a store.

    Args:
        threads: the threads of each pool.
    """

    def __init__(self, store: Store, threads: int = THREADS) -> None:
        self._store, self._count = store, threads
        # A read that waits for a disk takes no thread from other disks, one that waits for other servers none from any
        # disk, and a deletion none from reads. A deletion is noted on all disks of its volume, and waits for each.
        self._of_disks: dict[int, trio.CapacityLimiter] = {}
        self._of_reads_elsewhere = trio.CapacityLimiter(threads)
        self._of_deletions: dict[frozenset[int], trio.CapacityLimiter] = {}

    def has_volume(self, volume_id: int) -> bool:
        """See `EcVolumes.has_volume`."""
        return self._store.ec.find(volume_id) is not None

    async def read_needle(self, volume_id: int, needle_id: int, cookie: int) -> Needle:
        """See `EcVolumes.read_needle`. Runs on the event loop where memory holds all of the needle, else in a
        thread.
        """
        read = partial(self._store.ec_reader.read_needle, volume_id, needle_id, cookie)
        try:
            return read(cached_only=True)
        except NotAllHere:
            pass
        except NotCached:
            try:
                return await trio.to_thread.run_sync(partial(read, here_only=True), limiter=self._of_disk(volume_id))
            except NotAllHere:
                pass
        return await trio.to_thread.run_sync(read, limiter=self._of_reads_elsewhere)

    async def delete_needle(self, volume_id: int, needle_id: int, cookie: int) -> int:
        """See `EcVolumes.delete_needle`."""
        delete = partial(self._store.ec_reader.delete_needle, volume_id, needle_id, cookie)
        # With disks out of service: an earlier deletion of the volume may wait for one, and this one for that deletion.
        disk_ids = frozenset(one.place.disk_id for one in self._store.ec.copies(volume_id))
        limiter = self._of_deletions.setdefault(disk_ids, trio.CapacityLimiter(self._count))
        return await trio.to_thread.run_sync(delete, limiter=limiter)

    def _of_disk(self, volume_id: int) -> trio.CapacityLimiter:
        """The threads of the disk with the volume's index; most of its shards that are here are on that disk too."""
        volume = self._store.ec.find(volume_id)
        disk_id = volume.place.disk_id if volume is not None else -1
        return self._of_disks.setdefault(disk_id, trio.CapacityLimiter(self._count))
