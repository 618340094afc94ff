"""RPCs of a server with one failing disk: the other disks serve, and failures have plain texts."""

from __future__ import annotations

import errno

import grpc
import pytest
from support.files import broken
from support.grpc_nodes import FakeMasters, make_node
from support.stores import place

from native_handlers.format.needle import Needle
from native_handlers.grpc import configure, volumes
from native_handlers.grpc.checks import errors_as_upstream
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import volume_server_pb2 as pb

COOKIE = 0x637037D6


@pytest.fixture
def store(tmp_path, files, opened):
    """Volume 1 on the failing disk, volume 2 on the other."""
    places = tmp_path / "a", place(tmp_path / "b", disk_type="ssd")
    store = opened(*places, offset_width_bytes=4, files=files, volumes=(1,))
    store.allocate_volume(2, disk_type="ssd")
    for vid in (1, 2):
        store.get_volume(vid).write(Needle(cookie=COOKIE, needle_id=1, data=b"payload"))
    files.plan["list_directory"] = broken()
    files.matches = lambda path: path == tmp_path / "a"
    return store


@pytest.fixture
def node(tmp_path, store):
    return make_node(tmp_path, store, state=StoreStateKeeper(store), masters=FakeMasters())


def read(store, vid):
    return bytes(store.get_volume(vid).read(1, cookie=COOKIE).needle.data)


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
