"""The watch on the locks of volumes: who holds one, who waits for a disk, and who is ended."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import trio
from support.files import UNSYNCED_FILES
from support.waiting import LIMIT_S, until, wait_until

from native_handlers.format.needle import Needle
from native_handlers.storage.shared.attach import share_volume
from supervisor.assembly import lock_watch
from supervisor.assembly.lock_watch import HOLD_S, LOOK_S, find_locked, is_waiting_for_disk, serve_lock_watch

HOLDER = """
import fcntl, os, struct, sys
fd = os.open(f"/proc/self/fd/{sys.argv[1]}", os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def volume(tmp_path, opened):
    return opened(tmp_path, files=UNSYNCED_FILES, volumes=(7,)).find_volume(7)


@pytest.fixture
def holder(volume):
    """A process that takes the volume's lock and then does nothing."""
    fd = share_volume(volume)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(fd)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[fd]
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_kernel_says_who_holds_a_lock(volume, holder):
    memory = volume.handle.share_memory
    own, absent = os.getpid(), 2**22 - 1

    def holders():
        return [pid for pid, files in find_locked([own, holder.pid, absent]).items() if memory in files]

    assert holders() == [holder.pid]
    assert find_locked([absent]) == {absent: set()}
    holder.kill()
    holder.wait()
    assert holders() == []
    with volume.handle.begin_write():
        assert holders() == [own]
    assert holders() == []


def test_who_does_not_wait_for_a_disk(holder):
    assert not is_waiting_for_disk(holder.pid)
    assert not is_waiting_for_disk(2**22 - 1)


class PlayedVolume:
    """A volume whose lock is waited for."""

    def __init__(self, number):
        self.id = number
        self.handle = SimpleNamespace(share_memory=(0, number), lock_wait_s=2 * HOLD_S)


class PlayedWorkers:
    """Workers that can be ended. `ended` are those that were."""

    def __init__(self, *processes):
        self._processes = {process.pid: process for process in processes}
        self.pids = dict(enumerate(self._processes))
        self.ended = []

    async def end(self, pid, why):
        self.ended.append((pid, why))
        self._processes[pid].kill()
        await trio.to_thread.run_sync(self._processes[pid].wait)


@pytest.fixture
def other():
    """A process that does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


async def test_a_worker_that_hangs_with_a_lock_is_ended_and_no_other(volume, holder, other, monkeypatch):
    monkeypatch.setattr(lock_watch, "HOLD_S", 0.05)
    monkeypatch.setattr(lock_watch, "LOOK_S", 0.01)
    workers = PlayedWorkers(other, holder)
    shared = SimpleNamespace(waiting=lambda limit_s: [volume] if volume.handle.lock_wait_s > limit_s else [])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_lock_watch, shared, lambda: workers)
        await trio.to_thread.run_sync(volume.write, Needle(needle_id=1, cookie=1, data=b"data"))
        nursery.cancel_scope.cancel()
    assert [pid for pid, _ in workers.ended] == [holder.pid]
    assert "the lock of volume 7" in workers.ended[0][1]
    assert other.poll() is None
    assert volume.read(1, cookie=1).needle.data == b"data"


async def test_a_disk_that_hangs_is_looked_at_less_and_less(autojump_clock, monkeypatch, caplog):
    """One look is at all volumes: it reads every descriptor of every worker."""
    looks, volumes = [], [PlayedVolume(1), PlayedVolume(2)]

    async def run_here(work, *args):
        await trio.lowlevel.checkpoint()
        return work(*args)

    def locked(pids):
        looks.append(trio.current_time())
        return {pid: {(0, 1), (0, 2)} for pid in pids}

    # A thread's time is none of the test's clock.
    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)
    monkeypatch.setattr(lock_watch, "find_locked", locked)
    monkeypatch.setattr(lock_watch, "is_waiting_for_disk", lambda _pid: True)
    workers, shared = SimpleNamespace(pids={0: 1000}), SimpleNamespace(waiting=lambda _limit_s: list(volumes))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_lock_watch, shared, lambda: workers)
        await trio.sleep(20 * HOLD_S)
        assert 20 <= len(looks) < 26
        assert looks[1] - looks[0] == pytest.approx(LOOK_S)
        assert caplog.text.count("waits for the disk") == 2
        held = volumes.pop()
        volumes.clear()
        await trio.sleep(2 * HOLD_S + LOOK_S / 4)  # at no moment of a look
        looks.clear()
        volumes.append(held)
        await trio.sleep(3.5 * LOOK_S)
        assert len(looks) == 2, "another one is noticed as soon as the first"
        nursery.cancel_scope.cancel()


async def test_a_worker_that_waits_for_a_disk_is_not_ended(volume, holder, monkeypatch, caplog):
    monkeypatch.setattr(lock_watch, "HOLD_S", 0.05)
    monkeypatch.setattr(lock_watch, "LOOK_S", 0.01)
    monkeypatch.setattr(lock_watch, "is_waiting_for_disk", lambda _pid: True)
    workers = PlayedWorkers(holder)
    shared = SimpleNamespace(waiting=lambda limit_s: [volume] if volume.handle.lock_wait_s > limit_s else [])
    writing = threading.Thread(target=volume.write, args=(Needle(needle_id=1, cookie=1, data=b"data"),))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_lock_watch, shared, lambda: workers)
        writing.start()
        await until(lambda: "waits for the disk" in caplog.text)
        nursery.cancel_scope.cancel()
    assert not workers.ended
    holder.kill()
    writing.join(LIMIT_S)
    wait_until(lambda: not writing.is_alive(), "the write")
    assert volume.read(1, cookie=1).needle.data == b"data"
