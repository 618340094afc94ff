"""Tells listeners which volumes were added, removed or changed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Listeners:
    """The callbacks for changes; safe from any thread. A callback gets the volume's id; the report has the facts."""

    def __init__(self) -> None:
        self._listeners: tuple[Callable[[int], None], ...] = ()
        # Serialises changes of _listeners.
        self._lock = threading.Lock()

    def add(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Registers `callback`. Returns a function that removes it."""
        with self._lock:
            self._listeners = (*self._listeners, callback)

        def remove() -> None:
            with self._lock:
                self._listeners = tuple(listener for listener in self._listeners if listener is not callback)

        return remove

    def emit(self, volume_ids: Iterable[int]) -> None:
        """Calls every listener with each id, in this thread. The caller holds no lock."""
        for volume_id in volume_ids:
            for listener in self._listeners:
                listener(volume_id)
