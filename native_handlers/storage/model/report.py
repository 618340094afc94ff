"""The facts that a store reports: of a volume, of a disk, and findings about a volume's files."""

from __future__ import annotations

import logging
import threading
from enum import Enum
from operator import itemgetter
from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from native_handlers.format.replica_placement import ReplicaPlacement
    from native_handlers.format.ttl import Ttl


@dataclass(frozen=True, slots=True)
class VolumeReport:
    """One mounted volume. `size_bytes` is the length of the .dat file, `content_size_bytes` the sum that the index
    counts.

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
    no_write_or_delete: bool = False
    no_write_can_delete: bool = False
    disk_space_low: bool = False
    """Why the volume is read-only: see `ReadOnlyReasons`."""


@dataclass(frozen=True, slots=True)
class ReadOnlyReasons:
    """Why a volume refuses writes. Each flag is a series of upstream's metrics. `text` is for people."""

    no_write_or_delete: bool
    no_write_can_delete: bool
    disk_space_low: bool
    text: str

    @property
    def is_read_only(self) -> bool:
        return self.no_write_or_delete or self.no_write_can_delete or self.disk_space_low


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """One location's file system. Sizes in bytes; `used` is the part that is not free to an unprivileged user.

    `error` is the reason why the disk is out of service, or ""; `available` is the free space above the reserve.
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
    """The kinds of findings at the opening of a volume."""

    IDX_ROW_CUT = "a partial row at the end of .idx was cut"
    IDX_HEAD_REPAIRED = "rows that deletions had overwritten at the head of .idx were restored"
    IDX_LOST = ".idx was lost and is rebuilt from .dat"
    IDX_BEHIND = ".idx was behind .dat and was caught up"
    DAT_TAIL_CUT = "an unfinished record at the end of .dat was cut"
    TORN_ROWS_DROPPED = "rows whose records were lost when the machine went down were dropped"
    MADE_READ_ONLY = "made read-only"
    VIF_UNREADABLE = ".vif cannot be parsed and was left alone"
    VIF_NOT_WRITTEN = ".vif cannot be written"
    ARRIVAL_FINISHED = "a copy that had arrived whole took its place"
    ARRIVAL_DOUBTFUL = "files that do not fit their record were moved aside"
    NOT_REPAIRED = "needs repair, which waits until the volume is made writable"
    COPY_REMOVED = "an unfinished copy was removed"
    COPY_ASIDE = "files with a .note that are no whole volume were moved aside"
    NOTE_ASIDE = "the .note beside a whole volume was moved aside"
    COMPACTION_ASIDE = "files of a vacuum that do not fit the volume were moved aside"
    SHARDS_KEPT = "shards that its .dat would replace are kept, for the .dat may be no whole volume"
    ID_TAKEN = "not opened, another volume of its id is"
    ID_SERVED_ELSEWHERE = "open, but another volume of its id on another disk is served"
    COMPACTION_FINISHED = "an interrupted vacuum was finished"
    COMPACTION_UNDONE = "an interrupted vacuum was undone"
    NOT_PREALLOCATED = "its space could not be reserved"
    TIER_UNREACHABLE = "its remote tier could not be asked for the super block"
    SHARDS_NOT_OPENED = "its shards are kept, and are not opened"
    NOT_LOADED = "not loaded"


class ReadFindingKind(Enum):
    """The kinds of findings at reads of a volume."""

    DAMAGED = "a record is damaged and cannot be read"
    SHARDS_DAMAGED = "a record in its shards is damaged and cannot be read"


@dataclass(frozen=True, slots=True)
class Finding:
    """One irregularity of the files at `base`, a volume's path without extension."""

    kind: FindingKind | ReadFindingKind
    base: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.base}: {self.kind.value}: {self.detail}"


_log = logging.getLogger(__name__)


# ---- The findings about the volumes of one location, kept for status pages and logged once.


class Findings:
    """Each finding once, in the order of discovery. Safe from any thread."""

    def __init__(self) -> None:
        self._found: dict[Path, dict[Finding, int]] = {}
        """By the volume's path, because there may be as many as volumes. The values are the numbers of the order."""
        self._count = 0
        # Protects both.
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        """Whether there are any findings."""
        return bool(self._found)

    def add(self, findings: Iterable[Finding]) -> None:
        """Logs each finding, and keeps it until `forget`."""
        for finding in findings:
            _log.warning("%s", finding)
            with self._lock:
                self._count += 1
                self._found.setdefault(finding.base, {}).setdefault(finding, self._count)

    def forget(self, base: Path) -> None:
        """Drops the findings about the files at `base`: the files are opened anew, or are gone."""
        with self._lock:
            self._found.pop(base, None)

    def drop(self, base: Path, *kinds: FindingKind | ReadFindingKind) -> None:
        """Drops the findings of some kinds about the files at `base`."""
        if base not in self._found:
            return
        with self._lock:
            left = {
                finding: number for finding, number in self._found.pop(base, {}).items() if finding.kind not in kinds
            }
            if left:
                self._found[base] = left

    def replace(self, base: Path, findings: Iterable[Finding]) -> None:
        """Replaces the findings about the files at `base`."""
        self.forget(base)
        self.add(findings)

    def all(self) -> list[Finding]:
        with self._lock:
            numbered = [pair for found in self._found.values() for pair in found.items()]
        return [finding for finding, _ in sorted(numbered, key=itemgetter(1))]
