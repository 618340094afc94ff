"""A volume as a log: the appends after a given time, and their records in pieces."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clocks import TickingClock
from support.files import broken

from native_handlers.format import crc
from native_handlers.format.errors import Corrupt, Truncated
from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle, encode_needle, parse_needle, parse_needle_header
from native_handlers.format.types import TOMBSTONE_SIZE, VERSION_2, VERSION_3
from native_handlers.storage.model.errors import ReadFailed, VolumeClosed
from native_handlers.storage.system.files import FileRetired, OsFiles
from native_handlers.storage.volume.append_log import (
    PIECE_BYTES,
    AppendLog,
    append_time_ns,
    first_row_after,
    walk_records,
)

VID = 7
COOKIE = 0xC0FFEE


@pytest.fixture(params=[4, 5])
def store(tmp_path, files, request, opened):
    return opened(tmp_path, offset_width_bytes=request.param, files=files, clock_ns=TickingClock())


def write(store, needle_id, data=b"payload"):
    needle = Needle(needle_id=needle_id, cookie=COOKIE, data=data)
    store.get_volume(VID).write(needle)
    return needle.append_at_ns


def records(log, first=0):
    """Each record of the log, joined from its pieces."""
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
        store.get_volume(VID).delete(3, COOKIE, checksum=5)
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
        files.longest_read_bytes = 0
        with store.find_volume(VID).open_log() as log:
            assert [len(one.data) for one in records(log)] == sizes
        assert files.longest_read_bytes == PIECE_BYTES

    @pytest.mark.slow
    def test_thousands_of_rows_are_read_in_pieces(self, store, files):
        """Slow: writes 3000 needles."""
        for needle_id in range(1, 3001):
            write(store, needle_id)
        files.longest_read_bytes = 0
        with store.find_volume(VID).open_log() as log:
            assert [row.needle_id for row in log.rows(0)] == list(range(1, 3001))
            assert [row.needle_id for row in log.rows(1500, 1502)] == [1501, 1502]
            assert files.longest_read_bytes <= 1024 * 17
            assert [one.needle_id for one in records(log, 2998)] == [2999, 3000]

    def test_a_failing_disk(self, store, files):
        write(store, 1)
        with store.find_volume(VID).open_log() as log:
            files.plan["read"] = broken()
            with pytest.raises(ReadFailed):
                records(log)
            files.plan.clear()

    def test_a_row_that_leads_elsewhere(self, tmp_path):
        dat = bytes(8) + encode_needle(Needle(needle_id=1, data=b"x"), VERSION_3)
        for entry, error in (((1, 1, 7), Corrupt), ((1, 99, 6), Corrupt), ((1, 2, 6), Corrupt)):
            with made_log(tmp_path, dat, [entry]) as log, pytest.raises(error):
                list(walk_records(log, 0))
        below_zero = dat[:20] + b"\xff" * 4 + dat[24:]
        with made_log(tmp_path, below_zero, [(1, 1, 6)]) as log, pytest.raises(Corrupt):
            first_row_after(log, 0)
        with made_log(tmp_path, dat, [(1, 99, 6)]) as log, pytest.raises(Truncated):
            first_row_after(log, 0)

    def test_a_record_that_carries_another_id_goes_under_that_of_its_row(self, tmp_path):
        dat = bytes(8) + encode_needle(Needle(needle_id=1, data=b"x", append_at_ns=5), VERSION_3)
        with made_log(tmp_path, dat, [(2, 1, 6)]) as log:
            (piece,) = walk_records(log, 0)
            assert parse_needle_header(piece.header).needle_id == 2
            assert piece.header[:4] + piece.header[12:] + piece.body == dat[8:12] + dat[20:]
            assert first_row_after(log, 0) == 0
            assert first_row_after(log, 5) is None

    def test_a_record_cut_short(self, tmp_path):
        dat = bytes(8) + encode_needle(Needle(needle_id=1, data=b"x" * 50), VERSION_3)[:40]
        with made_log(tmp_path, dat, [(1, 1, 55)]) as log, pytest.raises(Corrupt, match="beyond"):
            list(walk_records(log, 0))


class TestTimes:
    def test_each_time_finds_what_came_after_it(self, store):
        times = [write(store, needle_id) for needle_id in range(1, 8)]
        store.get_volume(VID).delete(4, COOKIE)
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
        store.get_volume(8).write(Needle(needle_id=1, cookie=1, data=b"old"))
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
    """The argument has for each row: how much later its time is, whether it is a deletion, whether it lacks a
    record.
    """
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
