"""VolumeEcShardsCopy to a server with one index directory for its disks (-dir.idx)."""

import shutil
from contextlib import closing

import pytest
import test_grpc_ec_copy as copies
from support.coded_volumes import put_coded_volume
from support.stores import open_at, place
from test_grpc_ec_copy import DirectorySource, copying_to

from native_handlers.format.needle import Needle
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
