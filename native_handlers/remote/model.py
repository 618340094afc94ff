"""The failures of remote storage, and the protocol of its clients."""

from __future__ import annotations

from typing import Protocol


class RemoteStorageUnusable(Exception):
    """No client can be made for the storage that a request describes.

    Args:
        is_missing_extra: the program lacks a library for the kind; the text says how to install the library.
        is_refusal: the credentials are none that a caller may give.
    """

    def __init__(self, message: str, *, is_missing_extra: bool = False, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.is_missing_extra, self.is_refusal = is_missing_extra, is_refusal


class RemoteReadFailed(Exception):
    """The object, or the range of it, could not be read."""


class RemoteObjects(Protocol):
    """Objects in remote storage. Safe from any thread; calls block."""

    def read(
        self, bucket: str, key: str, offset_bytes: int, size_bytes: int, concurrency: int = 0
    ) -> bytes | memoryview:
        """Exactly `size_bytes` of an object.

        Raises:
            RemoteReadFailed: it cannot be read, or is shorter.
        """
        ...
