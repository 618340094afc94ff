"""Sharing a volume: errors on the way, changes that a holder notices, and the costs for a volume that is not shared."""

import errno
import gc
import os
import threading
import time

import pytest
from support.descriptors import open_descriptors
from support.disks import DiskInService
from support.files import UNSYNCED_FILES, PlannedFiles, broken
from support.waiting import LIMIT_S

from native_handlers.format.needle import Needle
from native_handlers.storage.index import needle_map
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import NotFound, ReadFailed, ReadOnly, VolumeClosed, WriteFailed
from native_handlers.storage.shared.attach import attach_volume, share_volume
from native_handlers.storage.shared.state import (
    BUSY,
    HEAD_BYTES,
    INTACT,
    SEQUENCE,
    CommittedState,
    SharedState,
    ShareLost,
)
from native_handlers.storage.system.files import NotCached, replace_file
from native_handlers.storage.volume.state import VolumeProgress

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

    def attach(files=None):
        volumes.append(attach_volume(share_volume(owner), DiskInService(), time.time_ns, files or UNSYNCED_FILES))
        return volumes[-1]

    yield attach
    for volume in volumes:
        volume.close()


def fail_in_memory(files):
    """Files in memory take no more bytes."""
    files.matches = lambda path: "memfd" in str(path)
    files.plan["write"] = broken(errno.ENOSPC)


def put(volume, needle_id, data=b"data", **options):
    return volume.write(Needle(needle_id=needle_id, cookie=COOKIE, data=data), **options)


def get(volume, needle_id, **options):
    return volume.read(needle_id, cookie=COOKIE, **options).needle.data


def test_a_volume_that_is_not_shared_takes_no_lock_between_processes(owner, files):
    put(owner, 1)
    put(owner, 2, fsync=True)
    owner.delete(1, COOKIE)
    assert files.calls["wait_lock"] == 0
    share_volume(owner)
    put(owner, 3)
    assert files.calls["wait_lock"] == 1


def test_sharing_again_gives_the_same_descriptor(owner):
    assert share_volume(owner) == share_volume(owner)


def test_a_closed_volume_is_not_shared(owner):
    owner.close()
    with pytest.raises(VolumeClosed):
        share_volume(owner)


@pytest.mark.parametrize("failing", ["memory_file", "reopen", "memory"])
def test_a_volume_that_cannot_be_shared_stays_as_it_was(owner, files, failing):
    put(owner, 1)
    if failing == "memory":
        fail_in_memory(files)
    else:
        files.plan[failing] = broken(errno.EMFILE)
    before = open_descriptors()
    with pytest.raises(WriteFailed):
        share_volume(owner)
    assert not open_descriptors() - before
    files.plan.clear()
    put(owner, 2)
    assert files.calls["wait_lock"] == 0
    assert get(owner, 1) == get(owner, 2) == b"data"


@pytest.mark.parametrize("content", [b"", b"x", bytes(HEAD_BYTES), b"\xff" * HEAD_BYTES])
def test_a_descriptor_of_something_else_is_refused(content):
    fd = os.memfd_create("other")
    os.write(fd, content)
    before = open_descriptors()
    with pytest.raises(ShareLost):
        attach_volume(fd, DiskInService(), time.time_ns)
    assert not open_descriptors() - before
    os.close(fd)


def test_closing_gives_every_descriptor_back(owner, store):
    before = open_descriptors()
    attached = attach_volume(share_volume(owner), DiskInService(), time.time_ns)
    put(attached, 1)
    attached.close()
    owner.close()
    del attached
    # The mappings' own descriptors close with the last reference to the columns, and the parts of a volume refer to
    # each other.
    owner.handle.opened = None
    gc.collect()
    assert not open_descriptors() - before


def test_who_attached_leaves_without_harm(owner, attach):
    attached = attach()
    put(attached, 1)
    attached.close()
    with pytest.raises(NotFound):
        get(attached, 1)
    with pytest.raises(VolumeClosed):
        put(attached, 2)
    assert get(owner, 1) == b"data"
    put(owner, 2)


def test_a_closed_volume_is_closed_for_all(owner, attach):
    attached = attach()
    put(owner, 1)
    owner.close()
    with pytest.raises(NotFound):
        get(attached, 1)
    with pytest.raises(VolumeClosed):
        put(attached, 2)
    assert attached.report() is None
    assert attached.is_closed


def test_a_full_memory_costs_memory_and_nothing_else(owner, attach, monkeypatch, caplog):
    """An index that cannot be published stays in each process's own dict, and the publication is tried again."""
    monkeypatch.setattr(needle_map, "MIN_MERGE", 4)
    files = PlannedFiles()
    attached = attach(files)
    fail_in_memory(files)
    for needle_id in range(1, 12):
        put(attached, needle_id)
    assert "the merged index was not published" in caplog.text
    assert [get(owner, needle_id) for needle_id in range(1, 12)] == [b"data"] * 11
    files.plan.clear()
    for needle_id in range(12, 40):
        put(attached, needle_id)
    assert len(attached.handle.opened.index.layers.delta) < 4
    assert [get(owner, needle_id) for needle_id in range(1, 40)] == [b"data"] * 39


@pytest.mark.slow
def test_memory_of_old_columns_is_given_back(owner, attach, monkeypatch):
    """Slow: four thousand writes."""
    monkeypatch.setattr(needle_map, "MIN_MERGE", 50)
    attached = attach()
    for needle_id in range(1, 4000):
        put(attached, needle_id)
    fd = share_volume(owner)
    taken_bytes = os.fstat(fd).st_blocks * 512
    # The head, and columns of 16 bytes a needle, rounded up to pages. Eighty publications came before.
    assert taken_bytes < HEAD_BYTES + 16 * 4000 + 6 * 4096
    assert attached.handle.opened.share.state.words[INTACT] > 70
    assert get(owner, 1) == get(owner, 3999) == b"data"


def test_an_index_file_that_was_cut_stops_every_process(owner, attach):
    attached = attach()
    put(owner, 1)
    put(owner, 2)
    assert get(attached, 2) == b"data"
    opened = owner.handle.opened
    # No process that follows the protocol does this. The dead holder makes the next one check.
    os.ftruncate(opened.idx.fd, 16)
    opened.share.state.words[BUSY] = 1
    for volume in (attached, owner):
        with pytest.raises(ReadOnly) as refused:
            put(volume, 3)
        assert "shorter than was committed" in refused.value.reason
    assert get(owner, 1) == b"data"
    owner.marks.mark_writable()
    put(attached, 3)
    assert get(owner, 3) == b"data"


@pytest.mark.parametrize("is_readable", [True, False])
def test_files_that_cannot_be_repaired_lose_nothing_that_was_acknowledged(owner, attach, files, is_readable):
    """The process that finds the fault had not followed all of the others' changes."""
    attached = attach()
    put(owner, 1)
    assert get(attached, 1) == b"data"
    put(attached, 2)
    opened = attached.handle.opened
    # No process that follows the protocol does this. The dead holder makes the next one check.
    os.pwrite(opened.dat.fd, b"\xff" * 64, opened.dat_end_bytes)
    opened.share.state.words[BUSY] = 1
    if not is_readable:
        files.matches = lambda path: str(path).endswith(".idx")
        files.plan["read"] = 1, errno.EIO  # the repair reads it first
    with pytest.raises(ReadOnly):
        put(owner, 3)
    if not is_readable:
        with pytest.raises(ReadFailed):
            get(owner, 2)
        files.let_all_go_on()
    assert get(owner, 2) == get(attached, 2) == b"data"
    assert owner.report().file_count == attached.report().file_count == 2
    os.ftruncate(opened.dat.fd, opened.dat_end_bytes)


def test_a_repair_that_fails_loses_nothing_that_was_acknowledged(owner, attach, files):
    attached = attach()
    put(owner, 1)
    put(attached, 2)
    opened = attached.handle.opened
    os.pwrite(opened.idx.fd, b"half a r", opened.idx_end_bytes)
    opened.share.state.words[BUSY] = 1
    files.plan["truncate"] = broken()
    with pytest.raises(WriteFailed):
        put(owner, 3)
    assert get(owner, 2) == b"data"
    files.let_all_go_on()
    put(owner, 3)
    assert get(attached, 3) == get(owner, 2) == b"data"


def test_a_disk_that_fails_leaves_the_reports_as_they_were(store, owner, attach, files):
    """Each volume has its report still: an error would end the looks at all disks."""
    attached = attach()
    put(owner, 1)
    assert [report.file_count for report in store.volume_reports()] == [1]
    put(attached, 2)
    files.is_cold = True
    files.plan["read"] = broken()
    assert [report.file_count for report in store.volume_reports()] == [1]
    assert [report.file_count for report in store.reports_of([VID])] == [1]
    assert owner.room_left_bytes(1 << 30) > 0
    assert not owner.is_expired(1 << 30)
    assert not owner.is_read_only
    assert not owner.read_only_reasons.is_read_only
    with pytest.raises(ReadFailed):
        owner.report()
    files.let_all_go_on()
    assert [report.file_count for report in store.volume_reports()] == [2]


def test_a_look_reads_what_others_wrote_from_memory(store, owner, attach, files):
    attached = attach()
    put(attached, 1)
    files.plan["read"] = broken()
    assert [report.file_count for report in store.reports_of([VID])] == [1]


def test_a_mark_holds_for_who_attaches_after_it(owner, attach):
    """The .vif does not have it, so the shared state must tell."""
    attach()
    owner.marks.mark_read_only(can_delete=False, persist=False)
    late = attach()
    with pytest.raises(ReadOnly):
        put(late, 1)
    assert late.is_read_only
    owner.marks.mark_writable()
    put(late, 1)


def test_the_replication_of_the_vif_holds_for_who_attaches(store, owner, attach):
    put(owner, 1)
    store.configure_volume(VID, "001")
    owner = store.find_volume(VID)
    attached = attach_volume(share_volume(owner), DiskInService(), time.time_ns, UNSYNCED_FILES)
    assert owner.copy_count == attached.copy_count == 2
    attached.close()


def compacted_without_names(owner, files):
    """Vacuums the volume on a disk that fails the renames: the paths lead to the old files."""
    list(owner.compaction.run(CompactionOptions()))
    files.plan["rename"] = broken()
    owner.compaction.commit()


def test_nothing_is_written_to_files_that_only_have_the_names(owner, attach, files):
    put(owner, 1)
    put(owner, 2)
    owner.delete(2, COOKIE)
    attached = attach()
    compacted_without_names(owner, files)
    with pytest.raises(WriteFailed):
        put(attached, 3)
    with pytest.raises(OSError, match="not those that the volume has"):
        attach()
    put(owner, 4)
    files.plan.clear()
    owner.compaction.cleanup()
    put(attached, 5)
    assert [get(owner, number) for number in (1, 4, 5)] == [get(attached, number) for number in (1, 4, 5)]


def test_what_another_one_wrote_is_synced_after_the_sharing_has_ended(owner, attach, files, tmp_path):
    put(owner, 1)
    owner.sync()
    put(attach(), 2)
    with owner.handle.begin_write():
        owner.handle.unshare()
    assert files.since(owner.sync)["sync"] == 2
    assert files.since(owner.sync)["sync"] == 0


def test_a_change_that_waits_while_the_volume_is_let_go_is_not_made_without_the_lock(owner, attach):
    files = PlannedFiles()
    attached = attach(files)
    begun, results = threading.Event(), []

    def change():
        begun.set()
        try:
            results.append(put(attached, 1))
        except VolumeClosed as error:
            results.append(error)

    changing, leaving = threading.Thread(target=change), threading.Thread(target=attached.detach)
    with attached.handle.begin_write():
        changing.start()
        assert begun.wait(LIMIT_S)
        leaving.start()
    changing.join(LIMIT_S)
    leaving.join(LIMIT_S)
    was_made = not isinstance(results[0], VolumeClosed)
    assert files.calls["wait_lock"] == 1 + was_made
    with pytest.raises(VolumeClosed):
        put(attached, 3)
    assert attached.is_closed
    put(owner, 4)


def test_files_that_were_swapped_and_not_announced_are_opened_anew(owner, attach, files):
    """As after a holder that died between its rename and its commit."""
    attached = attach()
    put(owner, 1)
    idx = owner.handle.opened.idx.path
    replace_file(files, idx, idx.read_bytes())
    owner.handle.opened.share.state.words[BUSY] = 1
    put(attached, 2)
    assert get(owner, 1) == get(owner, 2) == b"data"
    owner_fd, attached_fd = owner.handle.opened.idx.fd, attached.handle.opened.idx.fd
    assert os.fstat(owner_fd).st_ino == os.fstat(attached_fd).st_ino == idx.stat().st_ino


def test_who_must_not_wait_is_not_made_to_open_files(owner, attach):
    attached = attach()
    put(owner, 1)
    with owner.handle.begin_write():
        owner.handle.reopen(owner.handle.opened, [])
    with pytest.raises(NotCached):
        attached.read(1, cached_only=True)
    assert attached.try_read_cached(1, COOKIE) is None
    assert get(attached, 1) == b"data"
    assert get(attached, 1, cached_only=True) == attached.try_read_cached(1, COOKIE).data == b"data"


def test_a_disk_that_fails_the_repair_fails_the_write_and_the_next_one_repairs(owner, attach):
    files = PlannedFiles()
    attached = attach(files)
    put(owner, 1)
    owner.handle.opened.share.state.words[BUSY] = 1
    os.pwrite(owner.handle.opened.idx.fd, b"half", owner.index_size_bytes)
    files.plan["truncate"] = broken()
    with pytest.raises(WriteFailed):
        put(attached, 2)
    with pytest.raises(WriteFailed):
        put(attached, 2, fsync=True)
    files.plan.clear()
    put(attached, 2)
    assert owner.index_size_bytes == 32


def test_a_lock_that_is_not_to_be_had_fails_the_write(owner, files):
    share_volume(owner)
    files.plan["wait_lock"] = broken(errno.EMFILE)
    with pytest.raises(WriteFailed):
        put(owner, 1)
    files.plan.clear()
    put(owner, 1)


def test_repeated_io_errors_of_one_process_stop_all_and_are_forgotten_together(owner, attach):
    files = PlannedFiles()
    attached = attach(files)
    put(owner, 1)
    assert get(attached, 1) == b"data"
    files.plan["read"] = broken()
    for _ in range(3):
        with pytest.raises(ReadFailed):
            get(attached, 1)
    files.plan.clear()
    for volume in (attached, owner):
        with pytest.raises(ReadOnly) as refused:
            put(volume, 2)
        assert refused.value.reason == "repeated I/O errors"
    owner.marks.mark_writable()
    put(attached, 2)


def test_an_error_that_is_no_error_of_the_store_makes_the_next_one_look(owner, attach):
    attached = attach()
    put(owner, 1)

    def fail():
        with owner.handle.begin_write():
            os.pwrite(owner.handle.opened.idx.fd, b"half", owner.index_size_bytes)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert owner.handle.opened.share.was_left_busy
    put(attached, 2)
    assert not owner.handle.opened.share.was_left_busy
    assert owner.index_size_bytes == owner.handle.opened.idx.path.stat().st_size == 32


def test_a_state_that_was_not_committed_is_none(owner, attach):
    attached = attach()
    put(owner, 1)
    state = owner.handle.opened.share.state
    present = state.read()
    # A commit died before its deciding store: the other slot is half written.
    start = 256 + (present.sequence + 1) % 2 * 128
    os.pwrite(share_volume(owner), b"\xff" * 40, start)
    assert state.read() == present
    put(attached, 2)
    assert state.words[SEQUENCE] > present.sequence
    assert get(owner, 2) == b"data"


def test_threads_of_two_handles_write_and_sync_together(owner, attach):
    attached = attach()
    errors = []

    def write(volume, first):
        try:
            for needle_id in range(first, first + 20):
                put(volume, needle_id, fsync=needle_id % 2 == 0)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=write, args=(one, 1000 * n)) for n, one in enumerate([owner, attached] * 3, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for first in range(1000, 7000, 1000):
        for needle_id in range(first, first + 20):
            assert get(owner, needle_id) == get(attached, needle_id) == b"data"
    assert owner.report().file_count == attached.report().file_count == 120


def test_why_writes_are_refused_is_told_in_any_script(owner, attach):
    attached = attach()
    with owner.handle.begin_write():
        owner.handle.write_state.stop("\U0001f4a5" * 500)
    assert attached.read_only_reasons.text == "\U0001f4a5" * 80


def test_readers_miss_nothing_while_a_volume_is_being_shared(owner, monkeypatch):
    """A reader reads each time that the sharing writes or reads."""
    put(owner, 1)
    seen = []

    def and_read(function):
        def wrapped(*arguments, **options):
            seen.append(get(owner, 1))
            result = function(*arguments, **options)
            seen.append(get(owner, 1))
            return result

        return wrapped

    with monkeypatch.context() as patched:
        for name in ("commit", "write_table", "read_table", "write_texts"):
            patched.setattr(SharedState, name, and_read(getattr(SharedState, name)))
        share_volume(owner)
    assert len(seen) >= 6
    assert set(seen) == {b"data"}
    assert get(owner, 1) == b"data"


def test_the_progress_of_a_state_is_that_of_the_volume():
    state = CommittedState(*range(len(CommittedState._fields)))
    assert state.progress._asdict() == {name: getattr(state, name) for name in VolumeProgress._fields}
    moved = state.at(VolumeProgress(10, 20, 30, 40, 50, 60))
    assert moved == state._replace(**moved.progress._asdict())
    assert moved.progress == (10, 20, 30, 40, 50, 60)


def test_a_writer_that_nobody_has_overtaken_reads_no_rows_again(owner, attach, monkeypatch):
    attached = attach()
    put(owner, 1)
    followed = []
    share = owner.handle.opened.share
    follow = share.follow
    monkeypatch.setattr(share, "follow", lambda opened, **how: (followed.append(1), follow(opened, **how)))
    put(owner, 2)
    assert not followed
    put(attached, 3)
    put(owner, 4)
    assert followed
    assert [get(owner, number) for number in range(1, 5)] == 4 * [b"data"]
