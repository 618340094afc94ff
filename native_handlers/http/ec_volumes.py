"""The erasure-coded volumes of a store, for the HTTP handlers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.storage.system.files import NotCached

if TYPE_CHECKING:
    from native_handlers.format.needle import Needle
    from native_handlers.storage.store import Store

THREADS = 40
"""Threads that read shards from disks or other servers; as many as one disk has."""


class StoreEcVolumes:
    """Implements `EcVolumes` for a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Threads of their own: a read that waits for other servers takes no thread from the disks.
        self._threads = trio.CapacityLimiter(THREADS)

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
        except NotCached:
            return await trio.to_thread.run_sync(read, limiter=self._threads)

    async def delete_needle(self, volume_id: int, needle_id: int, cookie: int) -> int:
        """See `EcVolumes.delete_needle`."""
        delete = partial(self._store.ec_reader.delete_needle, volume_id, needle_id, cookie)
        return await trio.to_thread.run_sync(delete, limiter=self._threads)
