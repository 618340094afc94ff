"""A process that attaches to a volume whose descriptor it inherits. Run by test_chaos_shared_volume.py. `write FD
NUMBER` writes, overwrites and deletes its own needles until it is killed. Each acknowledgement is a line on standard
output. A line before the operation announces it, and the worker waits for the test's answer. `die-at-each-step FD`
forks (this program has one thread) a process for each step of a short run, which kills itself there; between two of
them it waits for a line on standard input.
"""

import os
import signal
import sys
import time
from random import Random

from support.disks import DiskInService

from native_handlers.format.needle import Needle
from native_handlers.storage.index import needle_map
from native_handlers.storage.shared.attach import attach_volume
from native_handlers.storage.shared.state import SharedState
from native_handlers.storage.system.files import OsFiles

COOKIE = 0xC0FFEE
IDS_A_WRITER = 200


def payload(needle_id, version):
    return f"{needle_id}:{version};".encode() * (1 + (needle_id * 7 + version) % 40)


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def write(fd, number):
    """Writes needles. Ids of writer `number` start at number * IDS_A_WRITER. Versions count from 1; a deletion is
    version 0.
    """
    volume, random, version = attach_volume(fd, DiskInService(), time.time_ns), Random(), 0
    say("ready")
    while True:
        version += 1
        needle_id = number * IDS_A_WRITER + random.randrange(IDS_A_WRITER)
        if random.random() < 0.2:
            announce(needle_id, 0)
            volume.delete(needle_id, COOKIE)
            say("done", needle_id, 0)
        else:
            announce(needle_id, version)
            needle = Needle(needle_id=needle_id, cookie=COOKIE, data=payload(needle_id, version))
            volume.write(needle, fsync=random.random() < 0.05)
            say("done", needle_id, version)


def announce(needle_id, version):
    """Announces an operation, and waits until the test has read that."""
    say("begin", needle_id, version)
    if not sys.stdin.readline():
        sys.exit(2)


class DyingFiles(OsFiles):
    """The process kills itself at the `remaining`-th step, a write half done."""

    def __init__(self, remaining):
        self.remaining = remaining

    def is_last(self):
        self.remaining -= 1
        return self.remaining == 0

    def step(self):
        if self.is_last():
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, fd, parts, offset_bytes):
        if self.is_last():
            whole = b"".join(parts)
            super().write(fd, [whole[: len(whole) // 2]], offset_bytes)
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(fd, parts, offset_bytes)
        self.step()

    def truncate(self, fd, length_bytes):
        self.step()
        super().truncate(fd, length_bytes)

    def sync(self, fd):
        self.step()
        super().sync(fd)

    def punch(self, fd, start_bytes, length_bytes):
        self.step()
        super().punch(fd, start_bytes, length_bytes)

    def wait_lock(self, fd):
        super().wait_lock(fd)
        self.step()

    def unlock(self, fd):
        self.step()
        super().unlock(fd)


def run_until(fd, step, seed):
    """A short run that prints its acknowledgements. Ids are those of writer 0; versions are made of `seed`."""
    files = DyingFiles(step)
    commit = SharedState.commit

    def dying_commit(state, new):
        files.step()
        committed = commit(state, new)
        files.step()
        return committed

    SharedState.commit = dying_commit
    needle_map.MIN_MERGE = 3
    volume = attach_volume(fd, DiskInService(), time.time_ns, files)
    for needle_id in (1, 2, 3):
        say("begin", needle_id, seed)
        volume.write(Needle(needle_id=needle_id, cookie=COOKIE, data=payload(needle_id, seed)), fsync=needle_id == 2)
        say("done", needle_id, seed)
    say("begin", 1, 0)
    volume.delete(1, COOKIE)
    say("done", 1, 0)
    volume.close()


def die_at_each_step(fd):
    step, is_whole = 0, False
    while not is_whole:
        step += 1
        child = os.fork()
        if not child:
            run_until(fd, step, step)
            os._exit(0)
        is_whole = os.waitpid(child, 0)[1] == 0
        say("whole" if is_whole else "died", step, 0)
        sys.stdin.readline()


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(int(sys.argv[2]), int(sys.argv[3]))
    else:
        die_at_each_step(int(sys.argv[2]))
