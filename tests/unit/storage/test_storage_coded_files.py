"""The files of erasure-coded volumes when something is wrong with them, and when they lie on several disks."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from dataclasses import replace

import pytest
from support.files import PlannedFiles, broken
from support.grpc_nodes import make_context, make_node
from support.stores import place
from test_storage_erasure_coding import VID, check, code, filled, open_at

from native_handlers.format.vif import EcShardConfig, encode_volume_info, parse_volume_info
from native_handlers.grpc.ec_shards import volume_ec_shards_info
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.erasure_coding.errors import DecodeFailed, RebuildFailed
from native_handlers.storage.erasure_coding.loading import STALE_EMPTY_S
from native_handlers.storage.model.errors import Deleted, StorageError


def is_deleted(store, number):
    try:
        store.ec_reader.read_needle(VID, number, 5)
    except Deleted:
        return True
    return False


@pytest.mark.slow
def test_an_empty_shard_is_none_and_goes_when_it_is_old(disk):
    """Slow: codes a volume."""
    code(disk)
    young, old = disk / "7.ec03", disk / "7.ec12"
    for path in (young, old):
        path.write_bytes(b"")
    before_s = old.stat().st_mtime - STALE_EMPTY_S - 10
    os.utime(old, (before_s, before_s))
    store = open_at(disk)
    assert sorted(store.ec.find(VID).shards) == [shard for shard in range(14) if shard not in {3, 12}]
    assert young.exists()
    assert not old.exists()
    check(store, range(1, 6), coded=True)
    store.close()


class TestAnEmptyShardThatGetsItsContent:
    """A copy of the shard gives it the name of the empty file, while another call looks for new files."""

    @pytest.fixture
    def shard(self, disk):
        code(disk)
        shard = disk / "7.ec12"
        self.content = shard.read_bytes()
        shard.write_bytes(b"")
        before_s = shard.stat().st_mtime - STALE_EMPTY_S - 10
        self.times = before_s, before_s
        return shard

    @pytest.mark.slow
    def test_under_way(self, disk, shard):
        """Slow: codes a volume."""
        with contextlib.closing(open_at(disk)) as store:
            os.utime(shard, self.times)
            with store.ec.exclusive(VID):
                store.load_new_volumes()
            assert shard.exists()
            store.load_new_volumes()
            assert not shard.exists()

    @pytest.mark.slow
    def test_just_before_it_would_go(self, disk, shard):
        """Slow: codes a volume."""
        files, looks = PlannedFiles(), []

        def fill(name, target):
            if name == "facts" and str(target) == str(shard):
                looks.append(name)
                if len(looks) == 2:
                    shard.write_bytes(self.content)

        with contextlib.closing(open_at(disk, files=files)) as store:
            os.utime(shard, self.times)
            files.before = fill
            store.load_new_volumes()
            assert shard.read_bytes() == self.content


def test_an_unreadable_vif_ends_a_rebuild(disk):
    """Another ratio than the .vif has would make shards of something else."""
    code(disk)
    (disk / "7.ec03").unlink()
    (disk / "7.vif").write_bytes(b"{")
    store = open_at(disk)
    with pytest.raises(RebuildFailed, match=r"cannot load \.vif"):
        store.ec_work.rebuild_missing("", VID, ignores_checksums=False)
    assert not (disk / "7.ec03").exists()
    store.close()


def test_shards_of_another_disk_are_inputs_of_a_rebuild(disk, other_disk):
    code(disk)
    expected = (disk / "7.ec03").read_bytes()
    for shard in range(5, 11):
        shutil.move(disk / f"7.ec{shard:02d}", other_disk)
    (disk / "7.ec03").unlink()
    store = open_at(disk, other_disk)
    assert store.ec_work.rebuild_missing("", VID, ignores_checksums=False) == [3]
    assert (disk / "7.ec03").read_bytes() == expected
    store.close()


def test_the_ratio_of_a_rebuild_is_that_of_any_disk_with_the_index(disk, other_disk, tmp_path):
    """The disk with most shards has no .vif. With 10 and 4 shards the same inputs would make another shard."""
    places = place(disk, tmp_path / "idx"), place(other_disk, tmp_path / "idx")
    store = filled(open_at(*places))
    home = store.locations[store.find_volume(VID).disk_id].path
    (away,) = {disk, other_disk} - {home}
    info = parse_volume_info((home / "7.vif").read_bytes())
    (home / "7.vif").write_text(encode_volume_info(replace(info, ec_shard_config=EcShardConfig(12, 3, 1))))
    store.ec_work.generate(store.find_volume(VID), "")
    store.delete_volume(VID, only_empty=False)
    expected = (home / "7.ec05").read_bytes()
    (home / "7.ec05").unlink()
    for name in ("7.vif", "7.ec14"):
        shutil.move(home / name, away)
    assert store.ec_work.rebuild_missing("", VID, ignores_checksums=False) == [5]
    assert (home / "7.ec05").read_bytes() == expected
    store.close()


@pytest.mark.damage("the .vif lies")
def test_shards_that_do_not_fit_their_vif_are_not_decoded(disk):
    code(disk)
    info = parse_volume_info((disk / "7.vif").read_bytes())
    (disk / "7.vif").write_text(encode_volume_info(replace(info, dat_file_size=(10 << 30) + 5)))
    store = open_at(disk)
    with pytest.raises(DecodeFailed, match=r"shard size 1048576 of 7 does not fit the dat file size 10737418245"):
        store.ec_work.decode("", VID, was_open=False)
    assert not (disk / "7.dat").exists()
    assert len(list(disk.glob("7.ec[0-9]*"))) == 14
    store.close()


@pytest.mark.parametrize("at_first", [True, False])
def test_an_empty_shard_does_not_hide_a_whole_one_on_another_disk(disk, other_disk, at_first):
    """Five empty ones would be too many for a rebuild."""
    code(disk)
    expected = (disk / "7.ec03").read_bytes()
    for shard in range(5):
        path = disk / f"7.ec{shard:02d}"
        shutil.move(path, other_disk)
        path.touch()
    (other_disk / "7.ec03").unlink()
    for extension in (".ecx", ".vif"):
        shutil.copy(disk / f"7{extension}", other_disk)
    whole = {path: path.read_bytes() for path in other_disk.glob("7.ec0*")}
    store = open_at(*((disk, other_disk) if at_first else (other_disk, disk)))
    assert store.ec_work.rebuild_missing("", VID, ignores_checksums=False) == [3]
    assert (disk / "7.ec03").read_bytes() == expected
    assert {path: path.read_bytes() for path in other_disk.glob("7.ec0*")} == whole
    assert store.ec_work.rebuild_missing("", VID, ignores_checksums=False) == []
    store.close()


def test_an_index_that_was_cut_is_not_decoded(disk):
    """The rows at its end are lost, and a .dat made by the rest would look whole."""
    code(disk)
    os.truncate(disk / "7.ecx", 16 * 5 - 3)
    store = open_at(disk)
    with pytest.raises(StorageError, match=r"7\.ecx"):
        store.ec_work.decode("", VID, was_open=False)
    assert not (disk / "7.dat").exists()
    assert len(list(disk.glob("7.ec[0-9]*"))) == 14
    store.close()


def test_a_filled_index_is_preferred_to_an_empty_one(disk, other_disk):
    """An empty one is what a copy that failed leaves; of a volume without live needles it is right."""
    code(disk)
    for shard in range(5, 14):
        shutil.move(disk / f"7.ec{shard:02d}", other_disk)
    for extension in (".ecx", ".vif"):
        shutil.copy(disk / f"7{extension}", other_disk)
    (disk / "7.ecx").write_bytes(b"")
    store = open_at(disk, other_disk)
    check(store, range(1, 6), coded=True)
    store.close()


class TestJournal:
    def test_a_torn_entry_is_no_entry_and_the_next_one_is_whole(self, disk):
        code(disk)
        (disk / "7.ecj").write_bytes((1).to_bytes(8, "big") + b"\0\0\0")
        store = open_at(disk)
        assert [is_deleted(store, number) for number in (1, 2, 3)] == [True, False, False]
        store.ec_work.merge_journal("", VID, disk / "7.ecj", [2])
        store.close()
        assert (disk / "7.ecj").read_bytes() == (1).to_bytes(8, "big") + (2).to_bytes(8, "big")
        store = open_at(disk)
        assert [is_deleted(store, number) for number in (1, 2, 3)] == [True, True, False]
        store.close()

    def test_those_of_several_servers_are_added_up(self, disk):
        code(disk)
        (disk / "7.ecj").write_bytes((1).to_bytes(8, "big"))
        store = open_at(disk)
        store.ec_work.merge_journal("", VID, disk / "7.ecj", [1, 4])
        assert [is_deleted(store, number) for number in range(1, 6)] == [True, False, False, True, False]
        store.close()

    def test_an_entry_that_cannot_be_put_on_disk_is_taken_back(self, disk):
        files = PlannedFiles()
        code(disk)
        store = open_at(disk, files=files)
        files.plan["sync"] = broken()
        with pytest.raises(OSError, match="Input/output error"):
            store.ec.find(VID).delete(2)
        files.plan.clear()
        assert not is_deleted(store, 2)
        store.close()
        assert (disk / "7.ecj").read_bytes() == b""


@pytest.mark.slow
def test_what_cannot_be_looked_at_is_not_removed(disk):
    """Shards beside a .dat whose size nobody can tell. Slow: codes a volume."""

    files = PlannedFiles(matches=lambda path: path.name == "7.dat")
    files.plan["facts"] = broken(errno.EPERM)
    code(disk, keeps_dat=True)
    (disk / "7.ecx").unlink()
    shards = sorted(disk.glob("7.ec[0-9]*"))
    with contextlib.suppress(OSError, StorageError):
        open_at(disk, files=files).close()
    assert sorted(disk.glob("7.ec[0-9]*")) == shards


def test_what_is_said_of_shards_is_said_of_all_disks(disk, other_disk, tmp_path):
    code(disk)
    for shard in range(5, 14):
        shutil.move(disk / f"7.ec{shard:02d}", other_disk)
    store = open_at(disk, other_disk)
    request = pb.VolumeEcShardsInfoRequest(volume_id=VID)
    answer = volume_ec_shards_info(make_node(tmp_path, store), make_context(), request)
    assert [info.shard_id for info in answer.ec_shard_infos] == list(range(14))
    store.ec.unmount(VID, 7)
    answer = volume_ec_shards_info(make_node(tmp_path, store), make_context(), request)
    assert 7 not in {info.shard_id for info in answer.ec_shard_infos}
    store.close()


def test_mounting_again_opens_nothing_twice(disk):
    code(disk)
    store = open_at(disk)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        store.ec.mount("", VID, 4)
    assert len(os.listdir("/proc/self/fd")) == before
    check(store, range(1, 6), coded=True)
    store.close()


def test_an_expired_volume_goes_with_all_its_files(disk):
    code(disk)
    path = disk / "7.vif"
    info = parse_volume_info(path.read_text())
    for expire_at_s, is_gone in ((2**40, False), (1, True)):
        path.write_text(encode_volume_info(replace(info, expire_at_s=expire_at_s)))
        store = open_at(disk)
        store.set_volume_size_limit(30 << 30)
        store.remove_expired_volumes()
        assert (store.ec.find(VID) is None) is is_gone
        store.close()
        assert bool(list(disk.glob("7.*"))) is not is_gone
