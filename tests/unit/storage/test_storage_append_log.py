"""A volume as a log: what was appended after a time, and its records in pieces."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native_handlers.format import crc
from native_handlers.format.errors import Corrupt, Truncated
from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle, encode_needle, parse_needle
from native_handlers.format.types import TOMBSTONE_SIZE, VERSION_2, VERSION_3
from native_handlers.storage.append_log import AppendLog
from native_handlers.storage.append_times import append_time_ns, first_row_after
from native_handlers.storage.check import check_directory
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.errors import ReadFailed, VolumeClosed
from native_handlers.storage.files import FileRetired, OsFiles
from native_handlers.storage.record_walk import PIECE_BYTES, walk_records
from native_handlers.storage.store import StoreConfig, open_store

VID = 7
COOKIE = 0xC0FFEE


class Clock:
    """Each look is a microsecond later."""

    now_ns = 1_700_000_000 * 10**9

    def __call__(self):
        self.now_ns += 1000
        return self.now_ns


class CountingFiles(OsFiles):
    """Knows the largest read, and fails reads when told to."""

    largest_bytes = 0
    fails = False

    def read(self, fd, length_bytes, offset_bytes):
        if self.fails:
            raise OSError(errno.EIO, "injected")
        self.largest_bytes = max(self.largest_bytes, length_bytes)
        return super().read(fd, length_bytes, offset_bytes)


@pytest.fixture
def files():
    return CountingFiles()


@pytest.fixture(params=[4, 5])
def store(tmp_path, files, request):
    location = LocationConfig(tmp_path, tmp_path, 8)
    opened = open_store(StoreConfig((location,), offset_width_bytes=request.param), files=files, clock_ns=Clock())
    opened.allocate_volume(VID)
    yield opened
    opened.close()
    report = check_directory(tmp_path)
    assert report.is_healthy, str(report)


def write(store, needle_id, data=b"payload"):
    needle = Needle(needle_id=needle_id, cookie=COOKIE, data=data)
    store.write_needle(VID, needle)
    return needle.append_at_ns


def records(log, first=0):
    """Each record that the log names, put together."""
    found, parts = [], []
    for piece in walk_records(log, first):
        assert 0 < len(piece.body) <= PIECE_BYTES
        parts.append(piece.body)
        if piece.is_last:
            found.append(parse_needle(piece.header + b"".join(parts), log.version))
            parts = []
    assert not parts
    return found


class TestLog:
    def test_rows_and_records_in_the_order_of_writing_with_deletions(self, store):
        write(store, 3, b"three")
        write(store, 1, b"one")
        store.delete_needle(VID, 3, COOKIE, checksum=5)
        with store.find_volume(VID).open_log() as log:
            assert [(row.needle_id, row.size > 0) for row in log.rows(0)] == [(3, True), (1, True), (3, False)]
            found = records(log)
        assert [(one.needle_id, one.data, one.checksum) for one in found[2:]] == [(3, b"", 5)]
        assert [one.data for one in found[:2]] == [b"three", b"one"]

    def test_what_comes_later_is_not_in_it(self, store):
        write(store, 1)
        volume = store.find_volume(VID)
        with volume.open_log() as log:
            write(store, 2)
            assert [one.needle_id for one in records(log)] == [1]
            assert log.dat_end_bytes < volume.size_bytes

    def test_it_outlives_the_volume_and_lets_go_of_it(self, store):
        write(store, 1, b"still here")
        volume = store.find_volume(VID)
        with volume.open_log() as log:
            store.delete_volume(VID, only_empty=False)
            assert records(log)[0].data == b"still here"
        for file in (log.dat, log.idx):
            with pytest.raises(FileRetired):
                file.retain()
        with pytest.raises(VolumeClosed), volume.open_log():
            pass

    def test_large_records_come_in_pieces_and_memory_is_bounded(self, store, files):
        sizes = [PIECE_BYTES * 3, 1, PIECE_BYTES - 100, 5000, PIECE_BYTES]
        for needle_id, size in enumerate(sizes, 1):
            write(store, needle_id, bytes([needle_id]) * size)
        files.largest_bytes = 0
        with store.find_volume(VID).open_log() as log:
            assert [len(one.data) for one in records(log)] == sizes
        assert files.largest_bytes == PIECE_BYTES

    def test_thousands_of_rows_are_read_in_pieces(self, store, files):
        for needle_id in range(1, 3001):
            write(store, needle_id)
        files.largest_bytes = 0
        with store.find_volume(VID).open_log() as log:
            assert [row.needle_id for row in log.rows(0)] == list(range(1, 3001))
            assert [row.needle_id for row in log.rows(1500, 1502)] == [1501, 1502]
            assert files.largest_bytes <= 1024 * 17
            assert [one.needle_id for one in records(log, 2998)] == [2999, 3000]

    def test_a_failing_disk(self, store, files):
        write(store, 1)
        with store.find_volume(VID).open_log() as log:
            files.fails = True
            with pytest.raises(ReadFailed):
                records(log)
            files.fails = False

    def test_a_row_that_leads_elsewhere(self, tmp_path):
        dat = bytes(8) + encode_needle(Needle(needle_id=1, data=b"x"), VERSION_3)
        for entry, error in (((2, 1, 6), Corrupt), ((1, 1, 7), Corrupt), ((1, 99, 6), Corrupt), ((1, 2, 6), Corrupt)):
            with made_log(tmp_path, dat, [entry]) as log, pytest.raises(error):
                list(walk_records(log, 0))
        with made_log(tmp_path, dat, [(2, 1, 6)]) as log, pytest.raises(Corrupt):
            first_row_after(log, 0)
        with made_log(tmp_path, dat, [(1, 99, 6)]) as log, pytest.raises(Truncated):
            first_row_after(log, 0)

    def test_a_record_cut_short(self, tmp_path):
        dat = bytes(8) + encode_needle(Needle(needle_id=1, data=b"x" * 50), VERSION_3)[:40]
        with made_log(tmp_path, dat, [(1, 1, 55)]) as log, pytest.raises(Corrupt, match="beyond"):
            list(walk_records(log, 0))


class TestTimes:
    def test_each_time_finds_what_came_after_it(self, store):
        times = [write(store, needle_id) for needle_id in range(1, 8)]
        store.delete_needle(VID, 4, COOKIE)
        with store.find_volume(VID).open_log() as log:
            assert first_row_after(log, 0) == 0
            for row, time_ns in enumerate(times):
                assert first_row_after(log, time_ns - 1) == row
                assert first_row_after(log, time_ns) == row + 1
            (tombstone,) = log.rows(7)
            assert first_row_after(log, append_time_ns(log, tombstone)) is None

    def test_nothing_at_all(self, store):
        with store.find_volume(VID).open_log() as log:
            assert first_row_after(log, 0) is None
            assert records(log) == []

    def test_old_versions_have_no_times(self, store):
        store.allocate_volume(8, version=VERSION_2)
        store.write_needle(8, Needle(needle_id=1, cookie=1, data=b"old"))
        with store.find_volume(8).open_log() as log:
            assert first_row_after(log, 0) is None
            assert records(log)[0].data == b"old"


class made_log:  # noqa: N801  used as a function
    """A log over files with the given bytes; `rows` are (needle id, offset in units of 8, size)."""

    def __init__(self, directory, dat, rows, version=VERSION_3):
        self._paths = directory / "x.dat", directory / "x.idx"
        self._paths[0].write_bytes(dat)
        self._paths[1].write_bytes(b"".join(encode_entry(*row, 4) for row in rows))
        self._facts = version, len(rows), len(dat)

    def __enter__(self):
        files = OsFiles()
        dat, idx = (SimpleNamespace(fd=files.open(path, 0), path=path) for path in self._paths)
        self._close = [lambda: files.close(dat.fd), lambda: files.close(idx.fd)]
        version, row_count, end = self._facts
        return AppendLog(files, dat, idx, version, 4, row_count, end, 0)

    def __exit__(self, *_):
        for close in self._close:
            close()


@given(
    times=st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), max_size=40),
    since=st.integers(0, 100),
)
def test_bisection_is_the_same_as_looking_at_every_row(tmp_path_factory, times, since):
    """Of each row: by how much its time is later, whether it is a deletion, and whether it has no record."""
    dat, rows, expected, now = bytearray(8), [], None, 0
    for number, (step, is_deletion, has_no_record) in enumerate(times):
        if has_no_record:
            rows.append((number, 0, TOMBSTONE_SIZE))
            continue
        now += step
        data = b"" if is_deletion else b"d"
        needle = Needle(needle_id=number, data=data, checksum=crc.crc32c(data), append_at_ns=now)
        record = encode_needle(needle, VERSION_3)
        rows.append((number, len(dat) // 8, TOMBSTONE_SIZE if is_deletion else needle.size))
        dat += record
        if expected is None and now > since:
            expected = number
    with made_log(tmp_path_factory.mktemp("log"), bytes(dat), rows) as log:
        assert first_row_after(log, since) == expected
        if expected is not None:
            assert all(one.append_at_ns > since for one in records(log, expected))
