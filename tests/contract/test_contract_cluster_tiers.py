"""`weed shell` moves the data of volumes to an S3 tier and back, on native and Go servers."""

import pytest
from harness.cluster import Cluster
from harness.implementations import find_weed
from harness.master import Master
from harness.readers import AT_GO, Readers
from support.s3_server import s3_server
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import volume_server_pb2 as pb

pytestmark = pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1])
NAMES = ("native", "go", "mixed-http-native", "mixed-http-forwarded")
"""In the mixed ones the engine that moves a volume is not the one that reads it."""
MASTER_TOML = """
[storage.backend.s3.cold]
enabled = true
aws_access_key_id = "a"
aws_secret_access_key = "b"
region = "us-east-1"
bucket = "{bucket}"
endpoint = "{endpoint}"
storage_class = "STANDARD_IA"
"""


@pytest.fixture(scope="module")
def s3():
    with s3_server("cluster-tiers") as server:
        yield server


@pytest.fixture(scope="module")
def cluster(weed, s3, tmp_path_factory):
    base = tmp_path_factory.mktemp("tiers")
    config = {"master.toml": MASTER_TOML.format(bucket=s3.bucket, endpoint=s3.endpoint)}
    master = Master(base / "master", weed, flags=["-volumeSizeLimitMB=1"], config=config)
    made = Cluster(base, weed, master=master)
    servers = made.add_all(*([name, "-max=20"] for name in (*NAMES, "native")))
    made.by_name = dict(zip((*NAMES, "second"), servers, strict=True))
    yield made
    made.end()


@pytest.fixture(params=NAMES)
def server(request, cluster):
    return cluster.by_name[request.param]


def filled(server, collection):
    volume_id = server.new_volume(collection=collection)
    return volume_id, {
        server.store(bytes([number]) * 5000, fid=server.new_fid(volume_id)): number for number in range(9)
    }


def read_meanwhile(server, files, allowed=frozenset()):
    """Reads all files again and again. Go closes and opens a volume while it moves, whichever engine reads."""
    allowed = allowed if server.name == "native" else AT_GO
    return Readers([server], {fid: bytes([number]) * 5000 for fid, number in files.items()}, allowed)


def assert_holds(server, files):
    for fid, number in files.items():
        reply = server.read(fid)
        assert (reply.status, reply.body) == (200, bytes([number]) * 5000)


def test_up_and_down_again(cluster, server, s3):
    collection = f"tier{server.name.replace('-', '')}"
    volume_id, files = filled(server, collection)
    wait_until(lambda: server.is_known(volume_id), "the master to know the volume")
    with read_meanwhile(server, files):
        said = cluster.shell(f"volume.tier.upload -dest=s3.cold -collection={collection} -volumeId={volume_id}")
    assert not (server.data_dir / f"{collection}_{volume_id}.dat").exists(), said
    assert len(s3.keys()) == 1
    assert_holds(server, files)
    assert server.http("PUT", f"/{server.new_fid(volume_id)}", (), b"x").status >= 400
    server.stop()
    wait_until(lambda: not server.is_registered(), "the master to forget the server")
    server.restart()
    assert_holds(server, files)
    gone = next(iter(files))
    assert server.http("DELETE", f"/{gone}").status == 202
    del files[gone]
    assert server.read(gone).status == 404
    wait_until(lambda: server.is_known(volume_id), "the master to know the volume")
    # The shell unmounts the volume at the end, and mounts it again.
    with read_meanwhile(server, files, allowed={404}):
        said = cluster.shell(f"volume.tier.download -collection={collection} -volumeId={volume_id}")
    assert (server.data_dir / f"{collection}_{volume_id}.dat").exists(), said
    assert s3.keys() == []
    assert_holds(server, files)
    server.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=LIMIT_S)


@pytest.mark.parametrize(("origin", "goal"), [("native", "go"), ("go", "native"), ("native", "second")])
def test_a_volume_in_a_tier_is_moved_to_another_server(cluster, s3, origin, goal):
    """`volume.move` does not move the object: the index moves, and the new holder reads the same object."""
    source, target = cluster.by_name[origin], cluster.by_name[goal]
    collection = f"move{origin}{goal}"
    volume_id, files = filled(source, collection)
    wait_until(lambda: source.is_known(volume_id), "the master to know the volume")
    gone = next(iter(files))
    assert source.http("DELETE", f"/{gone}").status == 202
    del files[gone]
    cluster.shell(f"volume.tier.upload -dest=s3.cold -collection={collection} -volumeId={volume_id}")
    keys = s3.keys()
    # A server that has given the volume away asks the master, who may not know of the move yet.
    with read_meanwhile(source, files, allowed={404}):
        said = cluster.shell(f"volume.move -source={source.url} -target={target.url} -volumeId={volume_id}")
    assert s3.keys() == keys, said
    assert not (target.data_dir / f"{collection}_{volume_id}.dat").exists(), said
    assert_holds(target, files)
    assert target.read(gone).status == 404
    assert not (source.data_dir / f"{collection}_{volume_id}.idx").exists(), said
    target.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=LIMIT_S)
    assert s3.keys() == []


@pytest.fixture(scope="module")
def ssds(cluster):
    """Servers of the same cluster with disks of another type."""
    return cluster.add_all(["native", "-disk=ssd"], ["go", "-disk=ssd"])


def moved(cluster, volume_id, source, targets, option):
    """Has the shell move the volume to the disk type of `targets`; the one that has it then."""
    wait_until(lambda: size_at(cluster, source, volume_id) > 5000, "its size and disk type to be told", 60)
    said = cluster.shell(f"volume.tier.move {option} -fullPercent=0 -quietFor=0s -apply")
    urls = [one.url for one in targets]
    wait_until(lambda: set(cluster.holders(volume_id)) <= set(urls), f"the volume on another disk type; {said}", 60)
    (holder,) = [one for one in targets if one.url in cluster.holders(volume_id)]
    return holder


def size_at(cluster, server, volume_id):
    volume = cluster.volumes(server).get(volume_id)
    return volume.size if volume is not None else 0


def test_a_volume_moves_to_a_disk_of_another_type_and_back(cluster, server, ssds):
    collection = f"move{server.name.replace('-', '')}"
    volume_id, files = filled(server, collection)
    there = f"-collectionPattern={collection} -fromDiskType=hdd -toDiskType=ssd"
    # A server that has given the volume away asks the master, who may not know of the move yet.
    with read_meanwhile(server, files, allowed={404}):
        holder = moved(cluster, volume_id, server, ssds, there)
    assert_holds(holder, files)
    assert not list(server.data_dir.glob(f"{collection}_{volume_id}.*"))
    back = f"-collectionPattern={collection} -fromDiskType=ssd -toDiskType=hdd"
    with read_meanwhile(holder, files, allowed={404}):
        holder = moved(cluster, volume_id, holder, list(cluster.by_name.values()), back)
    assert_holds(holder, files)
    with read_meanwhile(holder, files):
        said = cluster.shell(f"volume.scrub -volumeId {volume_id} -node {holder.url} -mode full -details")
    assert "Scrubbed 9 files and 1 volumes on 1 nodes" in said, said
    assert "failures" not in said, said
    holder.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=10)


def test_a_broken_volume_is_named_and_marked(cluster, server):
    collection = f"broken{server.name.replace('-', '')}"
    volume_id, files = filled(server, collection)
    wait_until(lambda: server.is_known(volume_id), "the master to know the volume")
    with (server.data_dir / f"{collection}_{volume_id}.dat").open("r+b") as dat:
        dat.seek(3000)
        dat.write(b"damage")
    said = cluster.shell(
        f"volume.scrub -volumeId {volume_id} -node {server.url} -mode full -details -markBrokenReadonly"
    )
    assert "Got scrub failures on 1 volumes" in said, said
    assert "failed to read needle" in said, said
    wait_until(lambda: cluster.volumes(server)[volume_id].read_only, "the master to know that it takes no writes")
    assert server.http("PUT", f"/{server.new_fid(volume_id)}", (), b"x").status >= 400
    whole = [fid for fid, number in files.items() if server.read(fid).body == bytes([number]) * 5000]
    assert len(whole) == len(files) - 1
    server.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=LIMIT_S)


def test_each_reads_what_the_other_has_moved(cluster, s3):
    ours, go = cluster.by_name["native"], cluster.by_name["go"]
    volume_id, files = filled(go, "swap")
    wait_until(lambda: go.is_known(volume_id), "the master to know the volume")
    cluster.shell(f"volume.tier.upload -dest=s3.cold -collection=swap -volumeId={volume_id}")
    go.rpc.VolumeUnmount(pb.VolumeUnmountRequest(volume_id=volume_id), timeout=LIMIT_S)
    for extension in (".idx", ".vif"):
        name = f"swap_{volume_id}{extension}"
        (go.data_dir / name).rename(ours.data_dir / name)
    ours.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=volume_id), timeout=LIMIT_S)
    assert_holds(ours, files)
    ours.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=LIMIT_S)
    assert s3.keys() == []


def test_a_server_is_evacuated_whose_volumes_are_in_a_tier(cluster, s3):
    """The last test of the file: the evacuated server takes no new volumes any more."""
    leaving = cluster.by_name["second"]
    volume_id, files = filled(leaving, "evacuated")
    wait_until(lambda: leaving.is_known(volume_id), "the master to know the volume")
    cluster.shell(f"volume.tier.upload -dest=s3.cold -collection=evacuated -volumeId={volume_id}")
    keys = s3.keys()
    with read_meanwhile(leaving, files, allowed={404}):
        said = cluster.shell(f"volumeServer.evacuate -node={leaving.url} -apply")
    assert s3.keys() == keys, said
    assert not (leaving.data_dir / f"evacuated_{volume_id}.idx").exists(), said
    others = [cluster.by_name[name] for name in NAMES]
    (holder,) = [one for one in others if (one.data_dir / f"evacuated_{volume_id}.idx").exists()]
    assert_holds(holder, files)
    holder.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=LIMIT_S)
    assert s3.keys() == []
