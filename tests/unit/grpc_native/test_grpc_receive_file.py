"""ReceiveFile against real stores: the place of a file, refusals, and no rest of a refused file."""

from __future__ import annotations

import dataclasses
import errno
import shutil
from contextlib import closing
from types import SimpleNamespace
from typing import ClassVar

import pytest
from support.disks import Disks
from support.files import PlannedFiles
from support.grpc_nodes import FakeMasters, make_node
from support.stores import open_at, place

from native_handlers.format.needle import Needle
from native_handlers.format.super_block import SuperBlock
from native_handlers.grpc.context import RequestsBroken, RpcFailure
from native_handlers.grpc.receive_file import receive_file
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import master_pb2 as pb_master
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.check import check_directory
from native_handlers.storage.directory.unfinished import sweep_unfinished
from native_handlers.storage.erasure_coding.layout import most_bytes_of
from native_handlers.storage.model.file_kinds import (
    CODED_EXTENSIONS,
    RECEIVING,
    RESERVED_EXTENSIONS,
    VOLUME_EXTENSIONS,
)
from native_handlers.storage.system.files import DiskSpace, OsFiles
from native_handlers.storage.transfer.receive import StagedFile
from native_handlers.storage.transfer.received_files import MAX_VIF_BYTES
from supervisor.assembly.grpc_node import coded_disk_ids
from supervisor.cluster.node_model import NodeModel

VIF_OF_SHARDS = b'{"version":3,"bytesOffset":4,"datFileSize":"8","ecShardConfig":{"dataShards":10,"parityShards":4}}'


@pytest.fixture
def files():
    return PlannedFiles(short_write_bytes=2)


@pytest.fixture
def disks(tmp_path, files):
    """A store on an SSD and two HDDs; the second HDD has its index elsewhere."""
    locations = [
        place(tmp_path / name, tmp_path / index, max_volumes=4, disk_type=disk_type, min_free_percent=0.0)
        for name, disk_type, index in (("ssd", "ssd", "ssd"), ("a", "", "a"), ("b", "", "index"))
    ]
    store = open_at(*locations, offset_width_bytes=4, files=files)
    yield store
    files.plan.clear()
    store.close()
    assert all(check_directory(one.path, index_path=one.idx_path).is_healthy for one in locations)


@pytest.fixture
def node(tmp_path, disks):
    return make_node(tmp_path, disks, state=StoreStateKeeper(disks), masters=FakeMasters())


def info(**fields):
    return pb.ReceiveFileRequest(info=pb.ReceiveFileInfo(**{"volume_id": 7, "ext": ".tmprecv", **fields}))


def content(data):
    return pb.ReceiveFileRequest(file_content=data)


def names(tmp_path):
    """Every file but the store's own."""
    own = {"vol_dir.uuid", ".weed-volume-py.session", ".weed-volume-py.lock"}
    found = (path for path in tmp_path.rglob("*") if path.is_file() and path.name not in own)
    return sorted(str(path.relative_to(tmp_path)) for path in found)


def contents(tmp_path):
    return {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}


def receive(node, context, *messages):
    return receive_file(node, context, iter(messages))


class TestRegularVolumes:
    def test_a_file_beside_a_volume(self, node, context, disks, tmp_path):
        disks.allocate_volume(7, collection="c")
        answer = receive(node, context, info(file_size=6), content(b"abc"), content(b"def"))
        assert answer == pb.ReceiveFileResponse(bytes_written=6)
        assert (tmp_path / "a" / "c_7.tmprecv").read_bytes() == b"abcdef"

    def test_it_takes_the_place_of_one_that_is_there(self, node, context, disks, tmp_path):
        disks.allocate_volume(7)
        for data in (b"long before", b"new", b""):
            assert receive(node, context, info(), content(data)).bytes_written == len(data)
            assert (tmp_path / "a" / "7.tmprecv").read_bytes() == data

    @pytest.fixture
    def _a_volume_that_stays(self, disks, tmp_path):
        disks.allocate_volume(7)
        disks.get_volume(7).write(Needle(cookie=1, needle_id=1, data=b"here"))
        before = contents(tmp_path)
        yield
        assert contents(tmp_path) == before
        assert disks.get_volume(7).read(1, cookie=1).needle.data == b"here"

    @pytest.mark.usefixtures("_a_volume_that_stays")
    @pytest.mark.parametrize("extension", [".dat", ".idx", ".vif"])
    def test_what_a_mounted_volume_works_with_is_safe(self, node, context, extension):
        answer = receive(node, context, info(ext=extension), content(b"x"))
        assert answer.error == f"volume 7 is mounted and works with its {extension}; unmount before ReceiveFile"

    @pytest.mark.usefixtures("_a_volume_that_stays")
    @pytest.mark.parametrize(
        "extension",
        [*sorted(RESERVED_EXTENSIONS - set(VOLUME_EXTENSIONS)), ".NOTE", ".Idx", ".ec77", ".aaa", ".TMPRECV"],
    )
    def test_a_name_that_means_something_to_the_next_start_or_that_nobody_needs(self, node, context, extension):
        answer = receive(node, context, info(ext=extension), content(b"x"))
        assert answer.error == f'invalid file extension "{extension}": a volume is sent as .dat, .idx and .vif'

    def test_an_absent_volume(self, node, context, tmp_path):
        assert receive(node, context, info(), content(b"x")).error == "volume 7 not found"
        assert names(tmp_path) == []


class TestStaged:
    def test_files_of_a_volume_that_is_to_come(self, node, context, tmp_path):
        for extension in (".dat", ".idx", ".vif"):
            assert not receive(node, context, info(ext=extension, collection="c", disk_type="SSD"), content(b"x")).error
        assert names(tmp_path) == [f"ssd/c_7{extension}.copying" for extension in (".dat", ".idx", ".vif")]

    def test_not_beside_shards_of_it(self, node, context, tmp_path):
        (tmp_path / "a" / "7.ec31").write_bytes(b"shard")
        (tmp_path / "b" / "7.ec00").touch()  # empty: what a failed distribution left
        assert not receive(node, context, info(ext=".dat", disk_type="hdd"), content(b"x")).error
        assert "b/7.dat.copying" in names(tmp_path)

    @pytest.mark.parametrize("name", ["b/pics_7.ec03", "a/pics_7.dat", "ssd/old_7.ec13", "a/pics_7.arrived"])
    def test_not_beside_data_of_the_id_in_another_collection(self, node, context, tmp_path, name):
        (tmp_path / name).write_bytes(b"not open")
        why = f"{tmp_path / name} is here; there cannot be a volume 7 of collection 'new' too"
        assert receive(node, context, info(ext=".dat", disk_type="hdd", collection="new")).error == why
        assert names(tmp_path) == [name]
        (tmp_path / name).unlink()

    def test_not_beside_such_data_that_comes_while_the_file_arrives(self, node, context, tmp_path):
        def messages():
            yield info(ext=".dat", disk_type="hdd", collection="new")
            (tmp_path / "ssd" / "old_7.dat").write_bytes(b"by hand")
            yield content(b"x")

        why = f"{tmp_path / 'ssd' / 'old_7.dat'} is here; there cannot be a volume 7 of collection 'new' too"
        assert receive_file(node, context, messages()).error == why
        assert names(tmp_path) == ["ssd/old_7.dat"]
        (tmp_path / "ssd" / "old_7.dat").unlink()

    def test_all_on_the_disk_on_which_an_earlier_attempt_began(self, node, context, disks, tmp_path):
        """That disk has the fewest free slots by now."""
        (tmp_path / "a" / "7.dat.copying").write_bytes(b"of an earlier attempt")
        for volume_id in (10, 11):
            disks.locations[1].create(volume_id, "", SuperBlock(), 0)
        for extension in (".dat", ".idx", ".vif"):
            assert not receive(node, context, info(ext=extension, disk_type="hdd"), content(b"x")).error
        assert [name for name in names(tmp_path) if name.endswith("copying")] == [
            f"a/7{extension}.copying" for extension in (".dat", ".idx", ".vif")
        ]
        assert (tmp_path / "a" / "7.dat.copying").read_bytes() == b"x"

    def test_nothing_of_an_earlier_attempt_stays_on_another_disk(self, node, context, disks, tmp_path):
        """It would be taken for this attempt, and lacks what was deleted since."""
        for extension in (".dat", ".idx", ".vif"):
            (tmp_path / "a" / f"7{extension}.copying").write_bytes(b"of an earlier attempt")
        for volume_id in range(10, 14):
            disks.locations[1].create(volume_id, "", SuperBlock(), 0)
        for extension in (".dat", ".idx", ".vif"):
            assert not receive(node, context, info(ext=extension, disk_type="hdd"), content(b"x")).error
        assert [name for name in names(tmp_path) if name.endswith("copying")] == [
            f"b/7{extension}.copying" for extension in (".dat", ".idx", ".vif")
        ]

    def test_only_the_files_that_make_a_volume(self, node, context, tmp_path):
        answer = receive(node, context, info(disk_type="hdd"), content(b"x"))
        assert answer.error == ".tmprecv is no file of a volume that is to come: .dat, .idx and .vif are"
        assert names(tmp_path) == []

    def test_not_while_the_volume_is_being_copied_here(self, node, context, disks):
        disks.locations[0].arriving.add(7)
        answer = receive(node, context, info(ext=".dat", disk_type="hdd"), content(b"x"))
        assert answer.error == "volume 7 is being copied here already"

    def test_no_disk_of_that_type(self, node, context, tmp_path):
        (tmp_path / "ssd" / "7.ec00").write_bytes(b"shard")
        for disk_type in ("tape", "ssd"):
            answer = receive(node, context, info(disk_type=disk_type), content(b"x"))
            assert answer.error == f"no {disk_type} disk location with a free slot for volume 7"

    def test_no_free_slot(self, node, context, disks):
        for volume_id in range(100, 104):
            disks.allocate_volume(volume_id, disk_type="ssd")
        answer = receive(node, context, info(disk_type="ssd"), content(b"x"))
        assert answer.error == "no ssd disk location with a free slot for volume 7"


class TestCodedVolumes:
    def put(self, node, context, extension=".ec00", **fields):
        return receive(node, context, info(ext=extension, is_ec_volume=True, **fields), content(b"shard"))

    def test_without_a_disk_an_hdd_with_most_room(self, node, context, disks, tmp_path):
        disks.allocate_volume(50)
        assert self.put(node, context, collection="pics").bytes_written == 5
        assert [name for name in names(tmp_path) if "ec00" in name] == ["b/pics_7.ec00"]

    @pytest.mark.parametrize("directory", ["ssd", "index"])
    def test_where_its_index_is(self, node, context, tmp_path, directory):
        (tmp_path / directory / "7.ecx").write_bytes(b"index")
        (tmp_path / "a" / "7.ecx").touch()  # empty: it must not draw shards
        self.put(node, context)
        assert ("ssd/7.ec00" if directory == "ssd" else "b/7.ec00") in names(tmp_path)

    def test_the_disk_that_is_named(self, node, context, tmp_path):
        for disk_id, name in ((1, "a"), (2, "b")):
            self.put(node, context, f".ec0{disk_id}", disk_id=disk_id)
            assert f"{name}/7.ec0{disk_id}" in names(tmp_path)

    def test_a_disk_that_is_not_there(self, node, context, tmp_path):
        assert self.put(node, context, disk_id=3).error == "invalid disk_id 3: only have 3 disks"
        assert names(tmp_path) == []

    @pytest.mark.parametrize("name", ["b/pics_7.ec03", "a/pics_7.dat", "ssd/old_7.ec13"])
    def test_beside_data_of_the_id_in_another_collection(self, node, context, tmp_path, name):
        (tmp_path / name).write_bytes(b"not open")
        why = f"{tmp_path / name} is here; there cannot be a volume 7 of collection 'new' too"
        assert self.put(node, context, collection="new").error == why
        assert names(tmp_path) == [name]
        assert not self.put(node, context, collection="new", volume_id=17).error
        (tmp_path / name).unlink()

    def test_over_a_mounted_shard(self, node, context, tmp_path):
        (tmp_path / "a" / "7.ec00").write_bytes(b"mounted")
        node = dataclasses.replace(node, coded_disk_ids=lambda volume_id: [1, 2] if volume_id == 7 else [])
        answer = self.put(node, context, disk_id=1)
        assert answer.error == "ec volume 7 is mounted on disk_ids:[1 2]; unmount before ReceiveFile"
        assert (tmp_path / "a" / "7.ec00").read_bytes() == b"mounted"
        assert not self.put(node, context, volume_id=8).error

    def test_over_a_shard_that_is_mounted_while_the_file_arrives(self, node, context, disks, tmp_path):
        """A journal that replaced the open one would take its deletions with it."""
        source = open_at(tmp_path / "source", offset_width_bytes=4)
        source.allocate_volume(7)
        source.get_volume(7).write(Needle(needle_id=1, cookie=5, data=b"x"))
        source.ec_work.generate(source.find_volume(7), "")
        source.close()
        for path in (tmp_path / "source").glob("7.*"):
            if path.suffix not in VOLUME_EXTENSIONS:
                shutil.copy(path, tmp_path / "a")

        def messages():
            yield info(ext=".ecj", is_ec_volume=True, disk_id=1)
            disks.ec.mount("", 7, 0)
            disks.ec.find(7).delete(1)
            yield content(b"")

        answer = receive_file(node, context, messages())
        assert answer.error == "ec volume 7 is mounted on disk_ids:[1]; unmount before ReceiveFile"
        assert (tmp_path / "a" / "7.ecj").read_bytes() == (1).to_bytes(8, "big")

    def test_what_the_backend_has_reported_counts_as_mounted(self):
        model = NodeModel(["native", "child"])
        shards = [pb_master.VolumeEcShardInformationMessage(id=7, disk_id=disk, ec_index_bits=1) for disk in (2, 0)]
        model.source("child").add_ec_shards([*shards, pb_master.VolumeEcShardInformationMessage(id=8, ec_index_bits=1)])
        assert coded_disk_ids(SimpleNamespace(model=model), 7) == [0, 2]
        assert coded_disk_ids(SimpleNamespace(model=model), 9) == []

    def test_no_room_anywhere(self, node, context, disks):
        for volume_id in range(100, 112):
            disks.allocate_volume(volume_id, disk_type="ssd" if volume_id < 104 else "")
        assert self.put(node, context).error == "no storage location available"

    def test_over_a_volume_that_is_being_copied_here(self, node, context, disks):
        disks.locations[1].arriving.add(7)
        assert self.put(node, context, disk_id=1).error == "volume 7 is being copied here already"


class TestRoom:
    """Each disk has 10 MiB, and a reserve of 1000 bytes (-minFreeSpace)."""

    @pytest.fixture
    def files(self):
        return Disks()

    @pytest.fixture
    def played(self, tmp_path, files):
        played = [files.add(tmp_path / name) for name in ("a", "b")]
        for one in played:
            one.space = DiskSpace(1 << 40, (10 << 20) + 1000)
        return played

    @pytest.fixture
    def store(self, tmp_path, files, played):
        with closing(open_at(*(place(tmp_path / one, min_free_bytes=1000) for one in "ab"), files=files)) as store:
            yield store

    @pytest.fixture
    def node(self, tmp_path, store):
        return make_node(tmp_path, store, state=StoreStateKeeper(store), masters=FakeMasters())

    KINDS: ClassVar = [
        {"ext": ".ec00", "is_ec_volume": True},
        {"ext": ".ec00", "is_ec_volume": True, "disk_id": 1},
        {"ext": ".dat", "disk_type": "hdd"},
    ]

    @pytest.mark.parametrize("kind", KINDS, ids=["shard", "shard for a disk", "volume"])
    def test_is_looked_at_before_a_file_comes(self, node, context, tmp_path, kind):
        answer = receive(node, context, info(file_size=10 << 20, **kind), content(b"x"))
        assert answer.error.startswith("no space left for 10485760 bytes: ")
        assert answer.error.endswith(" has 10485760 bytes free above its reserve")
        assert names(tmp_path) == []
        whole = content(bytes(10 << 20)[:-1])
        assert not receive(node, context, info(file_size=(10 << 20) - 1, **kind), whole).error

    @pytest.mark.parametrize("kind", KINDS[::2], ids=["shard", "volume"])
    def test_decides_the_disk(self, node, context, played, tmp_path, kind):
        played[0].space = DiskSpace(1 << 40, 1 << 20)
        assert not receive(node, context, info(file_size=1 << 20, **kind), content(bytes(1 << 20))).error
        assert [name[0] for name in names(tmp_path)] == ["b"]

    @pytest.mark.parametrize(
        "kind", [*KINDS, {"ext": ".ecx", "is_ec_volume": True}], ids=["shard", "shard for a disk", "volume", "index"]
    )
    def test_is_looked_at_while_a_file_comes(self, node, context, played, tmp_path, kind):
        """The sender announces less."""

        def messages():
            yield info(file_size=1, **kind)
            for one in played:
                one.space = DiskSpace(1 << 40, 999)
            yield content(bytes(11 << 20))

        answer = receive_file(node, context, messages())
        assert answer.error.endswith(": no space left above -minFreeSpace")
        assert names(tmp_path) == []

    def test_is_looked_at_beside_a_mounted_volume(self, node, context, store, played, tmp_path):
        store.allocate_volume(7)
        before = names(tmp_path)
        answer = receive(node, context, info(file_size=10 << 20), content(b"x"))
        assert answer.error.startswith("no space left for 10485760 bytes: ")

        def messages():
            yield info()
            for one in played:
                one.space = DiskSpace(1 << 40, 999)
            yield content(bytes(11 << 20))

        assert receive_file(node, context, messages()).error.endswith(": no space left above -minFreeSpace")
        assert names(tmp_path) == before

    @pytest.mark.parametrize(
        "fields", [{}, {"ext": ".dat", "disk_type": "hdd", "volume_id": 8}], ids=["beside", "to come"]
    )
    def test_does_not_let_a_file_be_longer_than_a_volume(
        self, node, context, store, played, tmp_path, monkeypatch, fields
    ):
        """The last record begins within what offsets address. It has 2^31 bytes at most, and head and tail."""
        monkeypatch.setattr("native_handlers.storage.transfer.received_files.max_volume_size_bytes", lambda _: -(2**31))
        played[0].space = played[1].space = DiskSpace(1 << 40, 1 << 39)
        store.allocate_volume(7)
        before = names(tmp_path)
        assert receive(node, context, info(**fields), content(bytes(33))).error.endswith(": file too large")
        assert names(tmp_path) == before
        assert not receive(node, context, info(**fields), content(bytes(32))).error

    def test_does_not_let_an_info_be_too_long(self, node, context, tmp_path):
        answer = receive(node, context, info(ext=".vif", disk_type="hdd"), content(bytes(MAX_VIF_BYTES + 1)))
        assert answer.error.endswith(": file too large")
        assert names(tmp_path) == []

    def test_does_not_let_a_checksum_file_be_too_long(self, node, context, played, tmp_path):
        played[0].space = played[1].space = DiskSpace(1 << 40, 1 << 39)
        answer = receive(node, context, info(ext=".ecsum", is_ec_volume=True), *[content(bytes(1 << 20))] * 17)
        assert answer.error.endswith("/7.ecsum: file too large")
        assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("extension", "most"), [(".ec00", 33 << 30), (".ecx", (32 << 30) // 24 * 16), (".ecj", (32 << 30) // 24 * 8)]
)
def test_no_file_of_a_coded_volume_is_longer_than_the_largest_volume_allows(extension, most):
    assert most_bytes_of(extension, 4) == most


class TestNamesOfCodedVolumes:
    """A file that is sent for an erasure-coded volume never becomes, or misleads the start about, a regular volume."""

    def put(self, node, context, data=b"x", **fields):
        return receive(node, context, info(is_ec_volume=True, disk_id=1, **fields), content(data)).error

    @pytest.fixture
    def volume(self, disks):
        """A regular volume of id 7 with a needle, on the disk to which files are sent."""
        volume = disks.allocate_volume(7)
        assert volume.disk_id == 1
        volume.write(Needle(cookie=1, needle_id=1, data=b"x"))
        return volume

    @pytest.mark.parametrize(
        "extension", [".dat", ".idx", ".note", ".cpd", ".cpx", ".cpc", ".ec32", ".ec", ".ec0", ".ec000", ".EC00", ".x"]
    )
    def test_a_file_that_no_erasure_coded_volume_has(self, node, context, tmp_path, extension):
        known = ".ec00 to .ec31, .ecx, .ecj, .ecsum and .vif"
        text = f'invalid file extension "{extension}": an erasure-coded volume has {known}'
        assert self.put(node, context, ext=extension, collection="0", volume_id=4) == text
        assert names(tmp_path) == []

    def test_beside_the_same_id_of_another_collection(self, node, context, disks, tmp_path):
        disks.allocate_volume(7, collection="a")
        before = names(tmp_path)
        for extension in sorted(CODED_EXTENSIONS):
            error = self.put(node, context, ext=extension, collection="b")
            assert error == "volume 7 of collection 'a' is mounted here; there cannot be one of collection 'b' too"
        assert names(tmp_path) == before

    @pytest.mark.parametrize(
        ("vif", "error"),
        [
            (b'{"version":3,"bytesOffset":5}', "the .vif says 5-byte offsets, this server runs with 4-byte ones"),
            (b"no json", "the .vif cannot be parsed: "),
        ],
    )
    def test_an_info_that_would_mislead_the_next_start(self, node, context, tmp_path, vif, error):
        assert self.put(node, context, vif, ext=".vif").startswith(error)
        assert names(tmp_path) == []

    @pytest.mark.parametrize("is_unmounted", [False, True])
    @pytest.mark.parametrize(
        ("vif", "error"),
        [
            (b"{}", "the .vif is of no erasure-coded volume, and a regular volume's data lies beside it"),
            (b"", "the .vif cannot be parsed: "),
            (b'{"bytesOffset":5}', "the .vif says 5-byte offsets, this server runs with 4-byte ones"),
            (
                b'{"version":3,"files":[{"backendType":"s3"}],"ecShardConfig":{"dataShards":10}}',
                "the .vif says that the data is in remote storage, and the volume's data is here",
            ),
        ],
    )
    @pytest.mark.usefixtures("volume")
    def test_an_info_that_does_not_fit_the_volume(self, node, context, disks, tmp_path, vif, error, is_unmounted):
        if is_unmounted:
            disks.unmount_volume(7)
        before = contents(tmp_path)
        assert self.put(node, context, vif, ext=".vif").startswith(error)
        assert contents(tmp_path) == before

    @pytest.mark.usefixtures("volume")
    def test_an_info_of_another_version(self, node, context, tmp_path):
        before = contents(tmp_path)
        error = self.put(node, context, b'{"version":2,"ecShardConfig":{"dataShards":10}}', ext=".vif")
        assert error == "the .vif says version 2, the volume that is mounted here has version 3"
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("is_unmounted", [False, True])
    def test_an_info_of_shards_beside_a_volume_that_nobody_has_written_to(
        self, node, context, disks, tmp_path, is_unmounted
    ):
        """The next start would take the volume for a stub, and not load the volume."""
        assert disks.allocate_volume(7).disk_id == 1
        if is_unmounted:
            disks.unmount_volume(7)
        before = contents(tmp_path)
        error = self.put(node, context, VIF_OF_SHARDS, ext=".vif")
        assert error == "the volume whose data lies beside is empty: the next start would take it for a stub of shards"
        assert contents(tmp_path) == before
        disks.mount_volume(7)

    def test_a_stub_of_shards_hinders_no_info(self, node, context, tmp_path):
        (tmp_path / "a" / "7.dat").write_bytes(b"\3" + bytes(7))
        (tmp_path / "a" / "7.vif").write_bytes(VIF_OF_SHARDS)
        assert not self.put(node, context, VIF_OF_SHARDS, ext=".vif")

    @pytest.mark.usefixtures("volume")
    def test_the_info_that_shards_share_with_the_volume_that_they_were_made_from(self, node, context, tmp_path):
        assert not self.put(node, context, VIF_OF_SHARDS, ext=".vif")
        assert (tmp_path / "a" / "7.vif").read_bytes() == VIF_OF_SHARDS

    @pytest.mark.parametrize(
        "sent",
        [VIF_OF_SHARDS, b"", b'{"version":3,"files":[{"backendType":"s3","backendId":"x","key":"k"}]}'],
        ids=["of shards", "empty", "of another object"],
    )
    @pytest.mark.parametrize("has_dat", [False, True], ids=["no copy", "a copy kept here"])
    def test_an_info_in_place_of_one_that_names_a_remote_tier(self, node, context, disks, tmp_path, sent, has_dat):
        """Nothing else tells where the data of that volume is."""
        disks.allocate_volume(7)
        disks.get_volume(7).write(Needle(cookie=1, needle_id=1, data=b"x"))
        disks.unmount_volume(7)
        if not has_dat:
            (tmp_path / "a" / "7.dat").unlink()
        here = b'{"version":3,"files":[{"backendType":"s3","backendId":"cold","key":"k","fileSize":"400"}]}'
        (tmp_path / "a" / "7.vif").write_bytes(here)
        before = contents(tmp_path)
        error = self.put(node, context, sent, ext=".vif")
        if has_dat and not sent:
            assert error.startswith("the .vif cannot be parsed: ")
        else:
            place = "remote storage s3.cold"
            assert error == f"the .vif that is here says that the data is in {place}, and the sent one does not"
        assert contents(tmp_path) == before

    def test_an_info_that_names_the_same_object_as_the_one_in_its_place(self, node, context, tmp_path):
        """As when the shards of such a volume are sent in several parts."""
        vif = (
            b'{"version":3,"files":[{"backendType":"s3","key":"k"}],"ecShardConfig":{"dataShards":10,"parityShards":4}}'
        )
        for _ in range(2):
            assert not self.put(node, context, vif, ext=".vif")
        assert (tmp_path / "a" / "7.vif").read_bytes() == vif
        # Without an index it is damage.
        (tmp_path / "a" / "7.vif").unlink()

    def test_an_info_without_end(self, node, context, tmp_path):
        assert "ile too large" in self.put(node, context, bytes(MAX_VIF_BYTES + 1), ext=".vif")
        assert names(tmp_path) == []


class TestViolations:
    @pytest.mark.parametrize(
        "fields",
        [
            {"ext": "\0" * 1_000_000},
            {"ext": "." + "x" * 1_000_000},
            {"collection": "/" * 1_000_000},
            {"collection": "x" * 1_000_000, "ext": ".dat"},
            {"disk_type": "x" * 1_000_000, "ext": ".dat"},
        ],
    )
    def test_a_long_text_is_not_repeated_whole(self, node, context, caplog, fields):
        assert 0 < len(receive(node, context, info(**fields)).error) < 10_000
        assert "a file that was sent here is refused" in caplog.text
        assert len(caplog.text) < 12_000

    def test_no_message_at_all(self, node, context):
        assert receive(node, context) == pb.ReceiveFileResponse()

    @pytest.mark.parametrize(
        ("messages", "error"),
        [
            pytest.param([content(b"x")], "file info must be sent first", id="content-first"),
            pytest.param([pb.ReceiveFileRequest()], "unknown message type", id="nothing-first"),
            pytest.param([info(), content(b"x"), pb.ReceiveFileRequest()], "unknown message type", id="nothing-later"),
            pytest.param([info(), content(b"x"), info()], "file info was sent already", id="info-twice"),
            pytest.param([info(file_size=9), content(b"x")], "file ended after 1 of 9 bytes", id="too-short"),
            pytest.param([info(ext="./../x")], 'invalid file extension "./../x"', id="extension"),
            pytest.param([info(collection="../x")], 'invalid collection "../x"', id="collection"),
        ],
    )
    def test_they_are_told_and_leave_nothing(self, node, context, disks, files, tmp_path, messages, error):
        disks.allocate_volume(7)
        before, open_before = names(tmp_path), set(files.open_fds)
        assert receive(node, context, *messages).error == error
        assert (names(tmp_path), files.open_fds) == (before, open_before)

    def test_maintenance(self, node, context):
        node.state.update(pb.VolumeServerState(maintenance=True))
        with pytest.raises(RpcFailure, match="volume server node-1 is in maintenance mode"):
            receive(node, context, info(), content(b"x"))

    @pytest.mark.parametrize("after", [0, 1, 2, 3])
    def test_a_stream_that_breaks_leaves_what_was_there(self, node, context, disks, files, tmp_path, after):
        disks.allocate_volume(7)
        receive(node, context, info(), content(b"old"))
        before, open_before = names(tmp_path), set(files.open_fds)

        def broken():
            yield from [info(), content(b"abc"), content(b"def")][:after]
            raise RequestsBroken

        with pytest.raises(RequestsBroken):
            receive_file(node, context, broken())
        assert (names(tmp_path), files.open_fds) == (before, open_before)
        assert (tmp_path / "a" / "7.tmprecv").read_bytes() == b"old"

    @pytest.mark.parametrize(
        ("operation", "text"),
        [
            ("open", "failed to create file: open "),
            ("write", "failed to write file: write "),
            ("sync", "failed to write file: sync "),
            ("rename", "failed to write file: sync "),
        ],
    )
    def test_a_full_disk_leaves_what_was_there(self, node, context, disks, files, tmp_path, operation, text):
        disks.allocate_volume(7)
        receive(node, context, info(), content(b"old"))
        before, open_before = names(tmp_path), set(files.open_fds)
        files.plan[operation] = (0, errno.ENOSPC)
        error = receive(node, context, info(), content(b"abc")).error
        assert error.startswith(text)
        assert error.endswith(": no space left on device")
        assert (names(tmp_path), files.open_fds) == (before, open_before)
        assert (tmp_path / "a" / "7.tmprecv").read_bytes() == b"old"


def test_what_a_crash_left_is_removed_at_the_next_start(node, context, disks, files, tmp_path):
    disks.allocate_volume(7)
    for location in disks.locations:
        for directory in {location.path, location.idx_path}:
            StagedFile(files, directory / "7.dat").write(b"half")
    assert sum(RECEIVING in name for name in names(tmp_path)) == 4
    for location in disks.locations:
        location.begin_session()
    assert not any(RECEIVING in name for name in names(tmp_path))
    assert disks.find_volume(7) is not None


def test_sweeping_touches_nothing_else(tmp_path):
    for name in ("7.dat", "7.receiving.dat", "7.copying"):
        (tmp_path / name).touch()
    before = names(tmp_path)
    sweep_unfinished(OsFiles(), tmp_path)
    assert names(tmp_path) == before
