"""The index that `fix` makes: what it takes from the old index, and when it takes nothing from it."""

from __future__ import annotations

import errno
import itertools
import os

import pytest
from support.files import OPERATIONS, UNSYNCED_FILES, PlannedFiles, broken
from support.power_cut_files import PowerCutFiles, all_after_cut
from support.stores import open_at
from support.unreliable_files import Crash

from native_handlers.format.errors import ChecksumMismatch, FormatError, SizeMismatch
from native_handlers.format.idx import encode_entry, iter_entries
from native_handlers.format.needle import Needle
from native_handlers.format.types import TOMBSTONE_SIZE
from native_handlers.storage import fix
from native_handlers.storage.check import check_directory
from native_handlers.storage.fix import fix_index
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import Deleted, NotFound, StorageError
from native_handlers.storage.system.files import OS_FILES
from native_handlers.storage.volume.paths import VolumePaths

VID = 3
COOKIE = 0x1234
IDS = range(1, 6)


class Place:
    """A directory with one volume, which a store has open now and then."""

    def __init__(self, path):
        self.path = path
        self.idx = path / f"{VID}.idx"
        with self.opened() as store:
            store.allocate_volume(VID)

    def opened(self):
        return _Opened(self.path)

    def write(self, *needle_ids, data=b"data"):
        with self.opened() as store:
            for needle_id in needle_ids:
                content = data + b"%4d" % needle_id
                store.get_volume(VID).write(Needle(needle_id=needle_id, cookie=COOKIE, data=content))

    def read(self, *needle_ids):
        """The contents, and the class of the error for a needle that cannot be read."""
        found = []
        with self.opened() as store:
            for needle_id in needle_ids:
                try:
                    found.append(bytes(store.get_volume(VID).read(needle_id, cookie=COOKIE).needle.data))
                except (Deleted, NotFound) as error:
                    found.append(type(error))
        return found

    def delete_in_tier(self, *needle_ids):
        """As a volume whose .dat is in a tier deletes: a row alone."""
        with self.idx.open("ab") as idx:
            for needle_id in needle_ids:
                idx.write(encode_entry(needle_id, 0, TOMBSTONE_SIZE, 4))

    def store_under(self, needle_id, source_id):
        """Stores the record of a needle under another id, as WriteNeedleBlob does."""
        with self.opened() as store:
            volume = store.get_volume(VID)
            place = volume.handle.get().index.get(source_id)
            blob = volume.read_blob(place.offset * 8, place.size)
            volume.write_blob(needle_id, blob, place.size)

    def rows(self):
        return [tuple(entry) for entry in iter_entries(self.idx.read_bytes(), 4)]

    def put_rows(self, rows):
        self.idx.write_bytes(b"".join(encode_entry(*row, 4) for row in rows))

    def lose_row(self, needle_id):
        self.put_rows(row for row in self.rows() if row[0] != needle_id)

    def fix(self, *problems):
        """Whether the index was made anew, with these problems. A second run finds nothing to do."""
        paths = VolumePaths(self.path, self.path, "", VID)
        done = fix_index(OS_FILES, paths, 4, lambda _count: None)
        assert done.problems == list(problems)
        assert check_directory(self.path).is_healthy
        again = fix_index(OS_FILES, paths, 4, lambda _count: None)
        assert not again.is_changed
        return done.is_changed


class _Opened:
    def __init__(self, path):
        self._path = path

    def __enter__(self):
        self._store = open_at(self._path)
        return self._store

    def __exit__(self, *_):
        self._store.close()


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    made.write(*IDS)
    return made


def content(needle_id, data=b"data"):
    return data + b"%4d" % needle_id


class TestDeletionsWithoutRecord:
    def test_the_index_stays_to_the_byte(self, place):
        place.delete_in_tier(2, 3)
        place.write(3, 6, data=b"later")
        before = place.idx.read_bytes()
        assert not place.fix()
        assert place.idx.read_bytes() == before

    def test_an_index_made_anew_has_them(self, place):
        place.delete_in_tier(2, 3)
        place.write(3, 6, data=b"later")
        place.lose_row(4)
        assert place.fix()
        assert place.read(1, 2, 3, 4, 6) == [
            content(1),
            Deleted,
            content(3, b"later"),
            content(4),
            content(6, b"later"),
        ]

    def test_a_needle_that_was_written_after_one_stays_though_its_row_is_lost(self, place):
        place.delete_in_tier(2)
        place.write(2, data=b"later")
        place.put_rows(place.rows()[:-1])
        assert place.fix()
        assert place.read(2) == [content(2, b"later")]

    def test_a_row_that_deletes_the_record_that_it_names(self, place):
        """The .ecx of a deleted needle has such a row, and so has the index that is made of it."""
        first, second, *rest = place.rows()
        place.put_rows([first, (*second[:2], TOMBSTONE_SIZE), *rest])
        assert place.fix()
        assert place.read(1, 2, 3) == [content(1), Deleted, content(3)]


class TestOtherIds:
    def test_the_index_stays_to_the_byte(self, place):
        place.store_under(77, 2)
        before = place.idx.read_bytes()
        assert not place.fix()
        assert place.idx.read_bytes() == before

    def test_an_index_made_anew_has_them(self, place):
        place.store_under(77, 2)
        with place.opened() as store:
            store.get_volume(VID).delete(2, COOKIE)
        place.lose_row(4)
        assert place.fix()
        assert place.read(2, 4, 77) == [Deleted, content(4), content(2)]

    def test_an_empty_file_under_another_id(self, place):
        with place.opened() as store:
            store.get_volume(VID).write(Needle(needle_id=9, cookie=COOKIE, data=b""))
        place.store_under(77, 9)
        place.lose_row(4)
        assert place.fix()
        assert place.read(4, 9, 77) == [content(4), b"", b""]


@pytest.mark.damage("records are damaged on purpose")
class TestDamagedRecords:
    """No older content of a needle counts again where its newest record is damaged."""

    @pytest.fixture
    def place(self, place):
        """Needles 2 and 4 have older content, needle 5 is deleted, and other records follow."""
        place.write(2, 4, data=b"later")
        with place.opened() as store:
            store.get_volume(VID).delete(5, COOKIE)
        place.write(6, 7, 8)
        return place

    def damage(self, place, number, at, junk):
        """Overwrites bytes of the record of the row `number`. Returns the row."""
        row = place.rows()[number]
        with (place.path / f"{VID}.dat").open("r+b") as dat:
            dat.seek(row[1] * 8 + at)
            dat.write(junk)
        return row

    def fix(self, place):
        """The problems. A second run finds the same ones of .dat, and nothing to do."""
        paths = VolumePaths(place.path, place.path, "", VID)
        done = fix_index(OS_FILES, paths, 4, lambda _count: None)
        again = fix_index(OS_FILES, paths, 4, lambda _count: None)
        assert not again.is_changed
        return done.problems

    @pytest.mark.parametrize(
        ("at", "junk"),
        [(20, b"????"), (12, b"\0\0\xff\xff"), (12, bytes(4)), (8, bytes(8)), (0, bytes(16))],
        ids=["payload", "size", "no size", "no size and another id", "zeros"],
    )
    def test_the_row_stays(self, place, at, junk):
        rows = place.rows()
        row = self.damage(place, 5, at, junk)
        problems = self.fix(place)
        assert f".idx: needle 2 stays at {row[1] * 8}, where .dat has no sound record: no read succeeds" in problems
        assert place.rows() == rows
        assert place.read(1, 4, 5, 8) == [content(1), content(4, b"later"), Deleted, content(8)]
        with pytest.raises((SizeMismatch, ChecksumMismatch)):
            place.read(2)

    def test_the_row_stays_in_an_index_made_anew(self, place):
        row = self.damage(place, 5, 20, b"????")
        place.lose_row(7)
        assert any("needle 2 stays" in problem for problem in self.fix(place))
        assert row in place.rows()
        assert place.read(3, 4, 7) == [content(3), content(4, b"later"), content(7)]
        with pytest.raises(ChecksumMismatch):
            place.read(2)

    def test_an_older_record_is_not_told_of(self, place):
        self.damage(place, 1, 20, b"????")
        (problem,) = self.fix(place)
        assert problem.startswith(".dat: ")
        assert place.read(2) == [content(2, b"later")]

    @pytest.mark.parametrize("junk", [bytes(16), b"\xff" * 16], ids=["zeros", "ones"])
    def test_the_needle_of_a_damaged_deletion_stays_deleted(self, place, junk):
        self.damage(place, 7, 0, junk)
        assert any("needle 5 stays deleted" in problem for problem in self.fix(place))
        assert place.read(1, 2, 5, 8) == [content(1), content(2, b"later"), Deleted, content(8)]

    def test_the_needle_of_a_deletion_with_another_id_stays_deleted(self, place):
        """The checksum does not cover the id."""
        self.damage(place, 7, 4, b"????????")
        assert ".idx: needle 5 stays deleted; .dat has no record of its deletion" in self.fix(place)
        assert place.read(1, 2, 5, 8) == [content(1), content(2, b"later"), Deleted, content(8)]

    def test_where_most_records_are_damaged(self, place):
        rows = place.rows()
        for number in range(1, len(rows) - 1):
            self.damage(place, number, 12, b"\xff\xff")
        assert sum("stays" in problem for problem in self.fix(place)) == len(IDS) + 1
        assert place.rows() == rows

    def test_what_is_behind_the_end(self, place):
        """The .dat is cut within the newest record of needle 2: all later ones are gone too."""
        cut_at = place.rows()[5][1] * 8 + 24
        os.truncate(place.path / f"{VID}.dat", cut_at)
        problems = self.fix(place)
        assert ".idx: needle 5 stays deleted; .dat has no record of its deletion" in problems
        assert {row[0] for row in place.rows()[len(IDS) :]} == {2, 4, 5}
        assert place.read(1, 3, 5, 8) == [content(1), content(3), Deleted, NotFound]
        for needle_id in (2, 4):
            assert any(f"needle {needle_id} stays" in problem for problem in problems)
            with pytest.raises((StorageError, FormatError)):
                place.read(needle_id)

    def test_a_cut_that_left_the_fewer_records_undoes_no_deletion(self, place):
        """Those of needles 1 to 4 are left, of 14. Needle 1 was deleted without a record."""
        place.delete_in_tier(1)
        os.truncate(place.path / f"{VID}.dat", place.rows()[4][1] * 8)
        assert ".idx: 7 of its rows lead behind the end of .dat" in self.fix(place)
        assert place.read(1, 3) == [Deleted, content(3)]

    @pytest.mark.parametrize("left", [None, b"", 3], ids=["no index", "an empty index", "a short index"])
    @pytest.mark.parametrize(
        ("at", "junk", "is_kept"), [(20, b"????", True), (12, b"\0\0\xff\xff", False), (0, bytes(16), False)]
    )
    def test_records_behind_one_without_a_row_are_found(self, place, left, at, junk, is_kept):
        row = self.damage(place, 4, at, junk)
        self.shorten(place, left)
        problems = self.fix(place)
        assert place.read(1, 3, 6, 7, 8) == [content(number) for number in (1, 3, 6, 7, 8)]
        assert (row in place.rows()) == is_kept
        assert any(problem.endswith("48 bytes hold no sound record") for problem in problems)
        assert len(place.rows()) == (11 if is_kept else 10)

    def test_several_in_a_row_keep_their_rows(self, place):
        rows = [self.damage(place, number, 20, b"????") for number in (1, 2, 3, 5)]
        self.shorten(place, None)
        assert len([one for one in self.fix(place) if one.startswith(".dat: ")]) == len(rows)
        assert set(rows) <= set(place.rows())
        assert place.read(1, 4, 8) == [content(1), content(4, b"later"), content(8)]

    def test_the_last_record_keeps_its_row(self, place):
        row = self.damage(place, 10, 20, b"????")
        self.shorten(place, None)
        self.fix(place)
        assert place.rows()[-1] == row

    def test_the_search_for_records_is_bounded(self, place, monkeypatch):
        monkeypatch.setattr(fix, "MAX_SEARCH_FACTOR", 0)
        self.damage(place, 4, 0, bytes(16))
        self.shorten(place, None)
        assert any(problem.startswith(".dat: zeros") for problem in self.fix(place))
        assert place.read(3, 6) == [content(3), NotFound]

    def shorten(self, place, left):
        """Leaves so many rows of the index, or no index."""
        if left is None:
            place.idx.unlink()
        else:
            place.put_rows(place.rows()[:left] if left else [])


class TestCrashes:
    @pytest.fixture
    def place(self, place):
        """The index lacks a row, and has a deletion that only the index knows."""
        place.delete_in_tier(2)
        place.lose_row(4)
        return place

    @pytest.fixture
    def paths(self, place):
        return VolumePaths(place.path, place.path, "", VID)

    @pytest.mark.slow
    def test_the_next_run_finds_what_the_interrupted_one_did(self, place, paths):
        """Slow: a run for each step at which it may crash."""
        old = place.idx.read_bytes()
        fix_index(UNSYNCED_FILES, paths, 4, lambda _count: None)
        new = place.idx.read_bytes()
        for step in itertools.count(1):
            place.idx.write_bytes(old)
            for aside in place.path.glob("*.aside"):
                aside.unlink()
            files = PlannedFiles(steps_of=OPERATIONS, cut=Crash)
            files.cut_at = step
            try:
                fix_index(files, paths, 4, lambda _count: None)
                break
            except Crash:
                fix_index(UNSYNCED_FILES, paths, 4, lambda _count: None)
                assert place.idx.read_bytes() == new, f"after a crash at step {step}"
        assert step > 10
        assert place.read(*IDS) == [content(1), Deleted, *map(content, (3, 4, 5))]

    def test_an_error_leaves_a_whole_index_and_no_other_file(self, place, paths):
        old = place.idx.read_bytes()
        for operation in ("write", "sync", "rename"):
            for good_calls in (0, 1):
                place.idx.write_bytes(old)
                files = PlannedFiles()
                files.plan[operation] = broken(errno.ENOSPC, good_calls)
                with pytest.raises(OSError, match="No space"):
                    fix_index(files, paths, 4, lambda _count: None)
                assert place.idx.read_bytes() == old
                assert not list(place.path.glob("*.receiving"))

    def test_a_power_cut_leaves_the_old_index_somewhere(self, place, paths):
        old, files, disks = place.idx.read_bytes(), PowerCutFiles(place.path), []
        for path in [path for path in place.path.iterdir() if path.is_file()]:
            fd = files.open(path, os.O_RDWR)
            files.write(fd, [path.read_bytes()], 0)
            files.sync(fd)
            files.close(fd)
        files.sync_directory(place.path)
        files.on_step = lambda: disks.append(files.disk.copy())
        fix_index(files, paths, 4, lambda _count: None)
        new, left = place.idx.read_bytes(), [one for disk in (*disks, files.disk) for one in all_after_cut(disk)]
        for contents in left:
            assert contents[place.idx.name] in {old, new}
            assert old in (data for name, data in contents.items() if name.endswith((".idx", ".aside")))
        assert {contents[place.idx.name] for contents in left} == {old, new}


class TestOffsetWidths:
    """Both widths, for volumes that a run with the other one finds."""

    @pytest.fixture(params=[4, 5])
    def width(self, request):
        return request.param

    @pytest.fixture
    def paths(self, tmp_path, width):
        store = open_at(tmp_path, offset_width_bytes=width)
        store.allocate_volume(VID)
        for needle_id in IDS:
            store.get_volume(VID).write(Needle(needle_id=needle_id, cookie=COOKIE, data=b"x" * 100 * needle_id))
        store.close()
        return VolumePaths(tmp_path, tmp_path, "", VID)

    def refused(self, paths, width):
        before = paths.file(".idx").read_bytes()
        done = fix_index(OS_FILES, paths, 9 - width, lambda _count: None)
        assert paths.file(".idx").read_bytes() == before
        assert not done.is_changed
        return done.problems

    def test_the_info_file_decides(self, paths, width):
        (problem,) = self.refused(paths, width)
        assert problem.startswith(f"nothing is done: its .vif says {width}-byte offsets")

    def test_the_index_decides_without_one(self, paths, width):
        paths.file(".vif").unlink()
        (problem,) = self.refused(paths, width)
        assert problem.startswith(f"nothing is done: its .idx has rows of {width}-byte offsets")

    @pytest.mark.damage("the index lacks rows on purpose")
    def test_an_index_of_small_needles_decides_too(self, paths, width):
        """A row of the other width has no size then: none can be looked up."""
        paths.file(".vif").unlink()
        rows = paths.file(".idx").read_bytes()
        paths.file(".idx").write_bytes(rows[: 12 + width])
        (problem,) = self.refused(paths, width)
        assert problem.startswith(f"nothing is done: its .idx has rows of {width}-byte offsets")


class TestIndexesOfSomethingElse:
    """All records have one length, so that the rows lead to records, and to wrong ones."""

    def test_the_index_before_a_vacuum_that_ordered_the_records_anew(self, tmp_path):
        place = Place(tmp_path)
        place.write(1, 2, 4, 3, 5, 6)
        old = place.idx.read_bytes()
        vacuum(place)
        assert place.idx.read_bytes() != old
        place.idx.write_bytes(old)
        assert place.fix()
        assert place.read(*range(1, 7)) == [content(number) for number in range(1, 7)]

    def test_the_index_before_a_vacuum_that_removed_a_record(self, place):
        place.write(6, 7, 8)
        with place.opened() as store:
            store.get_volume(VID).delete(5, COOKIE)
        old = place.idx.read_bytes()
        vacuum(place)
        place.idx.write_bytes(old)
        assert place.fix(".idx: 2 of its rows lead behind the end of .dat")
        assert place.read(1, 4, 5, 6, 7, 8) == [content(1), content(4), NotFound, content(6), content(7), content(8)]

    def test_an_index_whose_deletions_are_displaced(self, place):
        """A row of a deletion leads to the record of another deletion."""
        with place.opened() as store:
            for needle_id in (2, 3, 4):
                store.get_volume(VID).delete(needle_id, COOKIE)
        *rows, second, third, fourth = place.rows()
        place.put_rows([*rows, (third[0], *second[1:]), (fourth[0], *third[1:])])
        assert place.fix()
        assert place.read(*IDS) == [content(1), Deleted, Deleted, Deleted, content(5)]

    def test_the_index_of_another_volume(self, place):
        place.put_rows([(needle_id + 100, *rest) for needle_id, *rest in place.rows()])
        place.delete_in_tier(2)
        assert place.fix()
        assert place.read(*IDS) == [content(number) for number in IDS]


def vacuum(place):
    with place.opened() as store:
        volume = store.get_volume(VID)
        list(volume.compaction.run(CompactionOptions()))
        store.commit_compaction(volume)
