"""Files of a coding that replace those of another one: a crash at any step leaves the one coding or the other."""

import json
import os
import shutil
from contextlib import closing

import pytest
from support.files import OPERATIONS, PlannedFiles, UnsyncedFiles
from support.stores import open_at, place
from support.unreliable_files import Crash

from native_handlers.storage.check import check_directory
from native_handlers.storage.erasure_coding.shard_arrival import (
    ReplacementUnfinished,
    ShardArrival,
    WaitingShardFile,
    recover_shard_arrivals,
    replace_coding,
)
from native_handlers.storage.model.errors import VolumeNotFound
from native_handlers.storage.model.report import FindingKind

OLD = {"7.ecx": b"old" * 7, "7.ecj": b"o" * 8, "7.vif": b'{"version":3}', "7.ec00": b"old0", "7.ec01": b"old1"}
NEW = {"7.vif": b'{"version":3 }', "7.ec00": b"new0", "7.ec05": b"new5", "7.ecx": b"new" * 7}
INDEXES = (".ecx", ".ecj")
OWN_STEPS = OPERATIONS - {"facts", "list_directory", "read"}


class ShardDisk:
    """A disk with the files of OLD and, under waiting names, those of NEW. The index may be in another directory."""

    def __init__(self, path, *, has_index_dir):
        self.data = path / "data"
        self.index = path / "index" if has_index_dir else self.data
        self.own = (self.data, self.index)
        for directory in dict.fromkeys(self.own):
            directory.mkdir(parents=True)
        for name, content in OLD.items():
            self.path(name).write_bytes(content)
        self.waiting = [(self.path(name), self.path(f"{name}.3.receiving")) for name in NEW]
        for (target, waiting), content in zip(self.waiting, NEW.values(), strict=True):
            assert waiting.parent == target.parent
            waiting.write_bytes(content)
        self.removes = [self.path(name) for name in OLD]
        self.record = self.data / "7.ecarrived"

    def path(self, name):
        return (self.index if name.startswith(("7.ecx", "7.ecj")) else self.data) / name

    def replace(self, files):
        replace_coding(files, self.record, self.own, self.waiting, self.removes)

    def recover(self, files=None, *, is_wanted=lambda _: True):
        return recover_shard_arrivals(files or UnsyncedFiles(), self.own, [self.own], is_wanted)

    def content(self):
        paths = [path for directory in dict.fromkeys(self.own) for path in directory.iterdir()]
        return {path.name: path.read_bytes() if path.is_file() else b"" for path in paths}

    def named(self):
        return {name: content for name, content in self.content().items() if not name.endswith(".receiving")}


@pytest.fixture(params=[False, True], ids=["beside", "apart"])
def has_index_dir(request):
    return request.param


@pytest.fixture
def disk(tmp_path, has_index_dir):
    return ShardDisk(tmp_path, has_index_dir=has_index_dir)


def test_the_new_files_are_in_place_of_the_old_ones(disk):
    disk.replace(UnsyncedFiles())
    assert disk.content() == NEW


def steps_of(disk):
    files = PlannedFiles(steps_of=OWN_STEPS)
    disk.replace(files)
    return files.steps


@pytest.mark.slow
def test_a_crash_at_any_step_leaves_the_old_files_or_the_new_ones(tmp_path, has_index_dir):
    """Slow: an arrival for each step at which it may crash."""
    count = steps_of(ShardDisk(tmp_path / "whole", has_index_dir=has_index_dir))
    assert count > 12
    seen = set()
    for cut_at in range(1, count + 1):
        disk = ShardDisk(tmp_path / str(cut_at), has_index_dir=has_index_dir)
        files = PlannedFiles(steps_of=OWN_STEPS, cut=Crash)
        files.cut_at = cut_at
        with pytest.raises(Crash):
            disk.replace(files)
        disk.recover()
        left = disk.named()
        left.pop("7.ecarrived.tmp", None)
        assert left in (OLD, NEW), cut_at
        seen.add(left == NEW)
    assert seen == {False, True}


def test_a_crash_at_any_step_of_a_start_is_mended_by_the_next_one(tmp_path, has_index_dir):
    def decided(name):
        """A disk with the record, of which nothing is carried out."""
        disk = ShardDisk(tmp_path / name, has_index_dir=has_index_dir)
        waiting = tuple(WaitingShardFile(target, path, path.stat().st_size) for target, path in disk.waiting)
        disk.record.write_bytes(ShardArrival(waiting, tuple(disk.removes)).encode(disk.own))
        return disk

    counting = PlannedFiles(steps_of=OWN_STEPS)
    decided("whole").recover(counting)
    assert counting.steps > 8
    for cut_at in range(1, counting.steps + 1):
        disk = decided(str(cut_at))
        files = PlannedFiles(steps_of=OWN_STEPS, cut=Crash)
        files.cut_at = cut_at
        with pytest.raises(Crash):
            disk.recover(files)
        disk.recover()
        assert disk.content() == NEW, cut_at


@pytest.mark.slow
def test_an_attempt_that_fails_at_any_step_leaves_the_old_files_or_the_new_ones(tmp_path, has_index_dir):
    """The caller removes the files that wait, unless the replacement is to be finished.
    Slow: an arrival for each step that may fail.
    """
    count = steps_of(ShardDisk(tmp_path / "whole", has_index_dir=has_index_dir))
    seen = []
    for failing in range(1, count + 1):
        disk = ShardDisk(tmp_path / str(failing), has_index_dir=has_index_dir)
        files = PlannedFiles(steps_of=OWN_STEPS)
        left = [failing]

        def fail(name, _target, left=left):
            if name in OWN_STEPS:
                left[0] -= 1
                if not left[0]:
                    raise OSError(28, "planned")

        files.before = fail
        try:
            disk.replace(files)
        except ReplacementUnfinished:
            disk.recover()
            assert disk.content() == NEW, failing
            seen.append("new")
        except OSError:
            assert not disk.record.exists()
            for _, path in disk.waiting:
                path.unlink()
            assert disk.content() == OLD, failing
            assert disk.recover() == []
            assert disk.content() == OLD, failing
            seen.append("old")
    assert len(seen) == count
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"old", "new"}


def test_a_decision_that_cannot_be_taken_back_stands(disk):
    files = PlannedFiles()
    files.plan["unlink"] = 0, 5
    with pytest.raises(ReplacementUnfinished):
        disk.replace(files)
    assert disk.named().items() >= OLD.items()
    disk.recover()
    assert disk.content() == NEW


def decided(disk):
    """The text of the record of the disk's files."""
    waiting = tuple(WaitingShardFile(target, path, path.stat().st_size) for target, path in disk.waiting)
    return ShardArrival(waiting, tuple(disk.removes)).encode(disk.own)


@pytest.mark.parametrize(
    "change",
    [
        lambda disk: os.unlink(disk.waiting[0][1]),
        lambda disk: disk.waiting[1][1].write_bytes(b"new"),
        lambda disk: (disk.record.unlink(), disk.record.mkdir()),
        lambda disk: disk.record.write_bytes(b"no json"),
        lambda disk: disk.record.write_bytes(b'{"ecarrived":2,"waiting":[],"removes":[]}'),
        lambda disk: disk.record.write_bytes(b'{"ecarrived":1,"waiting":[],"removes":[["data","7.ec00"]]}'),
        lambda disk: disk.record.write_bytes(disk.record.read_bytes().replace(b"7.ec05.3", b"8.ec05.3")),
        lambda disk: disk.record.write_bytes(disk.record.read_bytes().replace(b"7.ec05.3", b"7./../ec05.3")),
        lambda disk: disk.record.write_bytes(disk.record.read_bytes().replace(b"3.receiving", b"3.something")),
    ],
)
def test_a_record_that_does_not_fit_is_moved_aside_with_what_waits(disk, change):
    disk.record.write_bytes(decided(disk))
    change(disk)
    before = disk.content()
    (found,) = disk.recover()
    assert found.kind is FindingKind.ARRIVAL_DOUBTFUL
    assert found.base == disk.data / "7"
    expected = {name if name in OLD else name + ".aside" for name in before}
    assert set(disk.content()) == expected
    for name, content in before.items():
        assert disk.content()[name if name in OLD else name + ".aside"] == content
        assert name in OLD or name in found.detail
    assert disk.recover() == []
    with closing(open_at(place(disk.data, disk.index))):
        # What was moved aside is not removed by a start.
        assert expected - {"7.ecarrived.aside"} <= set(disk.content())


@pytest.mark.slow
def test_files_that_were_restored_have_other_inodes(tmp_path, has_index_dir):
    """A crash at any step, and then all files are copied to another disk.
    Slow: a copy of all files for each step at which it may crash.
    """
    count = steps_of(ShardDisk(tmp_path / "whole", has_index_dir=has_index_dir))
    for cut_at in range(1, count + 1):
        disk = ShardDisk(tmp_path / str(cut_at), has_index_dir=has_index_dir)
        files = PlannedFiles(steps_of=OWN_STEPS, cut=Crash)
        files.cut_at = cut_at
        with pytest.raises(Crash):
            disk.replace(files)
        for directory in dict.fromkeys(disk.own):
            aside = directory.rename(directory.with_name("backup"))
            shutil.copytree(aside, directory)
            shutil.rmtree(aside)
        disk.recover()
        left = disk.named()
        left.pop("7.ecarrived.tmp", None)
        assert left in (OLD, NEW), cut_at


def test_a_disk_that_has_moved(disk, tmp_path):
    """The record names the disk's own directories by what they are for."""
    disk.record.write_bytes(decided(disk))
    for directory in dict.fromkeys(disk.own):
        directory.rename(tmp_path / f"moved {directory.name}")
    disk.data, disk.index = (tmp_path / f"moved {directory.name}" for directory in disk.own)
    disk.own = (disk.data, disk.index)
    assert len(disk.recover()) == 1
    assert disk.content() == NEW


def test_files_of_directories_that_this_server_does_not_have_stay(disk, tmp_path):
    other = tmp_path / "other" / "7.ec03"
    other.parent.mkdir()
    other.write_bytes(b"stays")
    disk.removes.append(other)
    disk.record.write_bytes(decided(disk))
    disk.recover()
    assert other.read_bytes() == b"stays"
    assert disk.content() == NEW


def test_a_record_whose_files_all_have_their_names_removes_nothing(disk):
    """Shard 1 of the same coding came later."""
    text = decided(disk)
    disk.replace(UnsyncedFiles())
    disk.record.write_bytes(text)
    disk.path("7.ec01").write_bytes(b"later")
    disk.recover()
    assert disk.content() == NEW | {"7.ec01": b"later"}


def test_a_start_finishes_it_and_says_so(disk):
    disk.record.write_bytes(decided(disk))
    store = open_at(place(disk.data, disk.index))
    assert [finding.detail for finding in store.findings if "arrived" in finding.detail] == [
        "7.ecarrived was still there"
    ]
    store.close()
    left = disk.content()
    assert {name: left.get(name) for name in ("7.ec00", "7.ec05", "7.ecx")} == {
        name: NEW[name] for name in ("7.ec00", "7.ec05", "7.ecx")
    }
    assert "7.ec01" not in left


def test_volumes_that_are_not_wanted_wait(disk):
    disk.record.write_bytes(decided(disk))
    before = disk.content()
    assert disk.recover(is_wanted=lambda volume_id: volume_id == 8) == []
    assert disk.content() == before
    assert json.loads(disk.record.read_bytes())["ecarrived"] == 1


def test_a_check_without_a_server_says_what_the_next_start_does(disk):
    disk.record.write_bytes(decided(disk))
    (checked,) = check_directory(disk.data, index_path=disk.index).volumes
    assert "shards of it have arrived whole (.ecarrived); the next start gives them their places" in checked.problems
    assert disk.record.exists()


class TestARunningServer:
    """A disk that was out of service at the start comes back with a decision."""

    @pytest.fixture
    def decided_disk(self, disk):
        """The files are put there when the store is open."""
        aside = {path: path.read_bytes() for directory in dict.fromkeys(disk.own) for path in directory.iterdir()}
        for path in aside:
            path.unlink()
        store = open_at(place(disk.data, disk.index))
        for path, content in aside.items():
            path.write_bytes(content)
        disk.record.write_bytes(decided(disk))
        with closing(store):
            yield disk, store

    def test_finishes_it_before_shards_are_opened(self, decided_disk):
        disk, store = decided_disk
        store.ec_work.load_shards(7)
        assert disk.content().items() >= NEW.items()
        assert not disk.record.exists()
        assert [one.kind for one in store.findings if "arrived" in one.detail] == [FindingKind.ARRIVAL_FINISHED]

    @pytest.mark.damage("the decision is not carried out")
    def test_leaves_it_to_those_who_may_change_shards_when_a_volume_is_mounted(self, decided_disk):
        """Another operation may be giving names just now."""
        disk, store = decided_disk
        (disk.data / "7.arrived").write_bytes(b"no json")
        with pytest.raises(VolumeNotFound):
            store.mount_volume(7)
        assert disk.record.exists()
        assert disk.content().items() >= OLD.items()

    def test_goes_on_where_it_cannot_be_finished(self, tmp_path):
        disk = ShardDisk(tmp_path / "disk", has_index_dir=False)
        text = decided(disk)
        files = PlannedFiles(matches=lambda path: str(path).endswith(".ecx"))
        with closing(open_at(place(disk.data, disk.index), files=files)) as store:
            disk.record.write_bytes(text)
            for target, path in disk.waiting:
                path.write_bytes(NEW[target.name])
            files.plan["unlink"] = 0, 5
            store.ec_work.load_shards(None)
            assert disk.record.exists()
            files.plan.clear()
            store.ec_work.load_shards(None)
            assert disk.content().items() >= NEW.items()
