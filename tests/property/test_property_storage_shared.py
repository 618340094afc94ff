"""The needle index, and a volume shared by several handles, against a dict. A handle that attaches in this process is
like another process for the others: it has its own lock, mappings, index and descriptors.
tests/chaos/test_chaos_shared_volume.py has real processes, really killed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.disks import DiskInService
from support.stores import open_at
from support.unreliable_files import Crash, UnreliableSharedFiles
from test_property_storage_volume import COOKIE, MISSING, VID

from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle
from native_handlers.format.types import TOMBSTONE_SIZE
from native_handlers.storage.check import check_directory
from native_handlers.storage.index import build as index_build
from native_handlers.storage.index import needle_map
from native_handlers.storage.index.build import build_index
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import Deleted, LeftToOwner, NotFound, ReadOnly
from native_handlers.storage.shared.attach import attach_volume, share_volume
from native_handlers.storage.shared.writing import attach_for_writing
from native_handlers.storage.volume.volume import Volume
from native_handlers.storage.volume.write import SmallChange

HANDLES = 5
WRITERS = {3, 4}
"""The handles that only append, as those of the server's workers do. What they leave, the owner does."""
needle_ids = st.integers(1, 12)
handles = st.integers(0, HANDLES - 1)
payloads = st.one_of(st.binary(max_size=30), st.just(b"\xab" * 3000))
batches = st.dictionaries(needle_ids, st.one_of(st.just(None), payloads), min_size=1, max_size=5)
"""The new content of some needles; None for a deletion."""


class IndexMachine(RuleBasedStateMachine):
    """`rows` is the .idx file. `model` maps ids to the (offset, size) that the index must give."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = b""
        self.model: dict[int, tuple[int, int]] = {}
        self.end = 0

    @initialize(width=st.sampled_from([4, 5]), first=st.sampled_from([1, 2**40, 2**64 - 400]))
    def start(self, width, first):
        self.width, self.first = width, first
        self.index = build_index(b"", width, 3).index

    def _append(self, needle_id, size):
        self.end += 1
        self.rows += encode_entry(needle_id, self.end, size, self.width)

    @rule(number=st.integers(0, 300), size=st.integers(0, 99))
    def put(self, number, size):
        self._append(self.first + number, size)
        self.index.put(self.first + number, self.end, size)
        self.model[self.first + number] = (self.end, size)

    @rule(numbers=st.lists(st.integers(0, 300), min_size=20, max_size=60), size=st.integers(1, 99))
    def put_many(self, numbers, size):
        for number in numbers:
            self.put(number, size)

    @rule(number=st.integers(0, 300))
    def delete(self, number):
        needle_id = self.first + number
        old = self.model.get(needle_id)
        if old is None or old[1] < 0:
            assert self.index.delete(needle_id) == 0
            return
        assert self.index.delete(needle_id) == old[1]
        self._append(needle_id, TOMBSTONE_SIZE)
        self.model[needle_id] = (old[0], -old[1] or TOMBSTONE_SIZE)

    @rule(numbers=st.lists(st.integers(0, 300), min_size=10, max_size=30))
    def delete_many(self, numbers):
        for number in numbers:
            self.delete(number)

    @rule()
    def merge(self):
        self.index.layers = self.index.layers.merged()

    @rule(torn=st.integers(0, 15))
    def crash_and_reopen(self, torn):
        """The last row may be incomplete. Deleted needles are still known as deleted."""
        built = build_index(self.rows + encode_entry(1, 1, 1, self.width)[:torn], self.width, 3)
        self.index = built.index
        assert built.row_count == self.end

    @invariant()
    def it_is_the_dict(self):
        index = self.index
        assert len(index.layers.delta) < needle_map.MIN_MERGE
        assert {key: index.get(key) for key in self.model} == self.model
        assert index.get(self.first + 301) is None
        assert dict(index.ascending()) == self.model


class SharedMachine(RuleBasedStateMachine):
    """Handle 0 is the store's, which opened the volume; the others attached to it."""

    has_copy = False
    """Whether there is a compacted copy that is not committed."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="shared-machine-"))
        self.model: dict[int, bytes | object] = {}

    @initialize(width=st.sampled_from([4, 5]))
    def start(self, width):
        self.width = width
        self._open()
        self.store.allocate_volume(VID)
        self._attach_all()

    def _open(self):
        self.store = open_at(self.directory, offset_width_bytes=self.width)

    def _attach_all(self):
        self.files = [UnreliableSharedFiles() for _ in range(HANDLES)]
        self.volumes = [self.store.find_volume(VID)]
        for number in range(1, HANDLES):
            self.volumes.append(self._attach(number))

    def _attach(self, number):
        fd, files = share_volume(self.volumes[0]), self.files[number]
        if number in WRITERS:
            return attach_for_writing(fd, DiskInService(), time.time_ns, files=files)
        return attach_volume(fd, DiskInService(), time.time_ns, files)

    def _by(self, handle, work):
        """Does `work` by a handle, or by the owner where the handle leaves it."""
        try:
            return work(self.volumes[handle])
        except LeftToOwner:
            assert handle in WRITERS
            return work(self.volumes[0])

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            report = check_directory(self.directory)
            assert report.is_healthy, str(report)
            for files in self.files:
                files.bury()
        shutil.rmtree(self.directory)

    def _write(self, volume, needle_id, data, fsync):
        volume.write(Needle(needle_id=needle_id, cookie=COOKIE, data=data), fsync=fsync)

    @rule(handle=handles, needle_id=needle_ids, data=payloads, fsync=st.booleans())
    def write(self, handle, needle_id, data, fsync):
        self._by(handle, lambda volume: self._write(volume, needle_id, data, fsync))
        self.model[needle_id] = data

    def _change_together(self, handle, wanted):
        changes = [
            SmallChange(Needle(needle_id, COOKIE, data or b""), is_deletion=data is None)
            for needle_id, data in wanted.items()
        ]
        self.volumes[handle].try_together(changes)
        if handle in WRITERS and all(change.result is None for change in changes):
            self.volumes[0].try_together(changes)
        assert all(change.result is not None for change in changes)

    @rule(handle=handles, wanted=batches)
    def change_together(self, handle, wanted):
        self._change_together(handle, wanted)
        self.model.update({key: MISSING if data is None else data for key, data in wanted.items()})

    @rule(
        handle=st.integers(1, HANDLES - 1), heir=handles, wanted=batches, step=st.integers(1, 5), half=st.floats(0, 1)
    )
    def die_while_changing_together(self, handle, heir, wanted, step, half):
        """As `die`. Each needle of the batch is as before or as wanted."""
        files = self.files[handle]
        files.remaining, files.half = step, half
        is_done = True
        try:
            self._change_together(handle, wanted)
        except Crash:
            is_done = False
        self._replace_dead(handle)
        self._by(heir, Volume.sync)
        for needle_id, data in wanted.items():
            choices = [MISSING if data is None else data]
            if not is_done:
                choices.append(self.model.get(needle_id, MISSING))
            if not is_done and b"" in choices:
                choices.append(MISSING)
            found = self._read(self._reader(heir), needle_id)
            assert any(found is choice or found == choice for choice in choices)
            self.model[needle_id] = found

    def _reader(self, handle):
        """The volume that reads for a handle: those that only append do not read."""
        return self.volumes[0 if handle in WRITERS else handle]

    def _replace_dead(self, handle):
        self.files[handle].is_dead = True
        self.files[handle].bury()
        self.files[handle] = UnreliableSharedFiles()
        self.volumes[handle] = self._attach(handle)

    @rule(handle=handles, needle_id=needle_ids)
    def delete(self, handle, needle_id):
        freed = self._by(handle, lambda volume: volume.delete(needle_id, COOKIE))
        was = self.model.get(needle_id, MISSING)
        assert (freed > 0) == (was is not MISSING and was != b"")
        self.model[needle_id] = MISSING

    @rule(
        handle=st.integers(1, HANDLES - 1),
        heir=handles,
        needle_id=needle_ids,
        data=payloads,
        step=st.integers(1, 9),
        half=st.floats(0, 1),
        is_write=st.booleans(),
    )
    def die(self, handle, heir, needle_id, data, step, half, is_write):
        """An attached handle dies during its work, and is replaced. Any handle may be the next to take the lock."""
        files = self.files[handle]
        before, wanted = self.model.get(needle_id, MISSING), data if is_write else MISSING
        files.remaining, files.half = step, half
        try:
            if is_write:
                self._by(handle, lambda volume: self._write(volume, needle_id, data, fsync=True))
            else:
                self._by(handle, lambda volume: volume.delete(needle_id, COOKIE))
            choices = [wanted]
        except Crash:
            choices = [before, wanted]
        self._replace_dead(handle)
        self._by(heir, Volume.sync)
        found = self._read(self._reader(heir), needle_id)
        # An empty needle whose row was lost looks like a deletion.
        if len(choices) > 1 and b"" in choices:
            choices.append(MISSING)
        assert any(found is choice or found == choice for choice in choices)
        self.model[needle_id] = found

    @rule()
    def reopen(self):
        self.has_copy = False
        self.store.close()
        assert all(volume.is_closed for volume in self.volumes)
        for files in self.files:
            files.bury()
        self._open()
        assert self.store.findings == []
        self._attach_all()

    @rule()
    def open_the_files_anew(self):
        """The end of a vacuum: other files, or the same ones anew, replace the files that all handles have open."""
        self.has_copy = False
        owner = self.volumes[0]
        with owner.handle.begin_write():
            owner.handle.reopen(owner.handle.opened, [])

    @rule()
    def compact(self):
        list(self.volumes[0].compaction.run(CompactionOptions()))
        self.has_copy = True

    @precondition(lambda self: self.has_copy)
    @rule()
    def commit_the_copy(self):
        """All that any handle wrote since `compact` is in it. The invariants compare."""
        self.has_copy = False
        self.volumes[0].compaction.commit()

    @rule(handle=handles, needle_id=needle_ids, is_attached_anew=st.booleans())
    def hold_and_give_up(self, handle, needle_id, is_attached_anew):
        """While the owner holds writes, no handle that only appends changes anything."""
        owner = self.volumes[0]
        owner.claim.take("is being copied", holds_writes=True)
        if is_attached_anew and handle in WRITERS:
            self._replace_dead(handle)
        for writer in {0, handle} & {0, *WRITERS}:
            with pytest.raises((ReadOnly, LeftToOwner)):
                self._write(self.volumes[writer], needle_id, b"not to be", fsync=False)
            change = SmallChange(Needle(needle_id, COOKIE, b"not to be"))
            self.volumes[writer].try_together([change])
            assert change.result is None
        owner.claim.give_up()

    @rule(handle=handles, is_attached_anew=st.booleans())
    def mark_read_only_and_back(self, handle, is_attached_anew):
        self.volumes[0].marks.mark_read_only(can_delete=False, persist=False)
        if is_attached_anew and handle:
            self._replace_dead(handle)
        with pytest.raises(ReadOnly):
            self._by(handle, lambda volume: self._write(volume, 1, b"not to be", fsync=False))
        readers = [volume for number, volume in enumerate(self.volumes) if number not in WRITERS]
        assert all(volume.is_read_only for volume in readers)
        self.volumes[0].marks.mark_writable()
        assert not any(volume.is_read_only for volume in readers)

    def _read(self, volume, needle_id) -> bytes | object:
        try:
            return volume.read(needle_id, cookie=COOKIE).needle.data
        except (NotFound, Deleted):
            return MISSING

    def _can_read(self, number):
        """A handle that only appends has its index for its changes: it is up to date once it has the lock."""
        if number not in WRITERS:
            return True
        try:
            with self.volumes[number].handle.begin_write():
                return True
        except LeftToOwner:
            return False

    @invariant()
    def every_handle_sees_the_same(self):
        if not hasattr(self, "volumes"):
            return
        volumes = [volume for number, volume in enumerate(self.volumes) if self._can_read(number)]
        for volume in volumes:
            for needle_id, expected in self.model.items():
                found = self._read(volume, needle_id)
                assert found is expected or found == expected
        indexes = [volume.handle.refresh().index for volume in volumes]
        entries = [dict(index.ascending()) for index in indexes]
        assert all(entry == entries[0] for entry in entries)

        assert all(index.counters == indexes[0].counters for index in indexes)
        reports = [volume.report() for volume in volumes]
        facts = [(one.size_bytes, one.index_size_bytes, one.file_count, one.modified_at_s) for one in reports]
        assert all(fact == facts[0] for fact in facts)
        assert facts[0][1] == self.volumes[0].paths.file(".idx").stat().st_size


@pytest.fixture(autouse=True)
def _merge_often(monkeypatch):
    monkeypatch.setattr(needle_map, "MIN_MERGE", 5)
    monkeypatch.setattr(index_build, "SMALL_BYTES", 4 * 16)  # four rows, which are fewer than are merged


for machine, steps in ((IndexMachine, 30), (SharedMachine, 20)):
    machine.TestCase.settings = settings(
        settings(),
        max_examples=max(settings().max_examples // 2, 1),
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("machine", [IndexMachine, SharedMachine])
def test_against_a_dict(machine):
    machine.TestCase("runTest").runTest()
