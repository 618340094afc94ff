"""Handles that only read a shared volume: they change nothing, wait for nothing on an event loop, and leave nothing."""

import errno
import gc
import os
import threading
import time

import pytest
from support.descriptors import open_descriptors
from support.disks import DiskInService
from support.files import UNSYNCED_FILES, broken

from native_handlers.format.needle import Needle
from native_handlers.storage.model.errors import NotFound, ReadOnly, VolumeClosed, WriteFailed
from native_handlers.storage.shared import share
from native_handlers.storage.shared.attach import share_volume
from native_handlers.storage.shared.reading import ShareLost, attach_for_reading
from native_handlers.storage.shared.state import BUSY
from native_handlers.storage.system.files import NotCached
from native_handlers.storage.volume.state import FilesSwapped

COOKIE = 0xC0FFEE
VID = 7


@pytest.fixture
def store(tmp_path, files, opened):
    return opened(tmp_path, files=files)


@pytest.fixture
def owner(store):
    return store.find_volume(VID)


def attach(owner, loop_thread=None, files=UNSYNCED_FILES):
    descriptor = os.open(f"/proc/self/fd/{share_volume(owner)}", os.O_RDONLY)
    try:
        return attach_for_reading(descriptor, DiskInService(), time.time_ns, loop_thread=loop_thread, files=files)
    finally:
        os.close(descriptor)


def put(volume, needle_id, data=b"data"):
    volume.write(Needle(needle_id=needle_id, cookie=COOKIE, data=data))


def get(volume, needle_id, **options):
    return volume.read(needle_id, cookie=COOKIE, **options).needle.data


def in_thread(work):
    """What `work` returns in another thread."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def test_writes_are_refused_and_no_lock_is_taken(owner):
    reader = attach(owner)
    put(owner, 1)
    assert get(reader, 1) == b"data"
    with pytest.raises(ReadOnly):
        put(reader, 2)
    with pytest.raises(ReadOnly):
        reader.delete(1, COOKIE)
    assert get(owner, 1) == b"data"
    assert not owner.is_read_only
    assert owner.handle.opened.share.state.words[BUSY] == 0
    with owner.handle.begin_write():
        assert in_thread(lambda: get(reader, 1)) == b"data"
    reader.detach()


def test_neither_files_nor_memory_can_be_written(owner):
    reader = attach(owner)
    opened = reader.handle.opened
    for descriptor in (opened.dat.fd, opened.idx.fd, opened.share.fd):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(descriptor, b"x", 0)
    with pytest.raises(TypeError, match="read-only"):
        opened.share.state.words[BUSY] = 1
    reader.detach()


@pytest.mark.slow
def test_detaching_gives_every_descriptor_back(owner):
    """Slow: two full collections of cycles."""
    for needle_id in range(1, 300):
        put(owner, needle_id)
    share_volume(owner)
    gc.collect()
    before = open_descriptors()
    reader = attach(owner)
    assert get(reader, 299) == b"data"
    reader.detach()
    with pytest.raises(NotFound):
        get(reader, 299)
    reader.detach()
    del reader
    gc.collect()
    assert open_descriptors() == before


def test_a_read_under_way_ends_on_the_files_it_has(owner):
    put(owner, 1, bytes(3 << 20))
    reader = attach(owner)
    read = reader.read(1, cookie=COOKIE, data=False)
    reader.detach()
    assert len(read.payload.read(0, 100_000)) == 100_000
    read.release()


def test_who_must_not_wait_follows_a_little_and_leaves_more_to_a_thread(owner, monkeypatch):
    monkeypatch.setattr(share, "PASSING_BYTES", 2 * 16)
    reader = attach(owner, threading.get_ident())
    for needle_id in (1, 2):
        put(owner, needle_id)
    assert reader.try_read_cached(1, COOKIE).data == b"data"
    for needle_id in (3, 4, 5):
        put(owner, needle_id)
    assert reader.try_read_cached(1, COOKIE) is None
    with pytest.raises(NotCached):
        get(reader, 5, cached_only=True)
    assert in_thread(lambda: get(reader, 5)) == b"data"
    assert reader.try_read_cached(5, COOKIE).data == b"data"
    reader.detach()


def test_who_must_not_wait_does_not_read_rows_from_a_disk(owner, files, monkeypatch):
    reader = attach(owner, threading.get_ident(), files)
    put(owner, 1)

    def not_cached(_fd, _length_bytes, _offset_bytes):
        raise NotCached

    monkeypatch.setattr(files, "read_cached", not_cached)
    assert reader.try_read_cached(1, COOKIE) is None
    monkeypatch.undo()
    assert reader.try_read_cached(1, COOKIE).data == b"data"
    reader.detach()


def test_who_must_not_wait_waits_for_no_thread_that_follows(owner, files, monkeypatch):
    reader = attach(owner, threading.get_ident(), files)
    put(owner, 1)
    read, is_in_passing = files.read, []
    idx_fd = reader.handle.opened.idx.fd

    def look_meanwhile(fd, length_bytes, offset_bytes):
        if fd == idx_fd:
            is_reading.set()
            assert may_go_on.wait(60)
        return read(fd, length_bytes, offset_bytes)

    is_reading, may_go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(files, "read", look_meanwhile)
    thread = threading.Thread(target=lambda: is_in_passing.append(get(reader, 1)))
    thread.start()
    assert is_reading.wait(60)
    assert reader.try_read_cached(1, COOKIE) is None
    may_go_on.set()
    thread.join()
    monkeypatch.undo()
    assert is_in_passing == [b"data"]
    assert reader.try_read_cached(1, COOKIE).data == b"data"
    reader.detach()


def test_files_that_the_state_does_not_name_yet_are_not_read(owner, tmp_path):
    """A swap gives the new files their names before it commits: the old index leads nowhere in them."""
    put(owner, 1)
    dat = owner.handle.opened.dat.path
    kept = dat.with_suffix(".kept")
    dat.rename(kept)
    dat.write_bytes(kept.read_bytes())
    with pytest.raises(OSError, match="not those that the volume has"):
        attach(owner)
    kept.rename(dat)
    reader = attach(owner)
    assert get(reader, 1) == b"data"
    reader.detach()


def test_a_closed_volume_and_another_file_are_refused(owner, store):
    descriptor = os.open(f"/proc/self/fd/{share_volume(owner)}", os.O_RDONLY)
    store.unmount_volume(VID)
    with pytest.raises(VolumeClosed):
        attach_for_reading(descriptor, DiskInService(), time.time_ns)
    os.close(descriptor)
    with open(os.devnull, "rb") as other, pytest.raises(ShareLost):
        attach_for_reading(other.fileno(), DiskInService(), time.time_ns)


def test_a_moved_index_ends_the_sharing_and_the_owner_goes_on(tmp_path, opened):
    store = opened(tmp_path)
    owner = store.find_volume(VID)
    for needle_id in range(1, 300):
        put(owner, needle_id)
    reader = attach(owner)
    assert get(reader, 299) == b"data"
    (tmp_path / "index").mkdir()
    before = open_descriptors()
    owner.move_index(tmp_path / "index")
    assert len(open_descriptors()) < len(before), "the share's descriptors are closed"
    with pytest.raises(NotFound):
        get(reader, 299)
    put(owner, 300)
    assert get(owner, 299) == get(owner, 300) == b"data"
    reader.detach()
    again = attach(owner)
    assert get(again, 300) == b"data"
    again.detach()
    owner.move_index(tmp_path)


def test_a_reader_of_the_owner_goes_on_while_the_sharing_ends(owner):
    """Also one that has taken the shared index already."""
    put(owner, 1)
    share_volume(owner)
    index = owner.handle.opened.index
    with owner.handle.begin_write():
        owner.handle.unshare()
    assert owner.handle.share_generation == 0
    with pytest.raises(FilesSwapped):
        index.get(1)
    assert get(owner, 1) == b"data"
    assert owner.report().file_count == 1


def test_what_cannot_be_shared_is_refused(owner, files):
    files.matches = lambda path: "memfd" in str(path)
    files.plan["write"] = broken(errno.ENOSPC)
    with pytest.raises(WriteFailed):
        share_volume(owner)
    files.plan.clear()
    assert owner.handle.share_generation == 0
