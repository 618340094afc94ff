from __future__ import annotations

import errno
import json
import os
import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import pytest
import trio
from support.security import check_token
from support.waiting import LIMIT_S as DEADLINE_S
from support.waiting import until, until_answer

from native_handlers.format.fid import parse_file_id
from native_handlers.http_model import query
from native_handlers.pb import master_pb2
from native_handlers.pb.methods import MASTER_METHODS, VOLUME_SERVER_METHODS
from native_handlers.pb.methods import master as master_client
from supervisor.cluster.dial import dial_insecure
from supervisor.cluster.heartbeat import serve_heartbeat
from supervisor.cluster.identity import NodeIdentity
from supervisor.cluster.node_model import NodeModel
from supervisor.cluster.node_source import NodeProperties
from supervisor.config.config import JwtKey
from supervisor.embedded_master import BadMasterState, EmbeddedMasterConfig, MasterDirectoryInUse
from supervisor.embedded_master.serve import serve_embedded_master
from supervisor.embedded_master.state_file import STATE_FILE_NAME, MasterState


class FakeVolumeServer:
    """AllocateVolume and VolumeDelete on a gRPC port; its volumes are in `model`."""

    def __init__(self, http_port, rack="rack1", slots=4):
        self.calls = []
        self.refusal = ""
        self.model = NodeModel(["native"])
        self.source = self.model.source("native")
        self.source.replace_volumes([])
        self.source.replace_ec_shards([])
        self.source.set_facts(NodeProperties({"": slots}, location_uuids=(f"uuid-{http_port}",), max_file_key=41))
        self.executor = ThreadPoolExecutor(4)
        self.server = grpc.server(self.executor, handlers=[self], options=[("grpc.so_reuseport", 0)])
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.identity = NodeIdentity("127.0.0.1", http_port, port, f"public:{http_port}", "", "dc1", rack)
        self.server.start()

    def service(self, details):
        name = details.method.rpartition("/")[2]
        method = VOLUME_SERVER_METHODS[name]

        def answer(request, context):
            self.calls.append((name, request))
            if self.refusal:
                context.abort(grpc.StatusCode.UNKNOWN, self.refusal)
            return method.response_class()

        return grpc.unary_unary_rpc_method_handler(
            answer, method.request_class.FromString, method.response_class.SerializeToString
        )

    def stop(self):
        self.server.stop(0).wait(DEADLINE_S)
        self.executor.shutdown(wait=False)


class Web:
    """A client of the master's HTTP side, on its own connection for each request."""

    def __init__(self, address):
        self.address = address

    async def __call__(self, target, method="GET", form=None):
        body = b"" if form is None else form.encode()
        stream = await trio.open_tcp_stream(self.address.host, self.address.port)
        async with stream:
            head = f"{method} {target} HTTP/1.1\r\nHost: master\r\nConnection: close\r\n"
            head += f"Content-Length: {len(body)}\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
            await stream.send_all(head.encode() + body)
            answer = b"".join([chunk async for chunk in stream])
        head, _, self.body = answer.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        self.headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        self.status = int(status.split()[1])
        return json.loads(self.body) if self.headers.get("content-type") == "application/json" else None


class Calls:
    """Calls with one answer, made in a thread: the master's relay runs in the test's own event loop."""

    def __init__(self, channel):
        self.stub = master_client(channel)

    def __getattr__(self, name):
        call = getattr(self.stub, name)
        return lambda request, timeout: trio.to_thread.run_sync(partial(call, request, timeout=timeout))


@pytest.fixture
def config(tmp_path):
    return EmbeddedMasterConfig(directory=tmp_path / "master", port=0, grpc_port=0)


@pytest.fixture
def volume_server():
    server = FakeVolumeServer(8101)
    yield server
    server.stop()


@pytest.fixture
async def master(nursery, config):
    return (await nursery.start(serve_embedded_master, config)).address


@pytest.fixture
def web(master):
    return Web(master)


@pytest.fixture
def calls(master):
    channel = dial_insecure(master)
    yield Calls(channel)
    channel.close()


async def join(nursery, master, web, *servers):
    for server in servers:
        await nursery.start(serve_heartbeat, server.model, server.identity, [master], dial_insecure)
    await until_answer(partial(web, "/dir/status"), lambda rows: rows["Topology"]["Max"] >= 4 * len(servers))


def writable_ids(rows):
    """The ids of the writable volumes, a list for each layout."""
    return [row["writables"] for row in rows["Topology"]["Layouts"] or ()]


async def test_it_leads_and_says_what_it_is(web, master):
    assert await web("/cluster/status") == {"IsLeader": True, "Leader": f"{master.http}.{master.grpc_port}"}
    assert "quickstart" in web.headers["x-embedded-master"]
    assert web.headers["x-content-type-options"] == "nosniff"
    status = await web("/dir/status")
    assert "production uses weed master" in status["Version"]
    assert status["Topology"] == {"Max": 0, "Free": 0, "DataCenters": None, "Layouts": None}
    await web("/healthz")
    assert (web.status, web.body) == (200, b"")


async def test_no_asyncio_runs_it(web, config, nursery):
    import asyncio  # noqa: PLC0415, TID251  to see that it is not in use

    seen = []
    original = asyncio.new_event_loop
    asyncio.new_event_loop = lambda: seen.append(1) or original()
    try:
        await web("/cluster/status")
    finally:
        asyncio.new_event_loop = original
    assert seen == []


async def test_assign_makes_volumes_and_gives_out_file_ids(nursery, master, web, volume_server):
    await join(nursery, master, web, volume_server)
    first = await web("/dir/assign")
    fid = parse_file_id(first["fid"])
    assert first == {"fid": str(fid), "url": "127.0.0.1:8101", "publicUrl": "public:8101", "count": 1}
    assert fid.needle_id == 42
    requests = [request for name, request in volume_server.calls if name == "AllocateVolume"]
    assert [request.volume_id for request in requests] == [1, 2, 3]
    assert (requests[0].replication, requests[0].ttl, requests[0].version) == ("000", "", 3)
    again = await web("/dir/assign?count=5")
    assert (parse_file_id(again["fid"]).needle_id, again["count"]) == (43, 5)
    assert parse_file_id((await web("/dir/assign", "POST", "count=2"))["fid"]).needle_id == 48
    assert len(volume_server.calls) == 3
    rows = (await web("/dir/status"))["Topology"]
    assert (rows["Free"], rows["DataCenters"][0]["Racks"][0]["DataNodes"][0]["VolumeIds"]) == (1, " 1-3")
    assert rows["Layouts"] == [
        {"replication": "000", "ttl": "", "writables": [1, 2, 3], "collection": "", "diskType": "hdd"}
    ]


async def test_each_layout_has_its_own_volumes(nursery, master, web, volume_server):
    await join(nursery, master, web, volume_server)
    await web("/dir/assign?collection=pics&ttl=3d")
    (request, *_) = [request for _, request in volume_server.calls]
    assert (request.collection, request.ttl) == ("pics", "3d")
    await web("/dir/assign")
    assert volume_server.calls[-1][1].collection == ""


async def test_full_and_read_only_volumes_are_passed_over(nursery, master, web, volume_server, config):
    await join(nursery, master, web, volume_server)
    limit = config.volume_size_limit_bytes
    volume_server.source.replace_volumes(
        [
            master_pb2.VolumeInformationMessage(id=1, version=3, size=limit),
            master_pb2.VolumeInformationMessage(id=2, version=3, read_only=True),
            master_pb2.VolumeInformationMessage(id=7, version=3, size=limit - 1),
        ]
    )
    # A new volume's first report has neither its size nor its mark: they come with the next one.
    await until_answer(partial(web, "/dir/status"), lambda rows: writable_ids(rows) == [[7]])
    assert (await web("/dir/status"))["Topology"]["Free"] == 1
    assert {parse_file_id((await web("/dir/assign"))["fid"]).volume_id for _ in range(5)} == {7}
    volume_server.source.remove_volumes([master_pb2.VolumeShortInformationMessage(id=7)])
    await until_answer(partial(web, "/dir/lookup?volumeId=7"), lambda rows: "error" in rows)
    await web("/vol/grow?count=1")
    assert volume_server.calls[-1][1].volume_id == 8


async def test_replicas_go_where_the_placement_says(nursery, master, web, calls, volume_server):
    other_rack, same_rack = FakeVolumeServer(8102, "rack2"), FakeVolumeServer(8103)
    await join(nursery, master, web, volume_server, other_rack, same_rack)
    await web("/dir/assign?replication=010&collection=a")
    assert other_rack.calls
    assert other_rack.calls[0][1].volume_id in {
        request.volume_id for _, request in volume_server.calls + same_rack.calls
    }
    other_rack.calls.clear()
    assigned = await calls.Assign(master_pb2.AssignRequest(replication="001", collection="b"), timeout=DEADLINE_S)
    assert {assigned.location.url, *(row.url for row in assigned.replicas)} == {"127.0.0.1:8101", "127.0.0.1:8103"}
    assert not other_rack.calls
    await web("/dir/assign?replication=002&collection=c")
    assert web.status == 406
    other_rack.stop()
    same_rack.stop()


async def test_a_half_made_volume_is_taken_back(nursery, master, web, volume_server):
    refusing = FakeVolumeServer(8102, slots=3)
    refusing.refusal = "no space left"
    await nursery.start(serve_heartbeat, refusing.model, refusing.identity, [master], dial_insecure)
    await join(nursery, master, web, volume_server)
    await until_answer(partial(web, "/dir/status"), lambda rows: rows["Topology"]["Max"] == 7)
    answer = await web("/dir/assign?replication=001")
    assert web.status == 406
    assert "127.0.0.1:8102 could not make volume 1: no space left" in answer["error"]
    assert [(name, request.volume_id) for name, request in volume_server.calls] == [
        ("AllocateVolume", 1), ("VolumeDelete", 1),
    ]  # fmt: skip
    refusing.stop()


@pytest.mark.parametrize(
    ("target", "status", "error"),
    [
        ("/dir/assign?replication=xyz", 406, "unexpected replication type: xyz"),
        ("/dir/assign?ttl=q5", 406, "'q5' is not a TTL; expected a count and one of m h d w M y, as in 3d"),
        ("/dir/assign?count=1000001", 406, "count 1000001 is too high: at most 1000000 file ids at once"),
        (
            "/dir/assign?replication=001",
            406,
            "failed to find writable volumes for collection: replication:001 ttl: error: No writable volumes and no "
            'free volumes left for {"replication":{"node":1},"ttl":{"Count":0,"Unit":0},"version":3}',
        ),
        ("/dir/lookup?volumeId=99", 404, "volume id 99 not found"),
        ("/dir/lookup?volumeId=abc", 404, "Unknown volume id abc"),
        ("/dir/lookup", 404, "Unknown volume id "),
        ("/vol/grow?count=1", 406, "only 0 volumes left, not enough for 1"),
        ("/vol/grow", 406, "can not parse parameter count "),
        ("/99,0112345678", 404, "volume id 99 not found: volume id 99 not found"),
        ("/nosuch", 404, "volume id nosuch not found: Unknown volume id nosuch"),
    ],
)
async def test_refusals_in_upstreams_words(web, target, status, error):
    answer = await web(target)
    assert (web.status, answer["error"]) == (status, error)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("POST", "/dir/status", 405), ("DELETE", "/dir/assign", 405), ("GET", "/a/b", 404), ("GET", "/", 404)],
)
async def test_what_there_is_not(web, method, target, status):
    await web(target, method)
    assert web.status == status
    assert "quickstart" in web.headers["x-embedded-master"]


async def test_head_is_get_without_the_body(web):
    await web("/cluster/status")
    length = web.headers["content-length"]
    stream = await trio.open_tcp_stream(web.address.host, web.address.port)
    async with stream:
        await stream.send_all(b"HEAD /cluster/status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b"".join([chunk async for chunk in stream]).decode()
    assert answer.endswith("\r\n\r\n")
    assert f"content-length: {length}\r\n" in answer.lower()


async def test_a_huge_form_is_not_read(web):
    await web("/dir/assign", "POST", "count=2&pad=" + "x" * 100_000)
    assert web.status == 406


async def test_long_queries_and_forms_are_read_by_threads(web, monkeypatch):
    threads, parse = set(), query.parse_form

    def watched_parse(raw):
        threads.add(threading.get_ident())
        return parse(raw)

    monkeypatch.setattr(query, "parse_form", watched_parse)
    long = "a=%41&" * 5000
    answer = await web(f"/dir/lookup?{long}volumeId=98", "POST", f"{long}volumeId=99&volumeId=97")
    assert answer["error"] == "volume id 99 not found"
    assert threads
    assert threading.get_ident() not in threads


async def test_look_ups_and_redirects(nursery, master, web, calls, volume_server):
    await join(nursery, master, web, volume_server)
    fid = (await web("/dir/assign"))["fid"]
    volume_text = fid.partition(",")[0]
    row = {"url": "127.0.0.1:8101", "publicUrl": "public:8101", "dataCenter": "dc1"}
    row["grpcPort"] = volume_server.identity.grpc_port
    expected = {"volumeOrFileId": volume_text, "locations": [row]}
    assert await web(f"/dir/lookup?volumeId={volume_text}") == expected
    assert await web(f"/dir/lookup?fileId={fid}") == expected
    await web(f"/{fid}?a=b")
    assert (web.status, web.headers["location"]) == (308, f"http://public:8101/{fid}?a=b")
    request = master_pb2.LookupVolumeRequest(volume_or_file_ids=[volume_text, "99", "x"])
    found, missing, bad = (await calls.LookupVolume(request, timeout=DEADLINE_S)).volume_id_locations
    assert [(place.url, place.grpc_port) for place in found.locations] == [
        ("127.0.0.1:8101", volume_server.identity.grpc_port)
    ]
    assert (missing.error, bad.error) == ("volume id 99 not found", "Unknown volume id x")


class TestWithKeys:
    @pytest.fixture
    def config(self, tmp_path):
        return EmbeddedMasterConfig(
            directory=tmp_path, port=0, grpc_port=0, write_key=JwtKey(b"w", 60), read_key=JwtKey(b"r", 0)
        )

    async def test_tokens_are_handed_out(self, nursery, master, web, calls, volume_server):
        await join(nursery, master, web, volume_server)
        fid = (await web("/dir/assign"))["fid"]
        now_s = time.time()
        check_token(web.headers["authorization"].removeprefix("Bearer "), b"w", fid, now_s)
        await web(f"/dir/lookup?fileId={fid}&read=yes")
        check_token(web.headers["authorization"].removeprefix("Bearer "), b"r", fid, now_s)
        assigned = await calls.Assign(master_pb2.AssignRequest(), timeout=DEADLINE_S)
        check_token(assigned.auth, b"w", assigned.fid, now_s)
        request = master_pb2.LookupVolumeRequest(volume_or_file_ids=[fid])
        (row,) = (await calls.LookupVolume(request, timeout=DEADLINE_S)).volume_id_locations
        check_token(row.auth, b"w", fid, now_s)


async def test_ec_shards_can_be_looked_up(nursery, master, web, calls, volume_server):
    volume_server.source.add_ec_shards([master_pb2.VolumeEcShardInformationMessage(id=5, ec_index_bits=0b101)])
    await join(nursery, master, web, volume_server)
    request = master_pb2.LookupEcVolumeRequest(volume_id=5)
    await until_answer(partial(web, "/dir/lookup?volumeId=5"), lambda rows: "locations" in rows)
    answer = await calls.LookupEcVolume(request, timeout=DEADLINE_S)
    assert [(row.shard_id, row.locations[0].url) for row in answer.shard_id_locations] == [
        (0, "127.0.0.1:8101"), (2, "127.0.0.1:8101"),
    ]  # fmt: skip
    with pytest.raises(grpc.RpcError, match="ec volume 6 not found"):
        await calls.LookupEcVolume(master_pb2.LookupEcVolumeRequest(volume_id=6), timeout=DEADLINE_S)


async def test_the_volume_list_has_the_tree_and_its_sums(nursery, master, web, calls, volume_server):
    other = FakeVolumeServer(8102, "rack2")
    volume_server.source.replace_volumes([master_pb2.VolumeInformationMessage(id=3, version=3, collection="c", size=9)])
    await join(nursery, master, web, volume_server, other)
    info = (await calls.VolumeList(master_pb2.VolumeListRequest(), timeout=DEADLINE_S)).topology_info
    assert (info.diskInfos[""].max_volume_count, info.diskInfos[""].volume_count) == (8, 1)
    (center,) = info.data_center_infos
    assert (center.id, [rack.id for rack in center.rack_infos]) == ("dc1", ["rack1", "rack2"])
    (node,) = center.rack_infos[0].data_node_infos
    assert (node.id, node.address, node.grpc_port) == (
        "127.0.0.1:8101", "127.0.0.1:8101", volume_server.identity.grpc_port,
    )  # fmt: skip
    assert [row.size for row in node.diskInfos[""].volume_infos] == [9]
    assert node.diskInfos[""].free_volume_count == 3
    filtered = await calls.VolumeList(master_pb2.VolumeListRequest(default_collection_only=True), timeout=DEADLINE_S)
    disk = filtered.topology_info.data_center_infos[0].rack_infos[0].data_node_infos[0].diskInfos[""]
    assert (len(disk.volume_infos), disk.volume_count) == (0, 1)
    names = await calls.CollectionList(
        master_pb2.CollectionListRequest(include_normal_volumes=True), timeout=DEADLINE_S
    )
    assert [row.name for row in names.collections] == ["c"]
    used = await calls.Statistics(master_pb2.StatisticsRequest(collection="c"), timeout=DEADLINE_S)
    assert (used.used_size, used.total_size) == (9, 8 * (30 << 30))
    other.stop()


async def test_read_only_marks_count_at_once(nursery, master, web, calls, volume_server):
    await join(nursery, master, web, volume_server)
    await web("/dir/assign")
    for volume_id in (1, 2):
        await calls.VolumeMarkReadonly(
            master_pb2.VolumeMarkReadonlyRequest(ip="127.0.0.1", port=8101, volume_id=volume_id, is_readonly=True),
            timeout=DEADLINE_S,
        )
    assert (await web("/dir/status"))["Topology"]["Layouts"][0]["writables"] == [3]
    await calls.VolumeMarkReadonly(
        master_pb2.VolumeMarkReadonlyRequest(ip="9.9.9.9", port=1, volume_id=1), timeout=DEADLINE_S
    )


async def test_watchers_hear_of_every_change(nursery, master, web, calls, volume_server):
    heard = []
    outbox = queue.Queue()
    outbox.put(master_pb2.KeepConnectedRequest(client_type="filer"))
    stream = calls.stub.KeepConnected(iter(outbox.get, None))

    def listen():
        try:
            heard.extend(message.volume_location for message in stream)
        except grpc.RpcError:
            heard.append(None)

    threading.Thread(target=listen, daemon=True).start()
    await until(lambda: heard)
    assert heard[0].leader == f"{master.http}.{master.grpc_port}"
    volume_server.source.change_volumes([master_pb2.VolumeInformationMessage(id=3, version=3)])
    await join(nursery, master, web, volume_server)
    await until(lambda: [3] in [list(row.new_vids) for row in heard])
    assert heard[-1].url == "127.0.0.1:8101"
    volume_server.source.add_volumes([master_pb2.VolumeShortInformationMessage(id=4, version=3)])
    volume_server.source.remove_volumes([master_pb2.VolumeShortInformationMessage(id=3, version=3)])
    await until(lambda: {3} in [set(row.deleted_vids) for row in heard])
    await until(lambda: [4] in [list(row.new_vids) for row in heard])
    stream.cancel()
    outbox.put(None)


async def test_a_server_that_leaves_or_dies_is_forgotten(master, web, volume_server):
    async with trio.open_nursery() as servers:
        await join(servers, master, web, volume_server)
        await web("/dir/assign")
        servers.cancel_scope.cancel()
    await until_answer(partial(web, "/dir/status"), lambda rows: not rows["Topology"]["DataCenters"])
    await web("/dir/lookup?volumeId=1")
    assert web.status == 404


async def test_another_server_with_the_same_directories_is_refused(nursery, master, web, calls, volume_server):
    await join(nursery, master, web, volume_server)
    beat = master_pb2.Heartbeat(ip="127.0.0.2", port=1, location_uuids=["uuid-8101"], has_no_volumes=True)
    stream = calls.stub.SendHeartbeat(iter([beat]), timeout=DEADLINE_S)
    answer = await trio.to_thread.run_sync(next, stream)
    assert list(answer.duplicated_uuids) == ["uuid-8101"]
    with pytest.raises(grpc.RpcError, match="registered by another volume server"):
        await trio.to_thread.run_sync(next, stream)


async def test_ping_and_what_it_does_not_know(calls, master):
    assert (await calls.Ping(master_pb2.PingRequest(), timeout=DEADLINE_S)).start_time_ns
    with pytest.raises(grpc.RpcError, match="unknown ping target"):
        await calls.Ping(master_pb2.PingRequest(target="127.0.0.1:1", target_type="master"), timeout=DEADLINE_S)
    with pytest.raises(grpc.RpcError) as failure:
        await calls.ListClusterNodes(master_pb2.ListClusterNodesRequest(), timeout=DEADLINE_S)
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


class TestAFlood:
    """A stranger who holds all connections, or all calls, and does nothing with them."""

    @pytest.fixture
    def config(self, tmp_path):
        return EmbeddedMasterConfig(directory=tmp_path / "master", port=0, grpc_port=0, max_connections=24)

    @pytest.fixture
    def hold(self):
        held = []

        def connect(port, count):
            held.extend(socket.create_connection(("127.0.0.1", port)) for _ in range(count))

        yield connect
        for one in held:
            one.close()

    async def test_of_half_open_connections_lets_requests_in(self, master, web, hold):
        await trio.to_thread.run_sync(hold, master.port, 100)
        with trio.fail_after(DEADLINE_S):
            assert (await web("/cluster/status"))["IsLeader"]

    async def test_of_silent_grpc_connections_lets_calls_in(self, master, calls, hold):
        await trio.to_thread.run_sync(hold, master.grpc_port, 100)
        assert (await calls.Ping(master_pb2.PingRequest(), timeout=DEADLINE_S)).start_time_ns

    @pytest.mark.parametrize("name", ["Assign", "SendHeartbeat"])
    @pytest.mark.slow
    async def test_of_silent_calls_lets_calls_in(self, master, calls, name):
        """Slow: two hundred calls."""
        with dial_insecure(master) as channel:
            never = threading.Event()
            path = MASTER_METHODS[name].path
            # One connection may have the most places.
            silent = [channel.stream_stream(path)(iter(never.wait, None)) for _ in range(200)]
            assert (await calls.Ping(master_pb2.PingRequest(), timeout=DEADLINE_S)).start_time_ns
            for one in silent:
                one.cancel()
            never.set()


async def test_cancelling_ends_streams_and_frees_the_directory(config):
    for _ in range(2):
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                addresses = await nursery.start(serve_embedded_master, config)
                channel = dial_insecure(addresses.address)
                stream = master_client(channel).KeepConnected(iter([master_pb2.KeepConnectedRequest()]))
                await trio.to_thread.run_sync(next, stream)
                nursery.cancel_scope.cancel()
        channel.close()


# -- the state file


def test_file_keys_and_volume_ids_are_never_given_out_twice(tmp_path):
    state = MasterState(tmp_path)
    assert [state.take_file_keys(3), state.take_file_keys(1), state.take_volume_id()] == [1, 4, 1]
    state.note_file_key(50_000)
    state.note_volume_id(7)
    last = state.take_file_keys(1)
    assert last == 50_001
    name = state.topology_id
    state.close()
    again = MasterState(tmp_path)
    assert again.take_file_keys(1) > last
    assert (again.take_volume_id(), again.topology_id) == (8, name)
    again.close()


def test_keys_are_on_disk_before_they_are_given_out(tmp_path):
    state = MasterState(tmp_path)
    taken = [state.take_file_keys(7_000) for _ in range(5)]
    saved = json.loads((tmp_path / STATE_FILE_NAME).read_text())
    assert saved["next_file_key"] >= taken[-1] + 7_000
    state.close()


def test_an_absurd_file_key_is_not_believed(tmp_path):
    state = MasterState(tmp_path)
    state.note_file_key(2**64 - 1)
    assert state.take_file_keys(1) == 1
    state.close()


def test_one_master_per_directory(tmp_path):
    state = MasterState(tmp_path)
    with pytest.raises(MasterDirectoryInUse, match="another embedded master"):
        MasterState(tmp_path)
    state.close()
    MasterState(tmp_path).close()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"topology_id": "x", "next_file_key": "1", "max_volume_id": 0}'])
def test_a_damaged_state_file_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / STATE_FILE_NAME
    path.write_text(text)
    with pytest.raises(BadMasterState, match="not the state"):
        MasterState(tmp_path)
    assert path.read_text() == text


def test_a_full_disk_gives_nothing_out_and_ends_nothing(tmp_path, monkeypatch):
    """The reports of servers are still known, and the old file stays the only one."""
    state = MasterState(tmp_path)
    first = state.take_file_keys(1)
    before = (tmp_path / STATE_FILE_NAME).read_bytes()

    def full(_fd):
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        state.note_volume_id(7)
        for take in (lambda: state.take_file_keys(50_000), state.take_volume_id):
            with pytest.raises(OSError, match="no room"):
                take()
    assert (tmp_path / STATE_FILE_NAME).read_bytes() == before
    assert not list(tmp_path.glob("*.new"))
    assert state.take_file_keys(1) == first + 1
    assert state.take_volume_id() == 8
    state.close()
