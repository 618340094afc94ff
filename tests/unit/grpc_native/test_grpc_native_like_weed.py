"""The same calls on upstream's volume server and on ours, over copies of the same volume: same answers.

Skips without a `weed` program (WEED_BINARY or PATH).
"""

from __future__ import annotations

import shutil
import urllib.request

import grpc
import pytest
from grpc_native_fakes import FakeMasters, make_node
from grpc_native_weed import find_weed, running_weed

from native_handlers.grpc.handlers import GRPC_HANDLERS
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import volume_server
from supervisor.cluster.dial import dial_insecure
from supervisor.cluster.master_view import MasterView
from supervisor.gateway.grpc import GrpcGateway
from supervisor.gateway.grpc_gate import AdminGate
from supervisor.gateway.grpc_masters import ClusterMasters
from supervisor.gateway.grpc_native import native_engines
from supervisor.net.grpc_peers import Peer, PeerRegistry
from supervisor.routing.live import LiveTable
from supervisor.routing.table import table_native
from supervisor.wire.server_address import ServerAddress

WEED = find_weed()
pytestmark = [
    pytest.mark.skipif(WEED is None, reason="needs a weed program: set WEED_BINARY or put it into PATH"),
    pytest.mark.slow,
]
T = 10


class Everyone(PeerRegistry):
    def find(self, _grpc_peer):
        return Peer("127.0.0.1", 1)


class RealPing(FakeMasters):
    """Marks go nowhere, for the master does not know our server; pings go to the real master."""

    def __init__(self, masters: ClusterMasters) -> None:
        super().__init__()
        self._masters = masters

    def is_known(self, target):
        return self._masters.is_known(target)

    def ping(self, target, timeout_s):
        return self._masters.ping(target, timeout_s)


@pytest.fixture(scope="module")
def weed(tmp_path_factory):
    with running_weed(WEED, tmp_path_factory.mktemp("weed")) as running:
        yield running


@pytest.fixture
def both(weed, tmp_path, store):
    """Clients of upstream's server and of ours."""
    masters = ClusterMasters(MasterView([ServerAddress.parse(weed.master)]), dial_insecure)
    node = make_node(tmp_path, store, state=StoreStateKeeper(store), masters=RealPing(masters))
    gateway = GrpcGateway(
        table=LiveTable(table_native([f"grpc.{name}" for name in GRPC_HANDLERS])),
        native=native_engines(node, GRPC_HANDLERS),
        peers=Everyone(),
        gate=AdminGate(lambda host: True),
    )
    port = gateway.start()
    with grpc.insecure_channel(weed.volumes[0].grpc) as theirs, grpc.insecure_channel(f"127.0.0.1:{port}") as ours:
        yield theirs, ours
    gateway.drain(0)
    masters.close()


def outcome(channel, name, request, metadata=()):
    """What came of a call, but for what must differ between two servers."""
    try:
        response, call = getattr(volume_server(channel), name).with_call(request, timeout=T, metadata=metadata)
    except grpc.RpcError as error:
        keys = [key for key, _ in error.trailing_metadata()]
        return error.code(), mask(error.details()), keys
    for field in ("start_time_ns", "stop_time_ns", "remote_time_ns"):
        if hasattr(response, field):
            setattr(response, field, min(1, getattr(response, field)))
    if isinstance(response, pb.VolumeServerStatusResponse):
        response.ClearField("disk_statuses")
        response.ClearField("memory_status")
    if isinstance(response, pb.BatchDeleteResponse):
        for result in response.results:
            result.error = mask(result.error)
    return response, [key for key, _ in call.initial_metadata()], [key for key, _ in call.trailing_metadata()]


def mask(text: str) -> str:
    """`text` without what names the server."""
    text = text.split(": rpc error: code = Unavailable", maxsplit=1)[0]
    for marker in (" on 127.0.0.1:", "volume server "):
        head, found, tail = text.partition(marker)
        if found:
            text = head + found + ("…" if marker.startswith(" on") else "… " + tail.partition(" ")[2])
    return text


def test_the_same_answers(weed, both, store):
    theirs, ours = both
    allocate = pb.AllocateVolumeRequest(volume_id=7, version=3, collection="c", replication="001", ttl="3d")
    volume_server(theirs).AllocateVolume(allocate, timeout=T)
    for fid, size in (("01637037d6", 500), ("02637037d6", 70), ("03637037d6", 9)):
        headers = {"Content-Type": "application/octet-stream"}
        url = f"http://{weed.volumes[0].http}/7,{fid}?type=replicate&ts=1700000000"
        body = urllib.request.Request(url, b"h" * size, headers, method="POST")
        urllib.request.urlopen(body, timeout=T).close()
    volume_server(theirs).VolumeUnmount(pb.VolumeUnmountRequest(volume_id=7), timeout=T)
    for path in weed.volumes[0].directory.glob("c_7.*"):
        shutil.copy2(path, store.locations[0].path)

    differences = []
    for name, request in calls(weed.master):
        expected, got = outcome(theirs, name, request), outcome(ours, name, request)
        if expected != got:
            differences.append(f"{name}({request}):\n  upstream {expected}\n  ours     {got}")
    assert not differences, "\n".join(differences)


def calls(master: str):
    yield from calls_on_the_server(master)
    yield from calls_on_a_volume()
    yield from calls_that_make_and_delete()
    for _ in range(2):
        yield "VolumeServerLeave", pb.VolumeServerLeaveRequest()


def calls_on_the_server(master: str):
    http = master.rpartition(".")[0]
    yield "Ping", pb.PingRequest()
    for kind in ("master", "filer", "volumeServer", "x"):
        yield "Ping", pb.PingRequest(target_type=kind)
    for target, kind in ((master, "master"), (f"{http}.1", "master"), ("127.0.0.1:1", "master"), (http, "filer")):
        yield "Ping", pb.PingRequest(target=target, target_type=kind)
    yield "GetState", pb.GetStateRequest()
    yield "SetState", pb.SetStateRequest()
    yield "SetState", pb.SetStateRequest(state=pb.VolumeServerState(maintenance=True, version=3))
    yield "SetState", pb.SetStateRequest(state=pb.VolumeServerState(maintenance=True))
    yield "GetState", pb.GetStateRequest()
    yield "AllocateVolume", pb.AllocateVolumeRequest(volume_id=8, version=3)
    yield "VolumeMarkReadonly", pb.VolumeMarkReadonlyRequest(volume_id=7)
    yield "SetState", pb.SetStateRequest(state=pb.VolumeServerState(version=1))
    yield "VolumeServerStatus", pb.VolumeServerStatusRequest()


def calls_on_a_volume():
    for volume_id in (7, 99, 7):
        yield "VolumeMount", pb.VolumeMountRequest(volume_id=volume_id)
    for name in ("VolumeStatus", "VolumeSyncStatus", "ReadVolumeFileStatus", "VacuumVolumeCheck"):
        for volume_id in (7, 99):
            yield name, getattr(pb, f"{name}Request")(volume_id=volume_id)
    for volume_id, needle_id in ((7, 1), (7, 9), (99, 1)):
        yield "VolumeNeedleStatus", pb.VolumeNeedleStatusRequest(volume_id=volume_id, needle_id=needle_id)
    fids = ["7,01637037d7", "nonsense", ",x", "7,1", "7,zz637037d6", "7,05637037d6", "77,05637037d6", "x,05637037d6"]
    yield "BatchDelete", pb.BatchDeleteRequest(file_ids=[*fids, "7,01637037d6", "7,01637037d6", "7,01637037d6_1"])
    fids = ["7,0300000000_1", "7,03", "7,0300000000", "7,0300000000", "7,0900000000", "77,0200000000"]
    yield "BatchDelete", pb.BatchDeleteRequest(file_ids=fids, skip_cookie_check=True)
    yield "VolumeNeedleStatus", pb.VolumeNeedleStatusRequest(volume_id=7, needle_id=1)
    for name in ("VolumeStatus", "VolumeSyncStatus", "VacuumVolumeCheck"):
        yield name, getattr(pb, f"{name}Request")(volume_id=7)
    for volume_id in (7, 99):
        yield "VolumeMarkReadonly", pb.VolumeMarkReadonlyRequest(volume_id=volume_id)
    yield "VolumeStatus", pb.VolumeStatusRequest(volume_id=7)
    yield "BatchDelete", pb.BatchDeleteRequest(file_ids=["7,02637037d6"])
    for volume_id in (7, 99):
        yield "VolumeMarkWritable", pb.VolumeMarkWritableRequest(volume_id=volume_id)


def calls_that_make_and_delete():
    for fields in (
        {"volume_id": 7, "version": 3},
        {"volume_id": 8, "replication": "zz", "version": 3},
        {"volume_id": 8, "replication": "12345", "version": 3},
        {"volume_id": 8, "ttl": "9x", "version": 3},
        {"volume_id": 9, "ttl": "999m", "version": 3},
        {"volume_id": 10, "disk_type": "ssd", "version": 3},
        {"volume_id": 10},
        {"volume_id": 10, "version": 9},
        {"volume_id": 13, "version": 3, "collection": "d", "disk_type": "hdd"},
    ):
        yield "AllocateVolume", pb.AllocateVolumeRequest(**fields)
    for volume_id in (8, 9, 13):
        yield "VolumeSyncStatus", pb.VolumeSyncStatusRequest(volume_id=volume_id)
    yield "VolumeDelete", pb.VolumeDeleteRequest(volume_id=7, only_empty=True)
    for volume_id in (7, 7, 99):
        yield "VolumeDelete", pb.VolumeDeleteRequest(volume_id=volume_id)
    for collection in ("d", "d", "", "none"):
        yield "DeleteCollection", pb.DeleteCollectionRequest(collection=collection)
    for volume_id in (8, 9, 13):
        yield "VolumeStatus", pb.VolumeStatusRequest(volume_id=volume_id)
    for volume_id in (7, 99):
        yield "VolumeUnmount", pb.VolumeUnmountRequest(volume_id=volume_id)
