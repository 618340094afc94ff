"""The seam to the file system: every open, read, write, fsync, rename and unlink of the store goes through `Files`.

A fault injector stands in for it in tests. Above it: `replace_file`, the one way a file is replaced, and
`SharedFile`, a descriptor that outlives its owner while somebody reads.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from native_handlers.storage.page_cache import is_in_page_cache

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FALLOC_KEEP_SIZE = 1
_FALLOC_PUNCH_HOLE = 2
_COPY_BYTES = 1 << 20
_MAX_IOVECS = 512
"""Below Linux' 1024 buffers a call."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of a file. `is_*_by_owner` are mode bits, which upstream goes by even for root."""

    size_bytes: int
    modified_at_s: int
    is_readable_by_owner: bool
    is_writable_by_owner: bool
    is_directory: bool
    modified_at_ns: int = 0
    identity: tuple[int, int] = (0, 0)
    """Device and inode: the same for every name and descriptor of one file."""


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """A file system's space. `free_bytes` is what an unprivileged user can still take."""

    all_bytes: int
    free_bytes: int


class NotCached(Exception):
    """What is to be read is not in memory: whoever must not wait for a disk has to read it elsewhere."""


class Files(Protocol):
    """The file operations of the store. All raise OSError; none retries."""

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int: ...
    def close(self, fd: int) -> None: ...
    def read(self, fd: int, length_bytes: int, offset_bytes: int) -> bytes:
        """The bytes at `offset_bytes`; fewer than asked for only at the end of the file."""
        ...

    def read_into(self, fd: int, buffer: memoryview, offset_bytes: int) -> int:
        """Fills `buffer` from `offset_bytes` on; returns how much there was, less only at the end of the file."""
        ...

    def read_cached(self, fd: int, length_bytes: int, offset_bytes: int) -> bytes:
        """As `read` without waiting for a disk. Raises NotCached where memory does not hold all of it."""
        ...

    def read_cached_into(self, fd: int, buffer: memoryview, offset_bytes: int) -> None:
        """As `read_into` without waiting. Raises NotCached where memory does not hold enough to fill `buffer`."""
        ...

    def send_cached(self, socket_fd: int, fd: int, length_bytes: int, offset_bytes: int) -> int:
        """Sends the beginning of a range straight from memory to a socket, and returns how much of it.

        Raises:
            NotCached: memory does not hold all of it, or the system cannot tell; nothing was sent.
            BlockingIOError, ConnectionError: from the socket.
            OSError: from the disk.
        """
        ...

    def write(self, fd: int, parts: Sequence[bytes | memoryview], offset_bytes: int) -> None:
        """Writes all of `parts`, one after the other. A failure may leave some of them written."""
        ...

    def truncate(self, fd: int, length_bytes: int) -> None: ...
    def allocate(self, fd: int, length_bytes: int) -> None:
        """Reserves space without changing the file's size."""
        ...

    def sync(self, fd: int) -> None: ...
    def sync_directory(self, path: Path) -> None: ...
    def rename(self, source: Path, target: Path) -> None: ...
    def unlink(self, path: Path) -> None:
        """Removes a file, or a directory with all in it. Nothing happens when there is none."""
        ...

    def facts(self, path: Path) -> FileFacts | None:
        """None only when there is no such file: any other failure raises."""
        ...

    def facts_of(self, fd: int) -> FileFacts: ...
    def set_modified(self, fd: int, at_ns: int) -> None:
        """Sets the times of last access and modification, in ns since the epoch."""
        ...

    def list_directory(self, path: Path) -> list[str]: ...
    def lock(self, fd: int) -> bool:
        """Takes an exclusive lock for as long as the descriptor is open; False when someone else holds it."""
        ...

    def wait_lock(self, fd: int) -> None:
        """Waits for an exclusive lock between the open file descriptions of one file.

        The kernel takes it back when the last descriptor of this description is closed, as at the process's death.
        """
        ...

    def unlock(self, fd: int) -> None: ...
    def memory_file(self, name: str) -> int:
        """A new file that lies in memory, has no path, can only grow, and goes with its last descriptor."""
        ...

    def reopen(self, fd: int) -> int:
        """A descriptor of the same file that shares neither its locks nor its position."""
        ...

    def punch(self, fd: int, start_bytes: int, length_bytes: int) -> None:
        """Gives a range's memory or space back; it reads as zeros from now on."""
        ...

    def disk_space(self, path: Path) -> DiskSpace: ...


class OsFiles:
    """The real file system."""

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def read(self, fd: int, length_bytes: int, offset_bytes: int) -> bytes:
        data = os.pread(fd, length_bytes, offset_bytes)
        if len(data) == length_bytes or not data:
            return data
        pieces = [data]
        missing = length_bytes - len(data)
        while missing and (data := os.pread(fd, missing, offset_bytes + length_bytes - missing)):
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)

    def read_into(self, fd: int, buffer: memoryview, offset_bytes: int) -> int:
        done = 0
        while done < len(buffer) and (count := os.preadv(fd, [buffer[done:]], offset_bytes + done)):
            done += count
        return done

    def read_cached(self, fd: int, length_bytes: int, offset_bytes: int) -> bytes:
        buffer = bytearray(length_bytes)
        self.read_cached_into(fd, buffer, offset_bytes)
        return bytes(buffer)

    def read_cached_into(self, fd: int, buffer: bytearray | memoryview, offset_bytes: int) -> None:
        try:
            count = os.preadv(fd, [buffer], offset_bytes, os.RWF_NOWAIT)
        except OSError as error:
            # Not in the page cache, no such call on this file system, or a failing disk, which `read` will meet too.
            raise NotCached from error
        if count != len(buffer):
            raise NotCached

    def send_cached(self, socket_fd: int, fd: int, length_bytes: int, offset_bytes: int) -> int:
        if not is_in_page_cache(fd, offset_bytes, length_bytes):
            raise NotCached
        return os.sendfile(socket_fd, fd, offset_bytes, length_bytes)

    def write(self, fd: int, parts: Sequence[bytes | memoryview], offset_bytes: int) -> None:
        left = [memoryview(part) for part in parts if len(part)]
        while left:
            written = os.pwritev(fd, left[:_MAX_IOVECS], offset_bytes)
            offset_bytes += written
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left and written:
                left[0] = left[0][written:]

    def truncate(self, fd: int, length_bytes: int) -> None:
        os.ftruncate(fd, length_bytes)

    def allocate(self, fd: int, length_bytes: int) -> None:
        _fallocate(fd, _FALLOC_KEEP_SIZE, 0, length_bytes)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            shutil.rmtree(path)

    def facts(self, path: Path) -> FileFacts | None:
        try:
            return _facts(os.stat(path))
        except FileNotFoundError:
            return None

    def facts_of(self, fd: int) -> FileFacts:
        return _facts(os.fstat(fd))

    def set_modified(self, fd: int, at_ns: int) -> None:
        os.utime(fd, ns=(at_ns, at_ns))

    def list_directory(self, path: Path) -> list[str]:
        return os.listdir(path)

    def lock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def wait_lock(self, fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _flock(fcntl.F_WRLCK))

    def unlock(self, fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK))

    def memory_file(self, name: str) -> int:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # A mapping of what was cut off would kill whoever reads it.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return fd

    def reopen(self, fd: int) -> int:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)

    def punch(self, fd: int, start_bytes: int, length_bytes: int) -> None:
        _fallocate(fd, _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE, start_bytes, length_bytes)

    def disk_space(self, path: Path) -> DiskSpace:
        vfs = os.statvfs(path)
        return DiskSpace(vfs.f_blocks * vfs.f_frsize, vfs.f_bavail * vfs.f_frsize)


def _flock(kind: int) -> bytes:
    """The kernel's `struct flock` for the whole file."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)


def _fallocate(fd: int, mode: int, start_bytes: int, length_bytes: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_longlong(start_bytes), ctypes.c_longlong(length_bytes)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _facts(stat: os.stat_result) -> FileFacts:
    is_directory = (stat.st_mode & 0o170000) == 0o040000
    readable, writable = bool(stat.st_mode & 0o400), bool(stat.st_mode & 0o200)
    identity = (stat.st_dev, stat.st_ino)
    return FileFacts(stat.st_size, int(stat.st_mtime), readable, writable, is_directory, stat.st_mtime_ns, identity)


OS_FILES: Files = OsFiles()


def read_file(files: Files, path: Path) -> bytes | None:
    """All of a small file, or None when there is none."""
    try:
        fd = files.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return files.read(fd, files.facts_of(fd).size_bytes, 0)
    finally:
        files.close(fd)


def replace_file(files: Files, path: Path, data: bytes) -> None:
    """Makes `path` hold `data`, durably, or leaves it as it was.

    A crash leaves the old content or the new one, and maybe a file with ``.tmp`` behind its name, which the next
    replacement overwrites. Raises OSError; the old content then still stands.
    """
    temporary = path.with_name(path.name + ".tmp")
    fd = files.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        files.write(fd, [data], 0)
        files.sync(fd)
    finally:
        files.close(fd)
    files.rename(temporary, path)
    files.sync_directory(path.parent)


def copy_range(files: Files, fd: int, start_bytes: int, end_bytes: int, target: Path) -> None:
    """Puts ``[start, end)`` of an open file into `target`, durably, in pieces. Raises OSError."""
    copy = files.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        for position in range(start_bytes, end_bytes, _COPY_BYTES):
            piece = files.read(fd, min(_COPY_BYTES, end_bytes - position), position)
            files.write(copy, [piece], position - start_bytes)
        files.sync(copy)
    finally:
        files.close(copy)
    files.sync_directory(target.parent)


class FileRetired(Exception):
    """The file was closed by its owner before the caller could hold on to it."""


class SharedFile:
    """An open file that is closed when its owner and every reader have released it.

    So a volume can be closed, deleted or swapped under readers, and none of them finds its descriptor gone, or
    worse, given to another file.
    """

    __slots__ = ("_files", "_lock", "_users", "fd", "path")

    def __init__(self, files: Files, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self._files = files
        self._users = 1
        # Protects _users.
        self._lock = threading.Lock()

    @classmethod
    def open(cls, files: Files, path: Path, flags: int) -> SharedFile:
        """Opens `path`; the caller is the owner. Raises OSError."""
        return cls(files, path, files.open(path, flags))

    def read(self, length_bytes: int, offset_bytes: int) -> bytes:
        """As `Files.read`; for who holds on to the file."""
        return self._files.read(self.fd, length_bytes, offset_bytes)

    def read_into(self, buffer: memoryview, offset_bytes: int) -> int:
        """As `Files.read_into`; for who holds on to the file."""
        return self._files.read_into(self.fd, buffer, offset_bytes)

    def read_cached_into(self, buffer: memoryview, offset_bytes: int) -> None:
        """As `Files.read_cached_into`; for who holds on to the file."""
        self._files.read_cached_into(self.fd, buffer, offset_bytes)

    def send_cached(self, socket_fd: int, length_bytes: int, offset_bytes: int) -> int:
        """As `Files.send_cached`; for who holds on to the file."""
        return self._files.send_cached(socket_fd, self.fd, length_bytes, offset_bytes)

    def retain(self) -> None:
        """Keeps the file open until a matching `release`.

        Raises:
            FileRetired: it is closed already.
        """
        with self._lock:
            if not self._users:
                raise FileRetired(str(self.path))
            self._users += 1

    def release(self) -> None:
        """Lets go; the last one to do so closes the file."""
        with self._lock:
            self._users -= 1
            is_last = not self._users
        if is_last:
            self._files.close(self.fd)
