"""Opens, one by one, volumes that were put into the directories by hand, where both engines work on volumes.

The backend cannot search the directories itself: it would open every volume that it does not have open, also the native
ones.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from supervisor.authority.errors import AccessRefused, HolderFailed
from supervisor.authority.form import PLAIN
from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.store import Store
    from supervisor.authority.authority import Authority
    from supervisor.authority.holders import VolumeHolder

WAIT_LIMIT_S = 30.0
_log = logging.getLogger(__name__)


def open_new_volumes(
    store: Store, authority: Authority, backend: VolumeHolder, is_reported: Callable[[int], bool]
) -> list[int]:
    """Makes the backend open each volume that is in a directory and that neither engine has open. Blocks.

    As in upstream, a SIGHUP also opens volumes that an operator unmounted. Returns the ids of the opened volumes. A
    volume that cannot be opened or looked at is logged.

    Args:
        is_reported: whether the backend's heartbeats have the volume. Such a volume is skipped without a call.
    """
    opened = []
    for volume_id in store.volume_ids_on_disk():
        if is_reported(volume_id) or store.find_volume(volume_id) is not None:
            continue
        try:
            if _open(volume_id, authority, backend):
                opened.append(volume_id)
        except (AccessRefused, HolderFailed) as failure:
            _log.warning("a volume that was found was not opened: %s", failure)
    return opened


def _open(volume_id: int, authority: Authority, backend: VolumeHolder) -> bool:
    """Opens the volume at the backend. Returns whether it was not open before."""
    ticket = authority.enter_blocking(volume_id, Engine.BACKEND, AccessKind.VOLUME_EXCLUSIVE, WAIT_LIMIT_S)
    try:
        if backend.form_of(volume_id) is not None:
            return False
        backend.open_volume(volume_id, PLAIN)
        return True
    finally:
        authority.leave(ticket)
