"""Disks that hang, fail, are slow, are full and recover, as each directory's own; and one that is always well."""

from __future__ import annotations

import os
import threading

from native_handlers.storage.directory import location as disk_location
from native_handlers.storage.disk import space as disk_space
from native_handlers.storage.system import bounded_call
from native_handlers.storage.system.bounded_call import BoundedCall, wait
from native_handlers.storage.system.files import DiskSpace, NotCached
from support.files import UnsyncedFiles
from support.waiting import LIMIT_S, PAUSE_S

QUESTION_S = 0.25
"""How long a question waits for one before it that hangs."""


class Disk:
    """How one directory's disk behaves now."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.sync_error: int | None = None
        self.space = DiskSpace(1000 << 20, 500 << 20)
        self._is_moving = threading.Event()
        self._is_moving.set()
        self.calls = 0
        self.stuck: set[int] = set()
        """The threads that wait for the disk now."""
        self.has_caller = threading.Event()
        """Somebody waits for the disk, or has waited."""

    def hang(self) -> None:
        self._is_moving.clear()

    def go_on(self) -> None:
        self._is_moving.set()

    def touch(self) -> None:
        """What every call to the disk goes through."""
        self.calls += 1
        if not self._is_moving.is_set():
            thread = threading.get_ident()
            self.stuck.add(thread)
            self.has_caller.set()
            assert self._is_moving.wait(LIMIT_S), "nobody let the disk go on"
            self.stuck.discard(thread)
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))


class DiskInService:
    """What a volume that is attached without a store asks about its disk: the disk is well, and has space."""

    disk_type, disk_id, is_space_low, is_unavailable = "", 0, False, False
    lost = frozenset()

    def check_in_service(self):
        """The disk is in service."""


class Disks(UnsyncedFiles):
    """Disks of their own below each directory that `add` was called with.

    Args:
        is_cold: nothing is in the page cache.
    """

    def __init__(self, *, is_cold: bool = False) -> None:
        self.is_cold = is_cold
        self.disks: dict[str, Disk] = {}

    def add(self, path) -> Disk:
        return self.disks.setdefault(str(path), Disk())

    def _of(self, path) -> Disk | None:
        found = [disk for root, disk in self.disks.items() if f"{path}/".startswith(f"{root}/")]
        return found[0] if found else None

    def _touch(self, path) -> None:
        disk = self._of(path)
        if disk is not None:
            disk.touch()

    def _touch_fd(self, fd) -> None:
        self._touch(os.readlink(f"/proc/self/fd/{fd}"))

    def open(self, path, flags, mode=0o644):
        self._touch(path)
        return super().open(path, flags, mode)

    def read(self, fd, length_bytes, offset_bytes):
        self._touch_fd(fd)
        return super().read(fd, length_bytes, offset_bytes)

    def read_cached_into(self, fd, buffer, offset_bytes):
        if self.is_cold:
            raise NotCached
        super().read_cached_into(fd, buffer, offset_bytes)

    def write(self, fd, parts, offset_bytes):
        self._touch_fd(fd)
        super().write(fd, parts, offset_bytes)

    def sync(self, fd):
        disk = self._of(os.readlink(f"/proc/self/fd/{fd}"))
        if disk is not None and disk.sync_error is not None:
            raise OSError(disk.sync_error, os.strerror(disk.sync_error))
        self._touch_fd(fd)

    def facts(self, path):
        self._touch(path)
        facts, disk = super().facts(path), self._of(path)
        # Each disk is a device.
        return facts if facts is None or disk is None else facts._replace(identity=(id(disk), facts.identity[1]))

    def list_directory(self, path):
        self._touch(path)
        return super().list_directory(path)

    def disk_space(self, path):
        disk = self._of(path)
        if disk is None:
            return super().disk_space(path)
        disk.touch()
        return disk.space

    def is_stuck(self, thread: int) -> bool:
        """Whether the thread waits for a disk that hangs."""
        return any(thread in disk.stuck for disk in self.disks.values())

    def let_all_go_on(self):
        for disk in self.disks.values():
            disk.go_on()
            disk.error = disk.sync_error = None


def take_out_of_service(location) -> None:
    """Lets the disk of a store give no answer, as often as it takes."""
    ask = location.usage.ask
    location.usage.ask = lambda: "no answer"
    try:
        for _ in range(location.health.config.max_stat_failures):
            location.health.look()
    finally:
        location.usage.ask = ask
    assert location.is_unavailable


def bring_back(location) -> None:
    """Lets the disk of a store answer, as often as it takes."""
    while location.is_unavailable:
        location.health.look()


def played_disks(monkeypatch):
    """The body of a fixture `files`: disks that a test lets hang, and that go on when the test ends."""
    disks = give_up_only_what_hangs(monkeypatch, Disks())
    yield disks
    disks.let_all_go_on()


def give_up_only_what_hangs(monkeypatch, disks: Disks) -> Disks:
    """A question that stands at a hanging disk of `disks` is given up at once, any other one is waited for.

    So a test loses no time with a disk that hangs, and a machine that is slow makes no disk look as if it hung. Returns
    `disks`.
    """
    asked = threading.local()
    run = BoundedCall.run

    def run_noted(self, call):
        """Notes the thread that makes the call."""
        threads = asked.threads = []

        def noted():
            threads.append(threading.get_ident())
            return call()

        return run(self, noted)

    def wait_unless_stuck(is_known, _limit_s):
        threads = asked.threads
        while not (has_ended := wait(is_known, PAUSE_S)):
            if threads and disks.is_stuck(threads[0]):
                break
        return has_ended

    monkeypatch.setattr(BoundedCall, "run", run_noted)
    monkeypatch.setattr(bounded_call, "wait", wait_unless_stuck)
    for module in (disk_space, disk_location):
        monkeypatch.setattr(module, "STATFS_TIMEOUT_S", QUESTION_S)
    return disks
