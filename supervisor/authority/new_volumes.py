"""Volumes that were put into the directories by hand are opened one by one, where both engines work on volumes.

The backend cannot be told to look for them itself: it would open every volume that it has not open, and so those that
are native.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from supervisor.authority.errors import AccessRefused, HolderFailed
from supervisor.authority.ledger import Mark
from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind

if TYPE_CHECKING:
    from native_handlers.storage.store import Store
    from supervisor.authority.authority import Authority
    from supervisor.authority.holders import VolumeHolder

WAIT_LIMIT_S = 30.0
_log = logging.getLogger(__name__)


def open_new_volumes(store: Store, authority: Authority, backend: VolumeHolder) -> list[int]:
    """Has the backend open each volume that is in a directory and that no engine has open, those that an operator
    unmounted too, as a hang-up does upstream. Returns their ids; what cannot be opened or looked at is logged. Blocks.
    """
    opened = []
    for volume_id in store.volume_ids_on_disk():
        try:
            if store.find_volume(volume_id) is None and _open(volume_id, authority, backend):
                opened.append(volume_id)
        except (AccessRefused, HolderFailed) as failure:
            _log.warning("a volume that was found was not opened: %s", failure)
    return opened


def _open(volume_id: int, authority: Authority, backend: VolumeHolder) -> bool:
    """Whether it was not open before."""
    ticket = authority.enter_blocking(volume_id, Engine.BACKEND, AccessKind.VOLUME_EXCLUSIVE, WAIT_LIMIT_S)
    try:
        if backend.mark_of(volume_id) is not None:
            return False
        backend.open_volume(volume_id, Mark.WRITABLE)
        return True
    finally:
        authority.leave(ticket)
