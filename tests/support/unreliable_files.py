"""A file system that fails an operation, or ends the process there."""

from __future__ import annotations

from native_handlers.storage.system.files import OsFiles


class Crash(BaseException):
    """The process dies at this operation."""


class UnreliableFiles(OsFiles):
    """Counts operations that change something. The one at `remaining` crashes, or fails with `error`."""

    def __init__(self) -> None:
        self.remaining: int | None = None
        self.error: int | None = None
        self.is_dead = False
        self.half = 0.5
        self._open_fds: set[int] = set()

    def _step(self) -> bool:
        """Whether this operation is the chosen one. A dead process does nothing any more."""
        if self.is_dead:
            raise Crash
        if self.remaining is None:
            return False
        self.remaining -= 1
        if self.remaining > 0:
            return False
        self.remaining = None
        return True

    def _end(self) -> None:
        if self.error is not None:
            raise OSError(self.error, "injected")
        self.is_dead = True
        raise Crash

    def open(self, path, flags, mode=0o644):
        fd = super().open(path, flags, mode)
        self._open_fds.add(fd)
        return fd

    def close(self, fd):
        self._open_fds.discard(fd)
        super().close(fd)

    def bury(self) -> None:
        """Does what the kernel does for a dead process: closes its descriptors, which releases its locks."""
        for fd in list(self._open_fds):
            self.close(fd)

    def write(self, fd, parts, offset_bytes):
        if self._step():
            whole = b"".join(parts)
            super().write(fd, [whole[: int(len(whole) * self.half)]], offset_bytes)
            self._end()
        super().write(fd, parts, offset_bytes)

    def copy(self, source, source_at, target, target_at, length_bytes):
        if self._step():
            super().copy(source, source_at, target, target_at, int(length_bytes * self.half))
            self._end()
        super().copy(source, source_at, target, target_at, length_bytes)

    def truncate(self, fd, length_bytes):
        if self._step():
            self._end()
        super().truncate(fd, length_bytes)

    def sync(self, fd):
        if self._step():
            self._end()

    def sync_directory(self, path):
        if self._step():
            self._end()

    def rename(self, source, target):
        if self._step():
            self._end()
        super().rename(source, target)

    def unlink(self, path):
        if self._step():
            self._end()
        super().unlink(path)


class UnreliableSharedFiles(UnreliableFiles):
    """For a process that attaches to a volume: knows the descriptors that attaching opens, too, and counts punched
    holes. The kernel frees a dead process's lock.
    """

    def reopen(self, fd):
        own = super().reopen(fd)
        self._open_fds.add(own)
        return own

    def punch(self, fd, start_bytes, length_bytes):
        if self._step():
            self._end()
        super().punch(fd, start_bytes, length_bytes)
