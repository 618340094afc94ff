"""Vacuums among all other events of a volume: writes between any two of their steps, crashes at any file operation,
failing disks, several processes, threads that read and write all the time.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from support.stores import open_at
from support.unreliable_files import Crash, UnreliableSharedFiles
from support.waiting import BREATH_S
from test_property_storage_shared import HANDLES, WRITERS, SharedMachine, handles
from test_property_storage_volume import (
    COOKIE,
    VID,
    StoreMachine,
    needle_ids,
)

from native_handlers.format.needle import Needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.index import build as index_build
from native_handlers.storage.index import needle_map
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import Deleted, NotFound, StorageError
from native_handlers.storage.volume import compaction, record_mover

if TYPE_CHECKING:
    from native_handlers.storage.volume.volume import Volume

OPTIONS = CompactionOptions()


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    """Several batches and merges for a few needles, and both ways of copying."""
    monkeypatch.setattr(record_mover, "BATCH_BYTES", 6000)
    monkeypatch.setattr(record_mover, "LARGE_BYTES", 2000)
    monkeypatch.setattr(record_mover, "WINDOW_BYTES", 12000)
    monkeypatch.setattr(compaction, "FEW_ROWS", 1)
    monkeypatch.setattr(needle_map, "MIN_MERGE", 5)
    monkeypatch.setattr(index_build, "SMALL_BYTES", 4 * 16)


class VacuumedStore(StoreMachine):
    """Every rule of a store, with the steps of vacuums between them."""

    def __init__(self) -> None:
        super().__init__()
        self.running = None
        self.is_copied = False

    @property
    def compaction(self):
        return self.store.find_volume(VID).compaction

    @precondition(lambda self: self.running is None)
    @rule()
    def begin(self):
        self.running, self.is_copied = self.compaction.run(OPTIONS), False

    @precondition(lambda self: self.running is not None)
    @rule(batches=st.integers(1, 4))
    def go_on(self, batches):
        for _ in range(batches):
            if next(self.running, None) is None:
                self.running, self.is_copied = None, True
                return

    @precondition(lambda self: self.is_copied)
    @rule()
    def commit(self):
        self.is_copied = False
        before = self.store.find_volume(VID).compaction_revision
        self.compaction.commit()
        assert self.store.find_volume(VID).compaction_revision == before + 1

    @precondition(lambda self: self.running is None)
    @rule()
    def clean_up(self):
        self.compaction.cleanup()
        self.is_copied = False
        assert not list(self.directory.glob("*.cp?"))

    @precondition(lambda self: self.running is None)
    @rule(
        step=st.integers(1, 40),
        half=st.floats(0, 1),
        code=st.sampled_from([None, errno.EIO, errno.ENOSPC]),
        again_at=st.integers(1, 8),
    )
    def interrupted_vacuum(self, step, half, code, again_at):
        """One file operation of a whole vacuum is the process's last one, or fails. The volume is then unchanged."""
        self.files.remaining, self.files.half, self.files.error = step, half, code
        try:
            with contextlib.suppress(StorageError):
                list(self.compaction.run(OPTIONS))
                self.compaction.commit()
        except Crash:
            self.is_copied = False
            self._die_and_restart(again_at)
        self.is_copied = False
        self._go_on_after_a_failure()

    def _end_run(self):
        if self.running is not None:
            self.running.close()
        self.running, self.is_copied = None, False

    @rule(replication=st.sampled_from(["000", "001"]))
    def configure(self, replication):
        """Closes the volume and opens it."""
        self._end_run()
        super().configure(replication)
        assert not list(self.directory.glob("*.cp?"))

    @rule()
    def reopen(self):
        self._end_run()
        super().reopen()
        assert not list(self.directory.glob("*.cp?"))

    def _die_and_restart(self, again_at: int) -> None:
        running, self.running, self.is_copied = self.running, None, False
        if running is not None:
            # The process is dead: its later operations do not happen.
            self.files.is_dead = True
            with contextlib.suppress(Crash):
                running.close()
        super()._die_and_restart(again_at)

    def teardown(self):
        self._end_run()
        super().teardown()


compactors = st.sampled_from([one for one in range(HANDLES) if one not in WRITERS])


class VacuumedByOne(SharedMachine):
    """One of several processes compacts. The others write, read, and take over when it dies."""

    def _forget_copy(self):
        """The owner gives up what its own `compact` made: one process compacts at a time."""
        self.has_copy = False
        self.volumes[0].compaction.cleanup()

    @rule(handle=compactors, writer=handles, needle_id=needle_ids, data=st.binary(max_size=40) | st.just(b"x" * 5000))
    def vacuum(self, handle, writer, needle_id, data):
        self._forget_copy()
        volume = self.volumes[handle]
        list(volume.compaction.run(OPTIONS))
        self._by(writer, lambda one: self._write(one, needle_id, data, fsync=False))
        self.model[needle_id] = data
        volume.compaction.commit()

    @rule(handle=st.integers(1, 2), heir=compactors, step=st.integers(1, 45), half=st.floats(0, 1))
    def die_in_a_vacuum(self, handle, heir, step, half):
        self._forget_copy()
        volume, files = self.volumes[handle], self.files[handle]
        files.remaining, files.half = step, half
        with contextlib.suppress(Crash):
            list(volume.compaction.run(OPTIONS))
            volume.compaction.commit()
        files.is_dead = True
        files.bury()
        self.files[handle] = UnreliableSharedFiles()
        self.volumes[handle] = self._attach(handle)
        self.volumes[heir].sync()
        self.volumes[heir].compaction.cleanup()
        assert not list(self.directory.glob("*.cp?"))


for machine in (VacuumedStore, VacuumedByOne):
    machine.TestCase.settings = settings(
        settings(),
        max_examples=max(settings().max_examples // 4, 1),
        stateful_step_count=20,
        suppress_health_check=list(HealthCheck),
    )
TestVacuumedStore = pytest.mark.slow(VacuumedStore.TestCase)
"""Slow: each example is a history of operations and vacuums, with restarts."""
TestVacuumedByOne = VacuumedByOne.TestCase


# ---- threads

WRITERS, IDS_A_WRITER = 2, 30


def payload(needle_id: int, version: int) -> bytes:
    return f"{needle_id}:{version};".encode() * (1 + (needle_id * 7 + version) % 300)


class Writer(threading.Thread):
    """Writes, overwrites and deletes its own needles until it is told to end. `versions` has the expected state."""

    def __init__(self, volume: Volume, number: int, seed: int) -> None:
        super().__init__()
        self.volume, self.is_over = volume, threading.Event()
        self.first = 1 + number * IDS_A_WRITER
        self.versions: dict[int, int] = {}
        self.turn = seed
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.is_over.is_set():
                self.turn = (self.turn * 1103515245 + 12345) % 2**31
                self.change(self.first + self.turn // 7 % IDS_A_WRITER, self.turn)
                self.is_over.wait(BREATH_S)
        except BaseException as error:  # noqa: BLE001  told to the test
            self.error = error

    def change(self, needle_id: int, version: int) -> None:
        if version % 5 == 0:
            self.volume.delete(needle_id, COOKIE)
            self.versions[needle_id] = 0
        else:
            needle = Needle(needle_id=needle_id, cookie=COOKIE, data=payload(needle_id, version))
            self.volume.write(needle, fsync=version % 50 == 1)
            self.versions[needle_id] = version


class Reader(threading.Thread):
    """Reads needles that no writer changes. Each read must find its needle."""

    def __init__(self, volume: Volume, wanted: dict[int, bytes]) -> None:
        super().__init__()
        self.volume, self.wanted, self.is_over = volume, wanted, threading.Event()
        self.reads = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.is_over.is_set():
                for needle_id, data in self.wanted.items():
                    read = self.volume.read(needle_id, cookie=COOKIE)
                    assert read.needle.data == data
                    read.release()
                    self.reads += 1
                    self.is_over.wait(BREATH_S)
        except BaseException as error:  # noqa: BLE001  told to the test
            self.error = error


def read(volume: Volume, needle_id: int) -> bytes | None:
    try:
        return volume.read(needle_id, cookie=COOKIE).needle.data
    except (NotFound, Deleted):
        return None


@pytest.mark.slow
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**31 - 1), st.sampled_from([4, 5]))
def test_vacuums_under_threads_that_write_and_read(seed, width):
    """Slow: threads write and read all the time through eight vacuums."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        store = open_at(directory, offset_width_bytes=width)
        store.allocate_volume(VID)
        volume = store.find_volume(VID)
        fixed = {needle_id: payload(needle_id, 1) for needle_id in range(1000, 1050)}
        for needle_id, data in fixed.items():
            store.get_volume(VID).write(Needle(needle_id=needle_id, cookie=COOKIE, data=data))
        writers = [Writer(volume, number, seed + number) for number in range(WRITERS)]
        reader = Reader(volume, fixed)
        threads = [*writers, reader]
        for thread in threads:
            thread.start()
        try:
            for _ in range(8):
                list(volume.compaction.run(OPTIONS))
                volume.compaction.commit()
        finally:
            for thread in threads:
                thread.is_over.set()
            for thread in threads:
                thread.join()
        assert [thread.error for thread in threads] == [None] * len(threads)
        assert reader.reads
        expected = {
            needle_id: payload(needle_id, version) if version else None
            for writer in writers
            for needle_id, version in writer.versions.items()
        } | fixed
        assert {needle_id: read(volume, needle_id) for needle_id in expected} == expected
        assert volume.compaction_revision == 8
        store.close()
        report = check_directory(directory, offset_width_bytes=width)
        assert report.is_healthy, str(report)
        store = open_at(directory, offset_width_bytes=width)
        assert store.findings == []
        assert {needle_id: read(store.find_volume(VID), needle_id) for needle_id in expected} == expected
        store.close()
