"""The remote storage tiers of this server, by name: their settings from the master, and the interface of a tier.

Source: weed/storage/backend/backend.go (LoadFromPbStorageBackends, BackendNameToTypeId).
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from native_handlers.storage.model.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    Progress = Callable[[int, float], None]
    """Gets the number of bytes moved so far, and the percentage. May raise to end the transfer."""

_log = logging.getLogger(__name__)
DEFAULT_ID = "default"


class TierFailed(StorageError):
    """A tier refused, or could not be reached. The text has the operation and its place."""


class TierUnreachable(TierFailed):
    """A tier did not answer, or its answer broke off."""


class TierSilent(TierUnreachable):
    """The service gave no answer in time."""


class TierSettings(NamedTuple):
    """One tier in the master's configuration: ``[storage.backend.s3.default]`` in master.toml."""

    kind: str
    id: str
    properties: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return f"{self.kind}.{self.id}"


class Tier(Protocol):
    """A place for .dat files. Safe from any thread; calls block, and raise TierFailed."""

    def upload(self, path: Path, size_bytes: int, progress: Progress) -> str:
        """Stores the first `size_bytes` of a file. Returns the key of the object. On failure, also that of `progress`,
        no object stays, or the log names it.
        """
        ...

    def download(self, key: str, path: Path, progress: Progress) -> int:
        """Writes an object into a new file, without a sync. Returns its size in bytes. On failure the file may stay."""
        ...

    def read(self, key: str, offset_bytes: int, length_bytes: int, *, is_hurried: bool = False) -> bytes:
        """A range of an object; fewer bytes only at its end. Where `is_hurried`, the wait is a few seconds at most."""
        ...

    def delete(self, key: str, *, is_hurried: bool = False) -> None:
        """Removes an object. Does nothing when there is none. `is_hurried`: as for `read`."""
        ...


class Tiers:
    """All tiers that the master has named so far. Thread-safe."""

    def __init__(self, makers: Mapping[str, Callable[[TierSettings], Tier]]) -> None:
        """`makers` has a function for each kind that makes a tier."""
        self._makers = makers
        self._lock = threading.Lock()  # protects _by_name and _settings
        self._by_name: dict[str, Tier] = {}
        self._settings: dict[str, TierSettings] = {}

    def load(self, found: Iterable[TierSettings]) -> None:
        """Adds new tiers. As in upstream, changed settings of a known tier take effect at the next start."""
        with self._lock:
            for one in found:
                if one.name in self._settings:
                    if self._settings[one.name] != one:
                        _log.warning(
                            "the master's settings of %s have changed; they hold from the next start", one.name
                        )
                        self._settings[one.name] = one
                    continue
                make = self._makers.get(one.kind)
                if make is None:
                    _log.warning("storage type %s not found", one.kind)
                    continue
                tier = make(one)
                self._settings[one.name] = one
                self._by_name[one.name] = tier
                if one.id == DEFAULT_ID:
                    self._by_name[one.kind] = tier

    def find(self, name: str) -> Tier | None:
        """The tier of that name: ``s3.cold``, and ``s3`` for ``s3.default``."""
        return self._by_name.get(name)

    @property
    def names(self) -> list[str]:
        """The names that `find` knows, sorted."""
        return sorted(self._by_name)


def split_tier_name(name: str) -> tuple[str, str]:
    """Splits a tier's name into kind and id; both are "" for a text that is no name."""
    kind, dot, tier_id = name.partition(".")
    if not dot:
        return kind, DEFAULT_ID
    return ("", "") if "." in tier_id else (kind, tier_id)
