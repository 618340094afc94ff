"""Sharing a volume: errors on the way, what is noticed, and what sharing costs who does not share."""

import errno
import os
import threading
import time

import pytest

from native_handlers.format.needle import Needle
from native_handlers.storage import needle_index
from native_handlers.storage.check import check_directory
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.errors import NotFound, ReadOnly, VolumeClosed, WriteFailed
from native_handlers.storage.files import OS_FILES, NotCached, OsFiles, replace_file
from native_handlers.storage.shared_state import BUSY, HEAD_BYTES, INTACT, SEQUENCE, SharedState, ShareLost
from native_handlers.storage.store import StoreConfig, open_store
from native_handlers.storage.volume import attach_volume

COOKIE = 0xC0FFEE
VID = 7


class Home:
    disk_type, disk_id, is_space_low, is_unavailable = "", 0, False, False

    def check_in_service(self):
        """The disk is well."""

    def facts_in_time(self, path):
        return OS_FILES.facts(path)


class PickyFiles(OsFiles):
    """Fails the operations that are named in `failing`; counts locks."""

    def __init__(self):
        self.failing = set()
        self.memory_fd_writes_fail = False
        self.lock_count = 0

    def _maybe_fail(self, name):
        if name in self.failing:
            raise OSError(errno.EMFILE, "injected")

    def memory_file(self, name):
        self._maybe_fail("memory_file")
        return super().memory_file(name)

    def reopen(self, fd):
        self._maybe_fail("reopen")
        return super().reopen(fd)

    def wait_lock(self, fd):
        self._maybe_fail("wait_lock")
        self.lock_count += 1
        super().wait_lock(fd)

    def punch(self, fd, start_bytes, length_bytes):
        self._maybe_fail("punch")
        super().punch(fd, start_bytes, length_bytes)

    def write(self, fd, parts, offset_bytes):
        if self.memory_fd_writes_fail and "memfd" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, "injected")
        super().write(fd, parts, offset_bytes)


@pytest.fixture
def files():
    return PickyFiles()


@pytest.fixture
def store(tmp_path, files):
    store = open_store(StoreConfig((LocationConfig(tmp_path, tmp_path, 8),)), files=files)
    store.allocate_volume(VID)
    yield store
    store.close()
    report = check_directory(tmp_path)
    assert report.is_healthy, str(report)


@pytest.fixture
def owner(store):
    return store.find_volume(VID)


@pytest.fixture
def attach(owner):
    """A function that makes another handle, as another process would."""
    volumes = []

    def attach(files=None):
        volumes.append(attach_volume(owner.share(), Home(), time.time_ns, files or OsFiles()))
        return volumes[-1]

    yield attach
    for volume in volumes:
        volume.close()


def put(volume, needle_id, data=b"data", **options):
    return volume.write(Needle(needle_id=needle_id, cookie=COOKIE, data=data), **options)


def get(volume, needle_id, **options):
    return volume.read(needle_id, cookie=COOKIE, **options).needle.data


def test_a_volume_that_is_not_shared_takes_no_lock_between_processes(owner, files):
    put(owner, 1)
    put(owner, 2, fsync=True)
    owner.delete(1, COOKIE)
    assert files.lock_count == 0
    owner.share()
    put(owner, 3)
    assert files.lock_count == 1


def test_sharing_again_gives_the_same_descriptor(owner):
    assert owner.share() == owner.share()


def test_a_closed_volume_is_not_shared(owner):
    owner.close()
    with pytest.raises(VolumeClosed):
        owner.share()


@pytest.mark.parametrize("failing", ["memory_file", "reopen", "memory"])
def test_a_volume_that_cannot_be_shared_stays_as_it_was(owner, files, failing):
    put(owner, 1)
    files.failing, files.memory_fd_writes_fail = {failing}, failing == "memory"
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(WriteFailed):
        owner.share()
    assert len(os.listdir("/proc/self/fd")) == before
    files.failing, files.memory_fd_writes_fail = set(), False
    put(owner, 2)
    assert files.lock_count == 0
    assert get(owner, 1) == get(owner, 2) == b"data"


@pytest.mark.parametrize("content", [b"", b"x", bytes(HEAD_BYTES), b"\xff" * HEAD_BYTES])
def test_a_descriptor_of_something_else_is_refused(content):
    fd = os.memfd_create("other")
    os.write(fd, content)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ShareLost):
        attach_volume(fd, Home(), time.time_ns)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)


def test_closing_gives_every_descriptor_back(owner, store):
    before = len(os.listdir("/proc/self/fd"))
    attached = attach_volume(owner.share(), Home(), time.time_ns)
    put(attached, 1)
    attached.close()
    owner.close()
    del attached
    # The mappings' own descriptors go with the last reference to the columns.
    owner._open_files.opened = None
    assert len(os.listdir("/proc/self/fd")) <= before


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


def test_a_full_memory_costs_memory_and_nothing_else(owner, attach, monkeypatch):
    """What cannot be published stays in each process's own dict, and is tried again."""
    monkeypatch.setattr(needle_index, "_MIN_MERGE", 4)
    files = PickyFiles()
    attached = attach(files)
    files.memory_fd_writes_fail = True
    for needle_id in range(1, 12):
        put(attached, needle_id)
    share = attached._open_files.opened.share
    assert isinstance(share.publish_error, OSError)
    assert [get(owner, needle_id) for needle_id in range(1, 12)] == [b"data"] * 11
    files.memory_fd_writes_fail = False
    for needle_id in range(12, 40):
        put(attached, needle_id)
    assert share.publish_error is None
    assert len(attached._open_files.opened.index.layers.delta) < 4
    assert [get(owner, needle_id) for needle_id in range(1, 40)] == [b"data"] * 39


def test_memory_of_old_columns_is_given_back(owner, attach, monkeypatch):
    monkeypatch.setattr(needle_index, "_MIN_MERGE", 50)
    attached = attach()
    for needle_id in range(1, 4000):
        put(attached, needle_id)
    fd = owner.share()
    taken_bytes = os.fstat(fd).st_blocks * 512
    # The head, and columns of 16 bytes a needle rounded up to pages; eighty publications went before.
    assert taken_bytes < HEAD_BYTES + 16 * 4000 + 6 * 4096
    assert attached._open_files.opened.share.state.words[INTACT] > 70
    assert get(owner, 1) == get(owner, 3999) == b"data"


def test_an_index_file_that_was_cut_stops_every_process(owner, attach):
    attached = attach()
    put(owner, 1)
    put(owner, 2)
    assert get(attached, 2) == b"data"
    opened = owner._open_files.opened
    # Nobody who follows the protocol does this; the dead holder is for making the next one look.
    os.ftruncate(opened.idx.fd, 16)
    opened.share.state.words[BUSY] = 1
    for volume in (attached, owner):
        with pytest.raises(ReadOnly) as refused:
            put(volume, 3)
        assert "shorter than was committed" in refused.value.reason
    assert get(owner, 1) == b"data"
    owner.mark_writable()
    put(attached, 3)
    assert get(owner, 3) == b"data"


def test_files_that_were_swapped_and_not_announced_are_opened_anew(owner, attach, files):
    """As by a holder that died between its rename and its commit."""
    attached = attach()
    put(owner, 1)
    idx = owner._open_files.opened.idx.path
    replace_file(files, idx, idx.read_bytes())
    owner._open_files.opened.share.state.words[BUSY] = 1
    put(attached, 2)
    assert get(owner, 1) == get(owner, 2) == b"data"
    owner_fd, attached_fd = owner._open_files.opened.idx.fd, attached._open_files.opened.idx.fd
    assert os.fstat(owner_fd).st_ino == os.fstat(attached_fd).st_ino == idx.stat().st_ino


def test_who_must_not_wait_is_not_made_to_open_files(owner, attach):
    attached = attach()
    put(owner, 1)
    with owner._lock:
        owner._open_files.reopen(owner._open_files.opened, [])
    with pytest.raises(NotCached):
        attached.read(1, cached_only=True)
    assert attached.read_plain(1, COOKIE) is None
    assert get(attached, 1) == b"data"
    assert get(attached, 1, cached_only=True) == attached.read_plain(1, COOKIE).data == b"data"


def test_a_disk_that_fails_the_repair_fails_the_write_and_the_next_one_repairs(owner, attach):
    files = PickyFiles()
    attached = attach(files)
    put(owner, 1)
    owner._open_files.opened.share.state.words[BUSY] = 1
    os.pwrite(owner._open_files.opened.idx.fd, b"half", owner.index_size_bytes)
    files.failing = {"truncate"}
    files.truncate = lambda fd, length_bytes: files._maybe_fail("truncate") or OsFiles.truncate(files, fd, length_bytes)
    with pytest.raises(WriteFailed):
        put(attached, 2)
    with pytest.raises(WriteFailed):
        put(attached, 2, fsync=True)
    files.failing = set()
    put(attached, 2)
    assert owner.index_size_bytes == 32


def test_a_lock_that_is_not_to_be_had_fails_the_write(owner, files):
    owner.share()
    files.failing = {"wait_lock"}
    with pytest.raises(WriteFailed):
        put(owner, 1)
    files.failing = set()
    put(owner, 1)


def test_repeated_io_errors_of_one_process_stop_all_and_are_forgotten_together(owner, attach):
    attached = attach()
    for _ in range(3):
        attached._health.failed(OSError(errno.EIO, "injected"))
    for volume in (attached, owner):
        with pytest.raises(ReadOnly) as refused:
            put(volume, 1)
        assert refused.value.reason == "repeated I/O errors"
    owner.mark_writable()
    put(attached, 1)


def test_an_error_that_is_no_error_of_the_store_makes_the_next_one_look(owner, attach):
    attached = attach()
    put(owner, 1)

    def fail():
        with owner._lock:
            os.pwrite(owner._open_files.opened.idx.fd, b"half", owner.index_size_bytes)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert owner._open_files.opened.share.was_left_busy
    put(attached, 2)
    assert not owner._open_files.opened.share.was_left_busy
    assert owner.index_size_bytes == owner._open_files.opened.idx.path.stat().st_size == 32


def test_a_state_that_was_not_committed_is_none(owner, attach):
    attached = attach()
    put(owner, 1)
    state = owner._open_files.opened.share.state
    present = state.read()
    # A commit that died before its one decisive store: the other slot is half written.
    start = 256 + (present.sequence + 1) % 2 * 128
    state._view[start : start + 40] = b"\xff" * 40
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
    with owner._lock:
        owner._gate.stop("\U0001f4a5" * 500)
    assert attached.read_only_reasons.text == "\U0001f4a5" * 80


def test_readers_miss_nothing_while_a_volume_is_being_shared(owner, monkeypatch):
    """Each time that the sharing writes or looks at anything, a reader looks."""
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
        owner.share()
    assert len(seen) >= 6
    assert set(seen) == {b"data"}
    assert get(owner, 1) == b"data"
