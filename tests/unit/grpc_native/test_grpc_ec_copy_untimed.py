"""VolumeEcShardsCopy from a source whose .vif has no time: its coding may be another one than that of the files
here.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace

import pytest
import test_grpc_ec_copy as copies
from support.coded_volumes import code_volume
from support.stores import open_at
from test_grpc_ec_copy import DirectorySource, copying_to, files_in

from native_handlers.format.needle import Needle
from native_handlers.format.vif import encode_volume_info, parse_volume_info
from native_handlers.grpc.context import RpcFailure
from native_handlers.storage.erasure_coding.index_files import with_deletions
from native_handlers.storage.model.errors import Deleted

ALL_FILES = copies.TestDeletions.ALL_FILES
COUNT = 20


def code(directory, letter, count=COUNT, length=1000):
    """Codes a volume with `count` needles whose data is that letter."""
    needles = [Needle(needle_id=number, cookie=5, data=letter * length) for number in range(1, count + 1)]
    code_volume(directory, 7, *needles).close()


def take_time(directory):
    vif = directory / "7.vif"
    info = parse_volume_info(vif.read_bytes())
    config = replace(info.ec_shard_config, encode_ts_ns=0)
    vif.write_text(encode_volume_info(replace(info, ec_shard_config=config)))


def change_info(directory, **fields):
    vif = directory / "7.vif"
    vif.write_text(encode_volume_info(replace(parse_volume_info(vif.read_bytes()), **fields)))


def content(store, number=COUNT):
    return bytes(store.ec_reader.read_needle(7, number, 5).data)


INFOS = {
    "without a time": take_time,
    "none": lambda directory: (directory / "7.vif").unlink(),
    "unreadable": lambda directory: (directory / "7.vif").write_bytes(b"no json"),
}
CODINGS = {
    "of other needles": {"count": COUNT + 10},
    "of as many needles": {"length": 2000},
    "of as many needles of that length": {},
}


def asked_with(info):
    """The fields of a request that such a .vif at the source does not end: an unreadable one is not taken."""
    return ALL_FILES | {"copy_vif_file": info is not INFOS["unreadable"]}


@pytest.fixture(params=INFOS)
def info(request):
    return INFOS[request.param]


class TestAnotherCoding:
    """All shards of one coding are open here. The source has those of another one."""

    @pytest.fixture
    def target(self, tmp_path):
        code(tmp_path / "target", b"o")
        return tmp_path / "target"

    @pytest.fixture(params=CODINGS)
    def source(self, request, tmp_path, info):
        directory = tmp_path / "source"
        code(directory, b"n", **CODINGS[request.param])
        info(directory)
        return directory

    def test_replaces_no_open_shard(self, target, source, context):
        with closing(open_at(target)) as store:
            before = files_in(target)
            with pytest.raises(RpcFailure, match="a different encode run"):
                copying_to(target, store, DirectorySource(source), context)(shard_ids=[0, 1], **ALL_FILES)
            assert files_in(target) == before
        with closing(open_at(target)) as store:
            assert content(store) == b"o" * 1000

    @pytest.mark.slow
    def test_replaces_no_shard_that_has_a_time(self, target, source, context):
        """Slow: two volumes are coded."""
        with closing(open_at(target)) as store:
            store.ec.unload(7)
            before = files_in(target)
            with pytest.raises(RpcFailure, match="a different encode run"):
                copying_to(target, store, DirectorySource(source), context)(shard_ids=range(14), **ALL_FILES)
            assert files_in(target) == before

    @pytest.mark.slow
    def test_replaces_no_open_shard_without_a_time(self, target, source, context):
        """Slow: two volumes are coded."""
        take_time(target)
        with closing(open_at(target)) as store:
            before = files_in(target)
            with pytest.raises(RpcFailure, match="a different encode run"):
                copying_to(target, store, DirectorySource(source), context)(shard_ids=range(14), **ALL_FILES)
            assert files_in(target) == before
            assert content(store) == b"o" * 1000


class TestAnotherCodingBeside:
    """The first shards of one coding are open here, and the source sends others."""

    @pytest.fixture
    def places(self, tmp_path):
        target, source = tmp_path / "target", tmp_path / "source"
        code(target, b"o")
        (target / "7.ec13").unlink()
        return target, source

    def check_refused(self, target, source, context, why, **fields):
        with closing(open_at(target)) as store:
            before = files_in(target)
            with pytest.raises(RpcFailure, match=f"a different encode run.*{why}"):
                copying_to(target, store, DirectorySource(source), context)(shard_ids=[13], **(fields or ALL_FILES))
            assert files_in(target) == before

    @pytest.mark.parametrize("has_time", [True, False])
    def test_of_another_length_of_the_dat(self, places, context, has_time):
        target, source = places
        code(source, b"n", count=COUNT + 1)
        take_time(source)
        if not has_time:
            take_time(target)
        self.check_refused(target, source, context, "length of its .dat")

    def test_of_another_number_of_shards(self, places, context):
        target, source = places
        shutil.copytree(target, source)
        config = parse_volume_info((source / "7.vif").read_bytes()).ec_shard_config
        change_info(source, ec_shard_config=replace(config, data_shards=9, encode_ts_ns=0))
        self.check_refused(target, source, context, "number of shards")

    @pytest.mark.parametrize("count", [COUNT + 10, COUNT])
    @pytest.mark.slow
    def test_of_other_needles(self, places, context, info, count):
        """The .vif of an older server has no length either. Slow: two volumes are coded."""
        target, source = places
        code(source, b"n", count=count, length=500)
        info(source)
        if info is take_time:
            change_info(source, dat_file_size=0)
        self.check_refused(target, source, context, "that of the source has other needles", **asked_with(info))


class TestTheSameCoding:
    @pytest.fixture
    def places(self, tmp_path, info):
        target, source = tmp_path / "target", tmp_path / "source"
        code(target, b"o")
        shutil.copytree(target, source)
        (target / "7.ec13").unlink()
        info(source)
        return target, source

    @pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
    def test_lays_missing_shards_beside_and_keeps_the_info(self, places, context, info, is_open):
        target, source = places
        ecx = (source / "7.ecx").read_bytes()
        (source / "7.ecx").write_bytes(with_deletions(ecx, [2], 4, source / "7.ecx"))
        (source / "7.ecsum").write_bytes(b"other")
        before = files_in(target)
        with closing(open_at(target)) as store:
            time = store.ec.find(7).encode_ts_ns
            if not is_open:
                store.ec.unload(7)
            copying_to(target, store, DirectorySource(source), context)(shard_ids=[13], **asked_with(info))
        shard = (source / "7.ec13").read_bytes()
        assert files_in(target) == before | {"7.ec13": shard, "7.ecj": (2).to_bytes(8, "big")}
        with closing(open_at(target)) as store:
            assert (store.ec.find(7).encode_ts_ns, len(store.ec.find(7).shards)) == (time, 14)
            assert content(store) == b"o" * 1000
            with pytest.raises(Deleted):
                content(store, 2)

    def test_gives_an_index_where_there_is_none(self, places, context, info):
        target, source = places
        vif = (target / "7.vif").read_bytes()
        (target / "7.ecx").unlink()
        with closing(open_at(target)) as store:
            assert store.ec.find(7) is None
            copying_to(target, store, DirectorySource(source), context)(shard_ids=[13], **asked_with(info))
        assert (target / "7.vif").read_bytes() == vif
        with closing(open_at(target)) as store:
            assert content(store) == b"o" * 1000


@pytest.mark.slow
def test_closed_shards_without_a_time_are_replaced(tmp_path, context):
    """Both servers are older ones. What a copy has left that failed is copied again. Slow: two volumes are coded."""
    target, source = tmp_path / "target", tmp_path / "source"
    code(target, b"o")
    code(source, b"n", count=COUNT + 1)
    take_time(target)
    take_time(source)
    with closing(open_at(target)) as store:
        store.ec.unload(7)
        copying_to(target, store, DirectorySource(source), context)(shard_ids=range(14), **ALL_FILES)
        for shard in range(14):
            store.ec.mount("", 7, shard)
        assert content(store) == b"n" * 1000
