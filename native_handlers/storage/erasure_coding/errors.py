"""The errors of erasure coding. They are apart from the work itself, which imports numpy."""

from __future__ import annotations

from native_handlers.storage.model.errors import CookieMismatch, StorageError


class NoLiveNeedles(StorageError):
    """Every needle of the volume is deleted: there is nothing to decode. Upstream's shell matches the text."""

    def __init__(self, volume_id: int) -> None:
        super().__init__(f"ec volume {volume_id} has no live entries")


class EcRefused(StorageError):
    """The request cannot be carried out. Nothing was changed. The texts are upstream's."""


class EcDeleteRefused(CookieMismatch):
    """A needle is not deleted, because the caller gave another cookie. The text is upstream's."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(expected, got, "unexpected cookie")


class EcMountFailed(StorageError):
    """A shard could not be opened. The texts are upstream's."""


class EcShardNotHere(EcMountFailed):
    """No disk has the file of a shard."""


class BadEcIndex(StorageError):
    """The index of an erasure-coded volume is damaged. Nothing was changed."""


class RebuildFailed(StorageError):
    """Shards could not be made anew. No file was changed."""


class VerifyFailed(StorageError):
    """Shards could not be compared with each other. Their state is unknown."""


class DecodeFailed(StorageError):
    """Shards could not be decoded to a volume. No file was changed."""


class WorkEnded(StorageError):
    """The work on shards ended early, because no caller wanted its result any more. No file was changed."""

    def __init__(self) -> None:
        super().__init__("the work on shards ended early, for its result is not wanted any more")


class NotAllHere(Exception):
    """The needle cannot be read from local shards alone. A caller that must not wait for other servers has to read it
    in another thread.
    """
