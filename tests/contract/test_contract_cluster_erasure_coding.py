"""`weed shell` encodes, balances, rebuilds and decodes volumes on native and Go servers during reads."""

import os
import re

import pytest
from harness.cluster import Cluster
from harness.implementations import find_weed
from harness.readers import Readers
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import volume_server_pb2 as pb

pytestmark = [pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1]), pytest.mark.slow]


@pytest.fixture(scope="module", params=[["native"] * 4, ["native", "go", "native", "go"]], ids=["ours", "ours-and-go"])
def cluster(request, weed, tmp_path_factory):
    """Slow: starts four servers."""
    made = Cluster(tmp_path_factory.mktemp("ec"), weed, master_flags=["-volumeSizeLimitMB=64"])
    made.servers_used = made.add_all(*([name, "-max=60"] for name in request.param))
    yield made
    made.end()


def shard_ids(cluster, volume_id):
    """The shards of each server, as reported to the master."""
    found = {}
    for _, _, node in cluster.nodes():
        for disk in node.diskInfos.values():
            for row in disk.ec_shard_infos:
                if row.id == volume_id:
                    bits = {bit for bit in range(32) if row.ec_index_bits >> bit & 1}
                    found[node.id] = found.get(node.id, set()) | bits
    return found


def every_shard(cluster, volume_id):
    return sorted(shard for shards in shard_ids(cluster, volume_id).values() for shard in shards)


def check_all(servers, files):
    """Native servers are checked at once. Go's server uses outdated holders for some seconds after shards move."""
    for server in servers:
        for fid, data in files.items():
            if server.name == "go":
                wait_until(lambda: server.read(fid).body == data, f"{fid} at Go's", limit_s=LIMIT_S)  # noqa: B023
            else:
                assert server.read(fid).body == data, (server.name, fid)


def test_the_life_of_a_coded_volume(cluster):
    servers = cluster.servers_used
    first = servers[0]
    volume_id = cluster.allocate(first)
    files = {}
    for _ in range(12):
        data = os.urandom(400_000)
        files[first.store(data, fid=first.new_fid(volume_id))] = data
    doomed = first.store(b"doomed", fid=first.new_fid(volume_id))
    wait_until(lambda: cluster.holders(volume_id) == [first.url], "the volume to be known")
    with Readers(servers, files):
        said = cluster.shell(f"ec.encode -volumeId={volume_id} -force -rebalance=false")
        wait_until(lambda: every_shard(cluster, volume_id) == list(range(14)), f"all shards; {said}", limit_s=LIMIT_S)
        said += cluster.shell("ec.balance -apply")
        wait_until(lambda: len(shard_ids(cluster, volume_id)) == 4, f"shards on each server; {said}", limit_s=LIMIT_S)
        check_all(servers, files)
        scrub(cluster, volume_id)
        assert first.http("DELETE", f"/{doomed}").status == 202
        for server in servers:
            wait_until(lambda: server.read(doomed).status == 404, f"{doomed} to be gone at {server.name}")  # noqa: B023
        scrub(cluster, volume_id)
        victims = lose(cluster, volume_id, servers[1], 2) + lose(cluster, volume_id, servers[2], 2)
        wait_until(lambda: len(every_shard(cluster, volume_id)) == 10, f"the loss of {victims} to be told")
        check_all([servers[0]], files)
        said = cluster.shell("ec.rebuild -apply")
        wait_until(lambda: every_shard(cluster, volume_id) == list(range(14)), f"new shards; {said}", limit_s=LIMIT_S)
        check_all(servers, files)
        said = cluster.shell(f"ec.decode -volumeId={volume_id}")
        wait_until(lambda: not shard_ids(cluster, volume_id), f"the shards to be gone; {said}", limit_s=LIMIT_S)
    wait_until(lambda: len(cluster.holders(volume_id)) == 1, f"the volume to be back; {said}", limit_s=LIMIT_S)
    holder = next(server for server in servers if server.url in cluster.holders(volume_id))
    check_all([holder], files)
    assert holder.read(doomed).status == 404
    assert not [path for server in servers for path in server.data_dir.glob(f"{volume_id}.ec*")]


def scrub(cluster, volume_id):
    """Has all servers check the volume, in each way; all of it is sound."""
    for mode in ("index", "local", "full", "checksum"):
        said = cluster.shell(f"ec.scrub -volumeId {volume_id} -mode {mode} -details")
        assert re.search(r"Scrubbed \d+ EC files and 4 volumes on 4 nodes", said), said
        assert "failures" not in said, said


def lose(cluster, volume_id, server, count):
    """Closes and deletes shards of a server. Returns their ids."""
    shards = sorted(next(ids for node, ids in shard_ids(cluster, volume_id).items() if node == server.url))[:count]
    server.rpc.VolumeEcShardsUnmount(
        pb.VolumeEcShardsUnmountRequest(volume_id=volume_id, shard_ids=shards), timeout=LIMIT_S
    )
    server.rpc.VolumeEcShardsDelete(
        pb.VolumeEcShardsDeleteRequest(volume_id=volume_id, shard_ids=shards), timeout=LIMIT_S
    )
    return shards


def spread(cluster, count=12):
    """A volume in shards on all four servers, and its files."""
    first = cluster.servers_used[0]
    volume_id = cluster.allocate(first)
    contents = (os.urandom(300_000) for _ in range(count))
    files = {first.store(data, fid=first.new_fid(volume_id)): data for data in contents}
    wait_until(lambda: cluster.holders(volume_id) == [first.url], "the volume to be known")
    said = cluster.shell(f"ec.encode -volumeId={volume_id} -force", "ec.balance -apply")
    wait_until(lambda: every_shard(cluster, volume_id) == list(range(14)), f"all shards; {said}", limit_s=LIMIT_S)
    wait_until(lambda: len(shard_ids(cluster, volume_id)) == 4, f"shards on each server; {said}", limit_s=LIMIT_S)
    return volume_id, files


def test_shards_of_a_server_that_is_gone_are_made_anew(cluster):
    servers = cluster.servers_used
    volume_id, files = spread(cluster)
    gone, left = servers[2], [servers[0], servers[1], servers[3]]
    lost = shard_ids(cluster, volume_id)[gone.url]
    with Readers(left, files):
        gone.process.kill()
        wait_until(lambda: gone.url not in shard_ids(cluster, volume_id), "the master to miss it", limit_s=LIMIT_S)
        check_all(left, files)
        said = cluster.shell(f"ec.rebuild -volumeIds={volume_id} -apply")
        wait_until(lambda: every_shard(cluster, volume_id) == list(range(14)), f"new shards; {said}", limit_s=LIMIT_S)
        check_all(left, files)
    gone.restart()
    # Its first heartbeat is a full one.
    wait_until(lambda: shard_ids(cluster, volume_id).get(gone.url) == lost, "its shards to be told", limit_s=LIMIT_S)
    check_all(servers, files)
    said = cluster.shell(f"ec.decode -volumeId={volume_id}")
    wait_until(lambda: len(cluster.holders(volume_id)) == 1, f"the volume to be back; {said}", limit_s=LIMIT_S)
    check_all([one for one in servers if one.url in cluster.holders(volume_id)], files)


def test_a_server_with_shards_is_emptied(cluster):
    """And a volume moves from one server with shards to another."""
    servers = cluster.servers_used
    leaver, left = servers[0], servers[1:]
    volume_id, files = spread(cluster)
    whole = cluster.allocate(leaver)
    more = {leaver.store(data, fid=leaver.new_fid(whole)): data for data in (b"a" * 50_000, b"b" * 70_000)}
    with Readers(left, files | more):
        said = cluster.shell(f"volume.move -source {leaver.url} -target {left[0].url} -volumeId {whole}")
        wait_until(
            lambda: cluster.holders(whole) == [left[0].url], f"the volume to have moved; {said}", limit_s=LIMIT_S
        )
        check_all(left[:1], more)
        said = cluster.shell(f"volumeServer.evacuate -node {leaver.url} -apply", limit_s=4 * LIMIT_S)
        wait_until(lambda: leaver.url not in shard_ids(cluster, volume_id), f"no shard there; {said}", limit_s=LIMIT_S)
        wait_until(lambda: every_shard(cluster, volume_id) == list(range(14)), f"all shards; {said}", limit_s=LIMIT_S)
    check_all(servers, files)
    assert leaver.name == "native"
    assert not list(leaver.data_dir.glob(f"{volume_id}.*")), "nothing of the shards is left there"
    assert not list(leaver.data_dir.glob(f"{whole}.*")), "and nothing of the volume"
