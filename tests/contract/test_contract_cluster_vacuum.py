"""Vacuums by a real master and by `weed shell`, on native servers alone and beside Go's, during reads."""

import contextlib
import threading

import pytest
from harness.cluster import Cluster
from harness.implementations import find_weed
from support.waiting import wait_until

from native_handlers.pb import volume_server_pb2 as pb

pytestmark = pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1])
OURS, ALSO_OURS, GO = "ours", "also-ours", "go"
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def cluster(weed, tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("vacuum"), weed, master_flags=["-volumeSizeLimitMB=10"])
    names = {OURS: "native", ALSO_OURS: "native", GO: "go"}
    servers = made.add_all(*([name, "-max=40"] for name in names.values()))
    made.by_role = dict(zip(names, servers, strict=True))
    yield made
    made.end()


def with_garbage(servers, volume_id, count=20):
    """Deletes half of the files of a replicated volume. Returns the rest by file id."""
    first = servers[0]
    files = {first.new_fid(volume_id): b"%02d;" % number * 2000 for number in range(count)}
    for fid, data in files.items():
        first.store(data, fid=fid)
    for fid in list(files)[: count // 2]:
        assert first.http("DELETE", f"/{fid}").status == 202
        del files[fid]
    return files


def revision(server, volume_id):
    request = pb.VolumeSyncStatusRequest(volume_id=volume_id)
    return server.rpc.VolumeSyncStatus(request, timeout=LIMIT_S).compact_revision


@contextlib.contextmanager
def reading(servers, files):
    """Inside, all of `files` are read from each server without a pause. Each read must find its file."""
    stop, misses, rounds = threading.Event(), [], []

    def read():
        while not stop.is_set():
            for server in servers:
                misses.extend((server.url, fid) for fid, data in files.items() if server.read(fid).body != data)
            rounds.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_until(lambda: rounds, "a first round")
        yield
    finally:
        stop.set()
        reader.join()
    assert misses == []


def by_shell(cluster, volume_id):
    cluster.shell(f"volume.vacuum -volumeId {volume_id} -garbageThreshold 0.1")


def by_master(cluster, _volume_id):
    """The request that the master makes by itself every quarter of an hour."""
    with contextlib.suppress(TimeoutError):
        cluster.master.get("/vol/vacuum?garbageThreshold=0.1")


@pytest.mark.parametrize("make", [by_shell, by_master])
@pytest.mark.parametrize(
    ("roles", "replication"),
    [
        pytest.param((OURS,), "000", id="ours"),
        pytest.param((OURS, ALSO_OURS), "001", id="both-ours"),
        pytest.param((GO, OURS), "001", id="beside-go"),
    ],
)
def test_garbage_goes_under_readers(cluster, roles, replication, make):
    servers = [cluster.by_role[role] for role in roles]
    collection = f"v{replication}{len(roles)}{roles[0].replace('-', '')}{make.__name__.replace('_', '')}"
    volume_id = cluster.allocate(*servers, collection=collection, replication=replication)
    files = with_garbage(servers, volume_id)
    wait_until(lambda: cluster.volumes(servers[0])[volume_id].deleted_byte_count, "the master to hear of the garbage")
    with reading(servers, files):
        make(cluster, volume_id)
        wait_until(lambda: {revision(server, volume_id) for server in servers} == {1}, "the vacuum", LIMIT_S)
    for server in servers:
        assert (server.data_dir / f"{collection}_{volume_id}.dat").stat().st_size < 70_000
        assert {fid: server.read(fid).body for fid in files} == files
        assert not list(server.data_dir.glob(f"{collection}_{volume_id}.cp?"))
    fid = servers[0].store(b"afterwards", fid=servers[0].new_fid(volume_id))
    assert [server.read(fid).body for server in servers] == [b"afterwards"] * len(servers)
    wanted = f"writableVolumeCount=1&collection={collection}&replication={replication}"
    assigned = cluster.master.get(f"/dir/assign?{wanted}")
    assert int(assigned["fid"].split(",")[0]) == volume_id, assigned
