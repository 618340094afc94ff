"""Serialises what changes the set of volumes of a store, until the store is closed."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from native_handlers.storage.errors import StoreClosed

if TYPE_CHECKING:
    from collections.abc import Iterator


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

    @contextmanager
    def if_free(self) -> Iterator[bool]:
        """Holds it if nobody else does, and says whether it does; for who comes again. Raises StoreClosed as well."""
        if not self._lock.acquire(blocking=False):
            yield False
            return
        try:
            if self._is_closed:
                raise StoreClosed
            yield True
        finally:
            self._lock.release()

    def close(self) -> bool:
        """Waits for the holder and lets nobody in again. Returns whether it was open."""
        with self._lock:
            was_open, self._is_closed = not self._is_closed, True
            return was_open
