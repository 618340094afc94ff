"""The heartbeat and the relay against a real `weed master` and a real `weed volume`, on loopback.

Slow: each test starts one or two programs. Skipped where no `weed` is found in WEED_BINARY or on the PATH.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from functools import partial

import grpc
import pytest
import trio
from harness.implementations import weed_program
from support.ports import free_port
from support.waiting import LIMIT_S as DEADLINE_S
from support.waiting import until, until_answer

from native_handlers.pb import master_pb2, volume_server_pb2
from native_handlers.pb.methods import master as master_client
from native_handlers.pb.methods import volume_server as volume_client
from supervisor.cluster.dial import dial_insecure
from supervisor.cluster.heartbeat import HeartbeatHandle, serve_heartbeat
from supervisor.cluster.heartbeat_session import HeartbeatTimings
from supervisor.cluster.identity import NodeIdentity
from supervisor.cluster.master_client import MasterClient
from supervisor.cluster.master_view import MasterView
from supervisor.cluster.node_model import NodeModel
from supervisor.cluster.node_source import NodeProperties
from supervisor.cluster.relay import MasterRelay
from supervisor.embedded_master import EmbeddedMasterConfig, serve_embedded_master
from supervisor.wire.server_address import ServerAddress

WEED = weed_program()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WEED is None, reason="no weed program in WEED_BINARY or on the PATH"),
]
PULSE = HeartbeatTimings(pulse_s=0.3, final_beat_s=2)
OURS = NodeIdentity("127.0.0.1", 47321, 57321, "127.0.0.1:47321")


@contextmanager
def running(directory, *arguments):
    """One weed program, its output in `<directory>/log`, ended in every case."""
    directory.mkdir(exist_ok=True)
    config = directory / "config"
    config.mkdir(exist_ok=True)
    with (directory / "log").open("ab") as log:
        command = [WEED, "-logtostderr=true", f"-config_dir={config}", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


async def http_json(address, target):
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", address.port)
        async with stream:
            await stream.send_all(f"GET {target} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join([chunk async for chunk in stream])
    except OSError:
        return None
    return json.loads(answer.partition(b"\r\n\r\n")[2] or b"null")


@pytest.fixture
async def real_master(tmp_path):
    port, grpc_port = free_port(), free_port()
    address = ServerAddress("127.0.0.1", port, grpc_port)
    home = tmp_path / "master"
    arguments = ("-ip=127.0.0.1", f"-port={port}", f"-port.grpc={grpc_port}", f"-mdir={home}", "-peers=none")
    with running(home, "master", "-telemetry=false", *arguments):
        await until_answer(partial(http_json, address, "/cluster/status"), lambda rows: rows and rows.get("Leader"))
        yield address


def volume(volume_id, **fields):
    return master_pb2.VolumeInformationMessage(id=volume_id, version=3, **fields)


def nodes(rows):
    centers = (rows or {}).get("Topology", {}).get("DataCenters") or []
    return [node for center in centers for rack in center["Racks"] or [] for node in rack["DataNodes"] or []]


async def test_a_real_master_keeps_the_same_books(nursery, tmp_path, real_master):
    model = NodeModel(["native"])
    source = model.source("native")
    source.set_facts(NodeProperties({"": 9, "ssd": 4}, location_uuids=("u1",), max_file_key=500))
    source.replace_volumes([volume(1, size=77, collection="c", ttl=0x0301, file_count=3), volume(2, disk_type="ssd")])
    source.replace_ec_shards([master_pb2.VolumeEcShardInformationMessage(id=9, ec_index_bits=7, shard_sizes=[1, 2, 3])])
    view = MasterView([real_master])
    handle = await nursery.start(
        lambda task_status: serve_heartbeat(
            model,
            OURS,
            [real_master],
            dial_insecure,
            handle=HeartbeatHandle(view),
            timings=PULSE,
            task_status=task_status,
        )
    )
    await until(lambda: handle.is_connected and view.settings.volume_size_limit_bytes)
    await until_answer(
        partial(http_json, real_master, "/dir/status"), lambda rows: nodes(rows) and nodes(rows)[0]["Volumes"] == 2
    )
    client = MasterClient(view, dial_insecure)
    assert [place.url for place in await client.locations(1)] == [OURS.http]
    source.change_volumes([volume(1, size=99, collection="c", ttl=0x0301, file_count=4, read_only=True)])
    source.add_volumes([master_pb2.VolumeShortInformationMessage(id=3, version=3)])
    source.remove_volumes([master_pb2.VolumeShortInformationMessage(id=2, version=3, disk_type="ssd")])
    channel = dial_insecure(real_master)
    held = []

    def has_changed():
        info = master_client(channel).VolumeList(master_pb2.VolumeListRequest(), timeout=DEADLINE_S).topology_info
        disks = info.data_center_infos[0].rack_infos[0].data_node_infos[0].diskInfos.values()
        held[:] = sorted((row.id, row.size, row.read_only) for disk in disks for row in disk.volume_infos)
        return held == [(1, 99, True), (3, 0, False)]

    await until(has_changed)
    beats_seen = trio.current_time() + 5 * PULSE.pulse_s
    await trio.sleep_until(beats_seen)  # some quiet pulses, each with a digest that the master compares
    log = (tmp_path / "master" / "log").read_text()
    assert "requesting the full volume list" not in log
    assert "disagrees" not in log
    handle.leave()
    await until_answer(partial(http_json, real_master, "/dir/status"), lambda rows: rows and not nodes(rows))
    client.close()
    channel.close()


class Supervised:
    """The supervisor's part of proxy mode: model, heartbeat, relay. The child is a real `weed volume`."""

    def __init__(self, home, master):
        self.model = NodeModel(["child"])
        self.view = MasterView([master])
        self.relay = MasterRelay(self.model, OURS, self.view, dial_insecure)
        self.relay.start()
        self.home = home
        self.child = ServerAddress("127.0.0.1", free_port(), free_port())

    def child_process(self):
        relay = self.relay.address
        data = self.home / "data"
        data.mkdir(parents=True, exist_ok=True)
        arguments = (
            "-ip=127.0.0.1", f"-port={self.child.port}", f"-port.grpc={self.child.grpc_port}",
            f"-mserver={relay.http}.{relay.grpc_port}", f"-dir={data}", "-max=5",
        )  # fmt: skip
        return running(self.home, "volume", *arguments)

    def call(self, name, request):
        channel = dial_insecure(self.child)
        try:
            return getattr(volume_client(channel), name)(request, timeout=DEADLINE_S)
        finally:
            channel.close()


@pytest.fixture
async def supervised(nursery, tmp_path, real_master):
    ours = Supervised(tmp_path / "child", real_master)
    await nursery.start(
        lambda task_status: serve_heartbeat(
            ours.model,
            OURS,
            [real_master],
            dial_insecure,
            handle=HeartbeatHandle(ours.view),
            timings=PULSE,
            task_status=task_status,
        )
    )
    yield ours
    await trio.to_thread.run_sync(ours.relay.stop)


async def allocate(supervised, volume_id, process):
    request = volume_server_pb2.AllocateVolumeRequest(volume_id=volume_id, replication="000", version=3)

    async def ask():
        assert process.poll() is None, (supervised.home / "log").read_text()[-2000:]
        try:
            return await trio.to_thread.run_sync(supervised.call, "AllocateVolume", request)
        except grpc.RpcError as failure:
            if failure.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    await until_answer(ask, lambda answer: answer is not None)


async def test_a_real_child_is_seen_at_our_address_and_may_die_unseen(supervised, real_master, tmp_path):
    def has_volume(rows):
        return [(node["Url"], node["Volumes"]) for node in nodes(rows)] == [(OURS.http, 1)]

    with supervised.child_process() as child:
        await allocate(supervised, 7, child)
        await until_answer(partial(http_json, real_master, "/dir/status"), has_volume)
        assert supervised.relay.child.http == supervised.child.http
        mark = volume_server_pb2.VolumeMarkReadonlyRequest(volume_id=7)
        await trio.to_thread.run_sync(supervised.call, "VolumeMarkReadonly", mark)
        row = (await http_json(real_master, "/dir/lookup?volumeId=7"))["locations"][0]
        assert (row["url"], row["grpcPort"]) == (OURS.http, OURS.grpc_port)
        child.kill()
        child.wait()
    await until(lambda: not supervised.relay.is_child_connected)
    # The master gets the facts after anything that the child's end has caused.
    supervised.model.feed("child").set_facts(NodeProperties({"": 6}))
    await until_answer(
        partial(http_json, real_master, "/dir/status"), lambda rows: nodes(rows) and nodes(rows)[0]["Max"] == 6
    )
    assert has_volume(await http_json(real_master, "/dir/status"))
    with supervised.child_process() as child:
        await until(lambda: supervised.relay.is_child_connected, "the child to be connected")
        await allocate(supervised, 8, child)
        await until_answer(
            partial(http_json, real_master, "/dir/status"), lambda rows: nodes(rows) and nodes(rows)[0]["Volumes"] == 2
        )
        unmount = volume_server_pb2.VolumeUnmountRequest(volume_id=8)
        with supervised.model.suppress_removals([8]):
            await trio.to_thread.run_sync(supervised.call, "VolumeUnmount", unmount)
            await until(lambda: 8 not in {key[1] for key in supervised.model.source("child").volumes})
            mount = volume_server_pb2.VolumeMountRequest(volume_id=8)
            await trio.to_thread.run_sync(supervised.call, "VolumeMount", mount)
            await until(lambda: 8 in {key[1] for key in supervised.model.source("child").volumes})
    log = (tmp_path / "master" / "log").read_text()
    assert "unregister disconnected volume server" not in log
    assert log.count("added volume server") == 1


async def test_a_real_volume_server_works_with_the_embedded_master(nursery, tmp_path):
    config = EmbeddedMasterConfig(directory=tmp_path / "embedded", port=0, grpc_port=0)
    address = (await nursery.start(serve_embedded_master, config)).address
    port, grpc_port = free_port(), free_port()
    home = tmp_path / "volume"
    arguments = ("-ip=127.0.0.1", f"-port={port}", f"-port.grpc={grpc_port}", f"-dir={home}", "-max=5")
    with running(home, "volume", *arguments, f"-mserver={address.http}.{address.grpc_port}"):
        await until_answer(partial(http_json, address, "/dir/status"), nodes)
        assigned = await http_json(address, "/dir/assign")
        assert assigned["url"] == f"127.0.0.1:{port}"
        upload = [WEED, f"-config_dir={home / 'config'}", "upload", f"-master={address.http}.{address.grpc_port}"]
        sample = tmp_path / "sample.txt"
        sample.write_text("hello")
        done = await trio.run_process([*upload, str(sample)], capture_stdout=True, capture_stderr=True)
        fid = json.loads(done.stdout)[0]["fid"]
        volume_text = fid.partition(",")[0]
        assert (await http_json(address, f"/dir/lookup?volumeId={volume_text}"))["locations"]
        await until_answer(partial(http_json, address, "/dir/status"), lambda rows: nodes(rows)[0]["Volumes"] == 3)
        nursery.cancel_scope.cancel()


async def test_a_master_restart_heals_by_itself(nursery, tmp_path):
    port, grpc_port = free_port(), free_port()
    address = ServerAddress("127.0.0.1", port, grpc_port)
    home = tmp_path / "master"
    arguments = ("-ip=127.0.0.1", f"-port={port}", f"-port.grpc={grpc_port}", f"-mdir={home}", "-peers=none")
    model = NodeModel(["native"])
    model.source("native").set_facts(NodeProperties({"": 9}, location_uuids=("u1",)))
    model.source("native").replace_volumes([volume(1)])
    with running(home, "master", "-telemetry=false", *arguments):
        handle = await nursery.start(
            lambda task_status: serve_heartbeat(
                model, OURS, [address], dial_insecure, timings=PULSE, task_status=task_status
            )
        )
        await until_answer(partial(http_json, address, "/dir/status"), nodes)
    await until(lambda: handle.disconnections.get(address.http, 0) > 0 and not handle.is_connected)
    assert handle.is_heartbeating
    with running(home, "master", "-telemetry=false", *arguments):
        await until_answer(
            partial(http_json, address, "/dir/lookup?volumeId=1"), lambda rows: rows and rows.get("locations")
        )
        nursery.cancel_scope.cancel()
