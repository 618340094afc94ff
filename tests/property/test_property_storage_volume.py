"""The store against a plain dict: any sequence of operations, reopenings, crashes at any file operation, failing disks.
A crash ends every file operation at a chosen point, a write half done; the kernel's state stays, as after `kill -9`.
Acknowledged needles must then be there, unacknowledged ones whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.stores import open_at
from support.unreliable_files import Crash, UnreliableFiles

from native_handlers.format import crc
from native_handlers.format.idx import IdxEntry, encode_entry
from native_handlers.format.needle import Needle, encode_needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.index import needle_map
from native_handlers.storage.index.build import build_index
from native_handlers.storage.model.errors import Deleted, NotFound, ReadOnly, StorageError
from native_handlers.storage.volume.write import SmallChange

COOKIE = 0xC0FFEE
VID = 7


needle_ids = st.integers(1, 6)
payloads = st.one_of(
    st.binary(max_size=40), st.integers(0, 255).map(lambda byte: bytes([byte]) * 5000), st.just(b"\xab" * 1_100_000)
)
MISSING = object()
small_payloads = st.one_of(st.binary(max_size=40), st.just(bytes(600)))
batches = st.lists(st.tuples(needle_ids, st.one_of(small_payloads, st.just(MISSING))), min_size=1, max_size=6)


class StoreMachine(RuleBasedStateMachine):
    """`model` maps needle ids to the results that reading must give; `unsure` to other allowed results."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="store-machine-"))
        self.model: dict[int, bytes | object] = {}
        self.unsure: dict[int, list[bytes | object]] = {}
        self.files = UnreliableFiles()

    @initialize(version=st.sampled_from([2, 3]), width=st.sampled_from([4, 5]))
    def start(self, version, width):
        self.width = width
        self.open()
        self.store.allocate_volume(VID, version=version)

    def open(self) -> None:
        self.store = open_at(self.directory, offset_width_bytes=self.width, files=self.files)

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            report = check_directory(self.directory)
            assert report.is_healthy, str(report)
        self.files.bury()
        shutil.rmtree(self.directory)

    def _write_blob(self, needle_id, data):
        needle = Needle(needle_id=needle_id, cookie=COOKIE, data=data, checksum=crc.crc32c(data))
        volume = self.store.find_volume(VID)
        volume.write_blob(needle_id, encode_needle(needle, volume.version), needle.size)

    def _write(self, needle_id, data, fsync):
        self.store.get_volume(VID).write(Needle(needle_id=needle_id, cookie=COOKIE, data=data), fsync=fsync)

    @rule(needle_id=needle_ids, data=payloads, fsync=st.booleans())
    def write(self, needle_id, data, fsync):
        self._write(needle_id, data, fsync)
        self.model[needle_id] = data

    def _change_together(self, wanted):
        """Changes needles in one batch; MISSING deletes one. Returns the changes that were made."""
        changes = [
            SmallChange(
                Needle(needle_id=needle_id, cookie=COOKIE, data=b"" if data is MISSING else data), data is MISSING
            )
            for needle_id, data in wanted
        ]
        self.store.get_volume(VID).try_together(changes)
        return [pair for pair, change in zip(wanted, changes, strict=True) if change.result is not None]

    @rule(wanted=batches)
    def change_together(self, wanted):
        done = self._change_together(wanted)
        # A second change of one needle is left, also after a change that had nothing to do.
        assert {needle_id for needle_id, _ in done} == {needle_id for needle_id, _ in wanted}
        self.model.update(done)

    @rule(wanted=batches, step=st.integers(1, 4), code=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def change_together_on_a_failing_disk(self, wanted, step, code):
        """One file operation fails. Each change is made, or the needle is as before."""
        self.files.remaining, self.files.error = step, code
        done = self._change_together(wanted)
        self._go_on_after_a_failure()
        self.model.update(done)

    @rule(wanted=batches, step=st.integers(1, 4), half=st.floats(0, 1))
    def crash_while_changing_together(self, wanted, step, half):
        self.files.remaining, self.files.half = step, half
        try:
            self.model.update(self._change_together(wanted))
        except Crash:
            for needle_id, data in wanted:
                before = self.model.get(needle_id, MISSING)
                self.unsure.setdefault(needle_id, [before]).append(data)
        self._die_and_restart(again_at=step)

    @rule(needle_id=needle_ids, data=payloads)
    def write_blob(self, needle_id, data):
        self._write_blob(needle_id, data)
        self.model[needle_id] = data

    @rule()
    def walk(self):
        """The live needles are those of the model, in the order of .dat."""
        found = {
            needle.needle_id: bytes(needle.data) for needle in self.store.find_volume(VID).live_needles(lambda: True)
        }
        assert found == {needle_id: data for needle_id, data in self.model.items() if data is not MISSING}

    @rule(replication=st.sampled_from(["000", "001", "010"]))
    def configure(self, replication):
        self.store.configure_volume(VID, replication)
        assert str(self.store.find_volume(VID).replica_placement) == replication

    @rule(needle_id=needle_ids)
    def delete(self, needle_id):
        freed = self.store.get_volume(VID).delete(needle_id, COOKIE)
        was = self.model.get(needle_id, MISSING)
        assert (freed > 0) == (was is not MISSING and was != b"")
        self.model[needle_id] = MISSING

    @rule()
    def reopen(self):
        self.store.close()
        self.open()
        assert self.store.findings == []

    @rule(
        needle_id=needle_ids,
        data=payloads,
        step=st.integers(1, 5),
        half=st.floats(0, 1),
        how=st.sampled_from(["write", "write_blob", "delete"]),
    )
    def crash(self, needle_id, data, step, half, how):
        """Dies at the `step`-th file operation of a write or a deletion, then starts again, maybe dying once more."""
        before = self.model.get(needle_id, MISSING)
        self.files.remaining, self.files.half = step, half
        try:
            if how == "write":
                self._write(needle_id, data, fsync=True)
            elif how == "write_blob":
                self._write_blob(needle_id, data)
            else:
                self.store.get_volume(VID).delete(needle_id, COOKIE)
            self.model[needle_id] = MISSING if how == "delete" else data
        except Crash:
            self.unsure[needle_id] = [before, MISSING if how == "delete" else data]
        self._die_and_restart(again_at=step)

    def _go_on_after_a_failure(self) -> None:
        """Does what the next look at a disk with room does, and the operator of a volume that was stopped."""
        self.files.remaining = self.files.error = None
        room = self.store.locations[0].room
        assert not room.is_short or room.keep()
        if self.store.find_volume(VID).is_read_only:
            self.store.mark_writable(self.store.get_volume(VID))

    def _die_and_restart(self, again_at: int) -> None:
        for remaining in (again_at, None):
            self.files.is_dead = True
            self.files.bury()
            self.files = UnreliableFiles()
            self.files.remaining = remaining
            try:
                self.open()
            except Crash:
                continue
            self.files.remaining = None
            break
        assert not self.store.find_volume(VID).is_read_only
        for needle_id, choices in self.unsure.items():
            found = self._read(needle_id)
            # An empty needle whose row was lost looks like a deletion.
            assert any(
                found is choice or found == choice for choice in [*choices, *([MISSING] if b"" in choices else [])]
            )
            self.model[needle_id] = found
        self.unsure.clear()

    @rule(needle_id=needle_ids, data=payloads, step=st.integers(1, 4), code=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def failing_write(self, needle_id, data, step, code):
        """One file operation of a write fails. The store continues, and the needle is as before or written."""
        before = self.model.get(needle_id, MISSING)
        self.files.remaining, self.files.error = step, code
        with contextlib.suppress(StorageError):
            self._write(needle_id, data, fsync=True)
        found = self._read(needle_id)
        self._go_on_after_a_failure()
        assert found is before or found in (before, data)
        self.model[needle_id] = found

    def _read(self, needle_id) -> bytes | object:
        try:
            read = self.store.get_volume(VID).read(needle_id, cookie=COOKIE)
        except (NotFound, Deleted):
            return MISSING
        try:
            if read.payload is not None:
                return read.payload.read(0, read.payload.length_bytes)
            return read.needle.data
        finally:
            read.release()

    @invariant()
    def everything_acknowledged_is_there(self):
        for needle_id, expected in self.model.items():
            found = self._read(needle_id)
            assert found is expected or found == expected


StoreMachine.TestCase.settings = settings(
    settings(),
    max_examples=max(settings().max_examples // 4, 1),
    stateful_step_count=15,
    suppress_health_check=list(HealthCheck),
)
TestStore = pytest.mark.slow(StoreMachine.TestCase)
"""Slow: each example is a store on disk that is opened many times."""


@pytest.mark.slow
def test_a_crash_at_each_step_of_a_first_allocation_leaves_a_usable_directory(tmp_path):
    """Slow: opens a store for each step."""
    step = 0
    while True:
        step += 1
        directory = tmp_path / str(step)
        directory.mkdir()
        files = UnreliableFiles()
        files.remaining = step
        try:
            store = open_at(directory, files=files)
            store.allocate_volume(VID)
            is_whole = True
        except Crash:
            is_whole = False
        files.remaining = None
        files.bury()
        store = open_at(directory)
        if store.find_volume(VID) is None:
            store.allocate_volume(VID)
        store.get_volume(VID).write(Needle(needle_id=1, cookie=COOKIE, data=b"x"))
        store.close()
        assert check_directory(directory).is_healthy
        if is_whole:
            break
    assert step > 8


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_disk_that_refuses_to_take_back_stops_the_volume(tmp_path, step):
    """Each failing step of a write, with every later operation failing too."""
    files = UnreliableFiles()
    store = open_at(tmp_path, files=files)
    store.allocate_volume(VID)
    store.get_volume(VID).write(Needle(needle_id=1, cookie=COOKIE, data=b"kept"))

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "injected")

    files.remaining, files.error = step, errno.EIO
    files.truncate = fail
    with pytest.raises(StorageError):
        store.get_volume(VID).write(Needle(needle_id=2, cookie=COOKIE, data=b"x"), fsync=True)
    with pytest.raises(ReadOnly):
        store.get_volume(VID).write(Needle(needle_id=3, cookie=COOKIE, data=b"x"))
    assert store.get_volume(VID).read(1, cookie=COOKIE).needle.data == b"kept"
    files.bury()


rows_of_index = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 4) | st.just(2**32 + 1), st.integers(0, 3) | st.just(-1)), max_size=30
)


class ModelMap:
    """The index as a dict: upstream's rules for loading and for changing, written a second time."""

    def __init__(self) -> None:
        self.entries: dict[int, tuple[int, int]] = {}
        self.file_count = self.content_bytes = self.deleted_count = self.deleted_bytes = self.max_id = 0

    def load(self, needle_id, offset, size):
        self.max_id = max(self.max_id, needle_id)
        old = self.entries.get(needle_id)
        is_replacing = old is not None and old[1] >= 0
        if offset and size >= 0:
            self.file_count += 1
            self.content_bytes += size
            self.entries[needle_id] = (offset, size)
            if not is_replacing:
                return
        elif is_replacing:
            self.entries[needle_id] = (old[0], -old[1] or -1)
        self.deleted_count += 1
        self.deleted_bytes += old[1] if is_replacing else 0


def numbers(index):
    c = index.counters
    return (c.file_count, c.content_bytes, c.deleted_count, c.deleted_bytes, c.max_needle_id)


@given(rows_of_index, st.sampled_from([4, 5]))
def test_an_index_built_at_once_is_that_of_a_replay(rows, width):
    rows = [row for row in rows if width == 5 or row[1] < 2**32]
    model = ModelMap()
    for row in rows:
        model.load(*row)
    raw = b"".join(encode_entry(*row, width) for row in rows)
    built = build_index(raw + raw[:3], width, 3)
    assert dict(built.index.ascending()) == model.entries
    assert {key: built.index.get(key) for key in range(7)} == {key: model.entries.get(key) for key in range(7)}
    expected = (model.file_count, model.content_bytes, model.deleted_count, model.deleted_bytes, model.max_id)
    assert numbers(built.index) == expected
    placed = [row for row in rows if row[1]]
    assert (built.last_row is None) == (not placed)
    if placed:
        assert built.last_row.offset == max(offset for _, offset, _ in placed)
        assert tuple(built.last_row) in [tuple(IdxEntry(*row)) for row in placed]
    # 16 header + size + 12 tail + padding to the next multiple of 8, in version 3.
    ends = [offset * 8 + (28 + size) // 8 * 8 + 8 for _, offset, size in placed if size > 0]
    assert built.max_end_bytes == max(ends, default=0)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2**33), st.integers(0, 99), st.booleans()), max_size=80))
def test_an_index_with_merges_is_a_dict(changes):
    original = needle_map.MIN_MERGE
    needle_map.MIN_MERGE = 7
    try:
        index = build_index(encode_entry(3, 1, 10, 5), 5, 3).index
        model = {3: (1, 10)}
        for needle_id, offset, size, is_deletion in changes:
            old = model.get(needle_id)
            if not is_deletion:
                index.put(needle_id, offset, size)
                model[needle_id] = (offset, size)
            elif old is not None and old[1] >= 0:
                assert index.delete(needle_id) == old[1]
                model[needle_id] = (old[0], -old[1] or -1)
            else:
                assert index.delete(needle_id) == 0
        assert dict(index.ascending()) == model
        assert [key for key, _ in index.ascending()] == sorted(model)
    finally:
        needle_map.MIN_MERGE = original


def test_an_index_takes_16_bytes_a_needle():
    rows = np.zeros(100_000, np.dtype([("key", ">u8"), ("low", ">u4"), ("size", ">i4")]))
    rows["key"], rows["low"], rows["size"] = np.arange(1, 100_001), np.arange(1, 100_001), 10
    built = build_index(rows.tobytes(), 4, 3)
    assert built.index.size_bytes == 16 * 100_000
    assert built.index.get(77_777) == (77_777, 10)


@pytest.mark.parametrize("first_key", [1, 2**33, None], ids=["small", "narrow", "wide"])
@pytest.mark.parametrize("width", [4, 5])
@pytest.mark.slow
def test_an_index_of_many_rows_in_any_order_is_a_dict(first_key, width):
    """Slow: fifty thousand rows."""
    random = Random(7)
    count = 20_000
    wide = [random.getrandbits(64) for _ in range(count)]
    pool = wide if first_key is None else range(first_key, first_key + count)
    model, rows = {}, []
    keys, sizes = random.choices(pool, k=49_999), random.choices(range(1, 99), k=49_999)
    for offset, (key, drawn) in enumerate(zip(keys, sizes, strict=True), 1):
        size = -1 if drawn < 20 and key in model else drawn
        rows.append(encode_entry(key, offset, size, width))
        model[key] = (offset, size) if size > 0 else (model[key][0], -abs(model[key][1]))
    index = build_index(b"".join(rows), width, 3).index
    assert dict(index.ascending()) == model
    for key in [*pool, 0, 2**64 - 1, *(key + 1 for key in pool)]:
        assert index.get(key) == model.get(key)
