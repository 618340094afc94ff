"""RPCs of a server one of whose disks fails: on the others they go on, and what fails says so in plain words."""

from __future__ import annotations

import errno
import os
from contextlib import closing

import grpc
import pytest
from grpc_native_fakes import FakeMasters, make_node

from native_handlers.format.needle import Needle
from native_handlers.grpc import configure, volumes
from native_handlers.grpc.checks import errors_as_upstream
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.files import OsFiles
from native_handlers.storage.store import StoreConfig, open_store

COOKIE = 0x637037D6


class Files(OsFiles):
    """Cannot list `broken`."""

    broken = None

    def list_directory(self, path):
        if path == self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return super().list_directory(path)


@pytest.fixture
def files():
    return Files()


@pytest.fixture
def store(tmp_path, files):
    """Volume 1 on the disk that is to fail, 2 on the other."""
    locations = []
    for name, disk_type in (("a", ""), ("b", "ssd")):
        path = tmp_path / name
        path.mkdir()
        locations.append(LocationConfig(path, path, 8, disk_type=disk_type))
    with closing(open_store(StoreConfig(tuple(locations), offset_width_bytes=4), files=files)) as opened:
        opened.allocate_volume(1)
        opened.allocate_volume(2, disk_type="ssd")
        for vid in (1, 2):
            opened.write_needle(vid, Needle(cookie=COOKIE, needle_id=1, data=b"payload"))
        files.broken = locations[0].path
        yield opened


@pytest.fixture
def node(tmp_path, store):
    return make_node(tmp_path, store, state=StoreStateKeeper(store), masters=FakeMasters())


def read(store, vid):
    return bytes(store.read_needle(vid, 1, cookie=COOKIE).needle.data)


def test_a_volume_of_a_well_disk_is_mounted(node, store, context):
    volumes.volume_unmount(node, context, pb.VolumeUnmountRequest(volume_id=2))
    volumes.volume_mount(node, context, pb.VolumeMountRequest(volume_id=2))
    assert read(store, 2) == b"payload"


def test_one_that_may_be_on_the_failing_disk_is_not_said_to_be_absent(node, store, context, tmp_path):
    volumes.volume_unmount(node, context, pb.VolumeUnmountRequest(volume_id=1))
    with pytest.raises(RpcFailure) as caught:
        volumes.volume_mount(node, context, pb.VolumeMountRequest(volume_id=1))
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    where = f"disk {tmp_path / 'a'} cannot be looked at: Input/output error"
    assert caught.value.message == f"volume 1 is on no disk that could be looked at; {where}"


def test_a_volume_of_a_well_disk_is_configured(node, store, context):
    answer = configure.volume_configure(node, context, pb.VolumeConfigureRequest(volume_id=2, replication="001"))
    assert answer.error == ""
    assert str(store.find_volume(2).replica_placement) == "001"


def test_one_of_the_failing_disk_stays_open_as_it_was(node, store, context):
    answer = configure.volume_configure(node, context, pb.VolumeConfigureRequest(volume_id=1, replication="001"))
    assert answer.error.startswith('volume configure volume_id:1 replication:"001": volume 1 is on no disk')
    assert "restore" not in answer.error
    assert read(store, 1) == b"payload"
    assert str(store.find_volume(1).replica_placement) == "000"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EIO, "Input/output error", "/x/7.dat"), "/x/7.dat: Input/output error"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("odd"), "odd"),
    ],
)
def test_what_the_system_refuses_is_no_bug(error, text):
    with pytest.raises(RpcFailure) as caught, errors_as_upstream():
        raise error
    assert (caught.value.code, caught.value.message) == (grpc.StatusCode.UNKNOWN, text)
