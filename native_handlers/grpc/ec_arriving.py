"""Receivers of the files of an erasure-coded volume that another server sends: each is an `ArrivingFile`."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from native_handlers.arrays import np
from native_handlers.format.idx import row_bytes
from native_handlers.grpc.context import RpcFailure
from native_handlers.storage.erasure_coding.index_files import ID_BYTES, deleted_ids_in
from native_handlers.storage.transfer.receive import StagedFile

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.disk.space import DiskUsage
    from native_handlers.storage.system.files import Files

_JOURNAL_PIECE_BYTES = 1 << 20


class WaitingFile:
    """A file on disk that gets its name later, with others: `commit` puts the content on disk and adds the file to
    `complete`.
    """

    def __init__(self, file: StagedFile, complete: list[StagedFile]) -> None:
        self._file, self._complete = file, complete
        self._is_complete = False
        self.target = file.target

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)

    def commit(self, modified_at_ns: int = 0) -> None:
        """Raises as `StagedFile.complete`."""
        self._file.complete(modified_at_ns)
        self._is_complete = True
        self._complete.append(self._file)

    def discard(self) -> None:
        """Removes the file. After `commit` it does nothing."""
        if not self._is_complete:
            self._file.discard()


class FilledFile(StagedFile):
    """A staged file. An empty one is refused."""

    def complete(self, modified_at_ns: int = 0) -> None:
        if not self.size_bytes:
            self.discard()
            raise RpcFailure(f"source {self.target.suffix} is 0 bytes")
        super().complete(modified_at_ns)


class IndexFile(FilledFile):
    """A staged .ecx. One whose last row is partial is refused: it would replace a sound one."""

    def __init__(
        self, files: Files, target: Path, offset_width_bytes: int, max_bytes: int, usage: DiskUsage | None
    ) -> None:
        """As `StagedFile`. Raises OSError."""
        super().__init__(files, target, max_bytes=max_bytes, usage=usage)
        self._width = offset_width_bytes

    def complete(self, modified_at_ns: int = 0) -> None:
        if self.size_bytes % row_bytes(self._width):
            self.discard()
            raise RpcFailure(f"source {self.target.suffix} has {self.size_bytes} bytes, and its last row is partial")
        super().complete(modified_at_ns)

    def deleted(self) -> list[int]:
        """The ids that the file has as deleted. Raises OSError."""
        ids: list[int] = deleted_ids_in(self._files, self._path, self._width).tolist()
        return ids


class SentJournal:
    """Keeps the ids of an .ecj, each once.

    Go's server appends the ids of a source at each copy, so a journal may have them many times.
    """

    def __init__(self, target: Path, max_ids: int) -> None:
        self.target, self._max_ids = target, max_ids
        self.size_bytes = 0
        self._ids = np.empty(0, np.uint64)
        self._pending = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._pending += data
        self.size_bytes += len(data)
        if len(self._pending) >= _JOURNAL_PIECE_BYTES:
            self._take_in()

    def _take_in(self) -> None:
        whole = len(self._pending) // ID_BYTES * ID_BYTES
        new = np.frombuffer(bytes(self._pending[:whole]), ">u8")
        del self._pending[:whole]
        self._ids = np.union1d(self._ids, new.astype(np.uint64))
        if len(self._ids) > self._max_ids:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(self.target))

    def commit(self, modified_at_ns: int = 0) -> None:
        """Raises OSError where there are too many ids. A partial id at the end was never acknowledged."""
        self._take_in()

    def discard(self) -> None:
        """Removes nothing."""

    def ids(self) -> list[int]:
        return [int(one) for one in self._ids]


class MemoryFile:
    """Keeps a file in memory."""

    def __init__(self, target: Path, max_bytes: int) -> None:
        self.target, self._max_bytes = target, max_bytes
        self.data = bytearray()

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def write(self, data: bytes | memoryview) -> None:
        if len(self.data) + len(data) > self._max_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(self.target))
        self.data += data

    def commit(self, modified_at_ns: int = 0) -> None:
        """Changes nothing: the memory holds the whole file."""

    def discard(self) -> None:
        """Removes nothing."""
