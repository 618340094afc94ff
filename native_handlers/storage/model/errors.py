"""What a store can refuse or fail to do. Messages are upstream's where clients or tools match them.

Nothing here knows HTTP or gRPC: handlers map the classes. Corrupt records raise `native_handlers.format.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class StorageError(Exception):
    """Base of all errors of this package."""


class NotFound(StorageError):
    """There is no such needle, or it has expired. Not for a needle that was deleted."""

    def __init__(self, volume_id: int, needle_id: int) -> None:
        super().__init__("not found")
        self.volume_id = volume_id
        self.needle_id = needle_id


class Deleted(StorageError):
    """The needle was there and has been deleted."""

    def __init__(self, volume_id: int, needle_id: int) -> None:
        super().__init__("already deleted")
        self.volume_id = volume_id
        self.needle_id = needle_id


class CookieMismatch(StorageError):
    """The needle on disk has another cookie than the caller gave. `expected` is the one on disk."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"mismatching cookie {got:x}")
        self.expected = expected
        self.got = got


class ReadOnly(StorageError):
    """The volume takes no writes (or no deletes). `reason` says why, for logs."""

    def __init__(self, volume_id: int, reason: str) -> None:
        super().__init__(f"volume {volume_id} is read only")
        self.volume_id = volume_id
        self.reason = reason


class VolumeClosed(StorageError):
    """The volume was unmounted or deleted while the caller held on to it."""

    def __init__(self, volume_id: int) -> None:
        super().__init__(f"volume {volume_id} is closed")
        self.volume_id = volume_id


class VolumeNotFound(StorageError):
    """No volume of that id is mounted, or on a disk. `where` ends the message as upstream's operation does."""

    def __init__(self, volume_id: int, where: str = "", *, prefix: str = "volume") -> None:
        super().__init__(f"{prefix} {volume_id} not found{where}")
        self.volume_id = volume_id


class VolumeExists(StorageError):
    """A volume of that id is already mounted here."""

    def __init__(self, volume_id: int) -> None:
        super().__init__(f"Volume Id {volume_id} already exists!")
        self.volume_id = volume_id


class NoFreeSpace(StorageError):
    """No location of the wanted disk type has a free slot and enough space."""

    def __init__(self, disk_type: str) -> None:
        super().__init__("No more free space left")
        self.disk_type = disk_type


class VolumeArriving(StorageError):
    """The volume is being copied here already. Nothing was changed."""

    def __init__(self, volume_id: int) -> None:
        super().__init__(f"volume {volume_id} is being copied here already")
        self.volume_id = volume_id


class CopyIncomplete(StorageError):
    """A copied volume is not what its source said it would be."""


class ReceiveRefused(StorageError):
    """A file that is sent here has no place, or one where it would do harm. Nothing was changed."""


class NoSpaceForCopy(StorageError):
    """No location of the wanted disk type has a free slot and room for the volume."""

    def __init__(self, disk_type: str) -> None:
        super().__init__(f"no space left for disk type {disk_type or 'hdd'}")
        self.disk_type = disk_type


class VolumeNotEmpty(StorageError):
    """The volume was to be deleted only if empty, and holds needles."""

    def __init__(self, volume_id: int) -> None:
        super().__init__(f"DeleteVolume {volume_id}: volume not empty")
        self.volume_id = volume_id


class SizeLimitExceeded(StorageError):
    """The index cannot address more content."""

    def __init__(self, limit_bytes: int, current_bytes: int) -> None:
        super().__init__(f"volume size limit {limit_bytes} exceeded! current size is {current_bytes}")
        self.limit_bytes = limit_bytes
        self.current_bytes = current_bytes


class AppendOffsetExceeded(StorageError):
    """The end of the .dat file is beyond what the index can address."""

    def __init__(self, offset_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"Volume Size {offset_bytes} Exceeded {limit_bytes}")
        self.offset_bytes = offset_bytes
        self.limit_bytes = limit_bytes


class NeedleTooLarge(StorageError):
    """The needle's record does not fit the size field, or the store's file size limit."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"file over the limited {limit_bytes} bytes")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class ExistingNeedleUnreadable(StorageError):
    """A write could not compare cookies, for the needle it replaces cannot be read. Nothing was written."""

    def __init__(self, volume_id: int, cause: Exception) -> None:
        super().__init__(f"reading existing needle: {cause}")
        self.volume_id = volume_id


class ReadFailed(StorageError):
    """The operating system failed a read."""

    def __init__(self, path: Path, offset_bytes: int, cause: OSError) -> None:
        super().__init__(f"read {path} at {offset_bytes}: {cause.strerror}")
        self.path = path
        self.offset_bytes = offset_bytes


class WriteFailed(StorageError):
    """The operating system failed a write or an fsync. It was taken back, or else the volume stopped writing."""

    def __init__(self, path: Path, offset_bytes: int, cause: OSError) -> None:
        super().__init__(f"write {path} at {offset_bytes}: {cause.strerror}")
        self.path = path
        self.offset_bytes = offset_bytes
        self.cause = cause

    def copy(self) -> WriteFailed:
        """The same for another thread: an exception that several raise gathers the tracebacks of all."""
        return WriteFailed(self.path, self.offset_bytes, self.cause)


class BadRange(StorageError):
    """The caller named a place in .dat where no such record can be. The messages are Go's of its failed reads."""


class BlobRefused(StorageError):
    """A record that was to be stored as it is, is none. Nothing was written."""


class IndexMoveFailed(StorageError):
    """The .idx file could not be moved; it is where it was and the volume goes on with it."""

    def __init__(self, volume_id: int, cause: OSError) -> None:
        super().__init__(f"relocate index for volume {volume_id}: move .idx: {cause.strerror}")
        self.volume_id = volume_id
        self.cause = cause


class ConfigureFailed(StorageError):
    """A volume's settings could not be changed. `step` says when: "unmount", "" for the change itself, or "mount".

    `restore_failure` says why the volume could not be opened again, where it could not.
    """

    def __init__(self, step: str, why: str, restore_failure: str | None = None) -> None:
        super().__init__(why)
        self.step = step
        self.why = why
        self.restore_failure = restore_failure


class DiskUnavailable(StorageError):
    """The disk is out of service for now; it may be well again later. Other disks are served."""

    def __init__(self, path: Path, why: str, state: str = "is out of service") -> None:
        super().__init__(f"disk {path} {state}: {why}")
        self.path = path
        self.why = why


class DiskUnreadable(DiskUnavailable):
    """What is on the disk could not be found out, though it was in service. Other disks are served."""

    def __init__(self, path: Path, cause: OSError) -> None:
        super().__init__(path, cause.strerror or str(cause), "cannot be looked at")


class VolumeNotSeen(StorageError):
    """No disk that could be looked at has the volume, and not every disk could be: it may be there."""

    def __init__(self, volume_id: int, unseen: list[DiskUnavailable]) -> None:
        super().__init__(f"volume {volume_id} is on no disk that could be looked at; {'; '.join(map(str, unseen))}")
        self.volume_id = volume_id
        self.unseen = unseen


class StoreClosed(StorageError):
    """The store was closed; it does nothing any more."""

    def __init__(self) -> None:
        super().__init__("the store is closed")


class DirectoryLocked(StorageError):
    """Another process, or this one a second time, serves the directory."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is in use by {holder or 'an unnamed process'}; stop it, or serve another directory")
        self.path = path
        self.holder = holder


class DirectoryUnusable(StorageError):
    """A configured directory does not exist, is none, or cannot be written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"cannot serve {path}: {why}")
        self.path = path
        self.why = why


class OffsetWidthMismatch(StorageError):
    """A volume was written with another index offset width than this store runs with. Nothing was changed."""

    def __init__(self, path: Path, found_bytes: int, running_bytes: int) -> None:
        super().__init__(
            f"{path} says its index has {found_bytes}-byte offsets, this server runs with {running_bytes}-byte ones; "
            f"start it with offsets of {found_bytes} bytes"
        )
        self.path = path
        self.found_bytes = found_bytes
        self.running_bytes = running_bytes


class VolumeLoadFailed(StorageError):
    """The files of a volume are there and cannot be served. They were left as they are."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"volume {path} cannot be loaded: {why}")
        self.path = path
        self.why = why


class NewVersionUnsupported(StorageError):
    """A volume was to be made of a version that there is not. No file was made. The text is upstream's."""

    def __init__(self, version: int) -> None:
        super().__init__(f"volume super block version {version} is not supported")
        self.version = version


class RemoteTierUnsupported(VolumeLoadFailed):
    """The volume's data lives in a remote storage tier, which this server cannot read."""

    def __init__(self, path: Path, storage_name: str, key: str) -> None:
        super().__init__(
            path, f"its data is in remote storage {storage_name} as {key}, which is not supported here yet"
        )
        self.storage_name = storage_name
        self.key = key


class DeleteFailed(StorageError):
    """Some copies of a volume, or some volumes of a collection, could not be deleted; the others are gone."""

    def __init__(self, what: str, failures: list[str]) -> None:
        super().__init__(f"{what} failed on some disks: {'; '.join(failures)}")
        self.failures = failures


class BadState(StorageError):
    """state.pb is there and cannot be read; a server must not start with a guess."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"failed to read store state from {path} : {why}")
        self.path = path


class StateVersionMismatch(StorageError):
    """The new state was made from another version than the current one. Nothing was changed."""

    def __init__(self, got: int, want: int) -> None:
        super().__init__(f"version mismatch for VolumeServerState (got {got}, want {want})")
        self.got = got
        self.want = want
