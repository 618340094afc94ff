"""Serialises what changes the set of volumes of a store, until the store is closed."""

from __future__ import annotations

import threading

from native_handlers.storage.errors import StoreClosed


class AdminLock:
    """``with lock:`` holds it; raises StoreClosed when the store is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._is_closed:
            self._lock.release()
            raise StoreClosed

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def close(self) -> bool:
        """Waits for the holder and lets nobody in again. Returns whether it was open."""
        with self._lock:
            was_open, self._is_closed = not self._is_closed, True
            return was_open
