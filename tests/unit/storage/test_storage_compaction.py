"""Compaction of one volume: the bytes of the result, the needles that are dropped or kept, and the refusals."""

from __future__ import annotations

import errno
import logging
import os
import threading

import numpy as np
import pytest
from support.clocks import Clock
from support.files import PlannedFiles, broken
from support.stores import open_at, place
from support.waiting import LIMIT_S

from native_handlers.format import crc
from native_handlers.format.errors import ChecksumMismatch
from native_handlers.format.idx import iter_entries
from native_handlers.format.needle import Needle, actual_size, encode_needle, parse_needle_header
from native_handlers.format.super_block import parse_super_block
from native_handlers.format.ttl import parse_ttl
from native_handlers.storage.check import check_directory
from native_handlers.storage.model import errors
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.report import FindingKind
from native_handlers.storage.system.files import OsFiles
from native_handlers.storage.volume import record_mover
from native_handlers.storage.volume.compacted_copy import CompactedCopy
from native_handlers.storage.volume.handle import VolumeHandle
from native_handlers.storage.volume.record_facts import record_lengths

VID, COOKIE = 7, 0xC0FFEE
NOW_S = 1_700_000_000
CONFIG = {"offset_width_bytes": 4, "clock_ns": Clock(NOW_S)}
OPTIONS = CompactionOptions()


def plan(files, operation, ending, code):
    """The operation fails on files with this ending."""
    files.matches = lambda path: path.name.endswith(ending)
    files.plan[operation] = broken(code)


def store_at(path, width=4, **more):
    return open_at(path, **CONFIG | {"offset_width_bytes": width} | more)


def write(store, needle_id, data, **fields):
    needle = Needle(needle_id=needle_id, cookie=COOKIE, data=data)
    for name, value in fields.items():
        setattr(needle, name, value)
    store.get_volume(VID).write(needle)


def read(store, needle_id):
    return store.get_volume(VID).read(needle_id, cookie=COOKIE).needle.data


def compact(store):
    list(store.find_volume(VID).compaction.run(OPTIONS))


def vacuum(store):
    compact(store)
    store.commit_compaction(store.get_volume(VID))


def fill(store, count=10, **fields):
    """Needles 1 to `count`, written in another order than that of their ids. The odd ids are deleted."""
    store.allocate_volume(VID, **fields)
    for needle_id in [*range(count // 2, count + 1), *range(1, count // 2)]:
        write(store, needle_id, b"%d" % needle_id * 100)
    for needle_id in range(1, count + 1, 2):
        store.get_volume(VID).delete(needle_id, COOKIE)


def temporary(path):
    return sorted(one.name for one in path.iterdir() if one.suffix in {".cpd", ".cpx", ".cpc"})


@pytest.mark.parametrize("version", [1, 2, 3])
def test_lengths_are_those_of_single_records(version):
    sizes = np.array([-1, 0, 1, 3, 4, 5, 100, 2**31 - 1], np.int32)
    expected = [actual_size(max(size, 0), version) for size in sizes.tolist()]
    assert record_lengths(sizes, version).tolist() == expected


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("width", [4, 5])
def test_live_records_are_left_as_they_were_in_the_order_of_their_ids(tmp_path, version, width):
    store = store_at(tmp_path, width=width)
    fill(store, version=version)
    before, old = (tmp_path / "7.dat").read_bytes(), (tmp_path / "7.idx").read_bytes()
    places = {row.needle_id: row for row in iter_entries(old, width) if row.size > 0}
    vacuum(store)
    after = (tmp_path / "7.dat").read_bytes()
    rows = list(iter_entries((tmp_path / "7.idx").read_bytes(), width))
    assert [row.needle_id for row in rows] == [2, 4, 6, 8, 10]
    position = 8
    for row in rows:
        length, start = actual_size(row.size, version), places[row.needle_id].offset * 8
        assert row.offset * 8 == position
        assert after[position : position + length] == before[start : start + length]
        position += length
    assert position == len(after)
    assert parse_super_block(after).compaction_revision == parse_super_block(before).compaction_revision + 1
    assert after[:4] == before[:4]
    store.close()
    store = store_at(tmp_path, width=width)
    assert store.findings == []
    assert read(store, 2) == b"2" * 100
    store.close()


def test_the_counters_are_those_of_the_next_start(tmp_path):
    store = store_at(tmp_path)
    fill(store)
    compact(store)
    write(store, 2, b"another")
    store.get_volume(VID).delete(4, COOKIE)
    write(store, 11, b"new")
    store.commit_compaction(store.get_volume(VID))
    facts = store.find_volume(VID).report()
    store.close()
    store = store_at(tmp_path)
    after = store.find_volume(VID).report()
    names = ("size_bytes", "content_size_bytes", "file_count", "delete_count", "deleted_byte_count", "max_needle_id")
    assert [getattr(facts, name) for name in names] == [getattr(after, name) for name in names]
    store.close()


def test_a_volume_is_as_old_as_its_last_write(tmp_path):
    store = store_at(tmp_path)
    fill(store)
    os.utime(tmp_path / "7.dat", ns=(5 * 10**9, 5 * 10**9))
    vacuum(store)
    assert (tmp_path / "7.dat").stat().st_mtime_ns == 5 * 10**9
    store.close()


def test_a_placement_that_only_the_vif_had_is_in_the_new_super_block(tmp_path):
    """As in upstream. The .vif stays unchanged."""
    store = store_at(tmp_path)
    fill(store)
    store.configure_volume(VID, "001")
    vif = (tmp_path / "7.vif").read_bytes()
    vacuum(store)
    assert str(parse_super_block((tmp_path / "7.dat").read_bytes()).replica_placement) == "001"
    assert (tmp_path / "7.vif").read_bytes() == vif
    store.close()


class TestExpiry:
    @pytest.mark.parametrize("is_large", [False, True])
    def test_in_a_volume_with_a_ttl(self, tmp_path, monkeypatch, is_large):
        monkeypatch.setattr(record_mover, "LARGE_BYTES", 1 if is_large else 1 << 30)
        clock = Clock(NOW_S)
        store = open_at(tmp_path, clock_ns=clock)
        store.allocate_volume(VID, ttl="3m")
        meta = {"has_name": True, "name": b"n" * 200, "has_mime": True, "mime": b"text/plain"}
        for needle_id, fields in ((1, {}), (2, meta)):
            write(store, needle_id, b"old" * 50, has_last_modified=True, last_modified_s=NOW_S, **fields)
        write(store, 3, b"undated")
        clock.advance(100)
        write(store, 4, b"young" * 50, has_last_modified=True, last_modified_s=clock.now_ns // 10**9, **meta)
        clock.advance(100)
        vacuum(store)
        rows = list(iter_entries((tmp_path / "7.idx").read_bytes(), 4))
        assert [row.needle_id for row in rows] == [3, 4], "an undated one never expires for a reader"
        assert read(store, 4) == b"young" * 50
        store.close()

    def test_a_needles_own_ttl_in_a_volume_without(self, tmp_path):
        """Upstream drops the needle at the first vacuum."""
        clock = Clock(NOW_S)
        store = open_at(tmp_path, clock_ns=clock)
        store.allocate_volume(VID)
        dated = {"has_last_modified": True, "last_modified_s": NOW_S}
        write(store, 1, b"minutes", has_ttl=True, ttl=parse_ttl("3m"), **dated)
        write(store, 2, b"days", has_ttl=True, ttl=parse_ttl("3d"), **dated)
        vacuum(store)
        assert read(store, 1) == b"minutes"
        clock.advance(181)
        vacuum(store)
        assert [row.needle_id for row in iter_entries((tmp_path / "7.idx").read_bytes(), 4)] == [2]
        store.close()

    def test_what_a_reader_is_still_given_stays(self, tmp_path):
        """The needle's last-modified time comes from the client."""
        store = store_at(tmp_path)
        store.allocate_volume(VID, ttl="3m")
        write(store, 1, b"said to be old", has_last_modified=True, last_modified_s=NOW_S - 10_000)
        vacuum(store)
        assert read(store, 1) == b"said to be old"
        store.close()


class TestDamage:
    @pytest.mark.damage("a payload is damaged on purpose")
    @pytest.mark.parametrize("is_large", [False, True])
    def test_a_damaged_payload_stays_as_it_was(self, tmp_path, monkeypatch, is_large):
        monkeypatch.setattr(record_mover, "LARGE_BYTES", 1 if is_large else 1 << 30)
        store = store_at(tmp_path)
        fill(store)
        data = (tmp_path / "7.dat").read_bytes()
        store.close()
        (tmp_path / "7.dat").write_bytes(data.replace(b"4" * 100, b"X" * 100))
        store = store_at(tmp_path)
        vacuum(store)
        with pytest.raises(ChecksumMismatch):
            read(store, 4)
        assert read(store, 6) == b"6" * 100
        store.close()

    def test_a_row_without_its_record_is_dropped_and_named(self, tmp_path, caplog):
        store = store_at(tmp_path)
        fill(store)
        place = next(row for row in iter_entries((tmp_path / "7.idx").read_bytes(), 4) if row.needle_id == 4)
        with (tmp_path / "7.dat").open("rb+") as file:
            file.seek(place.offset * 8 + 12)
            file.write((999).to_bytes(4, "big"))
        with caplog.at_level(logging.WARNING):
            vacuum(store)
        assert "drops 1 needles, for there is no record where the index has them: 4" in caplog.text
        with pytest.raises(errors.NotFound):
            read(store, 4)
        assert read(store, 6) == b"6" * 100
        store.close()

    @pytest.mark.damage("the records are gone")
    def test_an_index_that_leads_to_nothing_empties_no_volume(self, tmp_path):
        store = store_at(tmp_path)
        fill(store)
        size = (tmp_path / "7.dat").stat().st_size
        with (tmp_path / "7.dat").open("rb+") as file:
            file.seek(8)
            file.write(b"\xee" * (size - 8))
        with pytest.raises(errors.CompactionRefused, match=r"5 of 5 rows lead to no record, so .* is not its index"):
            compact(store)
        assert (tmp_path / "7.dat").stat().st_size == size
        assert temporary(tmp_path) == []
        store.close()

    @pytest.mark.damage("a row of the index is changed on purpose")
    def test_an_index_file_that_lacks_live_needles_is_refused(self, tmp_path):
        """Another program has changed the .idx under the open volume."""
        store = store_at(tmp_path)
        fill(store)
        raw = bytearray((tmp_path / "7.idx").read_bytes())
        raw[28:32] = b"\xff\xff\xff\xff"
        (tmp_path / "7.idx").write_bytes(raw)
        with pytest.raises(
            errors.CompactionRefused, match=r"its index file has \d+ bytes of live needles, and there are"
        ):
            compact(store)
        assert temporary(tmp_path) == []
        store.close()

    @pytest.mark.damage("the volume stays read-only")
    def test_a_volume_whose_files_are_doubtful_is_refused(self, tmp_path):
        """A vacuum would make damage permanent that can still be repaired."""
        store = store_at(tmp_path)
        fill(store)
        store.close()
        (tmp_path / "7.dat").chmod(0o444)
        store = store_at(tmp_path)
        with pytest.raises(errors.CompactionRefused, match=r"its files are damaged: .*7\.dat has no write permission"):
            compact(store)
        store.close()


class TestFailures:
    @pytest.fixture
    def files(self):
        return PlannedFiles()

    @pytest.fixture
    def store(self, tmp_path, files, opened):
        store = opened(tmp_path, files=files, volumes=(), **CONFIG)
        fill(store)
        return store

    @pytest.mark.parametrize(
        ("operation", "ending", "code", "kind"),
        [
            ("read_into", ".dat", errno.EIO, errors.ReadFailed),
            ("open", ".cpd", errno.ENOSPC, errors.WriteFailed),
            ("open", ".cpx", errno.ENOSPC, errors.WriteFailed),
            ("write", ".cpd", errno.ENOSPC, errors.WriteFailed),
            ("write", ".cpx", errno.ENOSPC, errors.WriteFailed),
            ("sync", ".cpd", errno.EIO, errors.WriteFailed),
            ("sync", ".cpx", errno.EIO, errors.WriteFailed),
        ],
    )
    def test_a_copy_that_fails_leaves_nothing(self, store, files, tmp_path, operation, ending, code, kind):
        plan(files, operation, ending, code)
        with pytest.raises(kind):
            compact(store)
        assert temporary(tmp_path) == []
        files.plan.clear()
        assert read(store, 2) == b"2" * 100
        vacuum(store)
        assert read(store, 2) == b"2" * 100

    def test_a_bad_spot_among_the_garbage_hinders_nothing(self, store, monkeypatch):
        real = OsFiles.read_into
        live = {row.offset * 8 for row in iter_entries(store.find_volume(VID).paths.file(".idx").read_bytes(), 4)}

        def read_into(self, fd, buffer, offset_bytes):
            if len(buffer) > 300:
                raise OSError(errno.EIO, "bad spot")
            assert offset_bytes in live
            return real(self, fd, buffer, offset_bytes)

        monkeypatch.setattr(OsFiles, "read_into", read_into)
        compact(store)
        monkeypatch.undo()
        store.commit_compaction(store.get_volume(VID))
        assert read(store, 10) == b"10" * 100

    def test_a_mark_that_cannot_be_made_changes_nothing(self, store, files, tmp_path):
        compact(store)
        plan(files, "open", ".cpc", errno.EIO)
        with pytest.raises(errors.WriteFailed):
            store.commit_compaction(store.get_volume(VID))
        files.plan.clear()
        assert temporary(tmp_path) == []
        write(store, 99, b"goes on")
        assert store.find_volume(VID).compaction_revision == 0

    @pytest.mark.damage("the mark stays until the next start")
    def test_a_mark_that_cannot_be_taken_back_ends_writing(self, store, files, tmp_path):
        """The next start swaps the files in: later writes would be lost."""
        compact(store)
        plan(files, "sync", ".cpc", errno.EIO)
        plan(files, "unlink", ".cpc", errno.EIO)
        with pytest.raises(errors.WriteFailed):
            store.commit_compaction(store.get_volume(VID))
        with pytest.raises(errors.ReadOnly):
            write(store, 99, b"not taken")
        assert read(store, 2) == b"2" * 100
        files.plan.clear()
        store.unmount_volume(VID)
        store.mount_volume(VID)
        assert [finding.kind for finding in store.findings] == [FindingKind.COMPACTION_FINISHED]
        assert store.find_volume(VID).compaction_revision == 1
        assert read(store, 2) == b"2" * 100
        write(store, 99, b"taken")

    @pytest.mark.damage("the mark stays until the next start")
    def test_no_cleanup_takes_the_new_files_away_while_the_mark_is_there(self, store, files, tmp_path):
        """The next start would find a mark, and no files to swap in."""
        compact(store)
        plan(files, "sync", ".cpc", errno.EIO)
        plan(files, "unlink", ".cpc", errno.EIO)
        with pytest.raises(errors.WriteFailed):
            store.commit_compaction(store.get_volume(VID))
        files.plan.clear()
        left = temporary(tmp_path)
        assert left == ["7.cpc", "7.cpd", "7.cpx"]
        with pytest.raises(errors.CompactionRefused, match="refusing cleanup while commit marker present"):
            store.find_volume(VID).compaction.cleanup()
        assert temporary(tmp_path) == left

    @pytest.mark.parametrize("ending", [".cpd", ".cpx"])
    def test_names_that_cannot_be_given_are_given_later(self, store, files, tmp_path, ending):
        compact(store)
        plan(files, "rename", ending, errno.EIO)
        store.commit_compaction(store.get_volume(VID))
        write(store, 99, b"in the new files")
        assert ".cpc" in [name[1:] for name in temporary(tmp_path)]
        files.plan.clear()
        vacuum(store)
        assert temporary(tmp_path) == []
        assert store.find_volume(VID).compaction_revision == 2
        assert [read(store, needle_id) for needle_id in (2, 99)] == [b"2" * 100, b"in the new files"]


class TestLife:
    @pytest.fixture
    def store(self, tmp_path, opened):
        store = opened(tmp_path, volumes=(), **CONFIG)
        fill(store)
        return store

    def test_a_reader_goes_on_with_the_file_that_it_holds(self, store):
        write(store, 50, bytes(range(256)) * 8192)
        held = store.get_volume(VID).read(50, cookie=COOKIE, data=False)
        vacuum(store)
        assert held.payload.read(0, held.payload.length_bytes) == bytes(range(256)) * 8192
        held.release()

    def test_a_volume_that_was_opened_anew_is_compacted_again(self, store, tmp_path):
        compact(store)
        store.unmount_volume(VID)
        assert temporary(tmp_path) == []
        store.mount_volume(VID)
        with pytest.raises(errors.CompactionRefused, match=r"missing \.cpd/\.cpx"):
            store.commit_compaction(store.get_volume(VID))
        vacuum(store)

    def test_what_is_closed_is_not_compacted(self, store, tmp_path, monkeypatch):
        monkeypatch.setattr(record_mover, "BATCH_BYTES", 300)
        running = store.find_volume(VID).compaction.run(OPTIONS)
        next(running)
        running.close()
        assert temporary(tmp_path) == []
        volume = store.find_volume(VID)
        store.unmount_volume(VID)
        with pytest.raises(errors.VolumeClosed):
            list(volume.compaction.run(OPTIONS))
        store.mount_volume(VID)

    @pytest.mark.slow
    def test_a_compaction_stops_for_a_cleanup(self, store, tmp_path, monkeypatch):
        """Slow: waits a fifth of a second for a thread."""
        monkeypatch.setattr(record_mover, "BATCH_BYTES", 300)
        compaction = store.find_volume(VID).compaction
        seen = []

        def clean_up_elsewhere(_count):
            if not seen:
                seen.append(threading.Thread(target=compaction.cleanup))
                seen[0].start()
                seen[0].join(0.2)

        with pytest.raises(errors.CompactionEnded):
            list(compaction.run(CompactionOptions(pace=clean_up_elsewhere)))
        seen[0].join()
        assert temporary(tmp_path) == []

    def test_a_pause_for_the_pace_ends_when_the_volume_is_closed(self, store):
        """The set of volumes waits for that close, so the pause must not last as long as the pace wants."""
        compaction = store.find_volume(VID).compaction
        closing = threading.Thread(target=store.unmount_volume, args=(VID,))

        def pause(_count):
            closing.start()
            compaction.pause(10 * LIMIT_S, lambda: True)

        with pytest.raises(errors.CompactionEnded):
            list(compaction.run(CompactionOptions(pace=pause)))
        closing.join(LIMIT_S)
        assert not closing.is_alive()
        store.mount_volume(VID)

    def test_a_pause_for_the_pace_ends_when_nobody_wants_the_copy(self, store):
        asked = []

        def is_wanted():
            asked.append(1)
            return len(asked) < 3

        store.find_volume(VID).compaction.pause(10 * LIMIT_S, is_wanted)
        assert len(asked) == 3

    def test_one_that_begins_while_the_volume_is_closed_leaves_nothing(self, store, tmp_path, monkeypatch):
        volume = store.find_volume(VID)
        real = VolumeHandle.close

        def close_later(handle, *arguments):
            list(volume.compaction.run(OPTIONS))
            assert temporary(tmp_path) == ["7.cpd", "7.cpx"]
            real(handle, *arguments)

        with monkeypatch.context() as patching:
            patching.setattr(VolumeHandle, "close", close_later)
            store.unmount_volume(VID)
        assert temporary(tmp_path) == []
        store.mount_volume(VID)
        vacuum(store)

    def test_few_bytes_are_copied_under_the_lock(self, store, monkeypatch):
        """What is written while the copy is put on disk, and while its index is made, is copied before the lock."""
        volume = store.find_volume(VID)
        compact(store)
        copied = []
        real_index, real_catch_up = CompactedCopy.index, CompactedCopy.catch_up

        def index(copy):
            made = real_index(copy)
            for number in range(100, 220):
                write(store, number, bytes(50_000))
            return made

        def catch_up(copy, rows_end, dat_end):
            before = copy.end_bytes
            rows = real_catch_up(copy, rows_end, dat_end)
            copied.append(copy.end_bytes - before)
            return rows

        monkeypatch.setattr(CompactedCopy, "index", index)
        monkeypatch.setattr(CompactedCopy, "catch_up", catch_up)
        volume.compaction.commit()
        assert copied[-1] == 0
        assert max(copied) > 5 << 20
        assert [len(read(store, number)) for number in range(100, 220)] == [50_000] * 120

    def test_a_copy_that_was_not_committed_gives_its_room_to_the_next(self, store, tmp_path, monkeypatch):
        compact(store)
        seen = []
        real = OsFiles.disk_space

        def disk_space(self, path):
            seen.append(temporary(tmp_path))
            return real(self, path)

        monkeypatch.setattr(OsFiles, "disk_space", disk_space)
        vacuum(store)
        assert seen[0] == []

    def test_another_process_is_not_disturbed(self, store, tmp_path):
        """A lock on the .cpd shows that the other process is at work."""
        files = OsFiles()
        fd = files.open(tmp_path / "7.cpd", os.O_RDWR | os.O_CREAT)
        assert files.lock(fd)
        for call in (lambda: compact(store), store.find_volume(VID).compaction.cleanup):
            with pytest.raises(errors.CompactionRunning):
                call()
        assert (tmp_path / "7.cpd").exists()
        files.close(fd)
        store.find_volume(VID).compaction.cleanup()
        assert temporary(tmp_path) == []

    def test_preallocated_room_does_not_count_as_data(self, store, tmp_path):
        list(store.find_volume(VID).compaction.run(CompactionOptions(preallocate_bytes=1 << 20)))
        assert (tmp_path / "7.cpd").stat().st_blocks * 512 >= 1 << 20
        store.commit_compaction(store.get_volume(VID))
        assert (tmp_path / "7.dat").stat().st_size < 2000


def test_an_index_in_a_directory_of_its_own(tmp_path):
    data, index = tmp_path / "data", tmp_path / "index"
    data.mkdir()
    index.mkdir()
    store = open_at(place(data, index))
    fill(store)
    compact(store)
    assert temporary(index) == ["7.cpx"]
    store.commit_compaction(store.get_volume(VID))
    store.close()
    assert temporary(index) == temporary(data) == []
    assert check_directory(data, index_path=index).is_healthy
    store = open_at(place(data, index))
    assert read(store, 2) == b"2" * 100
    store.close()


def test_a_record_under_another_id_keeps_its_place(tmp_path):
    """WriteNeedleBlob makes such records. Upstream enters them under the id in the record."""
    store = store_at(tmp_path)
    fill(store)
    needle = Needle(needle_id=77, cookie=COOKIE, data=b"blob", checksum=crc.crc32c(b"blob"))
    store.find_volume(VID).write_blob(78, encode_needle(needle, 3), needle.size)
    vacuum(store)
    assert read(store, 78) == b"blob"
    store.close()


def test_what_comes_between_copy_and_commit_keeps_its_cookie(tmp_path):
    """Also an empty file, whose record looks like a deletion; deletions lead to a record of their own."""
    store = store_at(tmp_path)
    fill(store)
    volume = store.find_volume(VID)
    for _ in volume.compaction.run(OPTIONS):
        pass
    write(store, 90, b"")
    write(store, 91, b"late")
    write(store, 92, b"soon gone")
    volume.delete(92, COOKIE)
    store.commit_compaction(store.get_volume(VID))
    rows = {row.needle_id: row for row in iter_entries((tmp_path / "7.idx").read_bytes(), 4)}
    dat = (tmp_path / "7.dat").read_bytes()
    headers = {number: parse_needle_header(dat[rows[number].offset * 8 :][:16]) for number in (90, 91, 92)}
    assert {number: header.needle_id for number, header in headers.items()} == {90: 90, 91: 91, 92: 92}
    assert (headers[90].cookie, headers[91].cookie) == (COOKIE, COOKIE)
    assert (rows[90].size, rows[92].size, headers[92].size) == (0, -1, 0)
    store.close()
    assert check_directory(tmp_path).is_healthy
