"""Handles that only read, against a dict. The owner writes, vacuums, opens files anew, and ends the sharing."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.disks import DiskInService
from support.stores import open_at
from test_property_storage_volume import COOKIE, MISSING, VID

from native_handlers.format.needle import Needle
from native_handlers.storage.index import build as index_build
from native_handlers.storage.index import needle_map
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import Deleted, NotFound
from native_handlers.storage.shared import share
from native_handlers.storage.shared.attach import share_volume
from native_handlers.storage.shared.reading import attach_for_reading
from native_handlers.storage.system.files import NotCached
from native_handlers.storage.volume.write import SmallChange

needle_ids = st.integers(1, 12)
payloads = st.one_of(st.binary(min_size=1, max_size=30), st.just(b"\xab" * 3000))
batches = st.dictionaries(needle_ids, st.one_of(st.just(None), payloads), min_size=1, max_size=5)
"""The new content of some needles; None for a deletion."""


class ReadingMachine(RuleBasedStateMachine):
    """`waiting` reads as a thread does, and `passing` as an event loop does, which must not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="reading-machine-"))
        self.model: dict[int, bytes | object] = {}

    @initialize(width=st.sampled_from([4, 5]))
    def start(self, width):
        self.store = open_at(self.directory, offset_width_bytes=width)
        self.store.allocate_volume(VID)
        self._attach()

    @property
    def owner(self):
        return self.store.find_volume(VID)

    def _attach(self):
        descriptor = os.open(f"/proc/self/fd/{share_volume(self.owner)}", os.O_RDONLY)
        try:
            self.waiting = attach_for_reading(descriptor, DiskInService(), time.time_ns)
            self.passing = attach_for_reading(
                descriptor, DiskInService(), time.time_ns, loop_thread=threading.get_ident()
            )
        finally:
            os.close(descriptor)

    def _detach(self):
        for volume in (self.waiting, self.passing):
            volume.detach()

    def teardown(self):
        if hasattr(self, "store"):
            self._detach()
            self.store.close()
        shutil.rmtree(self.directory)

    @rule(needle_id=needle_ids, data=payloads)
    def write(self, needle_id, data):
        self.owner.write(Needle(needle_id=needle_id, cookie=COOKIE, data=data))
        self.model[needle_id] = data

    @rule(needle_id=needle_ids)
    def delete(self, needle_id):
        self.owner.delete(needle_id, COOKIE)
        self.model[needle_id] = MISSING

    @rule(wanted=batches)
    def change_together(self, wanted):
        changes = [
            SmallChange(Needle(needle_id, COOKIE, data or b""), is_deletion=data is None)
            for needle_id, data in wanted.items()
        ]
        self.owner.try_together(changes)
        assert all(change.result is not None for change in changes)
        self.model.update({key: MISSING if data is None else data for key, data in wanted.items()})

    @rule()
    def vacuum(self):
        list(self.owner.compaction.run(CompactionOptions()))
        self.owner.compaction.commit()

    @rule()
    def mark_read_only_and_back(self):
        self.owner.marks.mark_read_only(can_delete=False, persist=False)
        self.owner.marks.mark_writable()

    @rule(unmounts=st.booleans())
    def end_the_sharing(self, unmounts):
        """The readers find the volume closed at once, and the owner's index stays what it was."""
        owner = self.owner
        if unmounts:
            self.store.unmount_volume(VID)
        else:
            with owner.handle.begin_write():
                owner.handle.unshare()
            assert not owner.handle.share_generation
            self._check(self._read_waiting, owner)
        for needle_id in self.model:
            assert self.passing.try_read_cached(needle_id, COOKIE) is None
            assert self._read_waiting(self.waiting, needle_id) is MISSING
        self._detach()
        if unmounts:
            self.store.mount_volume(VID)
        self._attach()

    @rule()
    def attach_anew(self):
        """As a reader that was killed, and the next one."""
        self._detach()
        self._attach()

    def _read_waiting(self, volume, needle_id):
        try:
            return volume.read(needle_id, cookie=COOKIE).needle.data
        except (NotFound, Deleted):
            return MISSING

    def _check(self, read, volume):
        for needle_id, expected in self.model.items():
            found = read(volume, needle_id)
            assert found is expected or found == expected

    @invariant()
    def what_is_read_in_passing_is_the_last_that_was_acknowledged(self):
        if not hasattr(self, "passing"):
            return
        for needle_id, expected in self.model.items():
            found = self.passing.try_read_cached(needle_id, COOKIE)
            assert found is None or bytes(found.data) == expected
            with suppress(NotCached):
                try:
                    assert self.passing.read(needle_id, cookie=COOKIE, cached_only=True).needle.data == expected
                except (NotFound, Deleted):
                    assert expected is MISSING

    @invariant()
    def a_reader_that_waits_sees_all(self):
        if hasattr(self, "waiting"):
            self._check(self._read_waiting, self.waiting)

    @invariant()
    def in_a_thread_the_other_one_sees_all_too(self):
        """And then in passing, until other files come."""
        if not hasattr(self, "passing"):
            return
        thread = threading.Thread(target=self._check, args=(self._read_waiting, self.passing))
        failures = []
        before, threading.excepthook = threading.excepthook, failures.append
        try:
            thread.start()
            thread.join()
        finally:
            threading.excepthook = before
        assert not failures
        for needle_id, expected in self.model.items():
            if expected is not MISSING:
                assert bytes(self.passing.try_read_cached(needle_id, COOKIE).data) == expected


@pytest.fixture(autouse=True)
def _merge_often(monkeypatch):
    monkeypatch.setattr(needle_map, "MIN_MERGE", 5)
    monkeypatch.setattr(index_build, "SMALL_BYTES", 4 * 16)  # four rows, which are fewer than are merged
    monkeypatch.setattr(share, "PASSING_BYTES", 3 * 16)


ReadingMachine.TestCase.settings = settings(
    settings(),
    max_examples=max(settings().max_examples // 2, 1),
    stateful_step_count=20,
    suppress_health_check=list(HealthCheck),
)


def test_against_a_dict():
    ReadingMachine.TestCase("runTest").runTest()
