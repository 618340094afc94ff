"""VolumeEcShardsCopy to a server with one index directory for its disks (-dir.idx)."""

import shutil
from contextlib import closing
from dataclasses import replace

import pytest
import test_grpc_ec_copy as copies
from support.coded_volumes import put_coded_volume
from support.stores import open_at, place
from test_grpc_ec_copy import DirectorySource, copying_to

from native_handlers.format.needle import Needle
from native_handlers.format.vif import encode_volume_info, parse_volume_info
from native_handlers.storage.model.errors import Deleted

ALL_FILES = copies.TestDeletions.ALL_FILES
COUNT = 5
LAST = ".ec13"


@pytest.fixture
def whole(tmp_path):
    """The directory of a server with all shards."""
    needles = [Needle(needle_id=number, cookie=5, data=b"x" * 3000) for number in range(1, COUNT + 1)]
    put_coded_volume(tmp_path / "whole", 7, *needles)
    return tmp_path / "whole"


@pytest.fixture
def open_both(tmp_path):
    """Opens a store on two disks with one index directory."""
    index = tmp_path / "index"
    return lambda: closing(open_at(place(tmp_path / "one", index), place(tmp_path / "two", index)))


@pytest.fixture
def put(tmp_path, whole, open_both):
    """Puts all shards but the last on a disk, and the index into the directory of that name."""

    def put(name, index_name):
        with open_both():
            pass
        for path in whole.glob("7.*"):
            if path.suffix != LAST:
                shutil.copy(path, tmp_path / (index_name if path.suffix in {".ecx", ".ecj"} else name))

    return put


def deleted(store):
    return [needle_id for needle_id in range(1, COUNT + 1) if is_deleted(store, needle_id)]


def is_deleted(store, needle_id):
    try:
        store.ec_reader.read_needle(7, needle_id, 5)
    except Deleted:
        return True
    return False


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_further_shard_comes_to_either_disk(put, open_both, whole, context, tmp_path, name):
    put(name, "index")
    with open_both() as store:
        store.ec_reader.delete_needle(7, 2, 5)
        copying_to(tmp_path / "two", store, DirectorySource(whole), context)(shard_ids=[13], disk_id=1, **ALL_FILES)
        assert (tmp_path / f"two/7{LAST}").read_bytes() == (whole / f"7{LAST}").read_bytes()
        assert deleted(store) == [2]
    with open_both() as store:
        assert deleted(store) == [2]
        assert sorted(shard for one in store.ec.copies(7) for shard in one.shards) == list(range(14))


def make_older(vif):
    info = parse_volume_info(vif.read_bytes())
    vif.write_text(encode_volume_info(replace(info, ec_shard_config=replace(info.ec_shard_config, encode_ts_ns=1))))


class TestShardsWithTheirIndexBesideTheData:
    """They were sent by ReceiveFile. The other disk has no file of the volume."""

    @pytest.fixture(autouse=True)
    def _put(self, put, whole):
        put("two", "two")
        (whole / "7.ecj").write_bytes((1).to_bytes(8, "big"))

    def check_deletions(self, open_both, whole, context, tmp_path):
        with open_both() as store:
            store.ec_reader.delete_needle(7, 2, 5)
            copying_to(tmp_path / "two", store, DirectorySource(whole), context)(shard_ids=[13], disk_id=1, **ALL_FILES)
            assert deleted(store) == [1, 2]
            store.ec_reader.delete_needle(7, 3, 5)
        with open_both() as store:
            assert deleted(store) == [1, 2, 3]

    def test_keep_their_deletions(self, open_both, whole, context, tmp_path):
        self.check_deletions(open_both, whole, context, tmp_path)

    def test_keep_them_beside_what_is_left_of_an_older_coding(self, open_both, whole, context, tmp_path):
        shutil.copy(whole / "7.vif", tmp_path / "one/7.vif")
        make_older(tmp_path / "one/7.vif")
        self.check_deletions(open_both, whole, context, tmp_path)


def test_shards_that_are_replaced_do_not_take_the_index_of_another_disk_along(put, open_both, whole, context, tmp_path):
    put("one", "index")
    for extension in (LAST, ".ecx", ".vif"):
        shutil.copy(whole / f"7{extension}", tmp_path / f"two/7{extension}")
    make_older(tmp_path / "two/7.vif")
    index = (tmp_path / "index/7.ecx").read_bytes()
    with open_both() as store:
        for shard_id in range(14):
            store.ec.unmount(7, shard_id)
        copying_to(tmp_path / "two", store, DirectorySource(whole), context)(shard_ids=[13], disk_id=1, **ALL_FILES)
        assert (tmp_path / "two/7.vif").read_bytes() == (whole / "7.vif").read_bytes()
    assert (tmp_path / "index/7.ecx").read_bytes() == index
