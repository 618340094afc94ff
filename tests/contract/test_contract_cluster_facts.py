"""The master's facts of a server: for a native server they are those of an upstream server with the same files."""

import shutil
import time

import pytest
from google.protobuf.json_format import MessageToDict
from harness.cluster import BY_NAME, Cluster
from harness.implementations import find_weed
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import volume_server_pb2 as pb

pytestmark = pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1])
SIZE_LIMIT_MB = 100
READ_ONLY, DELETED, TIMED, FAST, NAMED = 801, 802, 803, 804, 805
"""The volumes of `furnished`."""
PULSE_S = 5
ONE_VOLUME = "writableVolumeCount=1"


@pytest.fixture(scope="module")
def cluster(weed, tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("facts"), weed, master_flags=[f"-volumeSizeLimitMB={SIZE_LIMIT_MB}"])
    yield made
    made.end()


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("proxy-go", "go")]


@pytest.fixture(scope="module", params=["native", *SLOW])
def furnished(request, cluster):
    """A server with two directories of different kinds, and volumes in every state that a heartbeat reports."""
    flags = ["-max=40,9", "-disk=hdd,ssd", "-tags=Cold:archive,fast", "-dataCenter=dcX", "-rack=rackY"]
    server = cluster.add(request.param, *flags, "-publicUrl=files.example:8000", directories=2)
    furnish(server)
    yield server
    server.end()


def furnish(server):
    server.allocate(READ_ONLY)
    server.store(b"kept for ever", fid=server.new_fid(READ_ONLY))
    server.rpc.VolumeMarkReadonly(pb.VolumeMarkReadonlyRequest(volume_id=READ_ONLY, persist=True), timeout=LIMIT_S)
    server.allocate(DELETED, replication="000")
    fids = [server.store(b"x" * 1000, fid=server.new_fid(DELETED)) for _ in range(3)]
    assert server.http("DELETE", f"/{fids[0]}").status == 202
    server.allocate(TIMED, ttl="5d")
    server.store(b"for five days", fid=server.new_fid(TIMED))
    server.allocate(FAST, disk_type="ssd")
    server.allocate(NAMED, collection="named", replication="010")


def described(cluster, server):
    """Everything that VolumeList and /dir/status report of the server."""
    info = MessageToDict(cluster.node(server), preserving_proto_field_name=True)
    for disk in info["diskInfos"].values():
        del disk["disk_free_bytes"]  # the machine's, which others fill meanwhile
        disk["volume_infos"] = sorted(disk["volume_infos"], key=lambda volume: volume["id"])
    topology = cluster.master.get("/dir/status")["Topology"]
    (row,) = [
        (center["Id"], rack["Id"], {name: value for name, value in node.items() if name != "VolumeIds"})  # unordered
        for center in topology["DataCenters"]
        for rack in center["Racks"]
        for node in rack["DataNodes"]
        if node["Url"] == server.url
    ]
    (volumes,) = [
        nodes[server.url]
        for racks in cluster.master.get("/vol/status")["Volumes"]["DataCenters"].values()
        for nodes in racks.values()
        if server.url in nodes
    ]
    return info, row, sorted(volumes, key=lambda volume: volume["Id"])


def test_the_master_says_of_ours_what_it_says_of_upstreams(cluster, furnished):
    if furnished.implementation.is_go:
        pytest.skip("it is what the others are compared with")
    was = furnished.implementation
    furnished.give_way_to(BY_NAME[was.name])  # so that both are told of the files as a start finds them
    wait_until(lambda: len(cluster.volumes(furnished)) == 5, "all volumes to be known")
    ours = described(cluster, furnished)
    furnished.give_way_to(BY_NAME["go"])
    wait_until(lambda: len(cluster.volumes(furnished)) == 5, "all volumes to be known")
    theirs = described(cluster, furnished)
    furnished.give_way_to(was)
    assert ours == theirs


def test_every_fact_of_a_volume_is_told(cluster, furnished):
    wait_until(lambda: cluster.volumes(furnished)[DELETED].deleted_byte_count, "the deletion to be told")
    volumes = cluster.volumes(furnished)
    assert volumes[READ_ONLY].read_only
    assert (volumes[DELETED].file_count, volumes[DELETED].delete_count) == (3, 1)
    assert volumes[DELETED].size == (furnished.data_dir / f"{DELETED}.dat").stat().st_size
    assert volumes[TIMED].ttl == 5 << 8 | 3
    assert (volumes[FAST].disk_type, volumes[FAST].disk_id) == ("ssd", 1)
    assert (volumes[NAMED].collection, volumes[NAMED].replica_placement) == ("named", 10)
    assert time.time() - 600 < volumes[TIMED].modified_at_second <= time.time() + 1


def test_disks_tags_limits_and_places_are_told(cluster, furnished):
    ((center, rack, node),) = [row for row in cluster.nodes() if row[2].id == furnished.url]
    assert (center, rack) == ("dcX", "rackY")
    assert node.grpc_port == furnished.layout.grpc_port
    hdd, ssd = node.diskInfos[""], node.diskInfos["ssd"]
    assert (hdd.max_volume_count, ssd.max_volume_count) == (40, 9)
    assert (hdd.volume_count, ssd.volume_count) == (4, 1)
    assert {tag for disk in node.diskInfos.values() for tag in disk.tags} == {"cold", "archive", "fast"}
    usage = shutil.disk_usage(furnished.data_dir)
    assert hdd.disk_total_bytes == usage.total
    assert abs(hdd.disk_free_bytes - usage.free) < 2 << 30


def test_what_the_master_hands_out_names_the_public_url(cluster, furnished):
    (location,) = cluster.master.get(f"/dir/lookup?volumeId={TIMED}")["locations"]
    assert (location["url"], location["publicUrl"]) == (furnished.url, "files.example:8000")
    assigned = cluster.master.get(f"/dir/assign?{ONE_VOLUME}&dataNode={furnished.url}&collection=public&dataCenter=dcX")
    assert (assigned["url"], assigned["publicUrl"]) == (furnished.url, "files.example:8000"), assigned


def test_volumes_go_to_the_disk_that_is_asked_for(cluster, furnished):
    assigned = cluster.master.get(f"/dir/assign?{ONE_VOLUME}&disk=ssd&collection=fast&dataCenter=dcX")
    volume_id = int(assigned["fid"].split(",")[0])
    assert (furnished.layout.data_dirs[1] / f"fast_{volume_id}.dat").exists()
    wait_until(lambda: cluster.volumes(furnished)[volume_id].disk_type == "ssd", "the volume to be known as ssd")


def assigned_ids(cluster, collection, count=12):
    """The volumes that the master assigns now. It chooses at random, so it is asked several times."""
    answers = [
        cluster.master.get(f"/dir/assign?{ONE_VOLUME}&collection={collection}&dataCenter=dcX") for _ in range(count)
    ]
    return {int(answer["fid"].split(",")[0]) if "fid" in answer else answer["error"] for answer in answers}


def test_nothing_is_assigned_to_a_volume_that_is_read_only(cluster, furnished):
    (first,) = assigned_ids(cluster, "marked", 1)
    furnished.rpc.VolumeMarkReadonly(pb.VolumeMarkReadonlyRequest(volume_id=first), timeout=LIMIT_S)
    assert first not in assigned_ids(cluster, "marked")
    furnished.rpc.VolumeMarkWritable(pb.VolumeMarkWritableRequest(volume_id=first), timeout=LIMIT_S)
    wait_until(lambda: first in assigned_ids(cluster, "marked"), "it to be assigned to again")


def test_a_new_volume_and_one_that_is_gone_are_told_at_once(cluster, furnished):
    volume_id = furnished.new_volume(collection="passing")
    wait_until(lambda: cluster.holders(volume_id) == [furnished.url], "the new volume")
    furnished.rpc.VolumeUnmount(pb.VolumeUnmountRequest(volume_id=volume_id), timeout=LIMIT_S)
    wait_until(lambda: not cluster.holders(volume_id), "the volume to be gone")
    furnished.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=volume_id), timeout=LIMIT_S)
    wait_until(lambda: cluster.holders(volume_id) == [furnished.url], "the volume to be back")
    furnished.rpc.DeleteCollection(pb.DeleteCollectionRequest(collection="passing"), timeout=LIMIT_S)
    wait_until(lambda: volume_id not in cluster.volumes(furnished), "it to be off the books")


def test_a_server_that_is_in_maintenance_gets_no_new_volumes(cluster, furnished):
    state = furnished.rpc.GetState(pb.GetStateRequest(), timeout=LIMIT_S).state
    request = pb.SetStateRequest(state=pb.VolumeServerState(maintenance=True, version=state.version))
    state = furnished.rpc.SetState(request, timeout=LIMIT_S).state

    def is_refused():
        answer = cluster.master.get(f"/dir/assign?{ONE_VOLUME}&collection=quiet{time.monotonic_ns()}&dataCenter=dcX")
        return "error" in answer

    wait_until(is_refused, "the master to place nothing here")
    request = pb.SetStateRequest(state=pb.VolumeServerState(maintenance=False, version=state.version))
    furnished.rpc.SetState(request, timeout=LIMIT_S)
    wait_until(lambda: not is_refused(), "volumes to be placed here again")


def test_leaving_takes_it_off_the_books_and_a_restart_brings_all_back(cluster, furnished):
    before = set(cluster.volumes(furnished))
    fid = furnished.store(b"served on", fid=furnished.new_fid(DELETED))
    furnished.rpc.VolumeServerLeave(pb.VolumeServerLeaveRequest(), timeout=LIMIT_S)
    wait_until(lambda: not furnished.is_registered(), "the master to forget it")
    assert furnished.read(fid).body == b"served on"
    assert furnished.http("GET", "/healthz").status == 503
    furnished.restart()
    wait_until(lambda: set(cluster.volumes(furnished)) == before, "the volumes to be known again")


def test_digests_agree(cluster, furnished):
    """Runs after the tests above: the master compares digests in each beat, and logs when it has to ask for the full
    list.
    """
    log = cluster.master.process.log_path.read_text("utf-8", "replace")
    assert not [line for line in log.splitlines() if furnished.url in line and "full volume list" in line]
