"""What an embedded master must not forget: the next file key, the highest volume id, the cluster's name.

One JSON file, replaced as a whole (written aside, synced, renamed, directory synced). File keys are reserved in
steps: a key is given out only below a mark that is already on disk, so a crash skips keys and never repeats one.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from supervisor.cluster.embedded_master.config import BadMasterState, MasterDirectoryInUse

if TYPE_CHECKING:
    from pathlib import Path

STATE_FILE_NAME = "embedded_master.json"
_LOCK_FILE_NAME = "embedded_master.lock"
_STEP = 10_000  # file keys per disk write
_MAX_FILE_KEY = 2**63  # what claims to be above it is not believed


@dataclass(frozen=True, slots=True)
class _Saved:
    """The file's contents. Key names are frozen."""

    topology_id: str
    next_file_key: int
    max_volume_id: int


class MasterState:
    """The sequences. Thread-safe; methods may block for a disk write. `close` releases the directory."""

    def __init__(self, directory: Path) -> None:
        """Takes `directory` over, making it if it is missing.

        Raises:
            MasterDirectoryInUse: another process has it.
            BadMasterState: its state file is damaged.
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
        """Returns the first of `count` file keys that nobody else gets."""
        with self._lock:
            first = self._next_file_key
            self._reserve(first + count)
            self._next_file_key = first + count
            return first

    def note_file_key(self, seen: int) -> None:
        """A volume holds file key `seen`: later keys are higher."""
        with self._lock:
            if seen < _MAX_FILE_KEY:
                self._next_file_key = max(self._next_file_key, seen + 1)

    def take_volume_id(self) -> int:
        """Returns a volume id that nobody else gets."""
        with self._lock:
            volume_id = self._saved.max_volume_id + 1
            self._save(_Saved(self._saved.topology_id, self._saved.next_file_key, volume_id))
            return volume_id

    def note_volume_id(self, seen: int) -> None:
        """A volume server has volume `seen`: later ids are higher."""
        with self._lock:
            if seen > self._saved.max_volume_id:
                self._save(_Saved(self._saved.topology_id, self._saved.next_file_key, seen))

    def close(self) -> None:
        """Releases the directory. Nothing needs to be written."""
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
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    directory_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
