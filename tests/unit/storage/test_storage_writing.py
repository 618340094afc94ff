"""Handles that only append to a shared volume: what they do, what they leave to the owner, and when they stop."""

import gc
import threading
import time

import pytest
from support.descriptors import open_descriptors
from support.disks import DiskInService
from support.files import UNSYNCED_FILES, PlannedFiles, broken
from support.waiting import LIMIT_S

from native_handlers.format.needle import Needle
from native_handlers.format.types import ALIGNMENT_BYTES
from native_handlers.storage.index import needle_map
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import LeftToOwner, ReadOnly, VolumeClosed, WriteFailed
from native_handlers.storage.shared import writing
from native_handlers.storage.shared.attach import attach_volume, share_volume
from native_handlers.storage.shared.state import BUSY
from native_handlers.storage.shared.writing import attach_for_writing
from native_handlers.storage.volume.write import SmallChange

COOKIE = 0xC0FFEE
VID = 7


@pytest.fixture
def store(tmp_path, files, opened):
    return opened(tmp_path, files=files)


@pytest.fixture
def owner(store):
    return store.find_volume(VID)


@pytest.fixture
def attach(owner):
    """A function that makes another handle, as another process would."""
    volumes = []

    def attach(files=UNSYNCED_FILES, clock_ns=time.time_ns, appended=None):
        fd = share_volume(owner)
        volumes.append(attach_for_writing(fd, DiskInService(), clock_ns, appended=appended, files=files))
        return volumes[-1]

    yield attach
    for volume in volumes:
        volume.detach()


@pytest.fixture
def _hurried(monkeypatch):
    monkeypatch.setattr(writing, "LOCK_S", 0.01)


def put(volume, needle_id, data=b"data", **options):
    return volume.write(Needle(needle_id=needle_id, cookie=COOKIE, data=data), **options)


def get(volume, needle_id):
    return volume.read(needle_id, cookie=COOKIE).needle.data


def try_put(volume, *needle_ids):
    """Small writes together. Returns those that were made."""
    changes = [SmallChange(Needle(needle_id=one, cookie=COOKIE, data=b"small")) for one in needle_ids]
    volume.try_together(changes)
    return [change.needle.needle_id for change in changes if change.result is not None]


def test_what_it_writes_is_what_the_owner_has(owner, attach):
    writer = attach()
    put(writer, 1)
    put(owner, 2)
    put(writer, 3, fsync=True)
    assert try_put(writer, 4, 5) == [4, 5]
    writer.delete(2, COOKIE)
    assert [get(owner, number) for number in (1, 3, 4, 5)] == [b"data", b"data", b"small", b"small"]
    report = owner.report()
    assert (report.file_count, report.delete_count) == (5, 1)
    assert report.size_bytes == owner.paths.file(".dat").stat().st_size
    assert report.index_size_bytes == owner.paths.file(".idx").stat().st_size
    assert report.modified_at_s == writer.report().modified_at_s > 0


def test_append_times_grow_from_process_to_process(owner, attach):
    late, early = attach(clock_ns=lambda: 10**18), attach(clock_ns=lambda: 1000)
    for number, volume in enumerate((late, early, late, early, early), 1):
        put(volume, number)
    times = [owner.read(number).needle.append_at_ns for number in range(1, 6)]
    assert times == [10**18 + number for number in range(5)]


def test_the_bytes_that_it_appends_are_told(owner, attach):
    told = []
    writer = attach(appended=told.append)
    before = owner.size_bytes
    put(writer, 1)
    try_put(writer, 2, 3)
    writer.delete(1, COOKIE)
    assert len(told) == 3
    assert sum(told) == owner.size_bytes - before


def test_a_hold_is_for_all_when_it_says_so(owner, attach):
    writer = attach()
    put(writer, 1)
    owner.claim.take("is being copied", holds_writes=True)
    assert try_put(writer, 2) == []
    with pytest.raises(LeftToOwner):
        put(writer, 2)
    with pytest.raises(LeftToOwner):
        writer.delete(1, COOKIE)
    with pytest.raises(ReadOnly):
        put(owner, 2)
    owner.claim.give_up()
    assert try_put(writer, 2) == [2]
    owner.claim.take("is being moved to disk", holds_writes=False)
    put(writer, 3)


def test_synced_changes_are_left_together(owner, attach):
    writer = attach()
    changes = [SmallChange(Needle(needle_id=one, cookie=COOKIE, data=b"synced")) for one in (1, 2, 3)]
    owner.claim.take("is being copied", holds_writes=True)
    writer.try_synced(changes)
    assert [change.result for change in changes] == [None, None, None]
    assert owner.report().file_count == 0
    owner.claim.give_up()
    writer.try_synced(changes)
    assert None not in [change.result for change in changes]
    assert [get(owner, number) for number in (1, 2, 3)] == 3 * [b"synced"]


def test_a_hold_that_began_before_the_sharing_is_for_all(owner, attach):
    owner.claim.take("is being copied", holds_writes=True)
    writer = attach()
    assert try_put(writer, 1) == []
    owner.claim.give_up()
    assert try_put(writer, 1) == [1]


def test_after_a_death_the_owner_repairs(owner, attach):
    writer = attach()
    put(writer, 1)
    opened = writer.handle.opened
    UNSYNCED_FILES.write(opened.dat.fd, [b"half a record"], opened.dat_end_bytes)
    opened.share.state.words[BUSY] = 1
    assert try_put(writer, 2) == []
    with pytest.raises(LeftToOwner):
        put(writer, 2)
    assert owner.paths.file(".dat").stat().st_size % ALIGNMENT_BYTES, "nothing was repaired"
    put(owner, 2)
    put(writer, 3)
    assert [get(owner, number) for number in (1, 2, 3)] == 3 * [b"data"]


@pytest.mark.usefixtures("_hurried")
def test_a_lock_that_is_held_too_long_is_left_to_the_owner(owner, attach):
    writer, other = attach(), attach()
    put(writer, 1)
    before = owner.size_bytes
    is_held, may_end = threading.Event(), threading.Event()

    def hold():
        with other.handle.begin_write():
            is_held.set()
            assert may_end.wait(LIMIT_S)

    holding = threading.Thread(target=hold)
    holding.start()
    assert is_held.wait(LIMIT_S)
    with pytest.raises(LeftToOwner, match="was not free"):
        put(writer, 2)
    assert try_put(writer, 2) == []
    assert owner.size_bytes == before
    assert owner.handle.lock_wait_s == 0.0
    writing_owner = threading.Thread(target=put, args=(owner, 3))
    writing_owner.start()
    while owner.handle.lock_wait_s < 0.02:
        assert writing_owner.is_alive()
    may_end.set()
    for thread in (holding, writing_owner):
        thread.join(LIMIT_S)
    assert owner.handle.lock_wait_s == 0.0
    put(writer, 2)


def test_the_owner_merges_the_index(owner, attach, monkeypatch):
    monkeypatch.setattr(needle_map, "MIN_MERGE", 4)
    writer = attach()
    for number in range(1, 5):
        put(writer, number)
    with pytest.raises(LeftToOwner):
        put(writer, 5)
    put(owner, 5)
    for number in (6, 7, 8):
        put(writer, number)
    assert [get(owner, number) for number in range(1, 9)] == [get(writer, number) for number in range(1, 9)]


def test_marks_hold_at_once(owner, attach):
    writer = attach()
    put(writer, 1)
    owner.marks.mark_read_only(can_delete=True, persist=False)
    with pytest.raises(ReadOnly):
        put(writer, 2)
    assert try_put(writer, 2) == []
    writer.delete(1, COOKIE)
    owner.marks.mark_read_only(can_delete=False, persist=True)
    with pytest.raises(ReadOnly):
        writer.delete(1, COOKIE)
    owner.marks.mark_writable()
    put(writer, 2)


def test_after_a_close_nothing_is_written(owner, attach):
    writer, path = attach(), owner.paths.file(".dat")
    put(writer, 1)
    owner.close()
    size = path.stat().st_size
    with pytest.raises(VolumeClosed):
        put(writer, 2)
    assert try_put(writer, 2) == []
    assert writer.is_closed
    assert path.stat().st_size == size


def test_after_the_sharing_nothing_is_written(owner, attach):
    writer = attach()
    with owner.handle.begin_write():
        owner.handle.unshare()
    with pytest.raises(VolumeClosed):
        put(writer, 1)
    put(owner, 2)


def test_a_vacuum_has_what_it_wrote_before_and_it_writes_to_the_new_files(owner, attach):
    writer = attach()
    for number in range(1, 20):
        put(writer, number)
    writer.delete(3, COOKIE)
    list(owner.compaction.run(CompactionOptions()))
    put(writer, 20)
    put(writer, 1, b"newer")
    writer.delete(2, COOKIE)
    owner.compaction.commit()
    put(writer, 21)
    assert try_put(writer, 22) == [22]
    assert get(owner, 1) == b"newer"
    live = [number for number, at in owner.handle.opened.index.ascending() if at.size > 0]
    assert live == [1, *range(4, 23)]
    for number in live:
        assert get(owner, number) == get(writer, number)


def test_files_without_their_names_are_left_to_the_owner(owner, attach, files):
    """The renames of a vacuum failed."""
    writer = attach()
    put(writer, 1)
    list(owner.compaction.run(CompactionOptions()))
    files.plan["rename"] = broken()
    owner.compaction.commit()
    assert try_put(writer, 2) == []
    with pytest.raises(WriteFailed):
        put(writer, 2)
    files.plan.clear()
    owner.compaction.cleanup()
    put(writer, 2)
    assert get(owner, 2) == b"data"


def test_repeated_io_errors_stop_all(owner, attach):
    files = PlannedFiles(matches=lambda path: path.suffix == ".idx")
    writer = attach(files)
    put(writer, 1)
    files.plan["write"] = broken()
    for _ in range(3):
        assert try_put(writer, 2) == []
    files.plan.clear()
    for volume in (writer, owner):
        with pytest.raises(ReadOnly) as refused:
            put(volume, 2)
        assert refused.value.reason == "repeated I/O errors"
    assert not owner.report().is_announced, "the master replicates it elsewhere"
    owner.marks.mark_writable()
    assert owner.report().is_announced
    assert try_put(writer, 2) == [2]


def test_a_full_disk_leaves_the_files_as_they_were(owner, attach):
    files = PlannedFiles(short_write_bytes=5)
    writer = attach(files)
    put(writer, 1)
    sizes = owner.file_sizes()
    for extension in (".dat", ".idx"):
        files.matches = lambda path, extension=extension: path.suffix == extension
        files.plan["write"] = (0, 28)
        assert try_put(writer, 2) == []
        files.plan.clear()
        found = owner.paths.file(".dat").stat().st_size, owner.paths.file(".idx").stat().st_size
        assert found == owner.file_sizes() == sizes
    assert try_put(writer, 2) == [2]


def test_it_changes_nothing_but_records_and_rows(owner, attach):
    """No descriptor stays, and the volume stays open for all others."""
    other = attach_volume(share_volume(owner), DiskInService(), time.time_ns, UNSYNCED_FILES)
    before = open_descriptors()
    writer = attach_for_writing(share_volume(owner), DiskInService(), time.time_ns, files=UNSYNCED_FILES)
    put(writer, 1)
    writer.detach()
    writer.handle.opened = None
    del writer
    gc.collect()
    assert not open_descriptors() - before
    put(other, 2)
    put(owner, 3)
    other.close()
