"""The answer of each RPC about a volume whose disk is out of service. The RPC does not touch the disk."""

from __future__ import annotations

from contextlib import contextmanager

import grpc
import pytest
from support.files import PlannedFiles, path_of
from support.grpc_nodes import batch_delete, make_context, make_node
from support.stores import place

from native_handlers.format.needle import Needle
from native_handlers.grpc import tail_sender
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.handlers import GRPC_HANDLERS, RPC_NAMES
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import VOLUME_SERVER_METHODS

COOKIE = 0x637037D6
VID = 7


class Touched:
    """Records the operations on files below `sick` since that was set."""

    def __init__(self):
        self.sick = None
        self.calls = []

    def __call__(self, name, target):
        where = path_of(target)
        if self.sick is not None and self.sick in (where, *where.parents):
            self.calls.append((name, where.name))


class Source:
    """A server that must not be asked. `asked` says whether an RPC asked it."""

    def __init__(self):
        self.asked = False

    @contextmanager
    def open_volume_server(self, _address):
        self.asked = True
        yield self


@pytest.fixture
def touched():
    return Touched()


@pytest.fixture
def store(tmp_path, touched, opened):
    places = tmp_path / "well", place(tmp_path / "sick", disk_type="ssd")
    store = opened(*places, offset_width_bytes=4, files=PlannedFiles(before=touched), volumes=())
    volume = store.allocate_volume(VID, disk_type="ssd", collection="c")
    volume.write(Needle(needle_id=1, cookie=COOKIE, data=b"payload"))
    (tmp_path / "sick" / "c_7.ec01").write_bytes(b"shard")
    store.locations[1].health.problem = "why"
    touched.sick = tmp_path / "sick"
    yield store
    touched.sick = None
    store.locations[1].health.problem = ""
    assert bytes(store.get_volume(VID).read(1, cookie=COOKIE).needle.data) == b"payload"


@pytest.fixture
def node(tmp_path, store):
    return make_node(tmp_path, store, state=StoreStateKeeper(store), volume_servers=Source())


def invoke(node, name, request):
    """The answer of the RPC; the list of messages for a stream."""
    if name == "BatchDelete":
        return batch_delete(node, make_context(), request)
    answer = GRPC_HANDLERS[name](node, make_context(), request)
    return list(answer) if VOLUME_SERVER_METHODS[name].server_streaming else answer


REFUSED = [
    ("CopyFile", pb.CopyFileRequest(volume_id=VID, collection="c", ext=".dat", stop_offset=9, compaction_revision=0)),
    ("CopyFile", pb.CopyFileRequest(volume_id=VID, collection="c", ext=".vif", stop_offset=9, compaction_revision=0)),
    ("CopyFile", pb.CopyFileRequest(volume_id=VID, collection="c", ext=".ec01", stop_offset=9, is_ec_volume=True)),
    (
        "CopyFile",
        pb.CopyFileRequest(
            volume_id=VID, collection="c", ext=".ec01", is_ec_volume=True, ignore_source_file_not_found=True
        ),
    ),
    ("Query", pb.QueryRequest(from_file_ids=[f"{VID},01{COOKIE:08x}"])),
    ("ReadAllNeedles", pb.ReadAllNeedlesRequest(volume_ids=[VID])),
    ("ReadNeedleBlob", pb.ReadNeedleBlobRequest(volume_id=VID, offset=8, size=12)),
    ("ReadNeedleMeta", pb.ReadNeedleMetaRequest(volume_id=VID, offset=8, size=12)),
    ("WriteNeedleBlob", pb.WriteNeedleBlobRequest(volume_id=VID, needle_id=1, needle_blob=bytes(32))),
    ("ScrubVolume", pb.ScrubVolumeRequest(volume_ids=[VID], mode=pb.VolumeScrubMode.FULL)),
    ("VolumeConfigure", pb.VolumeConfigureRequest(volume_id=VID, replication="001")),
    ("VolumeConsolidateIndex", pb.VolumeConsolidateIndexRequest(volume_id=VID)),
    ("VolumeIncrementalCopy", pb.VolumeIncrementalCopyRequest(volume_id=VID)),
    ("VolumeMarkReadonly", pb.VolumeMarkReadonlyRequest(volume_id=VID, persist=True)),
    ("VolumeMarkWritable", pb.VolumeMarkWritableRequest(volume_id=VID)),
    ("VolumeNeedleStatus", pb.VolumeNeedleStatusRequest(volume_id=VID, needle_id=1)),
    ("VolumeTailReceiver", pb.VolumeTailReceiverRequest(volume_id=VID, source_volume_server="10.0.0.2:8080")),
    ("FetchAndWriteNeedle", pb.FetchAndWriteNeedleRequest(volume_id=VID, needle_id=1, size=1)),
    ("VolumeTierMoveDatToRemote", pb.VolumeTierMoveDatToRemoteRequest(volume_id=VID, collection="c")),
    ("VolumeTierMoveDatFromRemote", pb.VolumeTierMoveDatFromRemoteRequest(volume_id=VID, collection="c")),
    ("VolumeEcShardsGenerate", pb.VolumeEcShardsGenerateRequest(volume_id=VID, collection="c")),
    ("VolumeEcShardsRebuild", pb.VolumeEcShardsRebuildRequest(volume_id=VID, collection="c")),
    ("VolumeEcShardsCopy", pb.VolumeEcShardsCopyRequest(volume_id=VID, collection="c", shard_ids=[1], disk_id=1)),
    ("VacuumVolumeCompact", pb.VacuumVolumeCompactRequest(volume_id=VID)),
    ("VacuumVolumeCommit", pb.VacuumVolumeCommitRequest(volume_id=VID)),
    ("VacuumVolumeCleanup", pb.VacuumVolumeCleanupRequest(volume_id=VID)),
    ("VolumeTailSender", pb.VolumeTailSenderRequest(volume_id=VID, idle_timeout_seconds=1)),
    ("ReceiveFile", [pb.ReceiveFileRequest(info=pb.ReceiveFileInfo(volume_id=VID, collection="c", ext=".tmprecv"))]),
    (
        "ReceiveFile",
        [
            pb.ReceiveFileRequest(
                info=pb.ReceiveFileInfo(volume_id=VID, collection="c", ext=".ec02", is_ec_volume=True, disk_id=1)
            )
        ],
    ),
]

ANSWERED_FROM_MEMORY = [
    ("ReadVolumeFileStatus", pb.ReadVolumeFileStatusRequest(volume_id=VID)),
    ("VacuumVolumeCheck", pb.VacuumVolumeCheckRequest(volume_id=VID)),
    ("VolumeMarkReadonly", pb.VolumeMarkReadonlyRequest(volume_id=VID)),
    ("VolumeMount", pb.VolumeMountRequest(volume_id=VID)),
    ("VolumeStatus", pb.VolumeStatusRequest(volume_id=VID)),
    ("VolumeSyncStatus", pb.VolumeSyncStatusRequest(volume_id=VID)),
]

OTHERWISE = {
    "VolumeEcShardsDelete": "a disk without shards of the volume is not needed: test_grpc_ec_disk_out_of_service.py",
    "AllocateVolume": "the disk is not chosen",
    "VolumeCopy": "the disk is not chosen",
    "BatchDelete": "each needle has its own status",
    "DeleteCollection": "is tried, at the operator's word",
    "VolumeDelete": "is tried, at the operator's word",
    "VolumeUnmount": "is tried, at the operator's word",
    "VolumeEcShardsMount": "other disks may have the shard",
    "VolumeEcShardsUnmount": "is tried, at the operator's word",
    "VolumeEcShardsInfo": "of shards that are open, of which there are none",
    "VolumeEcShardRead": "of shards that are open, of which there are none",
    "VolumeEcBlobDelete": "of shards that are open, of which there are none",
    "VolumeEcShardsToVolume": "of shards that are open, of which there are none",
    "ScrubEcVolume": "of shards that are open, of which there are none",
    "GetState": "of the server",
    "Ping": "of the server",
    "SetState": "of the server",
    "VolumeServerLeave": "of the server",
    "VolumeServerStatus": "of the server",
}


def test_every_rpc_is_thought_of():
    assert {name for name, _ in (*REFUSED, *ANSWERED_FROM_MEMORY)} | set(OTHERWISE) == RPC_NAMES


@pytest.mark.parametrize(("name", "request_message"), REFUSED, ids=lambda value: value if type(value) is str else "")
def test_what_needs_the_disk_is_unavailable(node, store, touched, name, request_message):
    if isinstance(request_message, list):
        request_message = iter(request_message)
    with pytest.raises(RpcFailure) as caught:
        invoke(node, name, request_message)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.message == f"disk {store.locations[1].path} is out of service: why"
    assert touched.calls == []
    assert not node.volume_servers.asked


@pytest.mark.parametrize(("name", "request_message"), ANSWERED_FROM_MEMORY, ids=lambda value: str(value)[:20])
def test_what_is_known_is_told(node, touched, name, request_message):
    invoke(node, name, request_message)
    assert [call for call in touched.calls if call[0] != "facts"] == []


def test_each_needle_that_is_to_be_deleted_has_its_own_answer(node, store, touched):
    store.allocate_volume(8)
    store.get_volume(8).write(Needle(needle_id=1, cookie=COOKIE, data=b"payload"))
    for skips in (True, False):
        ids = [f"{VID},01{COOKIE:08x}", f"8,01{COOKIE:08x}"]
        results = invoke(node, "BatchDelete", pb.BatchDeleteRequest(file_ids=ids, skip_cookie_check=skips)).results
        assert results[0].status == 503
        assert results[1].status in {202, 404 if not skips else 304}
    assert touched.calls == []


def test_a_new_volume_goes_elsewhere(node, store, touched):
    request = pb.AllocateVolumeRequest(volume_id=8, version=3, disk_type="ssd", replication="000")
    with pytest.raises(RpcFailure, match="No more free space left"):
        invoke(node, "AllocateVolume", request)
    assert touched.calls == []


def test_shards_are_looked_for_on_the_other_disks_first(node, store, tmp_path, touched):
    (tmp_path / "well" / "c_7.ec03").write_bytes(b"well")
    request = pb.CopyFileRequest(volume_id=VID, collection="c", ext=".ec03", stop_offset=9, is_ec_volume=True)
    [message] = invoke(node, "CopyFile", request)
    assert pb.CopyFileResponse.FromString(message).file_content == b"well"
    assert touched.calls == []


def test_a_disk_that_goes_out_of_service_ends_a_tail(node, store, touched, monkeypatch):
    monkeypatch.setattr(tail_sender, "ROUND_S", 0.001)
    touched.sick, store.locations[1].health.problem = None, ""
    request = pb.VolumeTailSenderRequest(volume_id=VID, idle_timeout_seconds=0)
    messages = GRPC_HANDLERS["VolumeTailSender"](node, make_context(), request)
    assert next(messages).needle_header
    store.locations[1].health.problem = "why"
    with pytest.raises(RpcFailure) as caught:
        list(messages)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
