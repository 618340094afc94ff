"""The status of each failure of the store: one table, so that no class of error is missed.

Source: weed/server/volume_server_handlers_read.go. A needle that is absent, deleted or has another cookie is 404, and
so is a volume that is being closed; every other failed read is the server's fault. A disk out of service is 503,
because a replica can answer and the disk may come back; upstream has no such answer.
"""

from __future__ import annotations

from native_handlers.format.errors import FormatError
from native_handlers.storage.model.errors import (
    CookieMismatch,
    Deleted,
    DiskUnavailable,
    NotFound,
    StorageError,
    StoreClosed,
    VolumeClosed,
    VolumeNotFound,
)

STORE_FAILURES = (StorageError, FormatError, OSError)
"""All exceptions that a store raises for reasons of data, disks and state. Any other exception is a bug."""

_ABSENT = (NotFound, Deleted, CookieMismatch, VolumeNotFound, VolumeClosed, StoreClosed)


def read_failure_status(failure: Exception) -> int:
    """404, 503 or 500."""
    if isinstance(failure, DiskUnavailable):
        return 503
    return 404 if isinstance(failure, _ABSENT) else 500
