"""The capacity that a server reports: counted slots, full disks, directories of another server."""

import shutil

import pytest
from harness.cluster import BY_NAME, Cluster
from harness.implementations import Layout, find_weed
from harness.processes import ServerProcess
from support.ports import free_port, free_port_pair
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1])
SIZE_LIMIT_MB = 100
SERVERS = ["native", "go"]


@pytest.fixture(scope="module")
def cluster(weed, tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("room"), weed, master_flags=[f"-volumeSizeLimitMB={SIZE_LIMIT_MB}"])
    made.first = made.add("native", "-dataCenter=first")
    made.impostors = {name: impostor(made, name) for name in SERVERS}
    yield made
    for process in made.impostors.values():
        process.end()
    made.end()


def impostor(cluster, name):
    """A server that gets a copy of another server's directory. It ends by itself after some 15 seconds."""
    base = cluster.base / f"impostor-{name}"
    (base / "config").mkdir(parents=True)
    (base / "data").mkdir()
    shutil.copy(cluster.first.data_dir / "vol_dir.uuid", base / "data")
    layout = Layout(*free_port_pair(), free_port(), (base / "data",), base / "config", cluster.master)
    return ServerProcess(BY_NAME[name].command(layout, cluster.weed), base / "server.log", base)


@pytest.fixture(params=SERVERS)
def name(request):
    return request.param


def slots(cluster, server):
    node = cluster.node(server)
    return sum(disk.max_volume_count for disk in node.diskInfos.values()) if node else None


def test_a_server_that_counts_its_slots_does_so_once_it_knows_how_large_volumes_become(cluster, name):
    server = cluster.add(name, "-max=0", "-minFreeSpace=1", f"-dataCenter=self-{name}")
    limit_bytes = SIZE_LIMIT_MB << 20
    roughly = shutil.disk_usage(server.data_dir).free * 0.99 // limit_bytes

    def is_counted():
        told = slots(cluster, server)
        return told and abs(told - roughly) <= 0.1 * roughly + 20

    wait_until(is_counted, "the slots to be told")
    assigned = cluster.master.get(f"/dir/assign?writableVolumeCount=1&collection=self-{name}&dataCenter=self-{name}")
    assert assigned["url"] == server.url, assigned


def test_a_full_disk_has_no_more_room_than_it_uses_and_still_deletes(cluster, name):
    server = cluster.add(name, "-max=9", f"-dataCenter=full-{name}")
    volume_id = server.new_volume()
    fid = server.store(b"before", fid=server.new_fid(volume_id))
    server.stop()
    server.extra_flags = (*server.extra_flags, "-minFreeSpace=100")  # more than any disk has
    server.start()
    wait_until(lambda: slots(cluster, server) == 1, "the master to see no room")
    assert server.http("PUT", f"/{server.new_fid(volume_id)}", [], b"after").status == 500
    assert server.read(fid).body == b"before"
    assert server.http("DELETE", f"/{fid}").status == 202
    assert server.read(fid).status == 404
    assert cluster.volumes(server)[volume_id].read_only
    assigned = cluster.master.get(f"/dir/assign?writableVolumeCount=1&collection=full-{name}&dataCenter=full-{name}")
    assert "error" in assigned


def test_directories_of_another_server_are_refused_by_the_master(cluster, name):
    process = cluster.impostors[name]
    wait_until(lambda: process.exit_code is not None, "it to give up")
    assert process.exit_code == 1, process.log_tail()
    assert "duplicate" in process.log_tail().lower() or "our directories" in process.log_tail()
    assert cluster.first.url in cluster.master.registered_urls()
