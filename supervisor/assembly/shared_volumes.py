"""The parent's side of volumes that workers use: shares a volume when a worker asks, and tells all when that ends.

A worker notices at its next look-up that a volume was closed or has other files, because the shared state says so. What
is told here lets workers close their files, also those of volumes that nobody reads.
"""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from native_handlers.format.errors import FormatError
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.shared.attach import share_volume
from supervisor.workers.board import MAX_DISKS
from supervisor.workers.channel import CallRefused
from supervisor.workers.service import SharedVolume

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from native_handlers.storage.store import Store
    from native_handlers.storage.volume.volume import Volume
    from supervisor.workers.messages import Fields, JsonObject

log = logging.getLogger(__name__)

SHARING_THREADS = 4
"""How many volumes of one disk are shared at the same time."""


class _Shared(NamedTuple):
    """A volume, the number of its files when a worker last asked, and whether workers may change the volume."""

    volume: Volume
    generation: int
    may_write: bool


class SharedVolumes:
    """The volumes of `store` that are shared with workers.

    Args:
        most: how many volumes may be shared at once.
        tell: tells all workers to let go of the volumes with these ids, and returns when they have.
    """

    def __init__(self, store: Store, most: int, tell: Callable[[list[int]], Awaitable[object]]) -> None:
        self._store = store
        self._most = most
        self._tell = tell
        self._shared: dict[int, _Shared] = {}
        """By id, until all workers have let go. Only the event loop changes it."""
        self._ending: set[int] = set()
        """Volumes whose end workers are being told, because one asked for the volume."""
        self._threads: dict[int, trio.CapacityLimiter] = {}
        """By disk: one that hangs stops the sharing of its own volumes alone."""
        self._token = trio.lowlevel.current_trio_token()

    async def share(self, body: Fields) -> JsonObject:
        """Carries out a worker's call `share`.

        Raises:
            CallRefused: the volume is not to be read by workers now.
        """
        volume_id = body.integer("volume_id")
        volume = self._store.find_volume(volume_id)
        if volume is None or volume_id in self._store.settling or volume.is_tiered or volume.disk_id >= MAX_DISKS:
            raise CallRefused(f"volume {volume_id} is not here, or only this process can read it")
        if len(self._shared) >= self._most and volume_id not in self._shared:
            raise CallRefused(f"{self._most} volumes are shared, and more would take too many descriptors")
        try:
            volume.check_in_service()
            # From now on this process follows what workers write, and its event loop must not wait for that.
            share = partial(share_volume, volume, loop_thread=threading.get_ident())
            threads = self._threads.setdefault(volume.disk_id, trio.CapacityLimiter(SHARING_THREADS))
            descriptor = await trio.to_thread.run_sync(share, limiter=threads, abandon_on_cancel=True)
        except StorageError as error:
            raise CallRefused(str(error)) from error
        # A change from here on, and one that came before, is seen by `note`, or by the comparison below.
        shared = _Shared(volume, volume.handle.share_generation, self._may_write(volume_id))
        known = self._shared.setdefault(volume_id, shared)
        if known != shared:
            # Other workers have the volume as it was. This entry must not make it look as if they knew of the change.
            self._end_soon(volume_id, known)
            raise CallRefused(f"volume {volume_id} has just changed")
        if not self._is_current(volume_id) or volume_id in self._store.settling:
            if known is shared:
                del self._shared[volume_id]
            raise CallRefused(f"volume {volume_id} was closed meanwhile")
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
        return SharedVolume(path, volume.disk_id, volume.disk_type, shared.may_write).as_data()

    def _may_write(self, volume_id: int) -> bool:
        """Whether workers may change a volume: where there are shards of the volume too, these have its deletions."""
        return not self._store.ec.copies(volume_id)

    def note_shards(self) -> None:
        """A listener of the erasure-coded volumes. As `note`, for all volumes."""
        for volume_id in list(self._shared):
            self.note(volume_id)

    def waiting(self, limit_s: float) -> list[Volume]:
        """The volumes whose lock this process has been waiting for longer than `limit_s`."""
        return [shared.volume for shared in list(self._shared.values()) if shared.volume.handle.lock_wait_s > limit_s]

    def note_death(self) -> None:
        """A worker has ended, perhaps in a change: what it left is repaired now. Until then other workers leave all
        changes of such a volume to this process.
        """
        for shared in list(self._shared.values()):
            if shared.volume.handle.was_left_busy:
                trio.lowlevel.spawn_system_task(self._repair, shared.volume)

    async def _repair(self, volume: Volume) -> None:
        # A thread of its own: the disk may hang, or another worker in its change.
        limiter = trio.CapacityLimiter(1)
        try:
            await trio.to_thread.run_sync(volume.handle.repair_left_busy, limiter=limiter, abandon_on_cancel=True)
        except (StorageError, FormatError) as error:
            log.warning("volume %d: what a worker left is repaired at the next change: %s", volume.id, error)

    def note(self, volume_id: int) -> None:
        """A listener of the store. Where a shared volume was closed, has other files, or is to be changed by other
        processes than before, returns when all workers have let go of it; on the event loop, at once.
        """
        known = self._shared.get(volume_id)
        if known is None or self._is_current(volume_id):
            return
        if trio.lowlevel.in_trio_run():
            self._end_soon(volume_id, known)
            return
        try:
            trio.from_thread.run(self._end, volume_id, known, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            log.debug("volume %d: the workers end with this process", volume_id)

    def _end_soon(self, volume_id: int, known: _Shared) -> None:
        if volume_id not in self._ending:
            self._ending.add(volume_id)
            trio.lowlevel.spawn_system_task(self._end, volume_id, known)

    async def _end(self, volume_id: int, known: _Shared) -> None:
        """Returns when no worker has the volume open as `known` says. Until then nobody gets it otherwise."""
        await self._tell([volume_id])
        if self._shared.get(volume_id) is known:
            del self._shared[volume_id]
        self._ending.discard(volume_id)

    def _is_current(self, volume_id: int) -> bool:
        shared = self._shared.get(volume_id)
        if shared is None or self._store.find_volume(volume_id) is not shared.volume:
            return False
        is_same = shared.volume.handle.share_generation == shared.generation > 0
        return is_same and shared.may_write == self._may_write(volume_id)
