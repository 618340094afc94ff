"""Repairs after a machine crash, and no such repair otherwise."""

from __future__ import annotations

import os

import pytest
from support.files import PlannedFiles, broken
from support.stores import open_at

from native_handlers.format.errors import FormatError
from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.disk import session_mark
from native_handlers.storage.disk.session_mark import SESSION_FILE_NAME, SessionMark
from native_handlers.storage.model import errors
from native_handlers.storage.model.report import FindingKind
from native_handlers.storage.system.files import OsFiles

COOKIE = 0xC0FFEE


def write(store, needle_id, data):
    store.get_volume(7).write(Needle(needle_id=needle_id, cookie=COOKIE, data=data))


def read(store, needle_id):
    return store.get_volume(7).read(needle_id, cookie=COOKIE).needle.data


def kinds(store):
    return [finding.kind for finding in store.findings]


@pytest.fixture
def made(tmp_path):
    """A cleanly closed volume with needles 1, 1 again, 2 and 3."""
    store = open_at(tmp_path)
    store.allocate_volume(7)
    for needle_id, data in ((1, b"old"), (1, b"new" * 300), (2, b"two"), (3, b"three" * 300)):
        write(store, needle_id, data)
    store.close()
    return tmp_path


def cut_power(directory, *, boot=b"another-boot", since_s=0):
    (directory / SESSION_FILE_NAME).write_bytes(b"%s %d\n" % (boot, since_s))


def damage(directory, payload):
    """Overwrites a payload in .dat with zeros."""
    data = (directory / "7.dat").read_bytes()
    assert payload in data
    (directory / "7.dat").write_bytes(data.replace(payload, bytes(len(payload)), 1))


class TestMark:
    def test_it_is_there_while_the_store_is_open(self, made):
        store = open_at(made)
        assert (made / SESSION_FILE_NAME).read_text().split()[0] == session_mark.BOOT_ID.read_text().strip()
        store.close()
        assert not (made / SESSION_FILE_NAME).exists()

    @pytest.mark.damage("the record stays torn")
    def test_a_killed_server_is_no_power_cut(self, made):
        """The mark names this boot: a damaged record then does not count as a record that was never written."""
        cut_power(made, boot=session_mark.BOOT_ID.read_bytes().strip())
        damage(made, b"new" * 300)
        store = open_at(made)
        assert kinds(store) == []
        with pytest.raises(FormatError):
            read(store, 1)
        store.close()

    @pytest.mark.parametrize("text", [b"", b"nonsense", b"x y z", b"\xff\xfe"])
    def test_one_that_says_nothing_sensible_counts(self, made, text):
        (made / SESSION_FILE_NAME).write_bytes(text)
        assert SessionMark(OsFiles(), made).cut_since_s == 0

    def test_without_a_boot_id_any_mark_counts(self, made, monkeypatch):
        monkeypatch.setattr(session_mark, "BOOT_ID", made / "absent")
        mark = SessionMark(OsFiles(), made)
        assert mark.cut_since_s is None
        mark.begin(5)
        assert SessionMark(OsFiles(), made).cut_since_s == 5

    def test_a_start_that_fails_leaves_it(self, made):
        cut_power(made)
        (made / "state.pb").write_bytes(b"\xff")
        with pytest.raises(errors.BadState):
            open_at(made)
        assert (made / SESSION_FILE_NAME).read_bytes() == b"another-boot 0\n"

    def test_a_last_sync_that_fails_leaves_it(self, made):
        files = PlannedFiles()
        store = open_at(made, files=files)
        files.plan["sync"] = broken()
        store.close()
        assert (made / SESSION_FILE_NAME).exists()


class TestMarkOfTwo:
    """A parent that owns the mark and a child that borrows the mark, on one directory."""

    @pytest.fixture
    def open_parent(self, made):
        return lambda **options: open_at(made, opens_volumes=False, **options)

    @pytest.fixture
    def open_child(self, made):
        return lambda: open_at(made, lock_owner_pid=os.getpid())

    def lines(self, made):
        return (made / SESSION_FILE_NAME).read_text().splitlines()

    def test_the_child_neither_writes_nor_removes_it(self, made, open_parent, open_child):
        parent = open_parent()
        before = self.lines(made)
        child = open_child()
        assert self.lines(made) == before
        child.close()
        assert self.lines(made) == before
        parent.close()
        assert not (made / SESSION_FILE_NAME).exists()

    @pytest.mark.damage("the record stays torn, and no row leads to it")
    def test_the_child_repairs_what_a_power_cut_left_although_the_parent_has_begun(self, made, open_parent, open_child):
        cut_power(made)
        damage(made, b"new" * 300)
        parent = open_parent()
        assert self.lines(made)[1:] == ["cut 0"]
        child = open_child()
        assert kinds(child) == [FindingKind.TORN_ROWS_DROPPED]
        assert read(child, 1) == b"old"
        assert self.lines(made)[1:] == []
        child.close()
        parent.close()
        assert not (made / SESSION_FILE_NAME).exists()

    @pytest.mark.damage("the record stays torn, and no row leads to it")
    @pytest.mark.parametrize("ends_well", [True, False])
    def test_a_cut_is_remembered_until_every_volume_was_examined(self, made, open_parent, ends_well):
        """The other engine repairs nothing, and the parent ends or is killed."""
        cut_power(made, since_s=3)
        damage(made, b"new" * 300)
        parent = open_parent()
        killed = (made / SESSION_FILE_NAME).read_bytes()
        parent.close()
        if not ends_well:
            (made / SESSION_FILE_NAME).write_bytes(killed)
        alone = open_at(made)
        assert kinds(alone) == [FindingKind.TORN_ROWS_DROPPED]
        alone.close()
        assert not (made / SESSION_FILE_NAME).exists()

    def test_a_child_that_could_not_sync_leaves_word(self, made, open_parent):
        files = PlannedFiles(matches=lambda path: path.suffix in {".dat", ".idx"})
        parent = open_parent()
        child = open_at(made, lock_owner_pid=os.getpid(), files=files)
        files.plan["sync"] = broken()
        child.close()
        parent.close()
        assert self.lines(made)[1:] == ["unsynced"]

    def test_a_child_that_did_not_end_well_leaves_the_mark(self, made, open_parent):
        parent = open_parent()
        parent.keep_session_marks()
        parent.close()
        assert len(self.lines(made)) == 1

    def test_a_session_goes_on_from_the_time_of_one_that_was_killed(self, made):
        cut_power(made, boot=session_mark.BOOT_ID.read_bytes().strip(), since_s=3)
        store = open_at(made)
        assert self.lines(made)[0].endswith(" 3")
        store.close()


class TestRepair:
    @pytest.mark.damage("torn records between whole ones stay")
    def test_a_torn_record_gives_way_to_the_one_before(self, made):
        cut_power(made)
        damage(made, b"new" * 300)
        store = open_at(made)
        assert kinds(store) == [FindingKind.TORN_ROWS_DROPPED]
        assert "1 rows, needles 1" in str(store.findings[0])
        assert (read(store, 1), read(store, 2), read(store, 3)) == (b"old", b"two", b"three" * 300)
        write(store, 4, b"four")
        store.close()
        assert not check_directory(made).is_healthy, "the torn record stays in .dat, and is told of"
        store = open_at(made)
        assert kinds(store) == []
        store.close()

    def test_a_record_of_which_only_the_header_is_there_is_torn(self, made):
        """A body of zeros has the checksum of an empty payload."""
        cut_power(made)
        size = (made / "7.dat").stat().st_size
        with (made / "7.dat").open("ab") as dat:
            dat.write(bytes.fromhex("00c0ffee 0000000000000001 00000006") + bytes(24))
        with (made / "7.idx").open("ab") as idx:
            idx.write(encode_entry(1, size // 8, 6, 4))
        store = open_at(made)
        assert kinds(store) == [FindingKind.TORN_ROWS_DROPPED, FindingKind.DAT_TAIL_CUT]
        assert read(store, 1) == b"new" * 300
        store.close()
        assert check_directory(made).is_healthy

    def test_rows_beyond_the_data_go(self, made):
        cut_power(made)
        size = (made / "7.dat").stat().st_size
        with (made / "7.idx").open("ab") as idx:
            idx.write(encode_entry(9, size // 8, 10, 4) + bytes(16))
        store = open_at(made)
        assert "2 rows, needles 9" in str(store.findings[0])
        assert not store.find_volume(7).is_read_only
        store.close()
        assert check_directory(made).is_healthy

    @pytest.mark.damage("they stay")
    def test_without_a_cut_they_make_it_read_only(self, made):
        size = (made / "7.dat").stat().st_size
        with (made / "7.idx").open("ab") as idx:
            idx.write(encode_entry(9, size // 8, 10, 4))
        store = open_at(made)
        assert store.find_volume(7).is_read_only
        store.close()

    def test_whole_records_behind_a_torn_one_are_put_aside(self, made):
        """None of these records was synced. After one torn record no later record is certain."""
        cut_power(made)
        os.truncate(made / "7.idx", 32)
        damage(made, b"two")
        (made / "7.cut").write_bytes(b"of an earlier power cut")
        before = (made / "7.dat").read_bytes()
        store = open_at(made)
        assert kinds(store) == [FindingKind.DAT_TAIL_CUT]
        assert "kept in" in str(store.findings[0])
        assert read(store, 1) == b"new" * 300
        assert (made / "7.dat").read_bytes() + (made / "7.cut").read_bytes() == before
        assert (made / "7.cut.aside").read_bytes() == b"of an earlier power cut"
        write(store, 2, b"again")
        store.close()
        assert check_directory(made).is_healthy

    @pytest.mark.damage("the record stays torn")
    def test_a_volume_that_was_not_written_to_is_not_examined(self, made):
        cut_power(made, since_s=2**40)
        damage(made, b"new" * 300)
        store = open_at(made)
        assert kinds(store) == []
        store.close()

    @pytest.mark.damage("the record stays torn")
    def test_what_is_old_is_not_examined(self, made, monkeypatch):
        monkeypatch.setattr("native_handlers.storage.volume.recovery.SUSPECT_BYTES", 100)
        cut_power(made)
        damage(made, b"new" * 300)
        store = open_at(made)
        assert kinds(store) == []
        store.close()

    @pytest.mark.damage("the record stays damaged")
    @pytest.mark.parametrize(
        ("since_s", "suspect_bytes"), [(2**40, 2**20), (0, 100)], ids=["not written to", "damaged long ago"]
    )
    def test_an_old_damage_behind_a_lost_index_cuts_nothing(self, made, monkeypatch, since_s, suspect_bytes):
        monkeypatch.setattr("native_handlers.storage.volume.recovery.SUSPECT_BYTES", suspect_bytes)
        cut_power(made, since_s=since_s)
        (made / "7.idx").unlink()
        damage(made, b"new" * 300)
        before = (made / "7.dat").read_bytes()
        store = open_at(made)
        assert kinds(store) == [FindingKind.IDX_LOST, FindingKind.IDX_BEHIND, FindingKind.MADE_READ_ONLY]
        assert store.find_volume(7).is_read_only
        store.close()
        assert (made / "7.dat").read_bytes() == before
        assert not (made / "7.cut").exists()
