"""What a store tells others: facts of a volume, of a disk, changes, and findings made when a volume was opened."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.format.replica_placement import ReplicaPlacement
    from native_handlers.format.ttl import Ttl


@dataclass(frozen=True, slots=True)
class VolumeReport:
    """One mounted volume. `size_bytes` is the length of the .dat file, `content_size_bytes` what the index counts.

    `is_announced` is False for a volume that a heartbeat must leave out, so that the master replicates it again:
    expired, failing with I/O errors, on an unavailable disk, or with its .dat file unlinked.
    """

    id: int
    size_bytes: int
    content_size_bytes: int
    collection: str
    file_count: int
    delete_count: int
    deleted_byte_count: int
    read_only: bool
    replica_placement: ReplicaPlacement
    version: int
    ttl: Ttl
    compact_revision: int
    modified_at_s: int
    disk_type: str
    disk_id: int
    remote_storage_name: str
    remote_storage_key: str
    max_needle_id: int
    is_announced: bool = True
    index_size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ReadOnlyReasons:
    """Why a volume refuses writes; each flag is a series of upstream's metrics. `text` is for people."""

    no_write_or_delete: bool
    no_write_can_delete: bool
    disk_space_low: bool
    text: str

    @property
    def is_read_only(self) -> bool:
        return self.no_write_or_delete or self.no_write_can_delete or self.disk_space_low


class VolumeEventKind(Enum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class VolumeEvent:
    """A volume came, went, or changed its read-only state. The facts are those that a delta heartbeat carries."""

    kind: VolumeEventKind
    volume_id: int
    collection: str
    replica_placement: ReplicaPlacement
    version: int
    ttl: Ttl
    disk_type: str
    disk_id: int


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """One location's file system. Sizes in bytes; `used` is what is not free to an unprivileged user.

    `error` is why the disk is out of service, "" when it is not; `available` is the free space above the reserve.
    """

    dir: str
    all: int
    used: int
    free: int
    percent_free: float
    percent_used: float
    disk_type: str
    error: str = ""
    available: int = 0


class FindingKind(Enum):
    """What was found when a volume was opened."""

    IDX_ROW_CUT = "a partial row at the end of .idx was cut"
    IDX_HEAD_REPAIRED = "rows that deletions had overwritten at the head of .idx were restored"
    IDX_LOST = ".idx was lost and is rebuilt from .dat"
    IDX_BEHIND = ".idx was behind .dat and was caught up"
    DAT_TAIL_CUT = "an unfinished record at the end of .dat was cut"
    TORN_ROWS_DROPPED = "rows whose records were lost when the machine went down were dropped"
    MADE_READ_ONLY = "made read-only"
    VIF_UNREADABLE = ".vif cannot be parsed and was left alone"
    VIF_NOT_WRITTEN = ".vif cannot be written"
    NOT_REPAIRED = "needs repair, which waits until the volume is made writable"
    COPY_REMOVED = "an unfinished copy was removed"
    COMPACTION_FINISHED = "an interrupted vacuum was finished"
    COMPACTION_UNDONE = "an interrupted vacuum was undone"
    NOT_PREALLOCATED = "its space could not be reserved"
    NOT_LOADED = "not loaded"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing out of the ordinary about the files at `base`, a volume's path without extension."""

    kind: FindingKind
    base: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.base}: {self.kind.value}: {self.detail}"
