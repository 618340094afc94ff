"""Erasure-coded volumes, and routing tables that divide the operations on them between both engines.

The engine of each route encodes, reads, deletes from, rebuilds and decodes a volume, so that successive steps change
the engine. The master must know all shards all the time.
"""

import os
import threading

import grpc
import pytest
from harness.cluster import Cluster
from harness.implementations import Implementation, find_weed
from harness.server import VolumeServer
from support.waiting import wait_until

from native_handlers.pb import master_pb2, methods
from native_handlers.pb import volume_server_pb2 as pb

LIMIT_S = 60.0
HTTP = ("http.read", "http.public.read", "http.write", "http.delete")
TABLES = {
    "http-native": 'phase: 2\nroutes:\n  "grpc.*": forward\n',
    "rpcs-native": "phase: 3\nroutes:\n" + "".join(f"  {name}: forward\n" for name in HTTP),
    "half-and-half": """
phase: 3
routes:
  http.delete: forward
  grpc.VolumeEcShardsMount: forward
  grpc.VolumeEcShardsRebuild: forward
  grpc.VolumeEcShardsInfo: forward
  grpc.VolumeEcShardsToVolume: forward
  grpc.VolumeDelete: forward
""",
}


def start(base, master, weed, backend, table, *flags):
    base.mkdir(exist_ok=True)
    routes = base / "routes.yaml"
    routes.write_text(table)
    implementation = Implementation(f"coded-{backend}", mode="mixed", backend=backend)
    return VolumeServer(implementation, base / "server", master, weed, [f"-routes={routes}", *flags])


@pytest.fixture(
    scope="module",
    params=[("go", "http-native"), ("go", "rpcs-native"), ("go", "half-and-half"), ("native", "half-and-half")],
    ids="-".join,
)
def shared(request, master, weed, tmp_path_factory):
    """A server with a child, and a table that divides the routes."""
    backend, table = request.param
    if backend == "go" and weed is None:
        pytest.skip(find_weed()[1])
    server = start(tmp_path_factory.mktemp("coded"), master, weed, backend, TABLES[table])
    yield server
    assert server.stop() == 0
    assert "Traceback" not in (server.base / "server.log").read_text()


def call(server, name, **fields):
    return getattr(server.rpc, name)(getattr(pb, f"{name}Request")(**fields), timeout=LIMIT_S)


def told_shards(server, volume_id):
    """The shards of the volume on the server, as the master knows them."""
    master = server.master
    with grpc.insecure_channel(f"127.0.0.1:{master.grpc_port}", [("grpc.enable_http_proxy", 0)]) as channel:
        request = master_pb2.VolumeListRequest()
        topology = methods.master(channel).VolumeList(request, timeout=LIMIT_S).topology_info
    bits = 0
    for center in topology.data_center_infos:
        for rack in center.rack_infos:
            for node in rack.data_node_infos:
                for disk in node.diskInfos.values():
                    if node.id == server.url:
                        bits |= sum(row.ec_index_bits for row in disk.ec_shard_infos if row.id == volume_id)
    return [shard for shard in range(32) if bits >> shard & 1]


def assert_stored(server, files):
    assert {fid: server.read(fid).body for fid in files} == files


class Client:
    """Reads the files repeatedly, and the master's list of the shards once they exist. `wrong` has every wrong
    answer.
    """

    def __init__(self, server, volume_id, files):
        self.wrong, self.rounds = [], 0
        self.wanted = None
        self._server, self._volume_id, self._files = server, volume_id, files
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        while not self._over.is_set():
            for fid, data in list(self._files.items()):
                reply = self._server.read(fid)
                if reply.body != data:
                    self.wrong.append((fid, reply.status, reply.body[:200]))
            wanted = self.wanted
            if wanted is not None:
                told = told_shards(self._server, self._volume_id)
                if wanted is self.wanted and not set(wanted) <= set(told):
                    self.wrong.append(("the master", told))
            self.rounds += 1


def coded(server, volume_id, client=None):
    """Encodes the volume as `ec.encode` does."""
    call(server, "VolumeMarkReadonly", volume_id=volume_id)
    call(server, "VolumeEcShardsGenerate", volume_id=volume_id)
    call(server, "VolumeEcShardsMount", volume_id=volume_id, shard_ids=range(14))
    wait_until(lambda: told_shards(server, volume_id) == list(range(14)), "the master to know the shards")
    if client is not None:
        client.wanted = range(14)
    call(server, "VolumeDelete", volume_id=volume_id)


def filled(server, count=8):
    volume_id = server.new_volume()
    return volume_id, {
        server.store(data, fid=server.new_fid(volume_id)): data
        for data in (os.urandom(60_000 + number) for number in range(count))
    }


def next_round(client):
    before = client.rounds
    wait_until(lambda: client.rounds > before + 1, "a round of reads", LIMIT_S)


def test_the_life_of_a_coded_volume_goes_through_both_engines(shared):
    volume_id, files = filled(shared)
    doomed = [shared.store(b"doomed", fid=shared.new_fid(volume_id)) for _ in range(3)]
    with Client(shared, volume_id, files) as client:
        coded(shared, volume_id, client)
        next_round(client)
        assert shared.http("DELETE", f"/{doomed[0]}").status == 202
        assert shared.read(doomed[0]).status == 404
        results = call(shared, "BatchDelete", file_ids=[doomed[1]]).results
        assert [result.status for result in results] == [202]
        call(shared, "VolumeEcBlobDelete", volume_id=volume_id, file_key=needle_id_of(doomed[2]), version=3)
        assert [shared.read(fid).status for fid in doomed] == [404] * 3
        infos = call(shared, "VolumeEcShardsInfo", volume_id=volume_id).ec_shard_infos
        assert [info.shard_id for info in infos] == list(range(14))
        client.wanted = range(4, 14)
        call(shared, "VolumeEcShardsUnmount", volume_id=volume_id, shard_ids=range(4))
        wait_until(lambda: told_shards(shared, volume_id) == list(range(4, 14)), "the loss to be told")
        call(shared, "VolumeEcShardsDelete", volume_id=volume_id, shard_ids=range(4))
        next_round(client)
        rebuilt = call(shared, "VolumeEcShardsRebuild", volume_id=volume_id).rebuilt_shard_ids
        assert list(rebuilt) == [0, 1, 2, 3]
        call(shared, "VolumeEcShardsMount", volume_id=volume_id, shard_ids=range(4))
        wait_until(lambda: told_shards(shared, volume_id) == list(range(14)), "the new shards to be told")
        client.wanted = range(14)
        next_round(client)
        assert [shared.read(fid).status for fid in doomed] == [404] * 3
        client.wanted = None
        call(shared, "VolumeEcShardsToVolume", volume_id=volume_id)
        call(shared, "VolumeMount", volume_id=volume_id)
        call(shared, "VolumeEcShardsUnmount", volume_id=volume_id, shard_ids=range(14))
        call(shared, "VolumeEcShardsDelete", volume_id=volume_id, shard_ids=range(14))
        next_round(client)
    assert client.wrong == []
    assert_stored(shared, files)
    assert [shared.read(fid).status for fid in doomed] == [404] * 3
    wait_until(lambda: not told_shards(shared, volume_id), "the master to hear that there are no shards")
    assert not [path for path in shared.data_dir.glob(f"{volume_id}.ec*") if path.suffix != ".ecsum"]
    fid = shared.store(b"and it takes more", fid=shared.new_fid(volume_id))
    assert shared.read(fid).body == b"and it takes more"
    call(shared, "VolumeDelete", volume_id=volume_id)


def needle_id_of(fid):
    return int(fid.partition(",")[2][:-8], 16)


def test_shards_outlive_the_child_and_the_server(shared):
    volume_id, files = filled(shared)
    coded(shared, volume_id)
    assert_stored(shared, files)
    gone = next(iter(files))
    assert shared.http("DELETE", f"/{gone}").status == 202
    del files[gone]
    shared.kill_child()
    wait_until(lambda: info_of(shared, volume_id) == list(range(14)), "the child to be back", LIMIT_S)
    assert told_shards(shared, volume_id) == list(range(14))
    wait_until(lambda: shared.read(next(iter(files))).status == 200, "reads to work again", LIMIT_S)
    assert_stored(shared, files)
    assert shared.read(gone).status == 404
    shared.stop()
    shared.restart()
    assert_stored(shared, files)
    assert shared.read(gone).status == 404
    assert info_of(shared, volume_id) == list(range(14))
    call(shared, "VolumeEcShardsUnmount", volume_id=volume_id, shard_ids=range(14))
    assert shared.read(next(iter(files))).status == 404
    call(shared, "VolumeEcShardsDelete", volume_id=volume_id, shard_ids=range(14))


def info_of(server, volume_id):
    """The open shards; None without an answer."""
    try:
        infos = call(server, "VolumeEcShardsInfo", volume_id=volume_id).ec_shard_infos
    except grpc.RpcError:
        return None
    return sorted(info.shard_id for info in infos)


def test_a_collection_goes_with_its_shards(shared):
    volume_id = shared.new_volume(collection="coded")
    fid = shared.store(b"x" * 5000, fid=shared.new_fid(volume_id))
    fields = {"volume_id": volume_id, "collection": "coded"}
    call(shared, "VolumeEcShardsGenerate", **fields)
    call(shared, "VolumeEcShardsMount", **fields, shard_ids=range(14))
    call(shared, "VolumeDelete", volume_id=volume_id)
    assert shared.read(fid).body == b"x" * 5000
    wait_until(lambda: told_shards(shared, volume_id) == list(range(14)), "the master to know the shards")
    call(shared, "DeleteCollection", collection="coded")
    assert shared.read(fid).status == 404
    assert not list(shared.data_dir.glob("coded_*.ec0*"))
    wait_until(lambda: not told_shards(shared, volume_id), "the master to hear of it")


@pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1])
@pytest.mark.parametrize("table", ["http-native", "rpcs-native"])
def test_servers_that_read_shards_from_each_other_do_not_wait_for_each_other(weed, tmp_path, table):
    """Both servers hold half of the shards. Each server's reads need the other's shards, from the other's other
    engine.
    """
    cluster = Cluster(tmp_path, weed)
    servers = [start(tmp_path / name, cluster.master, weed, "go", TABLES[table]) for name in "ab"]
    cluster.servers.extend(servers)
    try:
        first, second = servers
        volume_id, files = filled(first, 12)
        doomed = [first.store(b"doomed", fid=first.new_fid(volume_id)) for _ in range(6)]
        wait_until(lambda: cluster.holders(volume_id) == [first.url], "the volume to be known")
        call(first, "VolumeMarkReadonly", volume_id=volume_id)
        call(first, "VolumeEcShardsGenerate", volume_id=volume_id)
        source = f"{first.url}.{first.layout.grpc_port}"
        half = list(range(0, 14, 2))
        call(
            second,
            "VolumeEcShardsCopy",
            volume_id=volume_id,
            shard_ids=half,
            copy_ecx_file=True,
            copy_ecj_file=True,
            copy_vif_file=True,
            source_data_node=source,
        )
        call(second, "VolumeEcShardsMount", volume_id=volume_id, shard_ids=half)
        rest = [shard for shard in range(14) if shard not in half]
        call(first, "VolumeEcShardsMount", volume_id=volume_id, shard_ids=rest)
        call(first, "VolumeEcShardsDelete", volume_id=volume_id, shard_ids=half)
        call(first, "VolumeDelete", volume_id=volume_id)
        for server, shards in ((first, rest), (second, half)):
            wait_until(lambda: told_shards(server, volume_id) == shards, "the shards to be told")  # noqa: B023
        clients = [Client(server, volume_id, files) for server in servers for _ in range(3)]
        for client in clients:
            client.__enter__()
        try:
            wait_until(lambda: all(client.rounds >= 3 for client in clients), "rounds of reads at both", 2 * LIMIT_S)
            for number, fid in enumerate(doomed):
                assert servers[number % 2].http("DELETE", f"/{fid}").status == 202
        finally:
            for client in clients:
                client.__exit__()
        assert [client.wrong for client in clients] == [[]] * len(clients)
        for server in servers:
            for fid in doomed:
                wait_until(lambda: server.read(fid).status == 404, f"{fid} to be gone")  # noqa: B023
    finally:
        cluster.end()
