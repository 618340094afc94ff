"""Which status each failure of the store gets. One table, so that no class of error is left to chance.

Source: weed/server/volume_server_handlers_read.go: what is not there, no longer there or not for this cookie is 404,
and so is a volume that is just being closed; everything else that fails a read is the server's fault. A disk out of
service is 503, for a replica can answer and the disk may come back; upstream has no such answer.
"""

from __future__ import annotations

from native_handlers.format.errors import FormatError
from native_handlers.storage.errors import (
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
"""All that a store raises for reasons of data, disks and state; anything else is a bug."""

_ABSENT = (NotFound, Deleted, CookieMismatch, VolumeNotFound, VolumeClosed, StoreClosed)


def read_failure_status(failure: Exception) -> int:
    """404, 503 or 500."""
    if isinstance(failure, DiskUnavailable):
        return 503
    return 404 if isinstance(failure, _ABSENT) else 500
