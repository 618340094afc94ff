"""Volumes that have been copied here and still lack the writes of the meantime at their source.

Such a volume is announced, because only then do writers learn of it. But their writes must come after the missing ones,
or an older write would replace a newer one. So requests of clients for such a volume wait.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Settling:
    """The volumes that settle now. Thread-safe; look-ups take no lock.

    Attributes:
        volume_ids: the volumes' ids; replaced as a whole.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # protects changes of volume_ids
        self.volume_ids: frozenset[int] = frozenset()

    def __contains__(self, volume_id: int) -> bool:
        return volume_id in self.volume_ids

    @contextmanager
    def settle(self, volume_id: int) -> Iterator[None]:
        """Marks the volume as settling inside the block. Enter the block before the volume is mounted."""
        with self._changed:
            self.volume_ids |= {volume_id}
        try:
            yield
        finally:
            with self._changed:
                self.volume_ids -= {volume_id}
                self._changed.notify_all()

    def wait(self, volume_id: int, timeout_s: float) -> bool:
        """Waits while the volume settles. Returns False when it still does after `timeout_s`."""
        if volume_id not in self.volume_ids:
            return True
        with self._changed:
            return self._changed.wait_for(lambda: volume_id not in self.volume_ids, timeout_s)
