"""Waits for a volume that was just copied here until all writes since have arrived; see `storage/settling.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from native_handlers.storage.settling import Settling

WAIT_S = 5.0
"""How long a request waits. A copy settles within a second, unless much was written during the copy."""
LOOK_S = 0.02


class SettledWaits:
    """The requests that wait for volumes to settle. For the tasks of one event loop.

    A thread ends the settling and cannot tell the event loop, because `storage` has no trio. So one request looks again
    and again for all that wait for the volume, and wakes them. Where it leaves, another one goes on.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, trio.lowlevel.ParkingLot] = {}
        """By volume id: the requests that wait while another one looks."""

    async def wait(self, settling: Settling, volume_id: int) -> bool:
        """Waits until the volume has settled. Returns False when it has not after `WAIT_S`.

        Args:
            settling: the same in all calls.
        Cancellation: safe.
        """
        with trio.move_on_after(WAIT_S):
            while volume_id in settling.volume_ids:
                waiting = self._waiting.get(volume_id)
                if waiting is None:
                    waiting = self._waiting[volume_id] = trio.lowlevel.ParkingLot()
                else:
                    await waiting.park()
                    if self._waiting.get(volume_id) is not waiting:
                        continue
                await self._look(settling, volume_id, waiting)
        return volume_id not in settling.volume_ids

    async def _look(self, settling: Settling, volume_id: int, waiting: trio.lowlevel.ParkingLot) -> None:
        try:
            while volume_id in settling.volume_ids:  # noqa: ASYNC110  set by a thread, and seldom
                await trio.sleep(LOOK_S)
        except trio.Cancelled:
            # The woken task gets its turn even if it is cancelled meanwhile, so it takes over for sure.
            if not waiting.unpark():
                del self._waiting[volume_id]
            raise
        del self._waiting[volume_id]
        waiting.unpark_all()
