"""`weed shell`, `weed benchmark` and `weed filer` drive servers of ours as they drive upstream's.

What moves data between servers is tried in each direction: between two of ours, and between ours and Go's. Directions
that an RPC is missing for in native mode skip and say so; behind our front-end Go serves them.
"""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.cluster import Cluster
from harness.http1 import fetch
from harness.implementations import find_weed
from support.ports import LOOPBACK, free_port_pair
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import volume_server_pb2 as pb

pytestmark = pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1])
OURS, ALSO_OURS, GO, PROXY = "ours", "also-ours", "go", "proxy"
WAYS = [
    pytest.param((PROXY, GO), id="proxy-to-go", marks=pytest.mark.slow),
    pytest.param((GO, PROXY), id="go-to-proxy", marks=pytest.mark.slow),
    pytest.param((OURS, ALSO_OURS), id="ours-to-ours"),
    pytest.param((OURS, GO), id="ours-to-go"),
    pytest.param((GO, OURS), id="go-to-ours"),
]
ONE_VOLUME = "writableVolumeCount=1"


@pytest.fixture(scope="module")
def cluster(weed, tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("shell"), weed, master_flags=["-volumeSizeLimitMB=1"])
    names = {OURS: "native", ALSO_OURS: "native", GO: "go", PROXY: "proxy-go"}
    disks = {"native": ["-max=60,40", "-disk=hdd,ssd"]}
    servers = made.add_all(*([name, *disks.get(name, ["-max=60"])] for name in names.values()))
    made.by_role = dict(zip(names, servers, strict=True))
    yield made
    made.end()


@pytest.fixture
def ours(cluster):
    return cluster.by_role[OURS]


def filled(cluster, *servers, count=5, **fields):
    """A volume with some files, one of them deleted. Returns its id and the files that are left."""
    volume_id = cluster.allocate(*servers, **fields)
    fids = [servers[0].new_fid(volume_id) for _ in range(count)]
    files = {servers[0].store(f"content of {fid}".encode(), fid=fid): f"content of {fid}".encode() for fid in fids}
    assert servers[0].http("DELETE", f"/{fids[-1]}").status == 202
    del files[fids[-1]]
    return volume_id, files


def assert_holds(server, files):
    assert {fid: server.read(fid).body for fid in files} == files


def test_the_cluster_is_listed_and_healthy(cluster, ours):
    volume_id, _ = filled(cluster, ours)
    listed = cluster.shell("volume.list", "cluster.ps", "cluster.check")
    assert f"DataNode {ours.url}" in listed
    for server in cluster.servers:
        assert re.search(rf"\* {server.url} \(30GB 4\.44", listed)
        assert re.search(rf"to volume server {server.url}\.\d+ \.\.\. ok", listed), listed
        assert re.search(rf"volume server {server.url}\.\d+ to master .* ok", listed), listed
    wait_until(lambda: cluster.volumes(ours)[volume_id].delete_count, "the counts to be told")
    assert re.search(rf"volume Id:{volume_id}, .*FileCount:5, DeleteCount:1", cluster.shell("volume.list"))


def test_a_volume_is_marked_unmounted_mounted_and_deleted(cluster, ours):
    volume_id, files = filled(cluster, ours)
    which = f"-node {ours.url} -volumeId {volume_id}"
    cluster.shell(f"volume.mark {which} -readonly")
    assert ours.rpc.VolumeStatus(pb.VolumeStatusRequest(volume_id=volume_id), timeout=LIMIT_S).is_read_only
    cluster.shell(f"volume.mark {which} -writable")
    ours.store(b"writable again", fid=ours.new_fid(volume_id))
    cluster.shell(f"volume.unmount {which}")
    wait_until(lambda: not cluster.holders(volume_id), "it to be gone")
    cluster.shell(f"volume.mount {which}")
    wait_until(lambda: cluster.holders(volume_id) == [ours.url], "it to be back")
    assert_holds(ours, files)
    cluster.shell(f"volume.delete {which}")
    wait_until(lambda: not cluster.holders(volume_id), "it to be deleted")
    assert not list(ours.data_dir.glob(f"{volume_id}.*"))


def test_a_collection_is_deleted_from_all_servers(cluster, ours):
    servers = [ours, cluster.by_role[GO]]
    volume_id = cluster.allocate(*servers, collection="doomed", replication="001")
    assert "doomed" in cluster.shell("collection.list")
    cluster.shell("collection.delete -collection doomed -apply")
    wait_until(lambda: not cluster.holders(volume_id), "the volume to be gone")
    assert not [path for server in servers for path in server.data_dir.glob("doomed_*")]


def test_volumes_are_grown(cluster, ours):
    first = ours.new_volume(collection="grown")
    wait_until(lambda: cluster.holders(first), "it to be known")
    said = cluster.shell(f"volume.grow -collection grown -dataNode {ours.url} -count 2")
    wait_until(lambda: len(collection_ids(cluster, ours, "grown")) >= 2, f"more volumes; {said}")


def test_only_volumes_that_are_empty_are_deleted(cluster, ours):
    """On each server: an empty volume, one with a file, one whose only file was deleted, and one of another
    collection.
    """
    servers = [ours, cluster.by_role[GO]]
    full, emptied = (cluster.allocate(ours, collection="sweep") for _ in range(2))
    other = cluster.allocate(ours, collection="unswept")
    empty = [cluster.allocate(server, collection="sweep") for server in servers]
    fid, gone = (ours.store(b"data", fid=ours.new_fid(volume_id)) for volume_id in (full, emptied))
    assert ours.http("DELETE", f"/{gone}").status == 202
    sweep = "volume.deleteEmpty -quietFor=0s -collectionPattern=sweep"
    wait_until(lambda: all(cluster.volumes(ours)[one].size > 8 for one in (full, emptied)), "the sizes to be told")
    cluster.shell(sweep)
    assert sorted(collection_ids(cluster, ours, "sweep")) == sorted([full, emptied, empty[0]]), "only said, not done"

    def is_swept():
        said = cluster.shell(f"{sweep} -apply")
        assert "rror" not in said, said
        return not any(cluster.holders(volume_id) for volume_id in empty)

    wait_until(is_swept, "the empty ones to be gone")
    assert sorted(collection_ids(cluster, ours, "sweep")) == sorted([full, emptied])
    assert cluster.holders(other) == [ours.url]
    for server, volume_id in zip(servers, empty, strict=True):
        assert not list(server.data_dir.glob(f"sweep_{volume_id}.*"))
    assert ours.read(fid).body == b"data"
    assert ours.read(gone).status == 404


def collection_ids(cluster, server, name):
    return [vid for vid, volume in cluster.volumes(server).items() if volume.collection == name]


def test_maintenance_is_switched_by_the_shell(cluster, ours):
    said = cluster.shell(f"volumeServer.state -nodes {ours.url} -maintenanceOn", "volumeServer.state")
    assert ours.rpc.GetState(pb.GetStateRequest(), timeout=LIMIT_S).state.maintenance, said
    cluster.shell(f"volumeServer.state -nodes {ours.url} -maintenanceOff")
    assert not ours.rpc.GetState(pb.GetStateRequest(), timeout=LIMIT_S).state.maintenance


def test_replication_is_configured(cluster, ours):
    volume_id, files = filled(cluster, ours)
    cluster.shell(f"volume.configure.replication -volumeId {volume_id} -replication 001")
    wait_until(lambda: cluster.volumes(ours)[volume_id].replica_placement == 1, "the new placement to be told")
    assert_holds(ours, files)


@pytest.mark.slow
def test_a_missing_copy_is_made_again(cluster, ours):
    """The shell chooses any server, of either kind. Slow: the shell waits twice for 15 seconds."""
    go = cluster.by_role[GO]
    volume_id, files = filled(cluster, ours, go, replication="001", collection="fix")
    go.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=LIMIT_S)
    wait_until(lambda: cluster.holders(volume_id) == [ours.url], "one copy to be missing")
    said = cluster.shell("volume.fix.replication -collectionPattern fix -apply")
    wait_until(lambda: len(cluster.holders(volume_id)) == 2, f"two copies again; {said}")
    for server in cluster.servers:
        if server.url in cluster.holders(volume_id):
            assert_holds(server, files)


@pytest.mark.parametrize("way", WAYS)
def test_a_volume_is_copied(cluster, way):
    source, target = (cluster.by_role[role] for role in way)
    volume_id, files = filled(cluster, source)
    said = cluster.shell(f"volume.copy -source {source.url} -target {target.url} -volumeId {volume_id}")
    wait_until(lambda: cluster.holders(volume_id) == sorted([source.url, target.url]), f"both copies; {said}")
    assert_holds(target, files)
    for name in (f"{volume_id}.dat", f"{volume_id}.idx"):
        assert (target.data_dir / name).read_bytes() == (source.data_dir / name).read_bytes()


def are_large(cluster, server, collection):
    sizes = [volume.size for volume in cluster.volumes(server).values() if volume.collection == collection]
    return min(sizes) > 1 << 20


@pytest.fixture(scope="module")
def moves(cluster):
    """Runs the commands that wait some ten seconds for late writes, all at once. Name -> (the command's future, and the
    facts that the test of that name needs).
    """
    started = {}
    with ThreadPoolExecutor() as pool:
        for way in WAYS:
            source, target = (cluster.by_role[role] for role in way.values[0])
            volume_id, files = filled(cluster, source)
            command = f"volume.move -noLock -source {source.url} -target {target.url} -volumeId {volume_id}"
            started[way.id] = pool.submit(cluster.shell, command, locks=False), volume_id, files
        ours, other = cluster.by_role[OURS], cluster.by_role[ALSO_OURS]
        leaver = cluster.add("native", "-rack=leaving")
        files = {}
        for _ in range(4):
            volume_id, more = filled(cluster, ours, collection="uneven")
            files |= more
            ours.store(bytes(1 << 20), fid=ours.new_fid(volume_id))
        wait_until(lambda: are_large(cluster, ours, "uneven"), "their sizes to be told")
        nodes = f"{ours.url},{other.url}"
        command = f"volume.balance -noLock -collection uneven -nodes {nodes} -maxParallelization 4 -apply"
        started["balance"] = pool.submit(cluster.shell, command, locks=False), files
        volume_id, files = filled(cluster, leaver)
        command = f"volumeServer.evacuate -node {leaver.url} -apply"
        started["evacuate"] = pool.submit(cluster.shell, command), leaver, volume_id, files
        yield started


@pytest.mark.parametrize("way", WAYS)
def test_a_volume_is_moved(request, cluster, moves, way):
    source, target = (cluster.by_role[role] for role in way)
    said, volume_id, files = moves[request.node.callspec.id]
    said.result()
    wait_until(lambda: cluster.holders(volume_id) == [target.url], f"the volume to have moved; {said.result()}")
    assert_holds(target, files)
    assert not list(source.data_dir.glob(f"{volume_id}.*"))
    target.store(b"it takes writes", fid=target.new_fid(volume_id))


def test_volumes_are_spread_evenly(cluster, moves):
    said, files = moves["balance"]
    ours, other = cluster.by_role[OURS], cluster.by_role[ALSO_OURS]
    said.result()
    counts = [len(collection_ids(cluster, server, "uneven")) for server in (ours, other)]
    assert counts == [2, 2], said.result()
    assert_holds(ours, files)


def test_a_server_is_emptied_and_leaves(cluster, moves):
    said, leaver, volume_id, files = moves["evacuate"]
    said.result()
    assert leaver.url not in wait_until(lambda: cluster.holders(volume_id), "it to be elsewhere"), said.result()
    assert not cluster.volumes(leaver), said.result()
    assert_holds(cluster.by_role[OURS], files)
    cluster.shell(f"volumeServer.leave -node {leaver.url} -apply")
    wait_until(lambda: not leaver.is_registered(), "it to be forgotten")
    assert leaver.http("GET", "/healthz").status == 503


def test_copies_that_differ_are_made_alike(cluster):
    ours, go = cluster.by_role[OURS], cluster.by_role[GO]
    volume_id, files = filled(cluster, ours, go, replication="001")
    lonely = ours.store(b"missed by Go", fid=ours.new_fid(volume_id), query="?type=replicate")
    cluster.shell(f"volume.check.disk -volumeId {volume_id} -slow -resurrectMissingNeedles -apply")
    assert_holds(go, {**files, lonely: b"missed by Go"})


def test_the_benchmark_has_no_failures(cluster):
    """On native servers alone: only they have the disk type that the test asks for. Both have a copy of each file."""
    load = ["-n=2000", "-size=1024", "-c=8", "-disk=ssd", "-replication=001"]
    done = cluster.tool("benchmark", f"-master={cluster.master.address}", *load)
    assert done.exit_code == 0, done.output
    assert re.findall(r"Completed requests: +(\d+)", done.output) == ["2000", "2000"], done.output
    assert re.findall(r"Failed requests: +(\d+)", done.output) == ["0", "0"], done.output
    written = [server for server in cluster.servers if collection_ids(cluster, server, "benchmark")]
    assert written == [cluster.by_role[OURS], cluster.by_role[ALSO_OURS]]


@pytest.fixture(scope="module")
def filer(cluster):
    """A filer's (host, port). Its files are in a collection of their own."""
    http, rpc = free_port_pair()
    where = [f"-ip={LOOPBACK}", f"-port={http}", f"-port.grpc={rpc}", f"-defaultStoreDir={cluster.base}"]
    process = cluster.start_tool("filer", "filer", f"-master={cluster.master.address}", *where, "-collection=files")
    wait_until(lambda: answers((LOOPBACK, http)), f"the filer; its log:\n{process.log_tail()}")
    yield (LOOPBACK, http)
    process.end()


def answers(address):
    try:
        return fetch(address, "GET", "/").status == 200
    except OSError:
        return False


def file_contents():
    """Path -> content: small, in several chunks, and empty."""
    return {"/a/small.txt": b"small " * 10, "/a/large.bin": bytes(range(256)) * 24000, "/b/empty": b""}


def test_a_filer_keeps_its_files_here(filer):
    for path, content in file_contents().items():
        assert fetch(filer, "PUT", f"{path}?maxMB=2", [("Content-Type", "application/x-test")], content).status == 201
    for path, content in file_contents().items():
        assert fetch(filer, "GET", path).body == content
    assert (
        fetch(filer, "GET", "/a/large.bin", [("Range", "bytes=2097100-2097200")]).body
        == (bytes(range(256)) * 24000)[2097100:2097201]
    )
    assert fetch(filer, "DELETE", "/a/small.txt").status == 204
    assert fetch(filer, "GET", "/a/small.txt").status == 404


def test_the_check_of_the_filers_files_finds_none_missing(cluster, filer):
    assert fetch(filer, "PUT", "/c/kept", [], b"referenced").status == 201
    said = cluster.shell("volume.fsck -collection files -findMissingChunksInFiler -verifyNeedles -v")
    assert "error" not in said.lower(), said
    assert re.search(r"total \d+ directories, \d+ files", said) or "no missing" in said, said


def garbage(cluster, server, collection):
    """A mostly deleted volume, and the one file that is left."""
    volume_id = cluster.allocate(server, collection=collection)
    fids = [server.store(b"x" * 5000, fid=server.new_fid(volume_id)) for _ in range(6)]
    for fid in fids[1:]:
        assert server.http("DELETE", f"/{fid}").status == 202
    return volume_id, fids[0]


def test_a_search_for_garbage_does_no_harm(cluster, ours):
    """Writes and assignments go to the volume afterwards, whether its server can compact it or not."""
    volume_id, fid = garbage(cluster, ours, "garbage")
    cluster.shell(f"volume.vacuum -volumeId {volume_id} -garbageThreshold 0.1")
    assert ours.read(fid).body == b"x" * 5000
    assigned = cluster.master.get(f"/dir/assign?{ONE_VOLUME}&collection=garbage")
    assert int(assigned["fid"].split(",")[0]) == volume_id, assigned


def test_garbage_is_collected(cluster, ours):
    volume_id, fid = garbage(cluster, ours, "swept")
    cluster.shell(f"volume.vacuum -volumeId {volume_id} -garbageThreshold 0.1")
    assert (ours.data_dir / f"swept_{volume_id}.dat").stat().st_size < 10_000
    assert ours.read(fid).body == b"x" * 5000
