"""Whether a volume takes writes and deletes now, and if not, why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from native_handlers.storage.report import ReadOnlyReasons

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.files import FileFacts
    from native_handlers.storage.io_health import IoHealth
    from native_handlers.storage.volume_open import Opened

_MARKED = "marked read-only"
_FAILING = "repeated I/O errors"


class VolumeHome(Protocol):
    """What a volume asks of the disk location that it lies in."""

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

    def facts_in_time(self, path: Path) -> FileFacts | None:
        """`Files.facts`, or NoAnswer where the disk takes too long."""
        ...


class WriteGate:
    """Changed under the volume's lock, looked at from anywhere."""

    __slots__ = ("_health", "_home", "_no_write_can_delete", "_no_write_or_delete")

    def __init__(self, opened: Opened, home: VolumeHome, health: IoHealth) -> None:
        self._home, self._health = home, health
        self._no_write_or_delete = opened.damage
        self._no_write_can_delete: str | None = None
        if opened.info.read_only and opened.info.read_only_can_delete:
            self._no_write_can_delete = _MARKED
        elif opened.info.read_only:
            self._no_write_or_delete = self._no_write_or_delete or _MARKED

    @property
    def reasons(self) -> ReadOnlyReasons:
        """Why writes are refused now; `is_read_only` of the result is False when they are not."""
        no_write_or_delete, no_write_can_delete = self._no_write_or_delete, self._no_write_can_delete
        is_low = self._home.is_space_low
        if self._health.is_quarantined:
            no_write_or_delete = no_write_or_delete or _FAILING
        text = no_write_or_delete or no_write_can_delete or ("low disk space" if is_low else "")
        return ReadOnlyReasons(no_write_or_delete is not None, no_write_can_delete is not None, is_low, text)

    @property
    def texts(self) -> tuple[str | None, str | None]:
        """Why writes and deletes, and why writes alone, are refused for good; None where they are not."""
        no_write_or_delete = self._no_write_or_delete
        if self._health.is_quarantined:
            no_write_or_delete = no_write_or_delete or _FAILING
        return no_write_or_delete, self._no_write_can_delete

    @property
    def is_stopped(self) -> bool:
        """Whether something is wrong, which no operator asked for."""
        return self._no_write_or_delete not in {None, _MARKED}

    def adopt(self, no_write_or_delete: str | None, no_write_can_delete: str | None) -> None:
        """Another process of those that share the volume has changed it."""
        if self.texts[0] and not no_write_or_delete:
            self._health.reset()
        self._no_write_or_delete, self._no_write_can_delete = no_write_or_delete, no_write_can_delete

    def stop(self, reason: str) -> None:
        """Nothing may be written any more, until an operator marks the volume writable."""
        self._no_write_or_delete = reason

    def mark_read_only(self, *, can_delete: bool) -> None:
        """An operator wants no more writes."""
        self._no_write_or_delete = None if can_delete else _MARKED
        self._no_write_can_delete = _MARKED if can_delete else None

    def mark_writable(self) -> None:
        """An operator wants writes, whatever was known of damage and of the disk."""
        self._no_write_or_delete = self._no_write_can_delete = None
        self._health.reset()
