"""Counts the I/O errors of one volume, so that a failing disk takes it out of rotation and a hiccup does not.

Only EIO counts, and only in a row. Three make the volume read-only and unannounced until an operator marks it
writable: a good read afterwards proves nothing. No data is ever deleted for it.
Source: weed/storage/volume_write.go (IoErrorTolerance), volume.go, store.go:CollectHeartbeat.
"""

from __future__ import annotations

import errno
import threading

TOLERATED = 3


class IoHealth:
    """The run of I/O errors of one volume; safe from any thread."""

    __slots__ = ("_lock", "_run", "is_quarantined")

    def __init__(self) -> None:
        self.is_quarantined = False
        self._run = 0
        # Protects _run.
        self._lock = threading.Lock()

    def failed(self, error: OSError) -> None:
        """An operation failed. Anything but EIO ends the run: it says nothing of the disk."""
        with self._lock:
            self._run = self._run + 1 if error.errno == errno.EIO else 0
            if self._run >= TOLERATED:
                self.is_quarantined = True

    def succeeded(self) -> None:
        if self._run:
            with self._lock:
                self._run = 0

    def reset(self) -> None:
        """Forgets everything: an operator says that the disk is well."""
        with self._lock:
            self._run = 0
            self.is_quarantined = False
