"""Shows workers on the board what they must know of the disks: which are out of service, and which have room."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from supervisor.workers.board import MAX_DISKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.store import Store
    from supervisor.workers.board import ConnectionBoard


def show_disks(store: Store, board: ConnectionBoard, count: int) -> Callable[[], None]:
    """Shows `count` workers on the board how the disks are, from now on. Returns a function that ends this."""
    ending = ExitStack()
    for location in store.locations[:MAX_DISKS]:
        shown = _ShownDisk(location, board, count)
        location.usage.appended_elsewhere = shown.appended_elsewhere
        location.usage.on_change = shown.show
        ending.callback(_hide, location)
        ending.callback(location.health.add_listener(shown.show_health))
        shown.show()
    return ending.close


def _hide(location: DiskLocation) -> None:
    location.usage.on_change = None
    location.usage.appended_elsewhere = partial(getattr, location.usage, "elsewhere_at_look")


class _ShownDisk:
    """One disk on the board. Safe from any thread."""

    def __init__(self, location: DiskLocation, board: ConnectionBoard, count: int) -> None:
        self._location = location
        self._board = board
        self._count = count
        # Held while the disk is looked at and shown: an older look must not replace a newer one.
        self._showing = threading.Lock()

    def appended_elsewhere(self) -> int:
        """How many bytes the workers have appended, to any disk."""
        return self._board.appended_by_workers(self._count)

    def show_health(self, _is_out: bool) -> None:  # noqa: FBT001  as a listener gets it
        """The disk went out of service, or came back."""
        self.show()

    def show(self) -> None:
        """Shows the disk as it is now."""
        location, usage = self._location, self._location.usage
        with self._showing:
            is_out = location.is_unavailable
            self._board.set_disk(location.disk_id, is_out=is_out)
            may_append = not (is_out or location.is_space_low) and usage.left_bytes > 0
            self._board.set_room(location.disk_id, usage.elsewhere_at_look + usage.left_bytes if may_append else 0)
