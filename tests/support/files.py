"""File systems for tests: they fail planned operations, count operations, and may have an empty page cache."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path

import pytest

from native_handlers.storage.system.files import DiskSpace, NotCached, OsFiles


class UnsyncedFiles(OsFiles):
    """A sync does nothing. What the processes of a machine see of a file is the same without it: a sync is about power
    cuts, which `power_cut_files` plays, and real ones would take most of the time of many tests.
    """

    def sync(self, fd):
        """Does nothing."""

    def sync_directory(self, path):
        """Does nothing."""


UNSYNCED_FILES = UnsyncedFiles()

OPERATIONS = frozenset(name for name, value in vars(OsFiles).items() if callable(value) and not name.startswith("_"))
"""The names of all operations."""


class PlannedFiles(UnsyncedFiles):
    """Counts the operations, and fails the planned ones, or all from a step on. A successful sync does nothing.

    Args:
        is_lasting: a planned operation fails until the plan is changed; else once.
        short_write_bytes: how much a failing write has written before it fails; None is nothing.
        is_cold: nothing is in the page cache.
        matches: the files and directories of the plan; all by default. A rename is asked about both of its paths.
        before: called before each operation, with its name and its path or descriptor; what `before` raises, the caller
            of the operation gets.
        steps_of: the operations that are steps, such as all `OPERATIONS`; none by default.
        cut: makes what a step that is cut off raises. By default that is an EIO; with `unreliable_files.Crash` the
            process ends.

    Attributes:
        plan: name of an operation -> (how many calls succeed first, the errno of later calls).
        steps: the number of steps since the test set it.
        cut_at: the number of the first step that is cut off, as are all after it; None for none.
        calls: the number of calls, by name of the operation.
        open_fds: descriptors that were opened and not closed.
        longest_read_bytes: the longest read of one call.
        read_bytes: the bytes that were asked for in all reads.
        free_bytes: the free space that every disk tells; None for what it has.
    """

    def __init__(
        self,
        *,
        is_lasting=True,
        short_write_bytes=None,
        is_cold=False,
        matches=lambda _: True,
        before=lambda _name, _target: None,
        steps_of=(),
        cut=lambda: OSError(errno.EIO, "cut off here"),
    ):
        self.is_lasting, self.short_write_bytes = is_lasting, short_write_bytes
        self.is_cold, self.matches, self.before = is_cold, matches, before
        self.steps_of, self.cut = steps_of, cut
        self.plan: dict[str, tuple[int, int]] = {}
        self.steps, self.cut_at = 0, None
        self.calls: Counter[str] = Counter()
        self.open_fds: set[int] = set()
        self.longest_read_bytes = self.read_bytes = 0
        self.free_bytes: int | None = None

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name not in OPERATIONS:
            return found

        def operation(*args, **options):
            self.step(name, *args)
            return found(*args, **options)

        return operation

    def since(self, work):
        """Runs `work` and returns its operations, counted by name."""
        before = Counter(self.calls)
        work()
        return self.calls - before

    def step(self, name, *args):
        """Comes before each operation: counts it. Raises the planned OSError, or what `cut` makes."""
        if self.is_cold and "cached" in name:
            raise NotCached
        self.calls[name] += 1
        if name in self.steps_of:
            self._cut_off()
        targets = _targets(name, args)
        self.before(name, targets[0])
        if name not in self.plan or not any(self.matches(path_of(target)) for target in targets):
            return
        left, code = self.plan[name]
        if left > 0:
            self.plan[name] = left - 1, code
            return
        if not self.is_lasting:
            del self.plan[name]
        if name == "write" and self.short_write_bytes is not None:
            fd, parts, offset_bytes = args
            super().write(fd, [b"".join(parts)[: self.short_write_bytes]], offset_bytes)
        raise OSError(code, os.strerror(code))

    def _cut_off(self):
        self.steps += 1
        if self.cut_at is not None and self.steps >= self.cut_at:
            raise self.cut()

    def let_all_go_on(self):
        """No operation fails any more."""
        self.plan, self.cut_at = {}, None

    def open(self, path, flags, mode=0o644):
        fd = super().open(path, flags, mode)
        self.open_fds.add(fd)
        return fd

    def close(self, fd):
        self.open_fds.discard(fd)
        super().close(fd)

    def read(self, fd, length_bytes, offset_bytes):
        self._note_read(length_bytes)
        return super().read(fd, length_bytes, offset_bytes)

    def read_into(self, fd, buffer, offset_bytes):
        self._note_read(len(buffer))
        return super().read_into(fd, buffer, offset_bytes)

    def read_cached_into(self, fd, buffer, offset_bytes):
        self._note_read(len(buffer))
        super().read_cached_into(fd, buffer, offset_bytes)

    def _note_read(self, length_bytes):
        self.read_bytes += length_bytes
        self.longest_read_bytes = max(self.longest_read_bytes, length_bytes)

    def disk_space(self, path):
        space = super().disk_space(path)
        return space if self.free_bytes is None else DiskSpace(space.all_bytes, self.free_bytes)


@pytest.fixture
def files() -> PlannedFiles:
    """For a test that plans its failures itself."""
    return PlannedFiles()


def _targets(name, args):
    """The paths or descriptors that an operation is about."""
    if name == "send_cached":
        return args[1:2]
    targets = args[:2] if name == "rename" else args[:1]
    return [Path(target) if isinstance(target, str) else target for target in targets]


def path_of(target):
    """The path that `PlannedFiles.before` was called with, also where that was a descriptor."""
    return Path(os.readlink(f"/proc/self/fd/{target}")) if isinstance(target, int) else Path(target)


def once_before(operation, matches, act):
    """A `PlannedFiles.before`: calls `act` once, with the path, before the first `operation` whose path `matches`."""
    waiting = [act]

    def before(name, target):
        if name == operation and waiting and matches(path := path_of(target)):
            waiting.pop()(path)

    return before


def broken(code=errno.EIO, after=0):
    """A plan: after `after` successful calls, the operation fails."""
    return after, code
