"""The same calls on upstream's volume server and on the native one, over copies of the same volume: same answers. Skips
without a `weed` program (WEED_BINARY or PATH).
"""

from __future__ import annotations

import os
import re
import shutil
import time
import urllib.request
from contextlib import closing, contextmanager
from itertools import combinations

import grpc
import pytest
from go_cluster import running_weed
from harness.implementations import weed_program
from support.grpc_nodes import FakeMasters, make_node
from support.grpc_servers import Everyone
from support.stores import NODE, open_at, place
from support.waiting import LIMIT_S as T

from native_handlers.format.idx import iter_entries
from native_handlers.format.needle import Needle
from native_handlers.format.ttl import Ttl
from native_handlers.format.types import to_bytes_offset
from native_handlers.grpc.handlers import BYTES_HANDLERS, GRPC_HANDLERS, RPC_NAMES
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import volume_server
from supervisor.cluster.dial import dial_insecure
from supervisor.cluster.master_view import MasterView
from supervisor.gateway.grpc import GrpcGateway
from supervisor.gateway.grpc_gate import AdminGate
from supervisor.gateway.grpc_masters import ClusterMasters
from supervisor.gateway.grpc_native import native_engines
from supervisor.routing.live import LiveTable
from supervisor.routing.table import table_native
from supervisor.wire.server_address import ServerAddress

WEED = weed_program()
pytestmark = [
    pytest.mark.skipif(WEED is None, reason="needs a weed program: set WEED_BINARY or put it into PATH"),
    pytest.mark.slow,
]
OPENED_READ_ONLY = 46
"""Upstream counts no deletions of a volume that is open read-only, and counts empty needles as deleted."""


class RealPing(FakeMasters):
    """Marks go nowhere, because the master does not know the native server. Pings go to the real master."""

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
def store(tmp_path, opened):
    return opened(place(tmp_path / "volumes", min_free_percent=0.0), volumes=(), **NODE)


@pytest.fixture
def both(weed, tmp_path, store):
    """Clients of upstream's server and of the native one."""
    masters = ClusterMasters(MasterView([ServerAddress.parse(weed.master)]), dial_insecure)
    node = make_node(tmp_path, store, state=StoreStateKeeper(store), masters=RealPing(masters))
    gateway = GrpcGateway(
        table=LiveTable(table_native([f"grpc.{name}" for name in RPC_NAMES])),
        native=native_engines(node, GRPC_HANDLERS, BYTES_HANDLERS),
        clients=Everyone(),
        gate=AdminGate(lambda host: True),
    )
    port = gateway.listen("127.0.0.1:0")
    with grpc.insecure_channel(weed.volumes[0].grpc) as theirs, grpc.insecure_channel(f"127.0.0.1:{port}") as ours:
        yield theirs, ours
    gateway.drain(0)
    masters.close()


def outcome(channel, name, request, metadata=()):
    """The result of a call, without the parts that must differ between two servers."""
    call_of = getattr(volume_server(channel), name)
    if name == "ReadAllNeedles":
        return outcome_of_stream(call_of(request, timeout=T, metadata=metadata))
    try:
        response, call = call_of.with_call(request, timeout=T, metadata=metadata)
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


def outcome_of_stream(stream):
    """All messages of a stream, and its end."""
    came = []
    try:
        came.extend(stream)
    except grpc.RpcError as error:
        return came, error.code(), mask(error.details())
    return came


def mask(text: str) -> str:
    """`text` without the parts that name the server: its address, its directories, and Go's two ways to space
    fields.
    """
    text = re.sub(r"readat \S+/", "readat …/", text).replace("  ", " ")
    text = text.split(": rpc error: code = Unavailable", maxsplit=1)[0]
    for marker in (" on 127.0.0.1:", "volume server "):
        head, found, tail = text.partition(marker)
        if found:
            text = head + found + ("…" if marker.startswith(" on") else "… " + tail.partition(" ")[2])
    return text


def test_the_same_answers(weed, both, store):
    theirs, _ours = both
    allocate = pb.AllocateVolumeRequest(volume_id=7, version=3, collection="c", replication="001", ttl="3d")
    volume_server(theirs).AllocateVolume(allocate, timeout=T)
    for fid, size in (("01637037d6", 500), ("02637037d6", 70), ("03637037d6", 9)):
        headers = {"Content-Type": "application/octet-stream"}
        url = f"http://{weed.volumes[0].http}/7,{fid}?type=replicate&ts=1700000000"
        body = urllib.request.Request(url, b"h" * size, headers, method="POST")
        urllib.request.urlopen(body, timeout=T).close()
    volume_server(theirs).VolumeUnmount(pb.VolumeUnmountRequest(volume_id=7), timeout=T)
    rows = copy_volume(weed, store, "c_7")
    assert_same(both, calls(weed.master, rows))


def upload(weed, fid, body, query=""):
    headers = {"Content-Type": "application/octet-stream"}
    url = f"http://{weed.volumes[0].http}/{fid}?type=replicate&ts=1700000000{query}"
    urllib.request.urlopen(urllib.request.Request(url, body, headers, method="POST"), timeout=T).close()


@contextmanager
def volume_at_upstream(weed, channel, volume_id, **fields):
    """Makes a volume on upstream's server, has it filled, and closes it."""
    client = volume_server(channel)
    client.AllocateVolume(pb.AllocateVolumeRequest(volume_id=volume_id, version=3, **fields), timeout=T)
    yield client
    client.VolumeUnmount(pb.VolumeUnmountRequest(volume_id=volume_id), timeout=T)


def test_records_are_stored_alike(weed, both, store):
    theirs, _ours = both
    with volume_at_upstream(weed, theirs, 30) as client:
        upload(weed, "30,01637037d6", b"h" * 500)
        upload(weed, "30,02637037d6", b"i" * 70)
        size = rows_of(weed, "30")[0].size
        request = pb.ReadNeedleBlobRequest(volume_id=30, offset=8, size=size)
        blob = client.ReadNeedleBlob(request, timeout=T).needle_blob
    rows = copy_volume(weed, store, "30")
    assert_same(both, [("VolumeMount", pb.VolumeMountRequest(volume_id=30))])
    assert_same(both, calls_that_store_records(30, blob, size))
    marked = pb.VolumeMarkReadonlyRequest(volume_id=30)
    request = pb.WriteNeedleBlobRequest(volume_id=30, needle_id=40, needle_blob=blob, size=size)
    assert_same(both, [("VolumeMarkReadonly", marked), ("WriteNeedleBlob", request)])
    assert_same(both, [("VolumeUnmount", pb.VolumeUnmountRequest(volume_id=30)), ("WriteNeedleBlob", request)])
    ours = (store.locations[0].path / "30.dat").read_bytes()
    dat = (weed.volumes[0].directory / "30.dat").read_bytes()
    assert (store.locations[0].path / "30.idx").read_bytes() == (weed.volumes[0].directory / "30.idx").read_bytes()
    append_times = [to_bytes_offset(row.offset) + 16 + row.size + 4 for row in rows_of(weed, "30")[len(rows) :]]
    assert without(ours, append_times) == without(dat, append_times)


def rows_of(weed, name):
    return list(iter_entries((weed.volumes[0].directory / f"{name}.idx").read_bytes(), 4))


def without(data: bytes, places) -> bytes:
    changed = bytearray(data)
    for at in places:
        changed[at : at + 8] = bytes(8)
    return bytes(changed)


def test_the_same_answers_of_odd_volumes(weed, both, store):
    """Empty; with a TTL; read-only for good; deleted from; overwritten; emptied; with empty needles."""
    theirs, _ours = both
    made = {}
    with volume_at_upstream(weed, theirs, 41):
        made[41] = "41"
    with volume_at_upstream(weed, theirs, 42, ttl="5d", collection="odd_one"):
        upload(weed, "42,01637037d6", b"a" * 50)
        upload(weed, "42,02637037d6", b"b" * 50, "&ttl=3h")
        made[42] = "odd_one_42"
    with volume_at_upstream(weed, theirs, 43) as client:
        upload(weed, "43,01637037d6", b"a" * 50)
        client.VolumeMarkReadonly(pb.VolumeMarkReadonlyRequest(volume_id=43, persist=True), timeout=T)
        made[43] = "43"
    with volume_at_upstream(weed, theirs, 44) as client:
        for fid in ("44,01637037d6", "44,02637037d6", "44,03637037d6"):
            upload(weed, fid, fid.encode() * 9)
        client.BatchDelete(pb.BatchDeleteRequest(file_ids=["44,01637037d6", "44,03637037d6"]), timeout=T)
        upload(weed, "44,02637037d6", b"overwritten")
        upload(weed, "44,03637037d6", b"back again")
        made[44] = "44"
    with volume_at_upstream(weed, theirs, 45) as client:
        upload(weed, "45,01637037d6", b"gone")
        client.BatchDelete(pb.BatchDeleteRequest(file_ids=["45,01637037d6"]), timeout=T)
        made[45] = "45"
    with volume_at_upstream(weed, theirs, 46) as client:
        upload(weed, "46,02637037d6", b"x")
        request = pb.VolumeMarkReadonlyRequest(volume_id=46, can_delete=True, persist=True)
        client.VolumeMarkReadonly(request, timeout=T)
        made[46] = "46"
    with volume_at_upstream(weed, theirs, 47):
        upload(weed, "47,01637037d6", b"")
        upload(weed, "47,02637037d6", b"x")
        made[47] = "47"
    for volume_id, name in made.items():
        rows = copy_volume(weed, store, name)
        assert_same(both, calls_on_an_odd_volume(volume_id, rows))


def test_the_same_answers_of_large_and_of_corrupt_needles(weed, both, store):
    """Upstream and the native server read and check large needles in another way than small ones; the answers must not
    show that.
    """
    theirs, _ours = both
    payloads = {1: b"small", 2: os.urandom(3 << 20), 3: b"rotten", 4: b"rotten" + os.urandom(3 << 20)}
    with volume_at_upstream(weed, theirs, 48):
        for needle_id, payload in payloads.items():
            upload(weed, f"48,{needle_id:02d}637037d6", payload)
    rows = copy_volume(weed, store, "48")
    calls = [
        ("VolumeMount", pb.VolumeMountRequest(volume_id=48)),
        ("ReadAllNeedles", pb.ReadAllNeedlesRequest(volume_ids=[48])),
        *descriptions(48, rows),
    ]
    assert_same(both, calls)
    for directory in (weed.volumes[0].directory, store.locations[0].path):
        path = directory / "48.dat"
        path.write_bytes(path.read_bytes().replace(b"rotten", b"rotted"))
    file_ids = [f"48,{needle_id:02d}637037d6" for needle_id in payloads]
    assert_same(both, [*descriptions(48, rows), ("BatchDelete", pb.BatchDeleteRequest(file_ids=file_ids))])


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_same_answers_of_old_volumes(weed, both, store, tmp_path, version):
    """Written ten days ago, in each version. The TTL of one needle has passed."""
    (tmp_path / "made").mkdir()
    ten_days_ago_ns = time.time_ns() - 10 * 86_400 * 10**9
    with closing(open_at(tmp_path / "made", clock_ns=lambda: ten_days_ago_ns)) as made:
        volume = made.allocate_volume(50 + version, version=version)
        for needle_id, ttl in ((1, None), (2, Ttl(3, 3)), (3, Ttl(9, 4))):
            needle = Needle(needle_id=needle_id, cookie=0x637037D6, data=b"old" * 20, ttl=ttl, mime=b"m/x")
            needle.has_last_modified = needle.has_mime = True
            needle.has_ttl = ttl is not None
            needle.last_modified_s = ten_days_ago_ns // 10**9
            volume.write(needle)
        volume.delete(1, 0x637037D6)
    name = str(50 + version)
    for path in (tmp_path / "made").glob(f"{name}.*"):
        shutil.copy2(path, weed.volumes[0].directory)
        shutil.copy2(path, store.locations[0].path)
    rows = rows_of(weed, name) if version > 1 else []  # upstream reads metadata of version 1 as if it were 2
    assert_same(both, calls_on_an_odd_volume(50 + version, rows, is_deleted_from=True))


def calls_on_an_odd_volume(volume_id, rows, *, is_deleted_from=False):
    yield "VolumeMount", pb.VolumeMountRequest(volume_id=volume_id)
    if not is_deleted_from and not any(row.size < 0 for row in rows):
        # Upstream sends deleted needles too.
        yield "ReadAllNeedles", pb.ReadAllNeedlesRequest(volume_ids=[volume_id])
    yield from descriptions(volume_id, rows)
    yield "BatchDelete", pb.BatchDeleteRequest(file_ids=[f"{volume_id},{n:02d}637037d6" for n in range(1, 4)])
    if volume_id != OPENED_READ_ONLY:
        yield from descriptions(volume_id, rows)
    yield "VolumeDelete", pb.VolumeDeleteRequest(volume_id=volume_id, only_empty=True)
    for name in ("VolumeMarkWritable", "VolumeConfigure", "VolumeUnmount", "VolumeMount"):
        yield name, getattr(pb, f"{name}Request")(volume_id=volume_id)
        yield from descriptions(volume_id, rows)
    yield "VolumeDelete", pb.VolumeDeleteRequest(volume_id=volume_id)


def descriptions(volume_id, rows):
    for name in ("VolumeStatus", "VolumeSyncStatus", "VacuumVolumeCheck"):
        yield name, getattr(pb, f"{name}Request")(volume_id=volume_id)
    for needle_id in range(5):
        yield "VolumeNeedleStatus", pb.VolumeNeedleStatusRequest(volume_id=volume_id, needle_id=needle_id)
    for row in rows:
        place = {"volume_id": volume_id, "offset": to_bytes_offset(row.offset), "size": row.size}
        yield "ReadNeedleMeta", pb.ReadNeedleMetaRequest(needle_id=row.needle_id, **place)
        yield "ReadNeedleBlob", pb.ReadNeedleBlobRequest(**place)


def copy_volume(weed, store, name):
    """Copies the files of a volume that upstream's server has closed. Returns the rows of its index."""
    for path in weed.volumes[0].directory.glob(f"{name}.*"):
        shutil.copy2(path, store.locations[0].path)
    return list(iter_entries((weed.volumes[0].directory / f"{name}.idx").read_bytes(), 4))


def assert_same(both, wanted):
    theirs, ours = both
    differences = []
    for name, request in wanted:
        expected, got = outcome(theirs, name, request), outcome(ours, name, request)
        if expected != got:
            differences.append(f"{name}({request}):\n  upstream {expected}\n  ours     {got}")
    assert not differences, "\n".join(differences)


def calls(master: str, rows):
    yield from calls_on_the_server(master)
    for volume_id in (7, 99):
        yield "VolumeMount", pb.VolumeMountRequest(volume_id=volume_id)
    yield from calls_on_records(7, rows)
    yield from calls_that_configure()
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
    yield "VolumeConfigure", pb.VolumeConfigureRequest(volume_id=7, replication="zz")
    for name in ("VolumeConsolidateIndex", "WriteNeedleBlob", "ReadNeedleBlob", "ReadNeedleMeta", "VolumeDelete"):
        yield name, getattr(pb, f"{name}Request")(volume_id=99)
    yield "SetState", pb.SetStateRequest(state=pb.VolumeServerState(version=1))
    yield "VolumeServerStatus", pb.VolumeServerStatusRequest()


def calls_on_records(volume_id, rows):
    """Reads at places that are records, that are none, and that are outside of the file; then storing records."""
    size = rows[0].size
    places = [(to_bytes_offset(row.offset), row.size) for row in rows]
    places += [(8, size + 1), (8, 0), (8, -1), (0, 8), (3, 5), (1 << 40, 64), (400_000, 64), (-8, 64)]
    for offset, its_size in places:
        yield "ReadNeedleBlob", pb.ReadNeedleBlobRequest(volume_id=volume_id, offset=offset, size=its_size)
        yield "ReadNeedleMeta", pb.ReadNeedleMetaRequest(volume_id=volume_id, offset=offset, size=its_size)
    for name in ("ReadNeedleBlob", "ReadNeedleMeta", "WriteNeedleBlob"):
        yield name, getattr(pb, f"{name}Request")(volume_id=99, size=-1)
    for volume_ids in ([volume_id], [volume_id, volume_id], [volume_id, 99], [99, volume_id], []):
        yield "ReadAllNeedles", pb.ReadAllNeedlesRequest(volume_ids=volume_ids)


def calls_that_store_records(volume_id, blob, size):
    """`blob` is the record of needle 1."""
    for needle_id, record, its_size in (
        (9, b"", size),
        (9, blob[:15], size),
        (9, blob, size + 1),
        (9, blob[: 16 + size + 11], size),
        (1, blob, size),
        (9, blob, size),
        (9, blob, size),
        (2, blob, size),
        (9, blob[:12] + b"\xff\xff\xff\xce" + blob[16:], -50),
    ):
        request = pb.WriteNeedleBlobRequest(volume_id=volume_id, needle_id=needle_id, needle_blob=record, size=its_size)
        yield "WriteNeedleBlob", request
        for name in ("VolumeStatus", "VolumeSyncStatus"):
            yield name, getattr(pb, f"{name}Request")(volume_id=volume_id)
        for wanted in (1, 2, 9):
            yield "VolumeNeedleStatus", pb.VolumeNeedleStatusRequest(volume_id=volume_id, needle_id=wanted)
    yield "ReadAllNeedles", pb.ReadAllNeedlesRequest(volume_ids=[volume_id])


def calls_that_configure():
    for volume_id, replication in (
        (7, "bad"), (7, "999"), (7, "12345"), (7, "1"), (7, ""), (7, "010"), (99, "001"), (0, ""), (99, "zz")
    ):  # fmt: skip
        yield "VolumeConfigure", pb.VolumeConfigureRequest(volume_id=volume_id, replication=replication)
        yield "VolumeSyncStatus", pb.VolumeSyncStatusRequest(volume_id=volume_id)
        yield "ReadVolumeFileStatus", pb.ReadVolumeFileStatusRequest(volume_id=volume_id)
    for volume_id in (7, 99):
        yield "VolumeConsolidateIndex", pb.VolumeConsolidateIndexRequest(volume_id=volume_id)
    yield "VolumeUnmount", pb.VolumeUnmountRequest(volume_id=7)
    yield "VolumeConsolidateIndex", pb.VolumeConsolidateIndexRequest(volume_id=7)
    yield "VolumeConfigure", pb.VolumeConfigureRequest(volume_id=7, replication="001")
    yield "VolumeSyncStatus", pb.VolumeSyncStatusRequest(volume_id=7)


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


def pairs_of_faults():
    """Pairs of faults, of which one is reported. The text for a wrong TTL is this project's own."""
    faults = ({"replication": "zz"}, {"volume_id": 7}, {"disk_type": "ssd"}, {"version": 9})
    for first, second in combinations(faults, 2):
        yield {"volume_id": 10, "version": 3} | first | second


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
        *pairs_of_faults(),
        {"volume_id": 13, "version": 3, "collection": "d", "disk_type": "hdd"},
    ):
        yield "AllocateVolume", pb.AllocateVolumeRequest(**fields)
    for fields in (
        *({"collection": name} for name in ("..", ".", "a\\b", "a b", "ä", "a_1", "_", "7_", "a.b", "a\nb", "-")),
        {"volume_id": 0},
        {"volume_id": 2**32 - 1},
        {"preallocate": -5},
        {"ttl": "-1d"},
        {"replication": "-01"},
        {"disk_type": "../x"},
    ):
        request = pb.AllocateVolumeRequest(**{"volume_id": 14, "version": 3} | fields)
        yield "AllocateVolume", request
        for name in ("VolumeSyncStatus", "VolumeUnmount", "VolumeMount", "VolumeStatus", "VolumeDelete"):
            yield name, getattr(pb, f"{name}Request")(volume_id=request.volume_id)
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
