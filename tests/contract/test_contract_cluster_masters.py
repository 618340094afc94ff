"""Three masters, of which any may die: the servers follow the leader, lose no volume, and writes continue."""

import shutil

import pytest
from harness.cluster import Cluster, MasterGroup
from harness.implementations import find_weed
from support.waiting import LIMIT_S as REGISTER_LIMIT_S
from support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1]),
    pytest.mark.slow,  # a new leader takes some seconds, and so does each server to follow it
]


@pytest.fixture(scope="module")
def cluster(weed, tmp_path_factory):
    """A native server, a native server that knows only one master which is no leader, and a Go server with the masters
    in another order.
    """
    base = tmp_path_factory.mktemp("masters")
    group = MasterGroup(base, weed, 3)
    made = Cluster(base, weed, master=group)
    leader = group.leader()
    follower = next(member for member in group.members if member is not leader)
    backwards = ",".join(member.address for member in reversed(group.members))
    made.ours = made.add("native")
    made.narrow = made.add("native", f"-master={follower.address}")
    made.go = made.add("go", f"-master={backwards}")
    yield made
    made.end()


def known_volumes(cluster):
    """url -> the ids of its volumes, as the present leader knows them."""
    return {server.url: set(cluster.volumes(server)) for server in cluster.servers}


def assigned(cluster, **query):
    """An assignment of the present leader, once it answers."""
    text = "".join(f"&{name}={value}" for name, value in query.items())

    def answer():
        said = cluster.master.get(f"/dir/assign?writableVolumeCount=1{text}")
        return said if "fid" in said else None

    return wait_until(answer, "the leader to assign", REGISTER_LIMIT_S)


def test_whoever_knows_a_follower_alone_finds_the_leader(cluster):
    urls = set(cluster.master.registered_urls())
    assert urls == {server.url for server in cluster.servers}


def test_a_killed_leader_is_replaced_and_nothing_is_lost(cluster):
    files = {}
    for replication in ("000", "001"):
        answer = assigned(cluster, replication=replication)
        by_url = {server.url: server for server in cluster.servers}
        files[by_url[answer["url"]].store(replication.encode(), fid=answer["fid"])] = (
            answer["url"],
            replication.encode(),
        )
    before = known_volumes(cluster)
    killed = cluster.master.leader()
    killed.process.kill()
    cluster.master.leader()
    wait_until(lambda: known_volumes(cluster) == before, "all servers and volumes to be known", REGISTER_LIMIT_S)
    for fid, (url, content) in files.items():
        server = next(server for server in cluster.servers if server.url == url)
        assert server.read(fid).body == content
        assert server.http("GET", "/healthz").status == 200
    again = assigned(cluster, replication="001", collection="later")
    volume_id = int(again["fid"].split(",")[0])
    assert all(volume_id not in volumes for volumes in before.values())
    holders = [server for server in cluster.servers if server.url in cluster.holders(volume_id)]
    holders[0].store(b"after the change", fid=again["fid"])
    assert [server.read(again["fid"]).body for server in holders] == [b"after the change"] * 2


def test_a_master_that_returns_changes_nothing(cluster):
    before = known_volumes(cluster)
    dead = next(member for member in cluster.master.members if member.process.exit_code is not None)
    dead.launch()
    wait_until(lambda: dead.leader() == url_of(cluster.master.leader()), "it to follow the leader", REGISTER_LIMIT_S)
    assert known_volumes(cluster) == before
    assert assigned(cluster, replication="000")["fid"]


def url_of(master):
    return f"{master.http[0]}:{master.http_port}"


def test_a_server_that_starts_now_and_one_that_restarts_find_the_leader(cluster):
    before = known_volumes(cluster)
    cluster.ours.restart()
    wait_until(lambda: known_volumes(cluster) == before, "its volumes to be known again", REGISTER_LIMIT_S)


def test_a_master_without_a_memory_learns_of_the_volumes_and_gives_out_new_ids(weed, tmp_path):
    single = Cluster(tmp_path, weed)
    try:
        server = single.add("native")
        volume_id = 77
        server.allocate(volume_id)
        fid = server.store(b"older than the master", fid=f"{volume_id},ff00000001")
        single.master.process.kill()
        shutil.rmtree(single.master.directory / "mdir")
        (single.master.directory / "mdir").mkdir()
        single.master.start()
        wait_until(lambda: single.holders(volume_id) == [server.url], "the volume to be known again", REGISTER_LIMIT_S)
        answer = assigned(single, collection="new")
        assert int(answer["fid"].split(",")[0]) > volume_id
        assert server.read(fid).body == b"older than the master"
        in_old = assigned(single)
        assert int(in_old["fid"].split(",")[1][:-8], 16) > 0xFF, "a key that is taken would be overwritten"
    finally:
        single.end()
