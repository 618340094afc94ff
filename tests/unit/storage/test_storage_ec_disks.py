"""An erasure-coded volume on two disks of one server, with an index on each disk or one that both share: what was
deleted stays deleted, whichever disk is open, decoded, rebuilt or fails.
"""

import errno
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
from support import disks as hanging
from support import stores
from support.coded_volumes import put_coded_volume
from support.files import PlannedFiles
from support.made_once import put_files
from support.waiting import LIMIT_S, wait_until

from native_handlers.format.crc import crc32c
from native_handlers.format.idx import iter_entries
from native_handlers.format.needle import Needle
from native_handlers.format.vif import encode_volume_info, parse_volume_info
from native_handlers.storage.erasure_coding import decode_volume
from native_handlers.storage.erasure_coding.index_files import deleted_ids, with_deletions
from native_handlers.storage.model.errors import Deleted, NotFound, VolumeClosed

VID = 7
ALL = range(1, 6)
FIRST, SECOND = range(7), range(7, 14)
"""The shards on each disk."""


def content(number):
    return bytes((number,)) * 3000


def row(number):
    return number.to_bytes(8, "big")


class TwoShardDisks:
    """Two disks with half of the shards each. `index` is the directory of the index of each."""

    def __init__(self, path, *, is_shared):
        self.data = (path / "a", path / "b")
        self.index = (path / "idx", path / "idx") if is_shared else self.data
        self.is_shared = is_shared

    def open(self, *, only=(0, 1), **more):
        return stores.open_at(*(stores.place(self.data[one], self.index[one]) for one in only), **more)

    def journal(self, number):
        return self.index[number] / "7.ecj"

    def make(self):
        """Codes a volume on the first disk, and moves half of its shards to the second one."""
        store = self.open()
        store.allocate_volume(VID)
        for number in ALL:
            data = content(number)
            store.get_volume(VID).write(Needle(needle_id=number, cookie=5, data=data, checksum=crc32c(data)))
        home = store.find_volume(VID).disk_id
        store.ec_work.generate(store.find_volume(VID), "")
        store.delete_volume(VID, only_empty=False)
        store.close()
        moved = SECOND if home == 0 else FIRST
        for shard in moved:
            shutil.move(self.data[home] / f"7.ec{shard:02d}", self.data[1 - home])
        # What a start does for the second disk.
        self.open().close()


def made_disks(path, *, is_shared):
    put_files(path, ("two disks", is_shared), lambda other: TwoShardDisks(other, is_shared=is_shared).make())
    return TwoShardDisks(path, is_shared=is_shared)


@pytest.fixture(params=[False, True], ids=["own", "shared"])
def disks(tmp_path, request):
    return made_disks(tmp_path, is_shared=request.param)


@pytest.fixture
def own(tmp_path):
    return made_disks(tmp_path, is_shared=False)


def readable(store):
    """The needles that can be read. Each has its content."""
    found = set()
    for number in ALL:
        try:
            needle = store.ec_reader.read_needle(VID, number, 5)
        except (Deleted, NotFound):
            continue
        assert bytes(needle.data) == content(number)
        found.add(number)
    return found


def hidden(store):
    """The needles that the open indexes do not have, or have as deleted. They are the same on each disk."""
    each = [{number for number in ALL if volume.find(number).size < 0} for volume in store.ec.copies(VID)]
    assert each.count(each[0]) == len(each)
    return each[0]


def close_shards(store, shards):
    for shard in shards:
        store.ec.unmount(VID, shard)


def open_shards(store, shards):
    for shard in shards:
        store.ec.mount("", VID, shard)


class TestOneOfTheDisks:
    @pytest.mark.slow
    def test_each_disk_hides_the_needle(self, disks):
        """Slow: codes a volume."""
        store = disks.open()
        store.ec_reader.delete_needle(VID, 2, 5)
        assert hidden(store) == {2}
        assert readable(store) == {1, 3, 4, 5}
        close_shards(store, FIRST)
        assert hidden(store) == {2}
        open_shards(store, FIRST)
        close_shards(store, SECOND)
        assert hidden(store) == {2}
        store.close()

    @pytest.mark.parametrize("only", [0, 1])
    def test_also_after_a_start_without_the_other(self, disks, only):
        store = disks.open()
        store.ec_reader.delete_needle(VID, 2, 5)
        store.close()
        store = disks.open(only=(only,))
        assert hidden(store) == {2}
        store.close()

    @pytest.mark.parametrize(("closed", "left"), [(FIRST, SECOND), (SECOND, FIRST)])
    def test_one_that_was_closed_meanwhile_hides_the_needle(self, disks, closed, left):
        store = disks.open()
        close_shards(store, closed)
        store.ec.delete(store.ec.find(VID), 2)
        close_shards(store, left)
        open_shards(store, closed)
        assert hidden(store) == {2}
        close_shards(store, closed)
        store.close()
        store = disks.open()
        assert readable(store) == {1, 3, 4, 5}
        store.close()

    def test_the_deletions_of_each_are_in_both_journals_after_a_start(self, own):
        """As after a crash between the two writes."""
        own.journal(0).write_bytes(row(1))
        own.journal(1).write_bytes(row(3) + b"torn")
        own.open().close()
        for number in (0, 1):
            data = own.journal(number).read_bytes()
            assert {data[at : at + 8] for at in range(0, len(data), 8)} == {row(1), row(3)}

    def test_a_deletion_counts_on_one_of_them(self, disks):
        store = disks.open()
        store.ec_reader.delete_needle(VID, 2, 5)
        assert sorted(report.delete_count for report in store.ec.reports()) == [0, 1]
        store.close()

    def test_a_deletion_that_the_index_has_is_not_counted(self, disks):
        """Each server that rebuilds has all deletions, and the shell adds the counts of all servers up."""
        store = disks.open()
        store.ec_reader.delete_needle(VID, 2, 5)
        store.ec_work.rebuild_missing("", VID, ignores_checksums=False)
        assert [report.delete_count for report in store.ec.reports()] == [0, 0]
        store.ec_reader.delete_needle(VID, 3, 5)
        assert sorted(report.delete_count for report in store.ec.reports()) == [0, 1]
        store.close()
        store = disks.open()
        assert sorted(report.delete_count for report in store.ec.reports()) == [0, 1]
        store.close()

    def test_a_journal_that_lands_on_another_disk_than_the_index_counts(self, own, tmp_path):
        """ec.decode collects journals; a disk that is full does not get them."""
        (tmp_path / "c").mkdir()
        store = stores.open_at(*own.data, tmp_path / "c")
        (coding,) = {one.encode_ts_ns for one in store.ec.copies(VID)}
        store.ec_work.merge_journal("", VID, tmp_path / "c" / "7.ecj", [3], coding)
        assert hidden(store) == {3}
        store.ec_work.merge_journal("", VID, tmp_path / "c" / "7.ecj", [4], coding - 1)
        assert hidden(store) == {3}
        store.close()

    def test_what_the_index_of_one_disk_alone_has_as_deleted_is_not_decoded(self, own):
        """As a Go server leaves it that has folded its journal."""
        ecx = own.data[0] / "7.ecx"
        ecx.write_bytes(with_deletions(ecx.read_bytes(), [3], 4, ecx))
        # All data shards come to the second disk, whose index does not know.
        for shard in FIRST:
            shutil.move(own.data[0] / f"7.ec{shard:02d}", own.data[1])
        shutil.move(own.data[1] / "7.ec13", own.data[0])
        store = own.open()
        store.ec_work.decode("", VID, was_open=False)
        store.close()
        rows = {one.needle_id for one in iter_entries((own.data[1] / "7.idx").read_bytes(), 4)}
        assert rows == {1, 2, 4, 5}

    def test_deletions_of_another_server_hide_the_needle_on_both(self, disks):
        store = disks.open()
        store.ec_work.merge_journal("", VID, disks.journal(1), [4])
        assert hidden(store) == {4}
        close_shards(store, SECOND)
        assert hidden(store) == {4}
        store.close()


class TestFailures:
    @pytest.mark.parametrize("failing", [0, 1])
    def test_a_deletion_that_one_disk_cannot_note_is_none(self, own, failing):
        files = PlannedFiles(matches=lambda path: path == own.journal(failing))
        store = own.open(files=files)
        files.plan["write"] = 0, errno.ENOSPC
        with pytest.raises(OSError, match="No space left"):
            store.ec_reader.delete_needle(VID, 2, 5)
        assert 2 in readable(store)
        files.plan.clear()
        store.ec_reader.delete_needle(VID, 2, 5)
        store.close()
        for number in (0, 1):
            assert own.journal(number).read_bytes()[:8] == row(2)
            store = own.open(only=(number,))
            assert hidden(store) == {2}
            store.close()

    @pytest.mark.parametrize("away", [0, 1])
    def test_a_disk_out_of_service_gets_the_deletion_later(self, own, away):
        store = own.open()
        store.locations[away].health.problem = "why"
        store.ec.delete(store.ec.find(VID), 2)
        assert own.journal(away).read_bytes() == b""
        assert own.journal(1 - away).read_bytes() == row(2)
        store.locations[away].health.problem = ""
        assert readable(store) == {1, 3, 4, 5}
        store.ec_reader.delete_needle(VID, 4, 5)
        assert own.journal(away).read_bytes() == own.journal(1 - away).read_bytes() == row(2) + row(4)
        store.close()

    def test_without_a_disk_in_service_nothing_is_deleted(self, own):
        store = own.open()
        for location in store.locations:
            location.health.problem = "why"
        with pytest.raises(VolumeClosed):
            store.ec.delete(store.ec.find(VID), 2)
        for location in store.locations:
            location.health.problem = ""
        assert readable(store) == set(ALL)
        store.close()

    def test_a_decoding_that_fails_leaves_the_index_and_the_journals(self, disks, monkeypatch):
        store = disks.open()
        store.ec_reader.delete_needle(VID, 1, 5)
        before = {path: path.read_bytes() for path in disks.index[0].parent.rglob("7.ec[jx]")}

        def fail(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(decode_volume, "write_dat", fail)
            with pytest.raises(OSError, match="No space left"):
                store.ec_work.decode("", VID, was_open=False)
        assert {path: path.read_bytes() for path in before} == before
        store.ec_reader.delete_needle(VID, 4, 5)
        store.close()
        store = disks.open()
        assert readable(store) == {2, 3, 5}
        store.close()


class TestWork:
    def test_deleted_needles_are_not_decoded(self, disks):
        store = disks.open()
        store.ec_reader.delete_needle(VID, 2, 5)
        close_shards(store, FIRST)
        store.ec.delete(store.ec.find(VID), 3)
        open_shards(store, FIRST)
        store.ec_work.decode("", VID, was_open=False)
        (idx,) = disks.data[0].parent.rglob("7.idx")
        assert idx.with_suffix(".dat").exists(), "the index is beside its data, whatever -dir.idx is"
        store.mount_volume(VID)
        for number in ALL:
            if number in {2, 3}:
                with pytest.raises((Deleted, NotFound)):
                    store.get_volume(VID).read(number, cookie=5)
            else:
                read = store.get_volume(VID).read(number, cookie=5)
                assert bytes(read.needle.data) == content(number)
                read.release()
        store.close()

    @pytest.mark.parametrize("closed", [(), FIRST, SECOND])
    def test_a_rebuild_writes_the_deletions_into_each_index(self, disks, closed):
        store = disks.open()
        store.ec_reader.delete_needle(VID, 2, 5)
        close_shards(store, closed)
        assert store.ec_work.rebuild_missing("", VID, ignores_checksums=False) == []
        assert {path.read_bytes() for path in disks.data[0].parent.rglob("7.ecj")} == {row(2)}
        for path in disks.data[0].parent.rglob("7.ecx"):
            assert deleted_ids(path.read_bytes(), 4) == [2]
        assert hidden(store) == {2}
        store.ec.delete(store.ec.find(VID), 3)
        open_shards(store, closed)
        assert hidden(store) == {2, 3}
        store.close()
        store = disks.open()
        assert readable(store) == {1, 4, 5}
        for shards in (FIRST, SECOND):
            close_shards(store, shards)
            assert hidden(store) == {2, 3}
            open_shards(store, shards)
        store.close()

    @pytest.mark.slow
    def test_a_rebuild_that_fails_at_any_step_brings_nothing_back(self, disks, tmp_path):
        """Slow: a rebuild for each step."""
        store = disks.open()
        store.ec_reader.delete_needle(VID, 2, 5)
        store.close()
        names = {"sync", "sync_directory", "rename", "unlink", "truncate"}
        counting = PlannedFiles()
        untouched = tmp_path / "untouched"
        shutil.copytree(tmp_path / "a", untouched / "a")
        shutil.copytree(tmp_path / "b", untouched / "b")
        if disks.is_shared:
            shutil.copytree(tmp_path / "idx", untouched / "idx")
        store = disks.open(files=counting)
        counting.calls.clear()
        store.ec_work.rebuild_missing("", VID, ignores_checksums=False)
        steps = sum(counting.calls[name] for name in names)
        store.close()
        assert steps >= 3
        for cut_at in range(1, steps + 1):
            left = [0]

            def count(name, _target, left=left, cut_at=cut_at):
                if name in names and left[0] >= 0:
                    left[0] += 1
                    if left[0] >= cut_at:
                        raise OSError(errno.EIO, "cut")

            for path in untouched.iterdir():
                shutil.rmtree(tmp_path / path.name)
                shutil.copytree(path, tmp_path / path.name)
            files = PlannedFiles()
            store = disks.open(files=files)
            files.before = count
            with pytest.raises(OSError, match="cut"):
                store.ec_work.rebuild_missing("", VID, ignores_checksums=False)
            files.before = lambda *_: None
            assert hidden(store) == {2}
            store.ec_reader.delete_needle(VID, 4, 5)
            store.close()
            store = disks.open()
            assert readable(store) == {1, 3, 5}, cut_at
            close_shards(store, FIRST)
            assert hidden(store) == {2, 4}, cut_at
            store.close()


class TestAnotherCoding:
    @pytest.fixture
    def older(self, own):
        """The second disk has shards of an older coding."""
        vif = own.data[1] / "7.vif"
        info = parse_volume_info(vif.read_bytes())
        config = info.ec_shard_config
        older = replace(info, ec_shard_config=replace(config, encode_ts_ns=config.encode_ts_ns - 1))
        vif.write_text(encode_volume_info(older))
        return own

    def test_its_deletions_are_not_those_of_this_one(self, older):
        """A needle that was deleted then may have been written again."""
        older.journal(1).write_bytes(row(3))
        store = older.open()
        first, second = store.ec.copies(VID)
        assert (first.deleted, second.deleted) == (set(), {3})
        store.close()
        assert older.journal(0).read_bytes() == b""

    def test_it_hides_what_is_deleted(self, older):
        store = older.open()
        store.ec.delete(store.ec.find(VID), 2)
        assert hidden(store) == {2}
        store.close()
        assert older.journal(0).read_bytes() == older.journal(1).read_bytes() == row(2)


def test_two_codings_in_one_index_directory_have_one_writer_for_their_journal(own, tmp_path):
    """The first disk and the third one have shards of one coding; the second and the third one share an index."""
    second, third = own.data[1], tmp_path / "c"
    third.mkdir()
    shutil.copy(second / "7.vif", third)
    shutil.move(second / "7.ec13", third)
    shutil.move(second / "7.ec12", third)
    vif = second / "7.vif"
    info = parse_volume_info(vif.read_bytes())
    config = info.ec_shard_config
    vif.write_text(encode_volume_info(replace(info, ec_shard_config=replace(config, encode_ts_ns=1))))
    (tmp_path / "idx").mkdir()
    shutil.move(second / "7.ecx", tmp_path / "idx")
    places = (stores.place(own.data[0]), stores.place(second, tmp_path / "idx"), stores.place(third, tmp_path / "idx"))
    store = stores.open_at(*places)
    assert [len(one.shards) for one in store.ec.copies(VID)] == [7, 5, 2]
    store.ec.delete(store.ec.find(VID), 2)
    assert hidden(store) == {2}
    store.close()
    assert (tmp_path / "idx" / "7.ecj").read_bytes() == own.journal(0).read_bytes() == row(2)


def test_a_disk_that_hangs_holds_up_no_other_volume(tmp_path):
    """The opening of a shard hangs. The shards of another volume are opened and closed meanwhile."""
    files = PlannedFiles()
    store = stores.open_at(tmp_path / "a", files=files)
    for volume_id in (VID, 8):
        store.allocate_volume(volume_id)
        store.get_volume(volume_id).write(Needle(needle_id=1, cookie=5, data=b"x", checksum=crc32c(b"x")))
        store.ec_work.generate(store.find_volume(volume_id), "")
    is_there, may_go_on = threading.Event(), threading.Event()

    def hang(name, target):
        if name == "open" and str(target).endswith("/7.ecx"):
            is_there.set()
            assert may_go_on.wait(LIMIT_S)

    files.before = hang
    with ThreadPoolExecutor(2) as pool:
        hanging = pool.submit(store.ec.mount, "", VID, 0)
        assert is_there.wait(LIMIT_S)
        try:
            pool.submit(open_and_close, store).result(LIMIT_S)
        finally:
            may_go_on.set()
        hanging.result(LIMIT_S)
    assert store.ec.find_shard(VID, 0) is not None
    store.close()


class TestADiskThatHangs:
    """The second disk has a volume of its own, of which a needle is deleted."""

    @pytest.fixture
    def files(self, monkeypatch):
        return hanging.give_up_only_what_hangs(monkeypatch, hanging.Disks())

    @pytest.fixture
    def store(self, tmp_path, files):
        put_coded_volume(tmp_path / "b", 8, Needle(needle_id=1, cookie=5, data=b"x", checksum=crc32c(b"x")))
        self.disk = files.add(tmp_path / "b")
        with closing(stores.open_at(tmp_path / "a", tmp_path / "b", files=files)) as store:
            yield store
            files.let_all_go_on()

    @pytest.mark.slow
    def test_keeps_no_report_waiting(self, store):
        """A heartbeat's news of all other disks would wait too. Slow: waits for a disk."""
        store.ec.delete(store.ec.find(8), 1)
        self.disk.hang()
        with ThreadPoolExecutor(1) as pool:
            (report,) = pool.submit(store.ec.reports).result(LIMIT_S)
            self.disk.go_on()
        assert report.delete_count == 1

    def test_does_not_keep_the_volumes_of_others_from_being_closed(self, store):
        store.allocate_volume(9)
        volume = store.find_volume(9)
        assert volume.disk_id == 0
        self.disk.hang()
        with ThreadPoolExecutor(2) as pool:
            deletion = pool.submit(store.ec.find(8).deletions.record, [1])
            wait_until(lambda: self.disk.stuck)
            store.locations[1].health.problem = "why"
            closing_of_all = pool.submit(store.close)
            wait_until(lambda: volume.handle.opened is None)
            assert not closing_of_all.done()
            self.disk.go_on()
            closing_of_all.result(LIMIT_S)
            deletion.result(LIMIT_S)


def open_and_close(store):
    store.ec.mount("", 8, 0)
    assert store.ec.find_shard(8, 0) is not None
    store.ec.unmount(8, 0)


class TestShardsThatComeLater:
    """Shards of a coding whose `.dat` is on another disk, as between the mounts of shards and the end of the volume."""

    @pytest.fixture
    def store(self, tmp_path):
        store = stores.open_at(tmp_path / "a", tmp_path / "b", files=PlannedFiles())
        store.allocate_volume(VID)
        store.get_volume(VID).write(Needle(needle_id=1, cookie=5, data=b"x" * 3000, checksum=crc32c(b"x" * 3000)))
        store.ec_work.generate(store.find_volume(VID), "")
        yield store
        store.close()

    def test_stay_when_new_files_are_looked_for(self, store, tmp_path):
        home = store.locations[store.find_volume(VID).disk_id].path
        other = next(path for path in (tmp_path / "a", tmp_path / "b") if path != home)
        for shard in range(3, 14):
            (home / f"7.ec{shard:02d}").unlink()
        for name in ("7.ec00", "7.ec01", "7.ec02", "7.ecx"):
            shutil.move(home / name, other)
        shutil.copy(home / "7.vif", other)
        for shard in range(3):
            store.ec.mount("", VID, shard)
        store.load_new_volumes()
        assert [list(one.shards) for one in store.ec.copies(VID)] == [[0, 1, 2]]
        store.delete_volume(VID, only_empty=False)
        assert len(list(other.glob("7.ec0?"))) == 3


class TestDeletedShards:
    def test_are_open_no_more(self, own):
        store = own.open()
        told = []
        store.ec.add_listener(lambda: told.append(1))
        store.ec_work.delete_shards("", VID, [0])
        assert told
        assert store.ec.find_shard(VID, 0) is None
        store.ec_work.delete_shards("other", VID, [1])
        assert store.ec.find_shard(VID, 1) is not None
        store.ec_work.delete_shards("", VID, range(14))
        assert store.ec.copies(VID) == ()
        assert store.ec.reports() == []
        store.close()


class TestExpiredVolumes:
    def test_that_are_busy_stay_and_hold_nobody_up(self, own):
        """The heartbeat's look at the volumes removes expired ones."""
        store = own.open()
        for one in store.ec.copies(VID):
            one.expire_at_s = 1
        with ThreadPoolExecutor(1) as pool, store.ec.exclusive(VID):
            assert pool.submit(store.remove_expired_volumes).result(LIMIT_S) == []
            assert len(store.ec.copies(VID)) == 2
        store.remove_expired_volumes()
        assert store.ec.copies(VID) == ()
        assert not list(own.data[0].glob("7.ec*"))
        store.close()

    def test_a_new_coding_of_one_that_was_closed_stays(self, own):
        """Between the look and the removal another thread has closed the volume."""
        store = own.open()
        old = store.ec.volumes()
        store.ec.unload(VID)
        open_shards(store, FIRST)
        assert store.ec_work.destroy(old) == []
        assert len(store.ec.copies(VID)[0].shards) == 7
        store.close()


class TestRemovedShardsOfOneDisk:
    """Two disks have one index directory: the .ecx there is that of the newer coding, on the second disk."""

    @pytest.fixture
    def store(self, own, tmp_path):
        index = tmp_path / "idx"
        index.mkdir()
        for name in ("7.ecx", "7.ecj"):
            (own.data[0] / name).rename(index / name)
            (own.data[1] / name).unlink(missing_ok=True)
        vif = own.data[0] / "7.vif"
        info = parse_volume_info(vif.read_bytes())
        self.time = info.ec_shard_config.encode_ts_ns
        older = replace(info.ec_shard_config, encode_ts_ns=self.time - 1)
        vif.write_text(encode_volume_info(replace(info, ec_shard_config=older)))
        with closing(stores.open_at(*(stores.place(data, index) for data in own.data))) as store:
            yield store

    def test_the_older_coding_goes_without_the_index_of_the_newer_one(self, own, store, tmp_path):
        store.ec_work.tear_down("", VID, self.time)
        assert not list(own.data[0].glob("7.*"))
        assert (tmp_path / "idx" / "7.ecx").exists()
        store.ec.unload(VID)
        open_shards(store, SECOND)

    @pytest.mark.parametrize("order", [1, -1])
    def test_the_index_goes_with_the_last_disk(self, own, store, tmp_path, order):
        assert store.ec_work.destroy(store.ec.volumes()[::order]) == []
        assert not list(tmp_path.glob("*/7.*"))
