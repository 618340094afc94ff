"""Failing disks, concurrent readers and writers, and the parts that make both harmless."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from support.files import PlannedFiles
from support.stores import open_at, place
from support.waiting import BREATH_S

from native_handlers.format.needle import Needle
from native_handlers.storage.disk.space import MinFree
from native_handlers.storage.model import errors
from native_handlers.storage.store import StoreConfig, open_store
from native_handlers.storage.system.files import (
    OS_FILES,
    DiskSpace,
    FileRetired,
    NotCached,
    SharedFile,
    read_file,
    replace_file,
)
from native_handlers.storage.volume.write_state import TOLERATED, IoHealth

COOKIE = 0xC0FFEE
LARGE = os.urandom((3 << 20) + 5)


@pytest.fixture
def files():
    return PlannedFiles(short_write_bytes=5)


@pytest.fixture
def store(tmp_path, files, opened):
    store = opened(tmp_path, files=files)
    write(store, 1, b"first")
    return store


def write(store, needle_id, data, **how):
    return store.get_volume(7).write(Needle(needle_id=needle_id, cookie=COOKIE, data=data), **how)


def read(store, needle_id):
    return store.get_volume(7).read(needle_id, cookie=COOKIE).needle.data


def read_payload(store, how):
    """Reads the payload of the large needle 2 in one of the ways in which a response is sent."""
    found = store.get_volume(7).read(2, cookie=COOKIE)
    try:
        if how == "check":
            found.check_payload()
        elif how == "load":
            found.load_payload(memoryview(bytearray(len(LARGE))))
        else:
            for start in range(0, len(LARGE), 1 << 20):
                assert found.payload.read(start, 1 << 20) == LARGE[start : start + (1 << 20)]
    finally:
        found.release()


class TestFailedAppends:
    @pytest.mark.parametrize(
        ("plan", "file"),
        [
            pytest.param({"write": (0, errno.ENOSPC)}, "7.dat", id="dat-write"),
            pytest.param({"sync": (0, errno.EIO)}, "7.dat", id="dat-sync"),
            pytest.param({"write": (1, errno.ENOSPC)}, "7.idx", id="idx-write"),
        ],
    )
    @pytest.mark.parametrize("needle_id", [1, 2])
    def test_they_are_taken_back(self, store, files, tmp_path, plan, file, needle_id):
        before = {name: (tmp_path / name).read_bytes() for name in ("7.dat", "7.idx")}
        files.plan = dict(plan)
        with pytest.raises(errors.WriteFailed, match=file):
            write(store, needle_id, b"second", fsync=True)
        files.plan = {}
        assert {name: (tmp_path / name).read_bytes() for name in before} == before
        assert read(store, 1) == b"first"
        if needle_id == 2:
            with pytest.raises(errors.NotFound):
                read(store, 2)
        write(store, needle_id, b"second")
        assert read(store, needle_id) == b"second"

    def test_a_failed_deletion_leaves_the_needle(self, store, files):
        files.plan = {"write": (0, errno.EIO)}
        with pytest.raises(errors.WriteFailed):
            store.get_volume(7).delete(1, COOKIE)
        files.plan = {}
        assert read(store, 1) == b"first"

    def test_an_index_that_cannot_be_synced_stops_writing(self, store, files):
        files.plan = {"sync": (1, errno.EIO)}
        with pytest.raises(errors.WriteFailed, match=r"7\.idx"):
            write(store, 2, b"second", fsync=True)
        files.plan = {}
        with pytest.raises(errors.ReadOnly):
            write(store, 3, b"third")
        assert "cannot be synced" in store.find_volume(7).read_only_reasons.text

    @pytest.mark.damage("half a record stays")
    def test_what_cannot_be_taken_back_stops_writing(self, store, files):
        files.plan = {"write": (0, errno.EIO), "truncate": (0, errno.EIO)}
        with pytest.raises(errors.WriteFailed):
            write(store, 2, b"second")
        files.plan = {}
        with pytest.raises(errors.ReadOnly) as caught:
            write(store, 3, b"third")
        assert "could not be taken back" in caught.value.reason

    def test_the_same_again_with_fsync_is_acknowledged_only_when_synced(self, store, files):
        files.plan = {"sync": (0, errno.EIO)}
        with pytest.raises(errors.WriteFailed):
            write(store, 1, b"first", fsync=True)

    def test_the_old_needle_must_be_readable_to_be_replaced(self, store, files):
        files.plan = {"read": (0, errno.EIO)}
        with pytest.raises(errors.ExistingNeedleUnreadable, match="reading existing needle"):
            write(store, 1, b"second")


class TestQuarantine:
    def test_three_io_errors_in_a_row_take_a_volume_out_until_an_operator_puts_it_back(self, store, files):
        files.plan = {"read": (0, errno.EIO)}
        for _ in range(TOLERATED):
            assert store.volume_reports()[0].is_announced
            with pytest.raises(errors.ReadFailed):
                read(store, 1)
        files.plan = {}
        assert read(store, 1) == b"first"
        report = store.volume_reports()[0]
        assert (report.is_announced, report.read_only) == (False, True)
        with pytest.raises(errors.ReadOnly):
            write(store, 2, b"second")
        with pytest.raises(errors.ReadOnly):
            store.get_volume(7).delete(1, COOKIE)
        store.mark_writable(store.get_volume(7))
        write(store, 2, b"second")
        assert store.volume_reports()[0].is_announced

    @pytest.mark.parametrize("how", ["check", "load", "pieces"])
    def test_so_do_those_in_a_payload_that_is_left_on_disk(self, store, files, how):
        write(store, 2, LARGE)
        for _ in range(TOLERATED):
            assert store.volume_reports()[0].is_announced
            # The metadata and the first piece are read; the second piece is not.
            files.plan = {"read_into": (1, errno.EIO), "read": (3, errno.EIO)}
            with pytest.raises(errors.ReadFailed):
                read_payload(store, how)
        files.plan = {}
        report = store.volume_reports()[0]
        assert (report.is_announced, report.read_only) == (False, True)

    @pytest.mark.parametrize("how", ["check", "load", "pieces"])
    def test_a_payload_that_is_read_to_its_end_ends_the_run(self, store, files, how):
        write(store, 2, LARGE)
        for _ in range(2):
            for _ in range(TOLERATED - 1):
                files.plan = {"read_into": (1, errno.EIO), "read": (3, errno.EIO)}
                with pytest.raises(errors.ReadFailed):
                    read_payload(store, how)
            files.plan = {}
            read_payload(store, how)
        assert store.volume_reports()[0].is_announced

    @pytest.mark.parametrize(
        "succeed",
        [
            lambda store: read(store, 1),
            lambda store: store.get_volume(7).try_read_cached(1, COOKIE),
            lambda store: write(store, 2, b"second"),
        ],
        ids=["read", "cached", "write"],
    )
    def test_any_success_ends_the_run(self, store, files, succeed):
        for _ in range(2):
            for _ in range(TOLERATED - 1):
                files.plan = {"read": (0, errno.EIO)}
                with pytest.raises(errors.ReadFailed):
                    read(store, 1)
            files.plan = {}
            assert succeed(store)
        assert store.volume_reports()[0].is_announced

    @pytest.mark.parametrize("data", [True, False])
    def test_metadata_alone_does_not_end_the_run(self, store, files, data):
        write(store, 2, LARGE)
        for _ in range(TOLERATED):
            files.plan = {"read": (0, errno.EIO)}
            with pytest.raises(errors.ReadFailed):
                read(store, 1)
            files.plan = {}
            store.get_volume(7).read(2, cookie=COOKIE, data=data).release()
        assert not store.volume_reports()[0].is_announced

    def test_only_eio_counts_and_a_success_ends_the_run(self):
        health = IoHealth()
        for code in (errno.EIO, errno.EIO, errno.ENOSPC, errno.EIO, errno.EIO):
            health.failed(OSError(code, "x"))
        health.succeeded()
        health.failed(OSError(errno.EIO, "x"))
        assert not health.is_quarantined

    def test_a_failed_marking_changes_nothing(self, store, files):
        files.plan = {"rename": (0, errno.EIO)}
        with pytest.raises(errors.WriteFailed, match=r"7\.vif"):
            store.mark_readonly(store.get_volume(7), persist=True)
        assert not store.find_volume(7).is_read_only
        files.plan = {}
        store.mark_readonly(store.get_volume(7))
        files.plan = {"rename": (0, errno.EIO)}
        with pytest.raises(errors.WriteFailed):
            store.mark_writable(store.get_volume(7))
        assert store.find_volume(7).is_read_only

    def test_a_failed_state_change_changes_nothing(self, store, files):
        files.plan = {"rename": (0, errno.EIO)}
        with pytest.raises(errors.WriteFailed):
            store.set_state(type(store.state)(maintenance=True, version=0))
        assert not store.state.maintenance


class TestDisk:
    @pytest.mark.parametrize(
        ("min_free", "is_low", "available"),
        [
            (MinFree(10.0, None), False, 0),
            (MinFree(10.5, None), True, 0),
            (MinFree(None, 100), False, 0),
            (MinFree(None, 101), True, 0),
            (MinFree(None, 40), False, 60),
            (MinFree(99.0, 40), False, 60),
            (MinFree(None, None), False, 100),
        ],
    )
    def test_low_means_strictly_below_the_reserve(self, min_free, is_low, available):
        space = DiskSpace(1000, 100)
        assert min_free.is_low(space) is is_low
        assert min_free.available_bytes(space) == available

    def test_a_disk_without_size_is_empty(self):
        assert MinFree(1.0, None).is_low(DiskSpace(0, 0))


class TestFiles:
    def test_a_shared_file_is_closed_by_the_last(self, tmp_path):
        (tmp_path / "f").write_bytes(b"x")
        shared = SharedFile.open(OS_FILES, tmp_path / "f", os.O_RDONLY)
        shared.retain()
        shared.release()
        assert os.fstat(shared.fd).st_size == 1
        shared.release()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(shared.fd)
        with pytest.raises(FileRetired):
            shared.retain()

    def test_replacing_is_all_or_nothing(self, tmp_path, files):
        path = tmp_path / "f"
        replace_file(files, path, b"old")
        for plan in ({"write": (0, errno.ENOSPC)}, {"sync": (0, errno.EIO)}, {"rename": (0, errno.EIO)}):
            files.plan = plan
            with pytest.raises(OSError, match=r"No space|Input/output"):
                replace_file(files, path, b"new content")
            files.plan = {}
            assert read_file(files, path) == b"old"
        assert read_file(files, tmp_path / "none") is None

    def test_reads_stop_at_the_end_and_writes_go_on_until_all_is_written(self, tmp_path, monkeypatch):
        fd = OS_FILES.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
        real_write, real_read = os.pwritev, os.pread
        monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: real_write(fd, [parts[0][:3]], at))
        OS_FILES.write(fd, [b"abcdefgh", b"", memoryview(b"ijk")], 2)
        monkeypatch.setattr(os, "pread", lambda fd, length, at: real_read(fd, min(length, 4), at))
        assert OS_FILES.read(fd, 100, 0) == b"\0\0abcdefghijk"
        assert OS_FILES.read(fd, 5, 2) == b"abcde"
        assert OS_FILES.read(fd, 5, 99) == b""
        OS_FILES.close(fd)

    def test_a_program_syncs(self, tmp_path, monkeypatch):
        """The file systems of other tests do not: see `UnsyncedFiles`."""
        synced, fsync = [], os.fsync

        def note(fd):
            synced.append(os.readlink(f"/proc/self/fd/{fd}"))
            fsync(fd)

        with closing(open_store(StoreConfig((place(tmp_path),)))) as store:
            store.allocate_volume(7)
            with monkeypatch.context() as patched:
                patched.setattr(os, "fsync", note)
                write(store, 1, b"data", fsync=True)
                OS_FILES.sync_directory(tmp_path)
        assert synced == [str(tmp_path / "7.dat"), str(tmp_path / "7.idx"), str(tmp_path)]

    def test_only_a_missing_file_is_missing(self, tmp_path):
        (tmp_path / "f").write_bytes(b"")
        assert OS_FILES.facts(tmp_path / "none") is None
        with pytest.raises(NotADirectoryError):
            OS_FILES.facts(tmp_path / "f" / "below")
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "f").write_bytes(b"")
        OS_FILES.unlink(tmp_path / "d")
        OS_FILES.unlink(tmp_path / "d")
        assert not (tmp_path / "d").exists()


@pytest.mark.slow
def test_readers_and_writers_at_once(store):
    """Every reader finds one whole payload that was written under the id. Slow: threads write and read for a while."""
    is_done = threading.Event()

    def payload(needle_id: int, turn: int) -> bytes:
        return bytes([needle_id, turn]) * (100 + turn)

    def read_all() -> int:
        count = 0
        while not is_done.is_set():
            for needle_id in range(10, 20):
                data = read(store, needle_id)
                assert data == payload(needle_id, data[1])
                count += 1
                is_done.wait(BREATH_S)
        return count

    def write_all(needle_id: int) -> None:
        for turn in range(1, 60):
            write(store, needle_id, payload(needle_id, turn))

    for needle_id in range(10, 20):
        write(store, needle_id, payload(needle_id, 0))
    with ThreadPoolExecutor(12) as threads:
        readers = [threads.submit(read_all) for _ in range(2)]
        writers = [threads.submit(write_all, needle_id) for needle_id in range(10, 20)]
        try:
            for job in writers:
                job.result(timeout=60)
        finally:
            is_done.set()
        assert all(job.result(timeout=60) for job in readers)
    assert store.volume_reports()[0].file_count == 1 + 10 * 60


def test_unmounting_under_readers_gives_them_the_needle_or_not_found(store):
    outcomes: set[object] = set()
    is_done = threading.Event()

    def reader() -> None:
        while not is_done.is_set():
            try:
                outcomes.add(bytes(read(store, 1)))
            except (errors.NotFound, errors.VolumeNotFound) as error:
                outcomes.add(type(error))
            is_done.wait(BREATH_S)

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        store.unmount_volume(7)
        store.mount_volume(7)
    is_done.set()
    for thread in threads:
        thread.join()
    assert b"first" in outcomes
    assert outcomes <= {b"first", errors.NotFound, errors.VolumeNotFound}


class TestReadsInPassing:
    def test_what_memory_holds(self, store):
        write(store, 2, b"x" * 1000)
        assert store.get_volume(7).read(2, cookie=COOKIE, cached_only=True).needle.data == b"x" * 1000
        assert store.get_volume(7).try_read_cached(2, COOKIE).data == b"x" * 1000

    def test_too_large_to_check(self, store):
        write(store, 2, b"x" * 200_000)
        with pytest.raises(NotCached):
            store.get_volume(7).read(2, cookie=COOKIE, cached_only=True)
        assert store.get_volume(7).try_read_cached(2, COOKIE) is None
        assert read(store, 2) == b"x" * 200_000

    def test_a_cold_cache_says_nothing_of_the_disk(self, tmp_path):
        with closing(open_at(tmp_path, files=PlannedFiles(is_cold=True))) as cold:
            cold.allocate_volume(7)
            write(cold, 1, b"first")
            for _ in range(TOLERATED + 1):
                with pytest.raises(NotCached):
                    cold.get_volume(7).read(1, cookie=COOKIE, cached_only=True)
                assert cold.get_volume(7).try_read_cached(1, COOKIE) is None
            assert read(cold, 1) == b"first"
            assert not cold.find_volume(7).is_read_only

    def test_what_ends_early_is_for_the_other_read(self, tmp_path):
        (tmp_path / "f").write_bytes(b"abcdef")
        with (tmp_path / "f").open("rb") as file:
            assert OS_FILES.read_cached(file.fileno(), 4, 1) == b"bcde"
            for length, offset in ((6, 1), (1, 99)):
                with pytest.raises(NotCached):
                    OS_FILES.read_cached(file.fileno(), length, offset)
        with pytest.raises(NotCached):
            OS_FILES.read_cached(-1, 1, 0)
