"""ReceiveFile against real stores: where a file goes, what is refused, and that nothing of a bad one is left."""

from __future__ import annotations

import dataclasses
import errno
import os

import pytest
from grpc_native_fakes import FakeMasters, make_node

from native_handlers.format.needle import Needle
from native_handlers.grpc.context import RequestsBroken, RpcFailure
from native_handlers.grpc.receive_file import receive_file
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.check import check_directory
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.files import OsFiles
from native_handlers.storage.incoming import RECEIVING, IncomingFile, sweep_unfinished
from native_handlers.storage.store import StoreConfig, open_store


class CountingFiles(OsFiles):
    """Fails the operation `fail` names; counts what is open."""

    def __init__(self):
        self.fail = None
        self.opened = set()

    def _step(self, name):
        if self.fail == name:
            raise OSError(errno.ENOSPC, "No space left on device")

    def open(self, path, flags, mode=0o644):
        if flags & os.O_CREAT:
            self._step("open")
        fd = super().open(path, flags, mode)
        self.opened.add(fd)
        return fd

    def close(self, fd):
        self.opened.discard(fd)
        super().close(fd)

    def write(self, fd, parts, offset_bytes):
        if self.fail == "write":
            super().write(fd, [b"".join(parts)[:2]], offset_bytes)
        self._step("write")
        super().write(fd, parts, offset_bytes)

    def sync(self, fd):
        self._step("sync")

    def rename(self, source, target):
        self._step("rename")
        super().rename(source, target)


@pytest.fixture
def files():
    return CountingFiles()


@pytest.fixture
def disks(tmp_path, files):
    """A store on an SSD and two HDDs; the second HDD has its index elsewhere."""
    locations = []
    for name, disk_type, index in (("ssd", "ssd", "ssd"), ("a", "", "a"), ("b", "", "index")):
        for directory in {name, index}:
            (tmp_path / directory).mkdir(exist_ok=True)
        locations.append(LocationConfig(tmp_path / name, tmp_path / index, 4, disk_type, min_free_percent=0.0))
    store = open_store(StoreConfig(tuple(locations), offset_width_bytes=4), files=files)
    yield store
    files.fail = None
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
    """Every file but those that a store keeps for itself."""
    own = {"vol_dir.uuid", ".weed-volume-py.session", ".weed-volume-py.lock"}
    found = (path for path in tmp_path.rglob("*") if path.is_file() and path.name not in own)
    return sorted(str(path.relative_to(tmp_path)) for path in found)


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

    @pytest.mark.parametrize("extension", [".dat", ".idx", ".cpd", ".note"])
    @pytest.mark.parametrize("is_coded", [False, True])
    def test_what_a_mounted_volume_works_with_is_safe(self, node, context, disks, tmp_path, extension, is_coded):
        disks.allocate_volume(7)
        disks.write_needle(7, Needle(cookie=1, needle_id=1, data=b"here"))
        before = names(tmp_path)
        message = info(ext=extension, is_ec_volume=is_coded, disk_id=1 if is_coded else 0)
        answer = receive(node, context, message, content(b"x"))
        assert answer.error == f"volume 7 is mounted and works with its {extension}; unmount before ReceiveFile"
        assert names(tmp_path) == before
        assert disks.read_needle(7, 1, cookie=1).needle.data == b"here"

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

    def test_over_a_mounted_shard(self, node, context, tmp_path):
        (tmp_path / "a" / "7.ec00").write_bytes(b"mounted")
        node = dataclasses.replace(node, coded_disk_ids=lambda volume_id: [1, 2] if volume_id == 7 else [])
        answer = self.put(node, context, disk_id=1)
        assert answer.error == "ec volume 7 is mounted on disk_ids:[1 2]; unmount before ReceiveFile"
        assert (tmp_path / "a" / "7.ec00").read_bytes() == b"mounted"
        assert not self.put(node, context, volume_id=8).error

    def test_no_room_anywhere(self, node, context, disks):
        for volume_id in range(100, 112):
            disks.allocate_volume(volume_id, disk_type="ssd" if volume_id < 104 else "")
        assert self.put(node, context).error == "no storage location available"

    def test_over_a_volume_that_is_being_copied_here(self, node, context, disks):
        disks.locations[1].arriving.add(7)
        assert self.put(node, context, disk_id=1).error == "volume 7 is being copied here already"


class TestViolations:
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
        before, open_before = names(tmp_path), set(files.opened)
        assert receive(node, context, *messages).error == error
        assert (names(tmp_path), files.opened) == (before, open_before)

    def test_maintenance(self, node, context):
        node.state.update(pb.VolumeServerState(maintenance=True))
        with pytest.raises(RpcFailure, match="volume server node-1 is in maintenance mode"):
            receive(node, context, info(), content(b"x"))

    @pytest.mark.parametrize("after", [0, 1, 2, 3])
    def test_a_stream_that_breaks_leaves_what_was_there(self, node, context, disks, files, tmp_path, after):
        disks.allocate_volume(7)
        receive(node, context, info(), content(b"old"))
        before, open_before = names(tmp_path), set(files.opened)

        def broken():
            yield from [info(), content(b"abc"), content(b"def")][:after]
            raise RequestsBroken

        with pytest.raises(RequestsBroken):
            receive_file(node, context, broken())
        assert (names(tmp_path), files.opened) == (before, open_before)
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
        before, open_before = names(tmp_path), set(files.opened)
        files.fail = operation
        error = receive(node, context, info(), content(b"abc")).error
        assert error.startswith(text)
        assert error.endswith(": no space left on device")
        assert (names(tmp_path), files.opened) == (before, open_before)
        assert (tmp_path / "a" / "7.tmprecv").read_bytes() == b"old"


def test_what_a_crash_left_is_removed_at_the_next_start(node, context, disks, files, tmp_path):
    disks.allocate_volume(7)
    for location in disks.locations:
        for directory in {location.path, location.idx_path}:
            IncomingFile(files, directory / "7.dat").write(b"half")
    assert sum(RECEIVING in name for name in names(tmp_path)) == 4
    for location in disks.locations:
        location.begin_session()
    assert not any(RECEIVING in name for name in names(tmp_path))
    assert disks.find_volume(7) is not None


def test_sweeping_touches_nothing_else(tmp_path):
    for name in ("7.dat", "7.receiving.dat", "7.dat.copying"):
        (tmp_path / name).touch()
    before = names(tmp_path)
    sweep_unfinished(OsFiles(), tmp_path)
    assert names(tmp_path) == before
