"""Whether a volume takes writes and deletes now, and the reason if not."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from native_handlers.storage.model.report import ReadOnlyReasons

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from native_handlers.format.vif import VolumeInfo

_MARKED = "marked read-only"
_TIERED = "its data is in a remote tier"
_FAILING = "repeated I/O errors"


class DiskContext(Protocol):
    """The facts that a volume needs of its disk location."""

    @property
    def disk_type(self) -> str: ...
    @property
    def disk_id(self) -> int: ...
    @property
    def is_space_low(self) -> bool: ...
    @property
    def is_unavailable(self) -> bool: ...
    def check_in_service(self) -> None:
        """Raises DiskUnavailable while the disk is out of service."""
        ...

    @property
    def lost(self) -> Container[object]:
        """The volumes whose .dat did not exist at the last check."""
        ...


class DiskNow(NamedTuple):
    """A `DiskContext` at one moment, for all volumes that are described together."""

    is_space_low: bool
    is_unavailable: bool
    lost: Container[object]

    @classmethod
    def of(cls, disk: DiskContext) -> DiskNow:
        return cls(disk.is_space_low, disk.is_unavailable, disk.lost)


class WriteState:
    """Changed under the volume's lock, read from any thread."""

    __slots__ = ("_disk", "_health", "_held", "_is_tiered", "_no_write_can_delete", "_no_write_or_delete", "on_hold")

    def __init__(self, damage: str | None, info: VolumeInfo, disk: DiskContext, health: IoHealth) -> None:
        """`damage` is the reason why the files take no writes, or None; `info` has the volume's mark."""
        self.on_hold: Callable[[], None] | None = None
        """Called when a hold begins or ends."""
        self._disk, self._health = disk, health
        self._no_write_or_delete = damage or _mark_of(info)
        self._no_write_can_delete = _soft_mark_of(info)
        self._held: str | None = None
        self._is_tiered = bool(info.files)

    @property
    def reasons(self) -> ReadOnlyReasons:
        """Why writes are refused now; `is_read_only` of the result is False when they are not."""
        no_write_or_delete, no_write_can_delete = self._no_write_or_delete or self._held, self._no_write_can_delete
        is_low = self._disk.is_space_low
        if self._health.is_quarantined:
            no_write_or_delete = no_write_or_delete or _FAILING
        text = no_write_or_delete or no_write_can_delete or ("low disk space" if is_low else "")
        return ReadOnlyReasons(no_write_or_delete is not None, no_write_can_delete is not None, is_low, text)

    @property
    def refuses_writes(self) -> bool:
        """Whether `reasons` has any. Each write asks for this."""
        is_marked = self._no_write_or_delete is not None or self._no_write_can_delete is not None
        return is_marked or self._held is not None or self._health.is_quarantined or self._disk.is_space_low

    def flags(self, *, is_space_low: bool) -> tuple[bool, bool, bool]:
        """`reasons` without the text: whether writes and deletes are refused, whether only writes are, whether disk
        space is low.
        """
        is_closed = self._no_write_or_delete is not None or self._held is not None or self._health.is_quarantined
        return is_closed, self._no_write_can_delete is not None, is_space_low

    @property
    def is_read_only(self) -> bool:
        """Whether writes are refused now."""
        return any(self.flags(is_space_low=self._disk.is_space_low))

    @property
    def texts(self) -> tuple[str | None, str | None]:
        """The lasting reasons for refusing writes and deletes, and for refusing only writes; None where there is
        none.
        """
        no_write_or_delete = self._no_write_or_delete
        if self._health.is_quarantined:
            no_write_or_delete = no_write_or_delete or _FAILING
        return no_write_or_delete, self._no_write_can_delete

    @property
    def _tier_text(self) -> str | None:
        return _TIERED if self._is_tiered else None

    @property
    def is_failing(self) -> bool:
        """Whether repeated I/O errors stop the writes: errors of this process, or of one that shares the volume."""
        return self._health.is_quarantined or self._no_write_or_delete == _FAILING

    @property
    def is_stopped(self) -> bool:
        """Whether there is a fault, as opposed to an operator's mark."""
        return self._no_write_or_delete not in {None, _MARKED}

    def adopt(self, no_write_or_delete: str | None, no_write_can_delete: str | None) -> None:
        """Takes over the reasons that another process sharing the volume has published."""
        if self.texts[0] and not no_write_or_delete:
            self._health.reset()
        self._no_write_or_delete, self._no_write_can_delete = no_write_or_delete, no_write_can_delete

    def stop(self, reason: str) -> None:
        """Refuses writes and deletes, until an operator marks the volume writable."""
        self._no_write_or_delete = reason

    def reopened(self, old_damage: str | None, damage: str | None, info: VolumeInfo) -> None:
        """The files were opened anew: the new state of the files replaces the old damage as the reason."""
        if self._no_write_or_delete == old_damage:
            self._no_write_or_delete = damage or _mark_of(info)
        if self._is_tiered != bool(info.files):
            self._is_tiered, self._no_write_can_delete = bool(info.files), _soft_mark_of(info)

    def mark_read_only(self, *, can_delete: bool) -> None:
        """Takes over an operator's mark: no more writes."""
        self._no_write_or_delete = None if can_delete else _MARKED
        self._no_write_can_delete = _MARKED if can_delete else self._tier_text

    def hold(self, reason: str | None) -> None:
        """Refuses writes and deletes while there is a reason, whatever an operator marks meanwhile."""
        self._held = reason
        if self.on_hold is not None:
            self.on_hold()

    @property
    def is_held(self) -> bool:
        """Whether a hold refuses writes now."""
        return self._held is not None

    def mark_writable(self) -> None:
        """Takes over an operator's decision for writes. It overrides known damage and I/O errors.

        A tiered volume takes deletions only.
        """
        self._no_write_or_delete, self._no_write_can_delete = None, self._tier_text
        self._health.reset()


def _soft_mark_of(info: VolumeInfo) -> str | None:
    if info.files:
        return _TIERED
    return _MARKED if info.read_only and info.read_only_can_delete else None


def _mark_of(info: VolumeInfo) -> str | None:
    """Why writes and deletes are refused, or None. A tiered volume takes deletions, even if its .vif has a mark.

    Source: weed/storage/volume_loading.go (load).
    """
    if info.files:
        return None
    return _MARKED if info.read_only and not info.read_only_can_delete else None


# ---- Counts the I/O errors of one volume: a failing disk takes it out of rotation, a single error does not.
#
# Only EIO counts, and only consecutive errors. Three make the volume read-only and unannounced until an operator marks
# it writable: a good read afterwards proves nothing. Data is never deleted for it. Source: weed/storage/volume_write.go
# (IoErrorTolerance), volume.go, store.go:CollectHeartbeat.

TOLERATED = 3


class IoHealth:
    """The consecutive I/O errors of one volume; safe from any thread.

    Attributes:
        errors_in_a_row: the EIO errors since the last success. Reads and writes of needles call `succeeded` only where
            there are any.
    """

    __slots__ = ("_lock", "errors_in_a_row", "is_quarantined")

    def __init__(self) -> None:
        self.is_quarantined = False
        self.errors_in_a_row = 0
        # Protects errors_in_a_row.
        self._lock = threading.Lock()

    def failed(self, error: OSError) -> None:
        """Counts a failed operation. Any error but EIO ends the run, because it says nothing about the disk."""
        with self._lock:
            self.errors_in_a_row = self.errors_in_a_row + 1 if error.errno == errno.EIO else 0
            if self.errors_in_a_row >= TOLERATED:
                self.is_quarantined = True

    def succeeded(self) -> None:
        if self.errors_in_a_row:
            with self._lock:
                self.errors_in_a_row = 0

    def reset(self) -> None:
        """Starts anew: an operator says that the disk is sound."""
        with self._lock:
            self.errors_in_a_row = 0
            self.is_quarantined = False
