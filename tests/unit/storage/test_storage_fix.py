"""The index that `fix` makes: what it takes from the old index, and when it takes nothing from it."""

from __future__ import annotations

import pytest
from support.stores import open_at

from native_handlers.format.idx import encode_entry, iter_entries
from native_handlers.format.needle import Needle
from native_handlers.format.types import TOMBSTONE_SIZE
from native_handlers.storage.check import check_directory
from native_handlers.storage.fix import fix_index
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import Deleted, NotFound
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

    def fix(self):
        """Whether the index was made anew. A second run finds nothing to do."""
        paths = VolumePaths(self.path, self.path, "", VID)
        done = fix_index(OS_FILES, paths, 4, lambda _count: None)
        assert not done.problems
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
        assert place.fix()
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
