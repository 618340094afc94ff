"""Doubtful files beside sound volumes: a start lets no doubtful file replace, change or remove a sound one, and reports
each of them.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import closing
from pathlib import Path

import pytest
from support.files import PlannedFiles, broken
from support.stores import open_at

from native_handlers.format.idx import encode_entry, iter_entries
from native_handlers.format.needle import Needle
from native_handlers.format.vif import EcShardConfig, VolumeInfo, encode_volume_info
from native_handlers.storage.check import check_directory
from native_handlers.storage.model import errors
from native_handlers.storage.model.file_kinds import RESERVED_EXTENSIONS, SCRATCH, is_reserved
from native_handlers.storage.model.report import FindingKind

COOKIE = 0xC0FFEE
COUNT = 40
OWN = {"vol_dir.uuid", ".weed-volume-py.session", ".weed-volume-py.lock"}

pytestmark = pytest.mark.damage("doubtful files are what the tests are about")


def fill(path, volume_id=7, *, collection="", seed=b"x", width=4):
    path.mkdir(exist_ok=True)
    with closing(open_at(path, offset_width_bytes=width)) as store:
        store.allocate_volume(volume_id, collection=collection)
        for needle_id in range(1, COUNT + 1):
            store.get_volume(volume_id).write(Needle(needle_id=needle_id, cookie=COOKIE, data=seed * needle_id))


def is_intact(store, volume_id=7, seed=b"x"):
    found = (store.get_volume(volume_id).read(one, cookie=COOKIE).needle.data for one in range(1, COUNT + 1))
    return all(data == seed * number for number, data in enumerate(found, 1))


def contents(path):
    return {one.name: one.read_bytes() for one in path.iterdir() if one.name not in OWN}


def kinds(store):
    return [finding.kind for finding in store.findings]


@pytest.fixture
def made(tmp_path):
    """A directory with volume 7."""
    fill(tmp_path / "made")
    return tmp_path / "made"


class TestOffsetWidths:
    """Rows of 16 bytes and of 17 can look alike by chance. Only the volume's own files say which width is right."""

    def silence(self, made):
        """The state that a server leaves which does not write widths."""
        (made / "7.vif").write_text('{"version":3}')

    @pytest.mark.parametrize("name", ["0_7.vif", "0_4.vif", "1.vif"])
    def test_a_vif_that_was_left_behind_decides_nothing(self, made, name):
        self.silence(made)
        (made / name).write_text('{"version":3,"bytesOffset":5}')
        before = contents(made)
        with closing(open_at(made)) as store:
            assert store.offset_width_bytes == 4
            assert is_intact(store)
        assert contents(made) == before

    @pytest.mark.parametrize(("width", "other"), [(4, 5), (5, 4)])
    def test_an_index_of_another_width_is_left_alone(self, tmp_path, width, other):
        made = tmp_path / "made"
        fill(made, width=width)
        self.silence(made)
        before = contents(made)
        with closing(open_at(made, offset_width_bytes=other)) as store:
            assert store.find_volume(7) is None
            text = f"its .idx has rows of {width}-byte offsets, and this server runs with {other}-byte ones"
            assert [finding.kind for finding in store.findings] == [FindingKind.NOT_LOADED]
            assert text in store.findings[0].detail
        assert contents(made) == before
        assert text in str(check_directory(made, offset_width_bytes=other))
        with closing(open_at(made, offset_width_bytes=width)) as store:
            assert is_intact(store)

    def test_a_width_that_there_is_not(self, made):
        (made / "0_9.vif").write_text('{"bytesOffset":7}')
        (made / "0_9.dat").write_bytes(b"\3" + bytes(7))
        with closing(open_at(made)) as store:
            assert store.offset_width_bytes == 4
            assert is_intact(store)
            assert [(finding.kind, finding.base.name) for finding in store.findings] == [
                (FindingKind.NOT_LOADED, "0_9")
            ]


class TestForeignIndexes:
    def foreign_rows(self, count=COUNT):
        return b"".join(encode_entry(1000 + number, 1 + number, 777, 4) for number in range(count))

    @pytest.mark.parametrize("excess", [0, 5])
    def test_one_of_another_volume_is_not_repaired_with_the_data_nor_the_data_with_it(self, made, excess):
        (made / "7.idx").write_bytes(self.foreign_rows() + bytes(excess))
        before = contents(made)
        with closing(open_at(made)) as store:
            assert store.find_volume(7).is_read_only
            assert set(kinds(store)) == {FindingKind.MADE_READ_ONLY}
        assert contents(made) == before
        assert "its .idx is another volume's" in str(check_directory(made))

    def test_an_empty_one_is_made_anew(self, made):
        (made / "7.idx").write_bytes(b"")
        with closing(open_at(made)) as store:
            assert kinds(store) == [FindingKind.IDX_BEHIND]
            assert is_intact(store)

    def test_one_whose_rows_are_nearly_all_right_is_repaired_as_ever(self, made):
        rows = (made / "7.idx").read_bytes()
        assert len(list(iter_entries(rows, 4))) == COUNT
        (made / "7.idx").write_bytes(rows[:-5])
        with closing(open_at(made)) as store:
            assert FindingKind.IDX_ROW_CUT in kinds(store)
            assert is_intact(store)


class TestNotes:
    @pytest.mark.parametrize("text", ["", "copying from elsewhere:8080", "nonsense"])
    def test_beside_a_whole_volume(self, made, text):
        (made / "7.note").write_text(text)
        before = contents(made)
        with closing(open_at(made)) as store:
            assert is_intact(store)
            assert kinds(store) == [FindingKind.NOTE_ASIDE]
            assert not store.find_volume(7).is_read_only
        before["7.note.aside"] = before.pop("7.note")
        assert contents(made) == before

    def test_beside_one_whose_server_was_killed_between_data_and_index(self, made):
        (made / "7.note").write_text("copying")
        os.truncate(made / "7.idx", 16 * (COUNT - 2))
        with closing(open_at(made)) as store:
            assert is_intact(store)
            assert kinds(store) == [FindingKind.NOTE_ASIDE, FindingKind.IDX_BEHIND]

    def damage_data(self, made):
        os.truncate(made / "7.dat", 1000)

    def lose_vif(self, made):
        (made / "7.vif").unlink()

    def spoil_vif(self, made):
        (made / "7.vif").write_text("{")

    def lose_idx(self, made):
        (made / "7.idx").unlink()

    @pytest.mark.parametrize("damage", [damage_data, lose_vif, spoil_vif, lose_idx])
    def test_beside_what_may_be_worth_something(self, made, damage):
        """No such file is removed, however often the server starts."""
        damage(self, made)
        (made / "7.note").write_text("copying")
        before = contents(made)
        for _ in range(2):
            with closing(open_at(made)) as store:
                assert store.find_volume(7) is None
            assert contents(made) == {f"{name}.aside": data for name, data in before.items()}
        assert f"note: {min(before)}.aside was moved aside" in str(check_directory(made))

    def test_what_was_moved_aside_before_stays_too(self, made):
        for number in range(3):
            (made / "7.note").write_text(f"{number}")
            open_at(made).close()
        assert {one.name: one.read_text() for one in made.glob("7.note*")} == {
            "7.note.aside": "0",
            "7.note.2.aside": "1",
            "7.note.3.aside": "2",
        }

    def test_the_vif_that_shards_share_stays_in_its_place(self, made):
        (made / "7.note").write_text("copying")
        (made / "7.ecx").write_bytes(b"shards")
        vif = (made / "7.vif").read_bytes()
        open_at(made).close()
        assert (made / "7.vif").read_bytes() == vif
        assert (made / "7.dat.aside").exists()


class TestOneIdTwice:
    def test_the_one_that_lacks_no_file_is_opened(self, made, tmp_path):
        """The name of the other volume sorts first."""
        fill(tmp_path / "other", seed=b"y")
        for extension in (".dat", ".idx"):
            (made / f"0_7{extension}").write_bytes((tmp_path / "other" / f"7{extension}").read_bytes())
        before = contents(made)
        with closing(open_at(made)) as store:
            assert store.find_volume(7).collection == ""
            assert is_intact(store)
            assert [(finding.kind, finding.base.name) for finding in store.findings] == [(FindingKind.ID_TAKEN, "0_7")]
        assert contents(made) == before

    def test_of_two_whole_ones_the_first_by_name_and_nothing_of_the_other_is_touched(self, made, tmp_path):
        fill(tmp_path / "other", collection="b", seed=b"y")
        for extension in (".dat", ".idx", ".vif"):
            (made / f"b_7{extension}").write_bytes((tmp_path / "other" / f"b_7{extension}").read_bytes())
        before = contents(made)
        with closing(open_at(made)) as store:
            assert is_intact(store)
            assert [(finding.kind, finding.base.name) for finding in store.findings] == [(FindingKind.ID_TAKEN, "b_7")]
        assert contents(made) == before

    def test_on_two_disks(self, made, tmp_path):
        fill(tmp_path / "other", collection="b", seed=b"y")
        with closing(open_at(made, tmp_path / "other")) as store:
            assert is_intact(store)
            (finding,) = store.findings
            assert (finding.kind, finding.base.name) == (FindingKind.ID_SERVED_ELSEWHERE, "b_7")


class TestVacuums:
    @pytest.mark.parametrize("extensions", [(".cpd", ".cpx"), (".cpd",), (".cpx",)])
    def test_what_is_no_compacted_copy_does_not_take_the_place_of_the_volume(self, made, extensions):
        for extension in extensions:
            (made / f"7{extension}").write_bytes(b"by hand")
        (made / "7.cpc").write_bytes(b"")
        with closing(open_at(made)) as store:
            assert is_intact(store)
            assert kinds(store) == [FindingKind.COMPACTION_ASIDE]
        assert {(made / f"7{extension}.aside").read_bytes() for extension in extensions} == {b"by hand"}
        assert not (made / "7.cpc").exists()

    def test_a_copy_without_its_volume_stays(self, made):
        """The copy may be the only one."""
        (made / "7.dat").rename(made / "7.cpd")
        (made / "7.idx").rename(made / "7.cpx")
        before = contents(made)
        with closing(open_at(made)) as store:
            assert kinds(store) == [FindingKind.COMPACTION_ASIDE]
        assert contents(made) == before


class TestArrivals:
    def arrive(self, made, tmp_path, *, sizes=None, replaces=(), name="7"):
        """The state that a killed server leaves after the decision that a copy counts."""
        fill(tmp_path / "copy", seed=b"new")
        found = {}
        for extension in (".dat", ".idx", ".vif"):
            data = (tmp_path / "copy" / f"7{extension}").read_bytes()
            (made / f"{name}{extension}.arriving").write_bytes(data)
            found[extension] = len(data)
        record = {"arrived": 1, "sizes": sizes or found, "replaces": list(replaces)}
        (made / f"{name}.arrived").write_text(json.dumps(record))

    def test_it_takes_its_place(self, made, tmp_path):
        self.arrive(made, tmp_path)
        with closing(open_at(made)) as store:
            assert is_intact(store, seed=b"new")
            assert kinds(store) == [FindingKind.ARRIVAL_FINISHED]
        assert sorted(contents(made)) == ["7.dat", "7.idx", "7.vif"]

    def test_what_it_replaces_on_another_disk_goes(self, made, tmp_path):
        other = tmp_path / "other"
        fill(other, collection="b", seed=b"y")
        self.arrive(made, tmp_path, replaces=[{"data": str(other), "collection": "b"}])
        with closing(open_at(made, other)) as store:
            assert is_intact(store, seed=b"new")
        assert contents(other) == {}

    @pytest.mark.parametrize("collection", ["b", "../made/b", "/etc/x"])
    def test_it_replaces_nothing_in_a_directory_that_is_not_this_servers(self, made, tmp_path, collection):
        other = tmp_path / "other"
        fill(other, collection="b", seed=b"y")
        before = contents(other)
        self.arrive(made, tmp_path, replaces=[{"data": str(other), "collection": collection}])
        open_at(made).close()
        assert contents(other) == before

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "{}", '{"arrived":1,"sizes":{},"replaces":[]}', '{"arrived":1,"sizes":[],"replaces":[]}'],
    )
    def test_a_record_that_is_none_is_moved_aside_with_what_arrived(self, made, tmp_path, text):
        self.arrive(made, tmp_path)
        (made / "7.arrived").write_text(text)
        self.assert_aside(made)

    @pytest.mark.parametrize(
        "sizes",
        [
            {".dat": 1, ".idx": 640},
            {".dat": 8, ".idx": 16, ".vif": 3},
            {".dat": 8},
            {".dat": 8, ".idx": 16, ".note": 3},
            {".dat": "x", ".idx": 1},
        ],
    )
    def test_a_record_that_does_not_fit_too(self, made, tmp_path, sizes):
        self.arrive(made, tmp_path, sizes=sizes)
        self.assert_aside(made)

    def assert_aside(self, made):
        before = contents(made)
        with closing(open_at(made)) as store:
            assert is_intact(store)
            assert kinds(store) == [FindingKind.ARRIVAL_DOUBTFUL]
        moved = {f"{name}.aside" if "arriv" in name else name: data for name, data in before.items()}
        assert contents(made) == moved

    def test_a_stray_record_changes_nothing(self, made):
        (made / "7.arrived").write_text('{"arrived":1,"sizes":{".dat":1,".idx":1},"replaces":[]}')
        with closing(open_at(made)) as store:
            assert is_intact(store)
            assert kinds(store) == [FindingKind.ARRIVAL_DOUBTFUL]

    @pytest.mark.parametrize("name", ["007", "+7", "7_", "b_07", "x"])
    def test_a_name_that_is_no_volumes(self, made, tmp_path, name):
        self.arrive(made, tmp_path, name=name)
        with closing(open_at(made)) as store:
            assert is_intact(store)
            assert store.findings == []
        assert (made / f"{name}.arrived").exists()

    @pytest.mark.parametrize("name", ["7.ecx", "7.ec03"], ids=["index", "shard"])
    def test_the_vif_of_shards_stays(self, made, tmp_path, name):
        """The index of a shard may be on another disk."""
        self.arrive(made, tmp_path)
        (made / name).write_bytes(b"shards")
        vif = encode_volume_info(VolumeInfo(version=3, ec_shard_config=EcShardConfig(10, 4, 1)))
        (made / "7.vif").write_text(vif)
        with closing(open_at(made)) as store:
            assert is_intact(store, seed=b"new")
        assert (made / "7.vif").read_text() == vif

    def test_what_could_not_be_finished_is_finished_when_the_volume_is_mounted(self, made, tmp_path):
        with closing(open_at(made)) as store:
            store.unmount_volume(7)
            self.arrive(made, tmp_path)
            store.mount_volume(7)
            assert is_intact(store, seed=b"new")
            assert kinds(store) == [FindingKind.ARRIVAL_FINISHED]


class TestUnfinishedFiles:
    @pytest.mark.parametrize(
        "name", ["7.dat.1.receiving", "b_7.vif.23.receiving", "7.dat.copying.4.receiving", "9.dat.arriving"]
    )
    def test_ours_are_removed(self, made, name):
        (made / name).write_bytes(b"half")
        assert f"note: {name} was not received whole; the next start removes it" in str(check_directory(made))
        open_at(made).close()
        assert not (made / name).exists()

    @pytest.mark.parametrize("name", ["9.dat.copying", "b_7.vif.copying", "9.ec03.copying", "9.ecx.tmp", "7.vif.tmp"])
    def test_what_was_to_become_a_file_is_removed(self, made, name):
        (made / name).write_bytes(b"half")
        assert re.search(f"note: {re.escape(name)} (was|is) .*; the next start removes it", str(check_directory(made)))
        with closing(open_at(made)) as store:
            assert is_intact(store)
        assert not (made / name).exists()

    @pytest.mark.parametrize(
        "name",
        [
            *("notes.receiving", "7.receiving", "7.dat.receiving", "07.dat.1.receiving", "x.arriving", "7.arriving"),
            *("7.copying", "x.dat.copying", "07.dat.copying", "7.dat.tmp", "7.dat.arriving.aside"),
        ],
    )
    def test_others_are_left_alone(self, made, name):
        (made / name).write_bytes(b"mine")
        with closing(open_at(made)) as store:
            assert is_intact(store)
        assert (made / name).read_bytes() == b"mine"


def test_a_second_engine_on_the_directories_sweeps_nothing(made):
    """The parent receives files there while its child starts."""
    with closing(open_at(made)) as store:
        (made / "9.dat.1.receiving").write_bytes(b"arriving")
        (made / "9.dat.arriving").write_bytes(b"arriving")
        with closing(open_at(made, opens_volumes=False, lock_owner_pid=os.getpid())):
            assert {one.name for one in made.glob("9.*")} == {"9.dat.1.receiving", "9.dat.arriving"}
        store.unmount_volume(7)


def test_a_record_that_cannot_be_read_stops_the_start(made):
    """Serving the old volume would ignore the decision."""
    (made / "7.arrived").touch()
    files = PlannedFiles(matches=lambda path: path.suffix == ".arrived")
    files.plan["open"] = broken()
    with pytest.raises(errors.DiskUnreadable):
        open_at(made, files=files)
    (made / "7.arrived").unlink()
    open_at(made).close()


def test_a_directory_of_the_name_of_a_record(made):
    (made / "7.arrived").mkdir()
    with closing(open_at(made)) as store:
        assert is_intact(store)
        assert kinds(store) == [FindingKind.ARRIVAL_DOUBTFUL]
    assert (made / "7.arrived.aside").is_dir()


def test_every_extension_that_the_storage_core_spells_is_reserved():
    """A file whose name has a meaning at a start must not be accepted from another server."""
    root = Path(__file__).parents[3] / "native_handlers" / "storage"
    spelled = {
        literal for path in root.rglob("*.py") for literal in re.findall(r'"(\.[a-z][a-z0-9]*)"', path.read_text())
    }
    assert {".dat", ".note", ".arrived", ".cut"} <= spelled
    assert {one for one in spelled if not is_reserved(one)} == {SCRATCH}
    assert all(is_reserved(extension.upper()) for extension in RESERVED_EXTENSIONS)
