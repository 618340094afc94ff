"""Shards of two codings of a volume on two disks of a server: they are not mixed."""

import re
import shutil
from contextlib import closing
from dataclasses import replace

import pytest
from support import stores
from support.coded_volumes import FakeRemote
from support.grpc_nodes import make_context, make_node

from native_handlers.format.crc import crc32c
from native_handlers.format.needle import Needle
from native_handlers.format.vif import EcShardConfig, encode_volume_info, parse_volume_info
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.ec_scrub import scrub_ec_volume
from native_handlers.grpc.ec_shards import volume_ec_shard_read
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.erasure_coding.errors import EcMountFailed, EcRefused, RebuildFailed

VID = 7
OLD, NEW = range(1, 6), 9
SHARDS = range(14)


def content(number):
    return bytes((number,)) * 400_000


def write(store, number):
    data = content(number)
    store.get_volume(VID).write(Needle(needle_id=number, cookie=5, data=data, checksum=crc32c(data)))


class Codings:
    """`files` has the files of the older coding and of the newer one, by name. The shards have the same length."""

    def __init__(self, path):
        self.path = path
        store = stores.open_at(path / "made")
        store.allocate_volume(VID)
        for number in OLD:
            write(store, number)
        self.older = self._code(store)
        write(store, NEW)
        self.newer = self._code(store)
        store.close()

    def _code(self, store):
        store.ec_work.generate(store.get_volume(VID), "")
        return {
            path.name: path.read_bytes()
            for path in (self.path / "made").iterdir()
            if path.suffix == ".vif" or re.fullmatch(r"\.ec([0-9]+|x|sum)", path.suffix)
        }

    def put(self, disk, files, shards, *, extensions=(".ecx", ".vif")):
        (self.path / disk).mkdir(exist_ok=True)
        for name in (*(f"7.ec{shard:02d}" for shard in shards), *(f"7{extension}" for extension in extensions)):
            (self.path / disk / name).write_bytes(files[name])

    def open(self):
        return stores.open_at(self.path / "a", self.path / "b")

    def on_disk(self):
        paths = [path for disk in "ab" for path in (self.path / disk).iterdir() if path.name.startswith("7.")]
        return {path: path.read_bytes() for path in paths if path.suffix != ".ecj"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Codings(tmp_path_factory.mktemp("codings"))


@pytest.fixture
def codings(made):
    yield made
    for disk in "ab":
        shutil.rmtree(made.path / disk)


def unstamped(files):
    """The same files without the time of the coding, as an older server has written them."""
    info = parse_volume_info(files["7.vif"])
    info = replace(info, ec_shard_config=EcShardConfig(10, 4, 0))
    return {**files, "7.vif": encode_volume_info(info).encode()}


class TestTooFewOfTheNewest:
    @pytest.fixture(params=[False, True], ids=["older", "unstamped"])
    def store(self, codings, request):
        codings.put("a", codings.newer, range(5, 14))
        codings.put("b", unstamped(codings.older) if request.param else codings.older, range(5))
        store = codings.open()
        yield store
        store.close()

    @pytest.mark.slow
    def test_they_are_not_decoded(self, codings, store):
        """Slow: codes a volume twice."""
        before = codings.on_disk()
        with pytest.raises(EcRefused, match=r"^ec shard 7\.0 belongs to a different encode run$"):
            store.ec_work.decode("", VID, was_open=False)
        assert codings.on_disk() == before

    def test_they_are_not_rebuilt(self, codings, store):
        before = codings.on_disk()
        why = (
            "the shards of .*/b/7 belong to a different encode run, and the newest one has only 9 shards here, needs 10"
        )
        with pytest.raises(RebuildFailed, match=why):
            store.ec_work.rebuild_missing("", VID, ignores_checksums=False)
        assert codings.on_disk() == before


@pytest.mark.parametrize("disks", [("a", "b"), ("b", "a")], ids=["newest first", "newest last"])
class TestEnoughOfTheNewest:
    @pytest.fixture
    def store(self, codings, disks):
        newer, older = disks
        codings.put(newer, codings.newer, range(10))
        codings.put(older, codings.older, SHARDS)
        store = codings.open()
        yield store
        store.close()

    def test_it_is_decoded(self, store):
        store.ec_work.decode("", VID, was_open=False)
        store.mount_volume(VID)
        for number in (*OLD, NEW):
            read = store.get_volume(VID).read(number, cookie=5)
            assert bytes(read.needle.data) == content(number)
            read.release()

    def test_it_is_rebuilt_of_its_own_shards(self, codings, store, disks):
        assert store.ec_work.rebuild_missing("", VID, ignores_checksums=False) == [10, 11, 12, 13]
        for shard in SHARDS:
            name = f"7.ec{shard:02d}"
            assert (codings.path / disks[0] / name).read_bytes() == codings.newer[name]
            assert (codings.path / disks[1] / name).read_bytes() == codings.older[name]

    def test_it_is_read(self, store):
        for number in (*OLD, NEW):
            assert bytes(store.ec_reader.read_needle(VID, number, 5).data) == content(number)

    def test_its_shard_is_mounted(self, codings, store, disks):
        store.ec.unload(VID)
        store.ec.mount("", VID, 3)
        (volume,) = store.ec.copies(VID)
        assert volume.place.data_dir == codings.path / disks[0]


def sent(store, extension):
    """What another server gets as that file; None for no file."""
    file = store.open_coded_file("", VID, extension)
    if file is None:
        return None
    with file:
        return b"".join(file.pieces(1 << 40))


@pytest.mark.parametrize("disks", [("a", "b"), ("b", "a")], ids=["newest first", "newest last"])
class TestCopiedFiles:
    """Another server copies one file after the other."""

    def test_are_those_of_the_newest_coding(self, codings, disks):
        newer, older = disks
        codings.put(newer, codings.newer, range(7))
        codings.put(older, codings.older, range(5, 14))
        with closing(codings.open()) as store:
            for extension in (".vif", ".ecx", ".ec00", ".ec05"):
                assert sent(store, extension) == codings.newer[f"7{extension}"]
            assert sent(store, ".ec13") is None

    def test_of_one_coding_lie_on_any_disk(self, codings, disks):
        first, second = disks
        codings.put(first, codings.newer, range(7))
        codings.put(second, codings.newer, range(7, 14), extensions=())
        with closing(codings.open()) as store:
            for extension in (".vif", ".ecx", ".ec00", ".ec13"):
                assert sent(store, extension) == codings.newer[f"7{extension}"]

    def test_are_not_empty_where_another_disk_has_the_content(self, codings, disks):
        first, second = disks
        codings.put(first, codings.newer, range(7))
        codings.put(second, codings.newer, range(7, 14))
        (codings.path / second / "7.ec03").touch()
        with closing(codings.open()) as store:
            assert sent(store, ".ec03") == codings.newer["7.ec03"]
            store.locations["ab".index(first)].health.problem = "why"
            assert sent(store, ".ecj") == b""
            store.locations["ab".index(first)].health.problem = ""


class TestInfoOfARegularVolume:
    """The second disk has a copy of the volume. `ec.encode` deletes the copies after it has moved the shards."""

    @pytest.fixture
    def store(self, codings):
        codings.put("a", codings.newer, SHARDS)
        codings.put("b", {"7.vif": b'{"version":3}'}, (), extensions=(".vif",))
        self.vif = codings.path / "a" / "7.vif"
        with closing(codings.open()) as store:
            yield store

    def test_is_not_sent_as_that_of_the_shards(self, codings, store):
        assert sent(store, ".vif") == codings.newer["7.vif"]
        assert sent(store, ".ec13") == codings.newer["7.ec13"]

    def test_is_not_sent_where_the_shards_have_none(self, store):
        self.vif.unlink()
        assert sent(store, ".vif") is None


class TestAnEmptyShard:
    """Something failed while shard 3 was sent to the first disk."""

    @pytest.fixture
    def store(self, codings):
        codings.put("a", codings.newer, range(7))
        codings.put("b", codings.newer, range(3, 14))
        self.empty = codings.path / "a" / "7.ec03"
        self.empty.write_bytes(b"")
        with closing(codings.open()) as store:
            yield store

    def test_is_not_mounted_in_place_of_a_whole_one(self, store):
        store.ec.unload(VID)
        store.ec.mount("", VID, 3)
        (volume,) = store.ec.copies(VID)
        assert (volume.place.disk_id, volume.shard_bytes) == (1, 1 << 20)

    def test_is_not_read_in_place_of_a_whole_one_that_comes_later(self, codings, store):
        whole = codings.path / "b" / "7.ec03"
        away = whole.rename(whole.with_name("away"))
        store.ec.unload(VID)
        store.ec.mount("", VID, 3)
        assert store.ec.find_shard(VID, 3)[1].size_bytes == 0
        away.rename(whole)
        store.ec.mount("", VID, 3)
        assert store.ec.find_shard(VID, 3)[1].path == whole


class TestIndexOfAnother:
    """The shards of a disk without index are not opened with an index of another coding."""

    @pytest.fixture
    def store(self, codings):
        codings.put("a", codings.newer, range(5, 14))
        codings.put("b", codings.older, range(5), extensions=(".vif",))
        store = codings.open()
        yield store
        store.close()

    def test_at_a_start(self, codings, store):
        assert [volume.place.disk_id for volume in store.ec.copies(VID)] == [0]
        assert not (codings.path / "b" / "7.ecx").exists()

    def test_when_they_are_mounted(self, store):
        with pytest.raises(EcMountFailed, match=r"ec volume index .*/a/7\.ecx belongs to a different encode run"):
            store.ec.mount("", VID, 2)
        assert [volume.place.disk_id for volume in store.ec.copies(VID)] == [0]


class RemoteWithDeletions(FakeRemote):
    """Both servers have shard 0: this one that of the older coding, `other` that of the newer one."""

    def __init__(self):
        super().__init__({"self": {0: b""}, "other": {0: b""}})
        self.deletions = []

    def is_self(self, address):
        return address == "self"

    def delete(self, address, _volume_id, _collection, needle_id, _version):
        self.deletions.append((address, needle_id))


class TestShardsOfBothCodings:
    """The first disk has all but shard 0 of the newer coding, the second one has the older coding."""

    @pytest.fixture
    def store(self, codings):
        codings.put("a", codings.newer, range(1, 14))
        codings.put("b", codings.older, SHARDS)
        with closing(codings.open()) as store:
            yield store

    @pytest.fixture
    def read(self, store, tmp_path):
        node = make_node(tmp_path, store)

        def read(shard_id, encode_ts_ns):
            request = pb.VolumeEcShardReadRequest(
                volume_id=VID, shard_id=shard_id, size=2 << 20, encode_ts_ns=encode_ts_ns
            )
            return b"".join(one.data for one in volume_ec_shard_read(node, make_context(), request))

        return read

    def test_are_read_by_other_servers(self, codings, store, read):
        newer, older = (one.encode_ts_ns for one in store.ec.copies(VID))
        assert read(2, newer) == read(2, 0) == codings.newer["7.ec02"]
        assert read(2, older) == codings.older["7.ec02"] != codings.newer["7.ec02"]
        assert read(0, 0) == codings.older["7.ec00"]
        with pytest.raises(RpcFailure, match=r"^ec shard 7\.0 belongs to a different encode run$"):
            read(0, newer)
        with pytest.raises(RpcFailure, match=r"^not found ec shard 7\.14$"):
            read(14, newer)

    def test_are_read_here(self, codings, store):
        found = bytearray(1 << 20)
        for volume, files in zip(store.ec.copies(VID), (codings.newer, codings.older), strict=True):
            assert store.ec_reader.read_here(volume, 2, 0, memoryview(found))
            assert found == files["7.ec02"]

    def test_a_deletion_is_noted_where_the_shard_of_the_newer_one_is(self, store):
        """A third server reads the needle there."""
        store.ec_reader.remote = remote = RemoteWithDeletions()
        store.ec_reader.delete_needle(VID, 1, 5)
        assert remote.deletions == [("other", 1)]


@pytest.mark.parametrize("mode", [pb.LOCAL, pb.CHECKSUM], ids=["local", "checksum"])
def test_a_scrub_of_one_coding_finds_no_damage_in_shards_of_another(codings, tmp_path, mode):
    """A needle of the newer coding begins in a shard that is here in the older coding alone."""
    codings.put("a", codings.newer, (one for one in SHARDS if one != 2), extensions=(".ecx", ".vif", ".ecsum"))
    codings.put("b", codings.older, SHARDS)
    with closing(codings.open()) as store:
        answer = scrub_ec_volume(make_node(tmp_path, store), make_context(), pb.ScrubEcVolumeRequest(mode=mode))
    assert (answer.total_volumes, list(answer.details), list(answer.broken_shard_infos)) == (1, [], [])
