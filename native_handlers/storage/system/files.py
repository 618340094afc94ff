"""The seam to the file system: every open, read, write, fsync, rename and unlink of the store goes through `Files`.

Tests replace it with a fault injector. Above it are `replace_file`, the only way to replace a file, and `SharedFile`, a
descriptor that stays open while readers use it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import struct
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SYNC_FILE_RANGE_WRITE = 2
"""Start the write; wait for nothing."""
_FALLOC_KEEP_SIZE = 1
_FALLOC_PUNCH_HOLE = 2
_MAX_IOVECS = 512
"""Below Linux' limit of 1024 buffers in a call."""
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors that mean: the kernel cannot copy between these two files."""
_SMALL_BYTES = 4096
_COPY_BYTES = 256 * 1024
"""A piece that the processor's cache holds between the read and the write."""


class FileFacts(NamedTuple):
    """The facts about a file. `is_*_by_owner` are mode bits, which upstream goes by even for root."""

    size_bytes: int
    modified_at_s: int
    is_readable_by_owner: bool
    is_writable_by_owner: bool
    is_directory: bool
    modified_at_ns: int = 0
    identity: tuple[int, int] = (0, 0)
    """Device and inode: the same for every name and descriptor of one file."""
    changed_at_s: int = 0
    """When content, name or mode last changed. Programs that restore files set the modification time, and cannot set
    this one."""


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """A file system's space. `free_bytes` is the space that an unprivileged user can still take."""

    all_bytes: int
    free_bytes: int


class NotCached(Exception):
    """The bytes are not in memory. A caller that must not wait for a disk has to read them in another thread."""


class Files(Protocol):
    """The file operations of the store. All raise OSError; none retries.

    `open` and `facts` take a path as text too: a start makes three paths of each volume, and each takes longer than
    opening its file.
    """

    def open(self, path: Path | str, flags: int, mode: int = 0o644) -> int: ...
    def close(self, fd: int) -> None: ...
    def read(self, fd: int, length_bytes: int, offset_bytes: int) -> bytes:
        """The bytes at `offset_bytes`; fewer than asked for only at the end of the file."""
        ...

    def read_into(self, fd: int, buffer: memoryview, offset_bytes: int) -> int:
        """Fills `buffer` from `offset_bytes` on. Returns the number of bytes read, less only at the end of the file."""
        ...

    def read_into_each(self, fd: int, buffers: Sequence[memoryview], offset_bytes: int) -> int:
        """As `read_into`, and fills one buffer after the other."""
        ...

    def read_cached(self, fd: int, length_bytes: int, offset_bytes: int) -> bytes:
        """As `read` without waiting for a disk. Raises NotCached where memory does not hold all of it."""
        ...

    def read_cached_into(self, fd: int, buffer: memoryview, offset_bytes: int) -> None:
        """As `read_into` without waiting. Raises NotCached where memory does not hold enough to fill `buffer`."""
        ...

    def send_cached(self, socket_fd: int, fd: int, length_bytes: int, offset_bytes: int) -> int:
        """Sends the beginning of a range directly from memory to a socket. Returns the number of bytes sent.

        Raises:
            NotCached: memory does not hold all of the range, or the system cannot tell; nothing was sent.
            BlockingIOError, ConnectionError: from the socket.
            OSError: from the disk.
        """
        ...

    def write(self, fd: int, parts: Sequence[bytes | memoryview], offset_bytes: int) -> None:
        """Writes all of `parts`, one after the other. A failure may leave some of them written."""
        ...

    def copy(self, source: int, source_at: int, target: int, target_at: int, length_bytes: int) -> None:
        """Copies a range of one open file into another, in the kernel where possible. Both offsets are in bytes.

        A failure may leave a part of the range written. A source that ends within the range is a failure (EIO).
        """
        ...

    def truncate(self, fd: int, length_bytes: int) -> None: ...
    def allocate(self, fd: int, length_bytes: int) -> None:
        """Reserves space without changing the file's size."""
        ...

    def begin_write_back(self, fd: int, start_bytes: int, length_bytes: int) -> None:
        """Tells the kernel to start putting a range on disk, so that a sync has less to do. Reports no error: the sync
        does.
        """
        ...

    def drop_cached(self, fd: int) -> None:
        """Has the page cache forget a file's pages that are on disk."""
        ...

    def sync(self, fd: int) -> None: ...
    def sync_directory(self, path: Path) -> None: ...
    def rename(self, source: Path, target: Path) -> None: ...
    def unlink(self, path: Path) -> None:
        """Removes a file, or a directory with its content. Does nothing when there is none."""
        ...

    def facts(self, path: Path | str) -> FileFacts | None:
        """The facts of a file. None only when there is no such file; any other failure raises."""
        ...

    def facts_of(self, fd: int) -> FileFacts: ...
    def set_modified(self, fd: int, at_ns: int) -> None:
        """Sets the times of last access and modification, in ns since the epoch."""
        ...

    def list_directory(self, path: Path) -> list[str]: ...
    def lock(self, fd: int) -> bool:
        """Takes an exclusive lock for as long as the descriptor is open. Returns False when another process holds
        it.
        """
        ...

    def wait_lock(self, fd: int) -> None:
        """Waits for an exclusive lock between the open file descriptions of one file.

        The kernel releases the lock when the last descriptor of this description is closed, also at the process's
        death.
        """
        ...

    def try_lock(self, fd: int) -> bool:
        """As `wait_lock`, but does not wait. Returns whether the lock was taken."""
        ...

    def unlock(self, fd: int) -> None: ...
    def memory_file(self, name: str) -> int:
        """Makes a file in memory that has no path, can only grow, and is freed with its last descriptor."""
        ...

    def reopen(self, fd: int) -> int:
        """A new descriptor of the same file, with its own locks and position."""
        ...

    def punch(self, fd: int, start_bytes: int, length_bytes: int) -> None:
        """Frees a range's memory or space. The range reads as zeros from then on."""
        ...

    def disk_space(self, path: Path) -> DiskSpace: ...


class OsFiles:
    """The real file system."""

    def open(self, path: Path | str, flags: int, mode: int = 0o644) -> int:
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

    def read_into_each(self, fd: int, buffers: Sequence[memoryview], offset_bytes: int) -> int:
        left = [buffer for buffer in buffers if len(buffer)]
        done = 0
        while left and (count := os.preadv(fd, left[:_MAX_IOVECS], offset_bytes + done)):
            done += count
            while left and count >= len(left[0]):
                count -= len(left.pop(0))
            if count:
                left[0] = left[0][count:]
        return done

    def read_cached(self, fd: int, length_bytes: int, offset_bytes: int) -> bytes:
        buffer = bytearray(length_bytes)
        self.read_cached_into(fd, buffer, offset_bytes)
        return bytes(buffer)

    def read_cached_into(self, fd: int, buffer: bytearray | memoryview, offset_bytes: int) -> None:
        try:
            count = os.preadv(fd, [buffer], offset_bytes, os.RWF_NOWAIT)
        except OSError as error:
            # The range is not in the page cache, the file system has no such call, or the disk fails; then `read`
            # fails, too.
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

    def copy(self, source: int, source_at: int, target: int, target_at: int, length_bytes: int) -> None:
        done = 0
        while done < length_bytes:
            try:
                count = os.copy_file_range(source, target, length_bytes - done, source_at + done, target_at + done)
            except OSError as error:
                if error.errno not in _NO_KERNEL_COPY:
                    raise
                self._copy_by_hand(source, source_at + done, target, target_at + done, length_bytes - done)
                return
            if not count:
                raise _ended_early(length_bytes, done)
            done += count

    def _copy_by_hand(self, source: int, source_at: int, target: int, target_at: int, length_bytes: int) -> None:
        for position in range(0, length_bytes, _COPY_BYTES):
            wanted = min(_COPY_BYTES, length_bytes - position)
            piece = self.read(source, wanted, source_at + position)
            self.write(target, [piece], target_at + position)
            if len(piece) < wanted:
                raise _ended_early(length_bytes, position + len(piece))

    def truncate(self, fd: int, length_bytes: int) -> None:
        os.ftruncate(fd, length_bytes)

    def allocate(self, fd: int, length_bytes: int) -> None:
        _fallocate(fd, _FALLOC_KEEP_SIZE, 0, length_bytes)

    def begin_write_back(self, fd: int, start_bytes: int, length_bytes: int) -> None:
        begin = _sync_file_range()
        if begin is not None:
            begin(fd, ctypes.c_longlong(start_bytes), ctypes.c_longlong(length_bytes), _SYNC_FILE_RANGE_WRITE)

    def drop_cached(self, fd: int) -> None:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

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

    def facts(self, path: Path | str) -> FileFacts | None:
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

    def try_lock(self, fd: int) -> bool:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def unlock(self, fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK))

    def memory_file(self, name: str) -> int:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # Sealed: accessing a mapping of a part that was cut off would kill the process.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return fd

    def reopen(self, fd: int) -> int:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)

    def punch(self, fd: int, start_bytes: int, length_bytes: int) -> None:
        _fallocate(fd, _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE, start_bytes, length_bytes)

    def disk_space(self, path: Path) -> DiskSpace:
        vfs = os.statvfs(path)
        return DiskSpace(vfs.f_blocks * vfs.f_frsize, vfs.f_bavail * vfs.f_frsize)


def _ended_early(wanted_bytes: int, got_bytes: int) -> OSError:
    return OSError(errno.EIO, f"the source ended after {got_bytes} of {wanted_bytes} bytes")


@cache
def _sync_file_range() -> Callable[..., int] | None:
    """The C library's call, or None."""
    try:
        found: Callable[..., int] = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return None
    return found


def _flock(kind: int) -> bytes:
    """The kernel's `struct flock` for the whole file."""
    # l_type, l_whence, l_start, l_len, l_pid. Start 0 and length 0 stand for the whole file, however long it gets.
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)


def _fallocate(fd: int, mode: int, start_bytes: int, length_bytes: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_longlong(start_bytes), ctypes.c_longlong(length_bytes)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _facts(stat: os.stat_result) -> FileFacts:
    # Its first items are whole numbers, in the order of `os.stat_result`; a start makes these facts of each volume.
    whole = cast("tuple[int, ...]", stat[:10])
    mode, inode, device, _, _, _, size_bytes, _, modified_at_s, changed_at_s = whole
    return FileFacts(
        size_bytes,
        modified_at_s,
        # S_IRUSR, S_IWUSR, and the type S_IFDIR.
        mode & 0o400 != 0,
        mode & 0o200 != 0,
        mode & 0o170000 == 0o040000,
        stat.st_mtime_ns,
        (device, inode),
        changed_at_s,
    )


OS_FILES: Files = OsFiles()


def read_file(files: Files, path: Path | str) -> bytes | None:
    """The content of a small file, or None when there is no such file. Raises OSError, which names the path."""
    try:
        fd = files.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        # Most are shorter: to read to the end takes less than to ask for the length.
        data = files.read(fd, _SMALL_BYTES, 0)
        return data if len(data) < _SMALL_BYTES else files.read(fd, files.facts_of(fd).size_bytes, 0)
    except OSError as error:
        # The system tells the name of a file that cannot be opened, and not of one that cannot be read.
        error.filename = error.filename or str(path)
        raise
    finally:
        files.close(fd)


def replace_file(files: Files, path: Path, data: bytes, temporary: Path | None = None) -> None:
    """Replaces the content of `path` by `data`, durably, or leaves the file unchanged.

    A crash leaves the old or the new content, and perhaps a file under the temporary name, which the next replacement
    overwrites. Raises OSError; then the old content stands, and no other file is left.

    Args:
        temporary: the name in the same directory until the content is on disk; None for `path` with ``.tmp`` behind it.
    """
    temporary = temporary or path.with_name(path.name + ".tmp")
    fd = files.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        try:
            files.write(fd, [data], 0)
            files.sync(fd)
        finally:
            files.close(fd)
        files.rename(temporary, path)
    except OSError:
        remove_unfinished(files, temporary)
        raise
    files.sync_directory(path.parent)


def remove_unfinished(files: Files, path: Path) -> None:
    """Removes an incomplete file, which would take space that is missing. Ignores errors: it is called while another
    error is handled.
    """
    with suppress(OSError):
        files.unlink(path)


class FileRetired(Exception):
    """The owner closed the file before the caller could retain it."""


class SharedFile:
    """An open file that is closed when its owner and every reader have released it.

    So a volume can be closed, deleted or swapped during reads. No reader finds its descriptor closed, or used for
    another file.
    """

    __slots__ = ("_files", "_lock", "_path", "_users", "_when_closed", "fd")

    def __init__(self, files: Files, path: Path | str, fd: int) -> None:
        self._path = path
        self.fd = fd
        self._files = files
        self._users = 1
        self._when_closed: Callable[[], None] | None = None
        # Protects _users and _when_closed.
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The file's path, as it was opened or last renamed."""
        if isinstance(self._path, str):
            self._path = Path(self._path)
        return self._path

    @path.setter
    def path(self, path: Path) -> None:
        self._path = path

    @property
    def user_count(self) -> int:
        """The number of holders: the owner, and every reader that has not released the file yet."""
        return self._users

    @classmethod
    def open(cls, files: Files, path: Path | str, flags: int) -> SharedFile:
        """Opens `path`; the caller is the owner. Raises OSError."""
        return cls(files, path, files.open(path, flags))

    def read(self, length_bytes: int, offset_bytes: int) -> bytes:
        """As `Files.read`. The caller has retained the file."""
        return self._files.read(self.fd, length_bytes, offset_bytes)

    def read_into(self, buffer: memoryview, offset_bytes: int) -> int:
        """As `Files.read_into`. The caller has retained the file."""
        return self._files.read_into(self.fd, buffer, offset_bytes)

    def read_cached_into(self, buffer: memoryview, offset_bytes: int) -> None:
        """As `Files.read_cached_into`. The caller has retained the file."""
        self._files.read_cached_into(self.fd, buffer, offset_bytes)

    def send_cached(self, socket_fd: int, length_bytes: int, offset_bytes: int) -> int:
        """As `Files.send_cached`. The caller has retained the file."""
        return self._files.send_cached(socket_fd, self.fd, length_bytes, offset_bytes)

    def retain(self) -> None:
        """Keeps the file open until a matching `release`.

        Raises:
            FileRetired: the file is closed already.
        """
        with self._lock:
            if not self._users:
                raise FileRetired(str(self.path))
            self._users += 1

    def release(self) -> None:
        """Ends one use of the file. The last release closes the file."""
        with self._lock:
            self._users -= 1
            is_last, when_closed = not self._users, self._when_closed
        if is_last:
            self._files.close(self.fd)
            if when_closed is not None:
                when_closed()

    def call_when_closed(self, callback: Callable[[], None]) -> bool:
        """Has the last release call `callback`, which must not raise. Replaces the callback of an earlier call. Returns
        False where the file is closed already.
        """
        with self._lock:
            if not self._users:
                return False
            self._when_closed = callback
        return True


# ---- Finds out whether memory holds a range of a file without reading it: mincore(2) of a mapping that is not touched.

_RESIDENT = b"\x01"


def is_in_page_cache(fd: int, offset_bytes: int, length_bytes: int) -> bool:
    """Whether the whole range exists and is in memory now. The kernel may drop it at any moment.

    Takes some 25 us for a MiB. False where the file ends before the range does, and where the system cannot tell.
    """
    mincore = load_mincore()
    if mincore is None or length_bytes <= 0:
        return False
    start = offset_bytes & -mmap.ALLOCATIONGRANULARITY
    mapped_bytes = offset_bytes + length_bytes - start
    pages = ctypes.create_string_buffer(-(-mapped_bytes // mmap.PAGESIZE))
    try:
        # Private and writable only because ctypes needs a writable buffer to take its address.
        mapping = mmap.mmap(fd, mapped_bytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=start)
    except (OSError, ValueError):
        return False
    with mapping:
        first = ctypes.c_char.from_buffer(mapping)
        failed = mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(mapped_bytes), pages)
        del first
    return not failed and pages.raw.count(_RESIDENT) == len(pages)


@cache
def load_mincore() -> Callable[..., int] | None:
    """The C library's call, or None."""
    try:
        found: Callable[..., int] = ctypes.CDLL(None).mincore
    except (AttributeError, OSError):
        return None
    return found
