"""Reports damaged data of a volume: once for each volume to the log and the findings, and each time to the counters.
Erasure-coded volumes count as volumes.

A record is damaged when it does not fit its index row or its own checksum. Every way of reading records reports damage.
A place that a caller names (ReadNeedleMeta) proves nothing, because there need not be a record.
"""

from __future__ import annotations

import logging
import threading
from enum import Enum
from typing import TYPE_CHECKING

from native_handlers.format.errors import ChecksumMismatch, SizeMismatch
from native_handlers.records import dataclass
from native_handlers.storage.model.report import Finding, ReadFindingKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from native_handlers.format.errors import FormatError
    from native_handlers.storage.model.report import Findings
    from native_handlers.storage.volume.paths import VolumePaths

_log = logging.getLogger(__name__)


class DamageKind(Enum):
    """The kinds of damage; the values are upstream's metric labels. Source: weed/stats/metrics_names.go."""

    CHECKSUM = "errorCRC"
    SIZE = "errorSizeMismatch"
    STRUCTURE = "errorIndexOutOfRange"


@dataclass(frozen=True, slots=True)
class Damage:
    """One read of a damaged record."""

    volume_id: int
    needle_id: int
    kind: DamageKind
    text: str


class DamageReports:
    """Collects the reports of one location's volumes. Safe from any thread."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._listeners: list[Callable[[Damage], None]] = []
        self._volume_ids: set[int] = set()

    def add_listener(self, callback: Callable[[Damage], None]) -> None:
        """Registers `callback` for each read of a damaged record. The reading thread calls it. It must not raise."""
        self._listeners.append(callback)

    @property
    def volume_ids(self) -> frozenset[int]:
        """The volumes with reported damage, also those that are closed or repaired since."""
        return frozenset(self._volume_ids)

    def report(
        self, base: Path, damage: Damage, *, is_first: bool, kind: ReadFindingKind = ReadFindingKind.DAMAGED
    ) -> None:
        """Reports damage of the volume with files at `base`. `is_first`: whether it is the volume's first damage."""
        if is_first:
            self._volume_ids.add(damage.volume_id)
            detail = f"needle {damage.needle_id:x}: {damage.text}; other damage of this volume is not said one by one"
            self._findings.add([Finding(kind, base, detail)])
        for callback in self._listeners:
            callback(damage)


class VolumeDamage:
    """The damage found in one open volume. Safe from any thread."""

    def __init__(
        self, paths: VolumePaths, reports: DamageReports | None, kind: ReadFindingKind = ReadFindingKind.DAMAGED
    ) -> None:
        self._paths = paths
        self._reports, self._kind = reports, kind
        # Protects `count`.
        self._lock = threading.Lock()
        self.count = 0
        """The number of reads of damaged records."""

    def found(self, needle_id: int, error: FormatError) -> None:
        """Reports that the record of `needle_id` cannot be read because of `error`."""
        with self._lock:
            self.count += 1
            is_first = self.count == 1
        damage = Damage(self._paths.volume_id, needle_id, _kind_of(error), str(error))
        if self._reports is not None:
            self._reports.report(self._paths.base, damage, is_first=is_first, kind=self._kind)
        elif is_first:
            _log.warning("%s: needle %x: %s", self._paths.base, needle_id, error)

    def reset(self) -> None:
        """Starts anew after an operator has declared the volume sound, or after its shards have changed: the next
        damage is reported again.
        """
        with self._lock:
            self.count = 0


def _kind_of(error: FormatError) -> DamageKind:
    if isinstance(error, ChecksumMismatch):
        return DamageKind.CHECKSUM
    return DamageKind.SIZE if isinstance(error, SizeMismatch) else DamageKind.STRUCTURE
