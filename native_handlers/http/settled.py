"""Waits for a volume that was just copied here until all writes since have arrived; see `storage/settling.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from native_handlers.storage.store import Store

WAIT_S = 5.0
"""How long a request waits. A copy settles within a second, unless much was written during the copy."""
LOOK_S = 0.02


async def wait_settled(store: Store, volume_id: int) -> bool:
    """Waits until the volume has settled. Returns False when it has not after `WAIT_S`.

    Cancellation: safe.
    """
    with trio.move_on_after(WAIT_S):
        while volume_id in store.settling.volume_ids:  # noqa: ASYNC110  set by a thread, and seldom
            await trio.sleep(LOOK_S)
    return volume_id not in store.settling.volume_ids
