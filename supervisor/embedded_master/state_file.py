"""The state that an embedded master must keep: the next file key, the highest volume id, the cluster's id.

The state is one JSON file, replaced as a whole (written to a new file, synced, renamed, directory synced). File keys
are
reserved in steps: a key is given out only below a mark that is on disk. So a crash skips keys and never repeats one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import uuid
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from supervisor.embedded_master.config import BadMasterState, MasterDirectoryInUse

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)
STATE_FILE_NAME = "embedded_master.json"
_LOCK_FILE_NAME = "embedded_master.lock"
_STEP = 10_000  # file keys per disk write
_MAX_FILE_KEY = 2**63  # a reported key above this is ignored


@dataclass(frozen=True, slots=True)
class _Saved:
    """The content of the file. The key names never change."""

    topology_id: str
    next_file_key: int
    max_volume_id: int


class MasterState:
    """The sequences. Thread-safe. Methods may block for a disk write. `close` releases the directory."""

    def __init__(self, directory: Path) -> None:
        """Takes `directory` over, and creates it if it is missing.

        Raises:
            MasterDirectoryInUse: another process uses it.
            BadMasterState: its state file is damaged.
            In both cases the directory's lock is not held.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / STATE_FILE_NAME
        self._lock_fd = _lock(directory)
        self._lock = threading.Lock()  # protects everything below
        try:
            self._saved = _load(self._path)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._next_file_key = self._saved.next_file_key

    @property
    def topology_id(self) -> str:
        return self._saved.topology_id

    @property
    def max_volume_id(self) -> int:
        with self._lock:
            return self._saved.max_volume_id

    def take_file_keys(self, count: int) -> int:
        """The first of `count` file keys that are given out only once. Raises OSError; the keys are not used then."""
        with self._lock:
            first = self._next_file_key
            self._reserve(first + count)
            self._next_file_key = first + count
            return first

    def note_file_key(self, seen: int) -> None:
        """Notes that a volume holds file key `seen`: later keys are higher."""
        with self._lock:
            if seen < _MAX_FILE_KEY:
                self._next_file_key = max(self._next_file_key, seen + 1)

    def take_volume_id(self) -> int:
        """A volume id that is given out only once. Raises OSError; the id is not used then."""
        with self._lock:
            volume_id = self._saved.max_volume_id + 1
            self._save(_Saved(self._saved.topology_id, self._saved.next_file_key, volume_id))
            return volume_id

    def note_volume_id(self, seen: int) -> None:
        """Notes that a volume server has volume `seen`: later ids are higher.

        If this cannot be written, it still counts in memory. After a restart the volume server reports it again.
        """
        with self._lock:
            if seen > self._saved.max_volume_id:
                saved = replace(self._saved, max_volume_id=seen)
                try:
                    self._save(saved)
                except OSError as error:
                    _log.error("the master's state cannot be written: %s", error)
                    self._saved = saved

    def close(self) -> None:
        """Releases the directory. Nothing has to be written."""
        os.close(self._lock_fd)

    def _reserve(self, end: int) -> None:
        if end > self._saved.next_file_key:
            self._save(_Saved(self._saved.topology_id, end + _STEP, self._saved.max_volume_id))

    def _save(self, saved: _Saved) -> None:
        _replace_file(self._path, json.dumps(asdict(saved), indent=2).encode())
        self._saved = saved


def _lock(directory: Path) -> int:
    fd = os.open(directory / _LOCK_FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise MasterDirectoryInUse(directory) from None
    return fd


def _load(path: Path) -> _Saved:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return _Saved(str(uuid.uuid4()), 1, 0)
    try:
        saved = _Saved(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise BadMasterState(path, str(error)) from error
    if not (isinstance(saved.next_file_key, int) and isinstance(saved.max_volume_id, int)):
        raise BadMasterState(path, "a number is not a number")
    return saved


def _replace_file(path: Path, data: bytes) -> None:
    aside = path.with_suffix(".new")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        # A partial file would take the space that was missing.
        with suppress(OSError):
            aside.unlink()
        raise
    directory_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
