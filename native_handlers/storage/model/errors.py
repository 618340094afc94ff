"""The errors of a store. Messages are upstream's where clients or tools match them.

No error knows HTTP or gRPC: handlers map the classes to statuses. Corrupt records raise
`native_handlers.format.errors`.
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
    """The needle existed and has been deleted."""

    def __init__(self, volume_id: int, needle_id: int) -> None:
        super().__init__("already deleted")
        self.volume_id = volume_id
        self.needle_id = needle_id


class CookieMismatch(StorageError):
    """The needle on disk has another cookie than the caller gave. `expected` is the cookie on disk."""

    def __init__(self, expected: int, got: int, text: str = "mismatching cookie") -> None:
        super().__init__(f"{text} {got:x}")
        self.expected = expected
        self.got = got


class ReadOnly(StorageError):
    """The volume takes no writes (or no deletes). `reason` is the cause, for logs."""

    def __init__(self, volume_id: int, reason: str) -> None:
        super().__init__(f"volume {volume_id} is read only")
        self.volume_id = volume_id
        self.reason = reason


class VolumeClosed(StorageError):
    """The volume was unmounted or deleted while the caller used it."""

    def __init__(self, volume_id: int) -> None:
        super().__init__(f"volume {volume_id} is closed")
        self.volume_id = volume_id


class LeftToOwner(StorageError):
    """This process changes a shared volume not now: the process that opened the volume does. Nothing was changed."""

    def __init__(self, volume_id: int, reason: str) -> None:
        super().__init__(f"volume {volume_id} is left to the process that opened it: {reason}")
        self.volume_id = volume_id


class VolumeNotFound(StorageError):
    """No volume of that id is mounted, or on a disk. `where` is the end of the message, as upstream's operation has
    it.
    """

    def __init__(self, volume_id: int, where: str = "", *, prefix: str = "volume") -> None:
        super().__init__(f"{prefix} {volume_id} not found{where}")
        self.volume_id = volume_id


class VolumeExists(StorageError):
    """A volume of that id is already here, or files of one. `where` says which, of one that is not open."""

    def __init__(self, volume_id: int, where: str = "") -> None:
        text = f"Volume Id {volume_id} already exists!"
        super().__init__(f"{text} {where}" if where else text)
        self.volume_id = volume_id


class IdTaken(StorageError):
    """A volume of that id and another collection is here, open or not, or comes here just now. Nothing was changed."""


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


class VolumeBusy(StorageError):
    """Another operation copies the volume's files, or has replaced the files and not renamed them yet. Nothing was
    changed.
    """

    def __init__(self, volume_id: int, reason: str) -> None:
        super().__init__(f"volume {volume_id} {reason}")
        self.volume_id = volume_id


class CopyIncomplete(StorageError):
    """A copied volume differs from its source's announcement."""


class ReceiveRefused(StorageError):
    """A file that is sent here has no place, or a place where it would do harm. Nothing was changed."""


class NoSpaceForCopy(StorageError):
    """No location of the wanted disk type has a free slot and room for the volume. `why` has the reason for each
    location.
    """

    def __init__(self, disk_type: str, why: str = "") -> None:
        text = f"no space left for disk type {disk_type or 'hdd'}"
        super().__init__(f"{text}: {why}" if why else text)
        self.disk_type = disk_type


class NoSuchDisk(StorageError):
    """A disk was named by a number that no disk has."""

    def __init__(self, disk_id: int, disk_count: int) -> None:
        super().__init__(f"invalid disk_id {disk_id}: only have {disk_count} disks")


class NoDiskForShard(StorageError):
    """No disk can take a shard: none has a free slot, and is in service and above its reserve."""

    def __init__(self) -> None:
        super().__init__("no disk has room for a shard")


class DiskTooSmall(StorageError):
    """The disk for a file has not more free space than the file needs."""

    def __init__(self, path: Path, free_bytes: int) -> None:
        super().__init__(f"{path} has {free_bytes} bytes free above its reserve")


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
    """A write could not compare cookies, because the existing needle cannot be read. Nothing was written."""

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
    """The operating system failed a write or an fsync. The write was undone, or else the volume takes no more
    writes.
    """

    def __init__(self, path: Path, offset_bytes: int, cause: OSError) -> None:
        super().__init__(f"write {path} at {offset_bytes}: {cause.strerror}")
        self.path = path
        self.offset_bytes = offset_bytes
        self.cause = cause

    def copy(self) -> WriteFailed:
        """A copy for another thread: an exception that several threads raise collects the tracebacks of all."""
        return WriteFailed(self.path, self.offset_bytes, self.cause)


class BadRecordRange(StorageError):
    """The caller named a range of .dat that can hold no record. The messages are Go's for its failed reads."""


class BlobRefused(StorageError):
    """Bytes that were to be stored unchanged as a record are no record. Nothing was written."""


class CompactionRunning(StorageError):
    """The volume is being compacted, or a compacted copy is being put in its place. Nothing was changed."""

    def __init__(self, volume_id: int) -> None:
        super().__init__(f"volume {volume_id} is compacting")
        self.volume_id = volume_id


class CompactionRefused(StorageError):
    """The volume cannot be compacted now, or there is no compacted copy that fits the volume. The volume is served as
    before.
    """

    def __init__(self, volume_id: int, why: str) -> None:
        super().__init__(f"volume {volume_id} {why}")
        self.volume_id = volume_id


class CompactionEnded(StorageError):
    """A compaction ended early, because no caller wanted it any more. The volume is served as before."""

    def __init__(self, volume_id: int) -> None:
        super().__init__(f"compaction of volume {volume_id}: interrupted")
        self.volume_id = volume_id


class NoSpaceForCompaction(StorageError):
    """The disk cannot hold the compacted copy. Nothing was written."""

    def __init__(self, needed_bytes: int, data_bytes: int, index_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"insufficient free space for compaction: need {needed_bytes} bytes "
            f"(volume: {data_bytes}, index: {index_bytes}), but only {free_bytes} bytes available"
        )
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class IndexMoveFailed(StorageError):
    """The .idx file could not be moved. It is where it was, and the volume goes on with it."""

    def __init__(self, volume_id: int, cause: OSError) -> None:
        super().__init__(f"relocate index for volume {volume_id}: move .idx: {cause.strerror}")
        self.volume_id = volume_id
        self.cause = cause


class ConfigureFailed(StorageError):
    """A volume's settings could not be changed. `step` is the failed step: "unmount", "" for the change itself, or
    "mount".

    `restore_failure` is the reason why the volume could not be opened again, or None where it was opened.
    """

    def __init__(self, step: str, why: str, restore_failure: str | None = None) -> None:
        super().__init__(why)
        self.step = step
        self.why = why
        self.restore_failure = restore_failure


class DiskUnavailable(StorageError):
    """The disk is out of service and may come back. Other disks are served."""

    def __init__(self, path: Path, why: str, state: str = "is out of service") -> None:
        super().__init__(f"disk {path} {state}: {why}")
        self.path = path
        self.why = why


class DiskUnreadable(DiskUnavailable):
    """The files on the disk could not be listed or read, though the disk was in service. Other disks are served."""

    def __init__(self, path: Path, cause: OSError) -> None:
        super().__init__(path, cause.strerror or str(cause), "cannot be looked at")


class VolumeNotSeen(StorageError):
    """No readable disk has the volume, but at least one disk could not be read: the volume may be there."""

    def __init__(self, volume_id: int, unseen: list[DiskUnavailable]) -> None:
        super().__init__(f"volume {volume_id} is on no disk that could be looked at; {'; '.join(map(str, unseen))}")
        self.volume_id = volume_id
        self.unseen = unseen


class StoreClosed(StorageError):
    """The store was closed and does nothing any more."""

    def __init__(self) -> None:
        super().__init__("the store is closed")


class DirectoryLocked(StorageError):
    """Another process, or this process a second time, serves the directory."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is in use by {holder or 'an unnamed process'}; stop it, or serve another directory")
        self.path = path
        self.holder = holder


class DirectoryUnusable(StorageError):
    """A configured directory does not exist, is no directory, or cannot be written."""

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
    """The files of a volume are there and cannot be served. They were not changed."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"volume {path} cannot be loaded: {why}")
        self.path = path
        self.why = why


class NewVersionUnsupported(StorageError):
    """A new volume was to have an unsupported version. No file was made. The text is upstream's."""

    def __init__(self, version: int) -> None:
        super().__init__(f"volume super block version {version} is not supported")
        self.version = version


class TierMoveUnclear(StorageError):
    """Nobody knows whether the .vif names the object in the tier: neither the object nor the .dat may go."""


class TierMoveFailed(StorageError):
    """The data of a volume could not be moved to a tier or back. The volume is served as before."""


class RemoteTierUnsupported(VolumeLoadFailed):
    """The volume's data is in a remote storage tier, and the store was opened without access to tiers: the tools for
    directories do that.
    """

    def __init__(self, path: Path, storage_name: str, key: str) -> None:
        super().__init__(
            path, f"its data is in remote storage {storage_name} as {key}, and this program has no access to tiers"
        )
        self.storage_name = storage_name
        self.key = key


class TooManyVolumes(VolumeLoadFailed):
    """The process has no descriptors left for another volume. No file was changed."""

    def __init__(self, path: Path, open_count: int, advice: str) -> None:
        super().__init__(path, f"{open_count} volumes are open, and there is room for no more; {advice}")
        self.open_count = open_count


class DeleteFailed(StorageError):
    """Some copies of a volume, or some volumes of a collection, could not be deleted; the others are deleted."""

    def __init__(self, what: str, failures: list[str]) -> None:
        super().__init__(f"{what} failed on some disks: {'; '.join(failures)}")
        self.failures = failures


class BadState(StorageError):
    """state.pb is there and cannot be read. A server must not start with a guess."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"failed to read store state from {path} : {why}")
        self.path = path


class StateVersionMismatch(StorageError):
    """The new state was made from another version than the current one. Nothing was changed."""

    def __init__(self, got: int, want: int) -> None:
        super().__init__(f"version mismatch for VolumeServerState (got {got}, want {want})")
        self.got = got
        self.want = want
