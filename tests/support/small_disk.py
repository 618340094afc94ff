"""A small disk that counts its free bytes, so that every operation that needs space may find none."""

from __future__ import annotations

import errno
import os

from native_handlers.storage.system.files import DiskSpace
from support.files import UnsyncedFiles

ALL_BYTES = 128 << 20


class SmallDisk(UnsyncedFiles):
    """A disk with exactly `free_bytes` left. An operation without space fails with `code`."""

    def __init__(self, code: int = errno.ENOSPC) -> None:
        self.code = code
        self.free_bytes = ALL_BYTES
        self.can_allocate = True
        self._allocated: dict[int, int] = {}

    def take(self, length_bytes: int) -> None:
        if length_bytes > self.free_bytes:
            raise OSError(self.code, os.strerror(self.code))
        self.free_bytes -= length_bytes

    def open(self, path, flags, mode=0o644):
        if flags & os.O_CREAT and not path.exists():
            self.take(16)
        if flags & os.O_TRUNC and path.exists():
            self.free_bytes += path.stat().st_size
        return super().open(path, flags, mode)

    def write(self, fd, parts, offset_bytes):
        data = b"".join(parts)
        room = self.free_bytes + max(os.fstat(fd).st_size - offset_bytes, 0)
        grown = max(offset_bytes + len(data) - os.fstat(fd).st_size, 0)
        if grown > self.free_bytes:
            # Writes as many bytes as there is space for.
            super().write(fd, [data[:room]], offset_bytes)
            self.free_bytes = 0
        self.take(grown)
        super().write(fd, [data], offset_bytes)

    def truncate(self, fd, length_bytes):
        # A greater length makes a hole; `allocate` takes the space for it.
        size = os.fstat(fd).st_size
        inode = os.fstat(fd).st_ino
        if length_bytes > size:
            self._allocated[inode] = size
        else:
            self.free_bytes += max(min(size, self._allocated.pop(inode, size)) - length_bytes, 0)
        super().truncate(fd, length_bytes)

    def allocate(self, fd, length_bytes):
        if not self.can_allocate:
            raise OSError(errno.EOPNOTSUPP, "no such call")
        self.take(length_bytes - self._allocated.get(os.fstat(fd).st_ino, length_bytes))
        self._allocated.pop(os.fstat(fd).st_ino, None)

    def unlink(self, path):
        if path.is_file():
            self.free_bytes += path.stat().st_size
        super().unlink(path)

    def rename(self, source, target):
        if target.exists():
            self.free_bytes += target.stat().st_size
        super().rename(source, target)

    def disk_space(self, path):
        return DiskSpace(ALL_BYTES, self.free_bytes)


class TwoDisks(SmallDisk):
    """What is below `other` is on a disk of its own. Both disks have the same free bytes."""

    def __init__(self, other) -> None:
        super().__init__()
        self._other = str(other)

    def facts(self, path):
        facts = super().facts(path)
        is_other = facts is not None and str(path).startswith(self._other)
        return facts._replace(identity=(-1, facts.identity[1])) if is_other else facts
