"""A disk without free space: the store starts and serves, deletions and marks use a reserve, and free space ends the
state.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import subprocess
from contextlib import closing, contextmanager

import pytest
from support.clocks import Clock
from support.small_disk import ALL_BYTES, SmallDisk, TwoDisks
from support.stores import open_at, place

from native_handlers.format.needle import Needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.disk.directory_lock import UUID_FILE_NAME
from native_handlers.storage.disk.reserve_file import MAX_RESERVE_BYTES, RESERVE_FILE_NAME, ReserveFile, wanted_bytes
from native_handlers.storage.disk.session_mark import SESSION_FILE_NAME
from native_handlers.storage.model import errors
from native_handlers.storage.model.report import FindingKind
from native_handlers.storage.shared.attach import share_volume
from native_handlers.storage.shared.state import BUSY
from native_handlers.storage.system.files import DiskSpace, OsFiles

COOKIE = 0xC0FFEE
VID = 7
RESERVE_BYTES = 1 << 20


@pytest.fixture(params=[errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def disk(request):
    return SmallDisk(request.param)


def write(store, needle_id, data=b"data", **how):
    return store.get_volume(VID).write(Needle(needle_id=needle_id, cookie=COOKIE, data=data), **how)


def read(store, needle_id):
    return store.get_volume(VID).read(needle_id, cookie=COOKIE).needle.data


def write_until_refused(store):
    for needle_id in itertools.count(100_000):
        try:
            write(store, needle_id, bytes(100_000))
        except (errors.WriteFailed, errors.ReadOnly):
            return


def look(store):
    for location in store.locations:
        location.health.look()


@contextmanager
def served(path, files, needles=20):
    """A store with a volume of some needles, after the first probe of a server's start."""
    with closing(open_at(path, files=files)) as store:
        look(store)
        if store.find_volume(VID) is None:
            store.allocate_volume(VID)
            for needle_id in range(1, needles + 1):
                write(store, needle_id)
        yield store


def fill(files):
    files.free_bytes = 0


@pytest.fixture
def tmpfs(tmp_path):
    """A disk of 16 MiB that no other test uses."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(path)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"nothing can be mounted here: {mount.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill_to_the_last_block(path):
    with (path / "filler").open("ab", buffering=0) as filler:
        for length in (1 << 20, 4096):
            try:
                while True:
                    filler.write(bytes(length))
            except OSError:
                continue
    assert OsFiles().disk_space(path).free_bytes == 0


class TestReserve:
    @pytest.mark.parametrize(
        ("all_bytes", "wanted"),
        [(0, 0), (64 << 10, 0), (8 << 20, 64 << 10), (ALL_BYTES, RESERVE_BYTES), (1 << 44, MAX_RESERVE_BYTES)],
    )
    def test_its_size_goes_by_the_disk(self, all_bytes, wanted):
        assert wanted_bytes(DiskSpace(all_bytes, 0)) == wanted

    @pytest.mark.parametrize("can_allocate", [True, False])
    def test_it_is_made_at_the_first_look_given_in_pieces_and_made_whole_again(self, tmp_path, disk, can_allocate):
        disk.can_allocate = can_allocate
        reserve = ReserveFile(disk, tmp_path)
        assert reserve.fill()
        assert reserve.fill()
        assert (reserve.held_bytes(), disk.free_bytes) == (RESERVE_BYTES, ALL_BYTES - RESERVE_BYTES - 16)
        fill(disk)
        given = reserve.give()
        assert 0 < given < RESERVE_BYTES
        assert disk.free_bytes == given
        assert not reserve.fill()
        assert reserve.missing_bytes == given
        pieces = 1
        while reserve.give():
            pieces += 1
        assert (reserve.held_bytes(), disk.free_bytes) == (0, RESERVE_BYTES)
        assert pieces > 4
        assert not reserve.fill()
        disk.free_bytes = 2 * RESERVE_BYTES
        assert reserve.fill()
        assert (reserve.held_bytes(), disk.free_bytes) == (RESERVE_BYTES, RESERVE_BYTES)

    def test_its_blocks_are_its_own(self, tmp_path):
        reserve = ReserveFile(OsFiles(), tmp_path)
        assert reserve.fill()
        stat = (tmp_path / RESERVE_FILE_NAME).stat()
        assert stat.st_blocks * 512 >= stat.st_size == reserve.held_bytes() > 0
        reserve.remove()
        assert list(tmp_path.iterdir()) == []
        assert reserve.give() == 0

    def test_one_that_does_not_fit_leaves_what_there_was(self, tmp_path, disk):
        reserve = ReserveFile(disk, tmp_path)
        disk.disk_space = lambda _path: DiskSpace(ALL_BYTES, ALL_BYTES)
        disk.free_bytes = 1000
        with pytest.raises(OSError, match=r"space|quota"):
            reserve.fill()
        assert reserve.held_bytes() == 0
        assert disk.free_bytes == 1000 - 16

    def test_it_goes_with_the_server_where_there_is_room_and_stays_where_there_is_none(self, tmp_path, disk):
        with served(tmp_path, disk):
            assert (tmp_path / RESERVE_FILE_NAME).stat().st_size == RESERVE_BYTES
        assert not (tmp_path / RESERVE_FILE_NAME).exists()
        with served(tmp_path, disk) as store:
            fill(disk)
            store.get_volume(VID).delete(1, COOKIE)
        assert (tmp_path / RESERVE_FILE_NAME).stat().st_size > RESERVE_BYTES // 2

    def test_minfreespace_means_what_it_means_without(self, tmp_path, disk):
        with closing(open_at(place(tmp_path, min_free_bytes=10 << 20), files=disk)) as store:
            look(store)
            disk.free_bytes = (10 << 20) - RESERVE_BYTES
            look(store)
            assert not store.locations[0].is_space_low
            assert store.locations[0].available_bytes == 0
            disk.free_bytes -= 1
            look(store)
            assert store.locations[0].is_space_low

    def test_what_writers_append_counts_between_two_looks(self, tmp_path, disk):
        with closing(open_at(place(tmp_path, min_free_bytes=ALL_BYTES - (1 << 20)), files=disk)) as store:
            store.allocate_volume(VID)
            write_until_refused(store)
            assert store.locations[0].is_space_low
            assert ALL_BYTES - disk.free_bytes < 3 << 20


class TestService:
    def test_deletions_go_on_and_writers_are_told(self, tmp_path, disk, caplog):
        with served(tmp_path, disk, needles=300) as store:
            fill(disk)
            with pytest.raises(errors.WriteFailed):
                write(store, 1000)
            for needle_id in range(1, 301):
                assert store.get_volume(VID).delete(needle_id, COOKIE) > 0
            assert store.find_volume(VID).read_only_reasons.disk_space_low
            with pytest.raises(errors.ReadOnly):
                write(store, 1000)
            assert store.locations[0].effective_max_volumes == 1
            for needle_id in range(1, 301):
                with pytest.raises(errors.Deleted):
                    read(store, needle_id)
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert [line for line in said if "is full" in line] == [
            f"{tmp_path} is full: deletions and marks use the reserve. Writes are refused until there is room"
        ]

    @pytest.mark.slow
    def test_needles_of_coded_volumes_are_deleted_too(self, tmp_path, disk):
        """Slow: codes a volume."""
        with served(tmp_path, disk, needles=300) as store:
            store.ec_work.generate(store.find_volume(VID), "")
            for shard in range(14):
                store.ec.mount("", VID, shard)
            store.delete_volume(VID, only_empty=False)
            fill(disk)
            for needle_id in range(1, 301):
                store.ec.delete(store.ec.find(VID), needle_id)
            for needle_id in range(1, 301):
                with pytest.raises(errors.Deleted):
                    store.ec_reader.read_needle(VID, needle_id, COOKIE)
        assert (tmp_path / f"{VID}.ecj").stat().st_size == 300 * 8

    @pytest.mark.parametrize("persist", [True, False])
    def test_marks_and_state_can_be_changed(self, tmp_path, disk, persist):
        with served(tmp_path, disk) as store:
            fill(disk)
            store.mark_readonly(store.get_volume(VID), persist=persist)
            store.mark_writable(store.get_volume(VID))
            store.mark_readonly(store.get_volume(VID), persist=persist)
            store.set_state(type(store.state)(maintenance=True, version=0))
            store.configure_volume(VID, "001")
        with served(tmp_path, disk) as store:
            assert store.find_volume(VID).marks.is_on_disk is persist
            assert store.state.maintenance
            assert str(store.find_volume(VID).replica_placement) == "001"

    def test_what_a_worker_left_when_it_died_is_repaired(self, tmp_path, disk):
        """It had written a record, and died before the row."""
        with served(tmp_path, disk) as store:
            volume = store.get_volume(VID)
            share_volume(volume)
            opened = volume.handle.opened
            start_bytes = opened.dat_end_bytes
            write(store, 21)
            record = os.pread(opened.dat.fd, opened.dat_end_bytes - start_bytes, start_bytes)
            os.pwrite(opened.dat.fd, record, opened.dat_end_bytes)
            opened.share.state.words[BUSY] = 1
            fill(disk)
            assert volume.delete(19, COOKIE) > 0
            report = volume.report()
            assert (report.file_count, report.delete_count) == (22, 2), "the record was found and replaces its like"
            assert store.locations[0].is_space_low

    def test_a_used_up_reserve_refuses_and_leaves_everything_whole(self, tmp_path, disk):
        with served(tmp_path, disk) as store:
            fill(disk)
            (tmp_path / RESERVE_FILE_NAME).unlink()
            disk.free_bytes = 0
            before = {name: (tmp_path / name).read_bytes() for name in ("7.dat", "7.idx", "7.vif")}
            with pytest.raises(errors.WriteFailed):
                store.get_volume(VID).delete(1, COOKIE)
            with pytest.raises(errors.WriteFailed):
                store.mark_readonly(store.get_volume(VID), persist=True)
            assert {name: (tmp_path / name).read_bytes() for name in before} == before
            assert read(store, 1) == b"data"
            assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
            disk.free_bytes = ALL_BYTES
            look(store)
            store.get_volume(VID).delete(1, COOKIE)

    @pytest.mark.parametrize("room_bytes", range(0, 50, 2))
    def test_a_deletion_that_fits_half_is_taken_back(self, tmp_path, room_bytes):
        disk = SmallDisk()
        with served(tmp_path, disk) as store:
            (tmp_path / RESERVE_FILE_NAME).unlink()
            disk.free_bytes = room_bytes
            if room_bytes < 48:
                with pytest.raises(errors.WriteFailed):
                    store.get_volume(VID).delete(1, COOKIE)
                assert disk.free_bytes == room_bytes
                assert read(store, 1) == b"data"
            else:
                store.get_volume(VID).delete(1, COOKIE)

    def test_room_ends_it_without_help(self, tmp_path, disk, caplog):
        with served(tmp_path, disk) as store:
            fill(disk)
            store.get_volume(VID).delete(1, COOKIE)
            for _ in range(3):
                look(store)
                assert store.locations[0].health.next_look_within_s() is not None
                with pytest.raises(errors.ReadOnly):
                    write(store, 30)
            disk.free_bytes = 10 * RESERVE_BYTES
            look(store)
            assert store.locations[0].health.next_look_within_s() is None
            write(store, 30)
            assert (tmp_path / RESERVE_FILE_NAME).stat().st_size == RESERVE_BYTES
        assert sum("has room again" in record.getMessage() for record in caplog.records) == 1

    @pytest.mark.damage("the disk of the indexes is gone when the directory is checked")
    @pytest.mark.slow
    def test_an_index_directory_on_another_disk_has_a_reserve_too(self, tmp_path, tmpfs):
        """Slow: writes a thousand needles."""
        files = OsFiles()
        data = tmp_path / "data"
        with closing(open_at(place(data, tmpfs), files=files)) as store:
            look(store)
            assert [(path / RESERVE_FILE_NAME).exists() for path in (data, tmpfs)] == [True, True]
            store.allocate_volume(VID)
            for needle_id in range(1, 1001):
                write(store, needle_id)
            fill_to_the_last_block(tmpfs)
            for needle_id in range(1, 1001):
                store.get_volume(VID).delete(needle_id, COOKIE)

    def test_other_disks_have_reserves_of_their_own(self, tmp_path):
        disk = TwoDisks(tmp_path / "b")
        with closing(open_at(tmp_path / "a", tmp_path / "b", files=disk)) as store:
            look(store)
            fill(disk)
            store.locations[0].room.use(lambda: disk.take(100))
            assert [location.is_space_low for location in store.locations] == [True, False]

    @pytest.mark.slow
    def test_writers_of_another_directory_on_the_disk_leave_the_reserve_alone(self, tmp_path, disk):
        """Slow: writes and deletes 3000 needles."""
        with closing(open_at(tmp_path / "a", tmp_path / "b", files=disk)) as store:
            look(store)
            for volume_id in (VID, VID + 1):
                store.allocate_volume(volume_id)
            own, other = store.get_volume(VID), store.get_volume(VID + 1)
            assert own.disk_id != other.disk_id
            for needle_id in range(1, 3001):
                write(store, needle_id)
            fill(disk)
            for needle_id in range(1, 3001):
                own.delete(needle_id, COOKIE)
                with pytest.raises(errors.ReadOnly):
                    other.write(Needle(needle_id=needle_id, cookie=COOKIE, data=bytes(3000)))
            assert [location.is_space_low for location in store.locations] == [True, True]
            disk.free_bytes = ALL_BYTES // 2
            look(store)
            other.write(Needle(needle_id=1, cookie=COOKIE, data=b"there is room"))

    def test_a_write_that_begins_while_the_reserve_is_given_up_is_refused(self, tmp_path, disk):
        with closing(open_at(tmp_path / "a", tmp_path / "b", files=disk)) as store:
            look(store)
            fill(disk)
            is_short = []
            truncate = disk.truncate

            def noted(fd, length_bytes):
                is_short.append([location.is_space_low for location in store.locations])
                truncate(fd, length_bytes)

            disk.truncate = noted
            store.locations[0].room.use(lambda: disk.take(100))
            assert is_short[0] == [True, True]


class TestStart:
    def test_a_directory_that_was_served_before(self, tmp_path, disk):
        with served(tmp_path, disk):
            pass
        fill(disk)
        with served(tmp_path, disk) as store:
            assert read(store, 1) == b"data"
            with pytest.raises(errors.ReadOnly):
                write(store, 30)
            assert not (tmp_path / SESSION_FILE_NAME).exists()
            with pytest.raises(errors.WriteFailed):
                store.get_volume(VID).delete(1, COOKIE)
            assert read(store, 1) == b"data"
            disk.free_bytes = 10 * RESERVE_BYTES
            look(store)
            assert (tmp_path / SESSION_FILE_NAME).exists()
            write(store, 30)
            store.get_volume(VID).delete(1, COOKIE)
        assert not (tmp_path / SESSION_FILE_NAME).exists()

    def test_one_whose_reserve_is_there_deletes_at_once(self, tmp_path, disk):
        with served(tmp_path, disk) as store:
            fill(disk)
            store.get_volume(VID).delete(1, COOKIE)
        fill(disk)
        with served(tmp_path, disk) as store:
            assert (tmp_path / SESSION_FILE_NAME).exists()
            store.get_volume(VID).delete(2, COOKIE)
            with pytest.raises(errors.ReadOnly):
                write(store, 30)

    def test_one_that_upstream_served(self, tmp_path, disk):
        """A volume of upstream: without a lock, a mark or an identity."""
        with served(tmp_path, disk):
            pass
        for name in (".weed-volume-py.lock", UUID_FILE_NAME):
            (tmp_path / name).unlink()
        disk.free_bytes = 40
        with served(tmp_path, disk) as store:
            assert read(store, 1) == b"data"
            uuid = store.location_uuids()
            assert not (tmp_path / UUID_FILE_NAME).exists()
            disk.free_bytes = 10 * RESERVE_BYTES
            look(store)
            assert [(tmp_path / UUID_FILE_NAME).read_text()] == uuid

    def test_another_server_is_refused_though_the_lock_names_nobody(self, tmp_path, disk):
        with served(tmp_path, disk):
            pass
        (tmp_path / ".weed-volume-py.lock").unlink()
        disk.free_bytes = 20
        with served(tmp_path, disk), pytest.raises(errors.DirectoryLocked):
            open_at(tmp_path, files=disk)

    def test_the_time_of_the_mark_is_that_of_the_start(self, tmp_path, disk):
        with served(tmp_path, disk):
            pass
        fill(disk)
        clock = Clock(10**9)
        with closing(open_at(tmp_path, files=disk, clock_ns=clock)) as store:
            clock.advance(500)
            disk.free_bytes = 10 * RESERVE_BYTES
            look(store)
            assert (tmp_path / SESSION_FILE_NAME).read_text().split()[1] == str(10**9)


class TestRepairs:
    """Damage of a crash is served before there is space, and repaired when there is."""

    @pytest.fixture
    def stopped(self, tmp_path, disk):
        with served(tmp_path, disk):
            pass
        return tmp_path

    def expect_late_repair(self, path, disk, needle_ids, room_bytes=0):
        disk.free_bytes = room_bytes
        with served(path, disk) as store:
            assert [read(store, needle_id) for needle_id in needle_ids] == [b"data"] * len(needle_ids)
            assert "there is no room" in store.find_volume(VID).read_only_reasons.text
            assert FindingKind.MADE_READ_ONLY in [finding.kind for finding in store.findings]
            for change in (lambda: write(store, 30), lambda: store.get_volume(VID).delete(1, COOKIE)):
                with pytest.raises(errors.ReadOnly):
                    change()
            disk.free_bytes = 10 * RESERVE_BYTES
            look(store)
            assert store.locations[0].health.next_look_within_s() is None
            assert FindingKind.MADE_READ_ONLY not in [finding.kind for finding in store.findings]
            write(store, 30)
            store.get_volume(VID).delete(1, COOKIE)
        assert check_directory(path).is_healthy

    def test_rows_that_idx_lacks(self, stopped, disk):
        with (stopped / "7.idx").open("r+b") as file:
            file.truncate(10 * 16)
        self.expect_late_repair(stopped, disk, range(1, 21))

    def test_a_lost_idx(self, stopped, disk):
        (stopped / "7.idx").unlink()
        self.expect_late_repair(stopped, disk, range(1, 21), room_bytes=70)

    def test_overwritten_rows(self, stopped, disk):
        rows = (stopped / "7.idx").read_bytes()
        (stopped / "7.idx").write_bytes((20).to_bytes(8, "big") + bytes(4) + b"\xff" * 4 + rows[16:])
        self.expect_late_repair(stopped, disk, range(1, 21))

    def test_torn_rows_and_a_torn_tail_that_holds_records(self, stopped, disk):
        dat, rows = (stopped / "7.dat").read_bytes(), (stopped / "7.idx").read_bytes()
        # The 19th record is torn and the 20th is whole: the machine crashed.
        length = (len(dat) - 8) // 20
        at = 8 + 18 * length
        (stopped / "7.dat").write_bytes(dat[:at] + bytes(length) + dat[at + length :])
        (stopped / "7.idx").write_bytes(rows[: 18 * 16])
        (stopped / SESSION_FILE_NAME).write_text("another 1\n")
        self.expect_late_repair(stopped, disk, range(1, 19))
        assert (stopped / "7.cut").read_bytes()

    def test_a_torn_tail_needs_no_room(self, stopped, disk):
        with (stopped / "7.dat").open("ab") as file:
            file.write(b"torn")
        fill(disk)
        with served(stopped, disk) as store:
            assert [finding.kind for finding in store.findings] == [FindingKind.DAT_TAIL_CUT]

    def test_a_reserve_that_is_there_is_used(self, stopped, disk):
        assert ReserveFile(disk, stopped).fill()
        (stopped / "7.idx").unlink()
        fill(disk)
        with served(stopped, disk) as store:
            assert store.get_volume(VID).delete(1, COOKIE) > 0


class TestRealDisk:
    @pytest.mark.slow
    def test_writers_cannot_take_what_deletions_need(self, tmpfs):
        """Slow: deletes 2000 needles on a file system of its own."""
        (tmpfs / "filler").write_bytes(bytes(8 << 20))
        with served(tmpfs, OsFiles(), needles=2000) as store:
            write_until_refused(store)
            fill_to_the_last_block(tmpfs)
            for deleted_id in range(1, 2001):
                store.get_volume(VID).delete(deleted_id, COOKIE)
            store.mark_readonly(store.get_volume(VID), persist=True)
            store.mark_writable(store.get_volume(VID))
            assert store.locations[0].is_space_low
            (tmpfs / "filler").unlink()
            look(store)
            write(store, 9999)
        assert check_directory(tmpfs).is_healthy

    def test_it_starts_and_recovers(self, tmpfs):
        with served(tmpfs, OsFiles()):
            pass
        fill_to_the_last_block(tmpfs)
        with served(tmpfs, OsFiles()) as store:
            assert read(store, 1) == b"data"
            with pytest.raises(errors.ReadOnly):
                write(store, 30)
            # The deletion fits the free rest of the last blocks of .dat and .idx.
            store.get_volume(VID).delete(1, COOKIE)
            (tmpfs / "filler").unlink()
            look(store)
            write(store, 30)
        assert check_directory(tmpfs).is_healthy
