"""A volume that several processes write to, some of which are killed: every process finds the acknowledged needles. The
workers are separate programs, started by exec; see shared_volume_worker.py. None of this needs a `weed`.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random

import pytest
from harness.processes import REPOSITORY, clean_environment
from shared_volume_worker import COOKIE, IDS_A_WRITER, payload
from support.stores import open_at

from native_handlers.format.needle import Needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.index import needle_map
from native_handlers.storage.model.errors import Deleted, NotFound
from native_handlers.storage.shared.attach import share_volume

WORKER = Path(__file__).with_name("shared_volume_worker.py")
PATHS = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests")))
"""Where a worker finds the product and the support of the tests."""
VID = 7
LIMIT_S = 60


class Shared:
    """A store with one shared volume, and the workers' reports: id -> version, and other allowed versions."""

    def __init__(self, directory):
        self.directory = directory
        self.store = open_at(directory)
        self.store.allocate_volume(VID)
        self.volume = self.store.find_volume(VID)
        self.known, self.announced = {}, {}
        self.workers = []

    def start(self, *arguments):
        worker = Worker(self, share_volume(self.volume), arguments)
        self.workers.append(worker)
        return worker

    def heard(self, word, needle_id, version):
        if word == "begin":
            self.announced.setdefault(needle_id, []).append(version)
        elif word == "done":
            self.known[needle_id] = version
            self.announced.pop(needle_id, None)

    def read(self, volume, needle_id):
        """The payload, or None."""
        try:
            return volume.read(needle_id, cookie=COOKIE).needle.data
        except (NotFound, Deleted):
            return None

    def check_all(self, volume, *, is_repaired=True):
        """Each needle is as it was acknowledged last, or as an operation under way would have it. An operation under
        way at a writer's death may still appear until the next writer takes the lock; then the result is certain.
        """
        if is_repaired:
            volume.sync()
        for needle_id in sorted(self.known.keys() | self.announced.keys()):
            versions = [self.known.get(needle_id, 0), *self.announced.get(needle_id, [])]
            found = self.read(volume, needle_id)
            choices = [payload(needle_id, version) if version else None for version in versions]
            assert found in choices, (needle_id, versions, found)
            if is_repaired:
                self.known[needle_id] = versions[choices.index(found)]
        if is_repaired:
            self.announced.clear()

    def end(self):
        for worker in self.workers:
            worker.kill()
        self.store.close()
        report = check_directory(self.directory)
        assert report.is_healthy, str(report)
        store = open_at(self.directory)
        try:
            assert store.findings == []
            self.check_all(store.find_volume(VID))
        finally:
            store.close()


class Worker:
    def __init__(self, shared, fd, arguments):
        self._shared = shared
        mode, *rest = map(str, arguments)
        self._is_led = mode == "write"
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), mode, str(fd), *rest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[fd],
            env=clean_environment() | {"PYTHONPATH": PATHS},
            text=True,
        )

    def hear(self):
        """Reads and records the next line of a worker; empty at the end."""
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            return []
        words = line.split()
        if len(words) == 3:
            self._shared.heard(words[0], int(words[1]), int(words[2]))
        if words[0] == "begin" and self._is_led:
            self.say("go")
        return words

    def say(self, word):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()

    def hear_all(self):
        while self.hear():
            pass

    def kill(self):
        """Kills the worker, and reads the lines that it wrote before. May be called again."""
        if self.process.stdout.closed:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        self.hear_all()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def shared(tmp_path, monkeypatch):
    monkeypatch.setattr(needle_map, "MIN_MERGE", 50)
    shared = Shared(tmp_path)
    yield shared
    shared.end()


@pytest.mark.slow
def test_a_death_at_each_step_of_a_run_loses_nothing_acknowledged(shared):
    """Slow: some sixty processes, each with its own point of death. The owner repairs after every second one."""
    worker = shared.start("die-at-each-step")
    steps = 0
    while (words := worker.hear()) and words[0] != "whole":
        if words[0] == "died":
            steps += 1
            shared.check_all(shared.volume, is_repaired=False)
            # The owner appends after the rest of a dead process. Every other time the next worker has to repair.
            if steps % 2:
                shared.volume.sync()
                report = check_directory(shared.directory)
                assert report.is_healthy, str(report)
                version = 1000 + steps
                shared.volume.write(Needle(needle_id=9, cookie=COOKIE, data=payload(9, version)))
                shared.heard("done", 9, version)
                shared.check_all(shared.volume)
            worker.say("next")
    assert words, "the worker ended before its run was whole"
    assert steps > 40
    shared.check_all(shared.volume)
    assert shared.volume.write(Needle(needle_id=10, cookie=COOKIE, data=payload(10, 1))).size_bytes
    shared.heard("done", 10, 1)


@pytest.mark.slow
def test_killed_writers_and_readers_that_never_miss(shared):
    """Slow: three writing processes, of which one is killed and replaced repeatedly. This process reads all the
    time.
    """
    random, stop = Random(7), threading.Event()
    writers = {number: shared.start("write", number) for number in (1, 2)}
    listeners = [threading.Thread(target=writer.hear_all) for writer in writers.values()]
    for listener in listeners:
        listener.start()
    wrong, reads = [], []

    def read_on():
        while not stop.is_set():
            needle_id = random.choice(list(shared.known) or [1])
            before = shared.known.get(needle_id)
            found = shared.read(shared.volume, needle_id)
            # Writers announce operations and wait for an answer: without an announcement no operation was under way.
            if not shared.announced.get(needle_id) and before is not None and shared.known.get(needle_id) == before:
                reads.append(needle_id)
                if found != (payload(needle_id, before) if before else None):
                    wrong.append((needle_id, before, found))

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        for _ in range(6):
            victim = shared.start("write", 3)
            assert victim.hear() == ["ready"]
            for _ in range(random.randrange(20, 120)):
                victim.hear()
            victim.kill()
            mine = range(3 * IDS_A_WRITER, 4 * IDS_A_WRITER)
            unsure = {key: shared.announced[key][-1] for key in mine if key in shared.announced}
            for needle_id, version in unsure.items():
                # Under way at the death: stored or not. The result is final once another writer came after it.
                shared.volume.write(Needle(needle_id=needle_id, cookie=COOKIE, data=payload(needle_id, version + 1)))
                shared.heard("done", needle_id, version + 1)
    finally:
        stop.set()
        reader.join()
        for writer in writers.values():
            writer.process.kill()
        for listener in listeners:
            listener.join()
    assert wrong == []
    assert len(reads) > 100
    shared.check_all(shared.volume)
    assert len(shared.known) > 100
    opened = shared.volume.handle.opened
    live = sum(1 for _, at in opened.index.ascending() if at.size >= 0)
    assert live == opened.index.counters.file_count - opened.index.counters.deleted_count


def test_closing_is_for_everyone(shared):
    worker = shared.start("write", 1)
    assert worker.hear() == ["ready"]
    shared.volume.close()
    deadline_s = time.monotonic() + LIMIT_S
    while worker.hear() and time.monotonic() < deadline_s:
        pass
    assert worker.process.wait(LIMIT_S) == 1
    with pytest.raises(NotFound):
        shared.volume.read(1)
