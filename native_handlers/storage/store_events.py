"""Tells listeners which volumes came, went or changed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from native_handlers.storage.report import VolumeEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.report import VolumeEventKind
    from native_handlers.storage.volume import Volume


class Listeners:
    """Who is called with each event; safe from any thread."""

    def __init__(self) -> None:
        self._listeners: tuple[Callable[[VolumeEvent], None], ...] = ()
        # Serialises changes of _listeners.
        self._lock = threading.Lock()

    def add(self, callback: Callable[[VolumeEvent], None]) -> Callable[[], None]:
        """Has `callback` called from now on. Returns what removes it again."""
        with self._lock:
            self._listeners = (*self._listeners, callback)

        def remove() -> None:
            with self._lock:
                self._listeners = tuple(listener for listener in self._listeners if listener is not callback)

        return remove

    def emit(self, events: list[VolumeEvent]) -> None:
        """Calls every listener with each event, in this thread. Hold no lock."""
        for event in events:
            for listener in self._listeners:
                listener(event)


def describe_event(kind: VolumeEventKind, volume: Volume) -> VolumeEvent:
    """What a listener is told of `volume`."""
    return VolumeEvent(
        kind,
        volume.id,
        volume.collection,
        volume.replica_placement,
        volume.version,
        volume.ttl,
        volume.disk_type,
        volume.disk_id,
    )
