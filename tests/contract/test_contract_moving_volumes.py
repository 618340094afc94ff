"""Volumes with two copies move, are copied and evacuated during writes: every copy has the acknowledged writes."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.cluster import Cluster
from harness.implementations import NATIVE_HTTP, NATIVE_RPCS, find_weed
from harness.server import COOKIE
from harness.writers import Writers, differences
from support.waiting import wait_until

from native_handlers.pb import volume_server_pb2 as pb

NEEDS_WEED = pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1])
RPC_LIMIT_S = 60.0
NEEDLES = itertools.count(1)


SHELL_CLUSTERS = {
    "native": ["native"] * 4,
    "mixed": [NATIVE_HTTP.name] * 4,
    "mixed-all-native": [NATIVE_RPCS.name] * 4,
    "beside-go": ["native", "native", "go", "go"],
}
"""Beside Go's server, clients use the native ones: a write that Go's server loses is not a native fault."""


def make_cluster(weed, base, names):
    made = Cluster(base, weed)
    made.add_all(*([name, "-max=30"] for name in names))
    return made


def on(cluster, volume_id):
    urls = cluster.holders(volume_id)
    return [server for server in cluster.servers if server.url in urls]


def fids_in(volume_ids):
    return lambda chance: f"{chance.choice(volume_ids)},{next(NEEDLES):04x}{COOKIE:08x}"


def assert_alike(cluster, writers):
    """Each copy that the master knows equals the acknowledged state, and no writer gave up."""
    found = differences(writers.objects, lambda volume_id: on(cluster, volume_id))
    told = (
        f"{writers.acknowledged} acknowledged, the slowest after {writers.longest_s:.1f} s; "
        f"{len(writers.gave_up)} gave up, {len(writers.misread)} misread, {len(found)} differ"
    )
    print(told)
    assert not writers.gave_up, (told, writers.gave_up[:10])
    assert not found, (told, found[:10])
    assert not writers.misread, (told, writers.misread[:10])


@pytest.mark.slow
@NEEDS_WEED
@pytest.mark.parametrize("names", SHELL_CLUSTERS.values(), ids=SHELL_CLUSTERS)
def test_the_shell_moves_volumes_under_writers(weed, tmp_path, names):
    """Slow: upstream's shell waits some ten seconds in each move for late writes."""
    cluster = make_cluster(weed, tmp_path, names)
    first, second, third, fourth = cluster.servers
    try:
        ids = [cluster.allocate(first, second, replication="001") for _ in range(6)]
        ours = [server for server in cluster.servers if not server.implementation.is_go]
        with Writers(ours, fids_in(ids)) as writers:
            with ThreadPoolExecutor() as shells:
                said = "\n".join(
                    shells.map(
                        lambda command: cluster.shell(command, locks=False),
                        [
                            f"volume.move -noLock -source {second.url} -target {third.url} -volumeId {ids[0]}",
                            f"volume.move -noLock -source {first.url} -target {fourth.url} -volumeId {ids[1]}",
                            f"lock\nvolume.copy -source {first.url} -target {third.url} -volumeId {ids[2]}\n"
                            f"volume.move -source {second.url} -target {fourth.url} -volumeId {ids[3]}\nunlock",
                        ],
                    )
                )
            said += cluster.shell(
                "volume.balance -apply",
                f"volumeServer.evacuate -node {second.url} -apply",
                "volume.fix.replication -apply",
            )
        wait_until(lambda: all(len(on(cluster, volume_id)) == 2 for volume_id in ids), f"two copies of each; {said}")
        assert second.url not in cluster.holders(ids[3]), said
        assert_alike(cluster, writers)
    finally:
        cluster.end()


def move(volume_id, source, target):
    """The RPCs alone: nothing marks the source, so it takes writes until it is deleted."""
    wanted = pb.VolumeCopyRequest(volume_id=volume_id, source_data_node=f"{source.url}.{source.layout.grpc_port}")
    list(target.rpc.VolumeCopy(wanted, timeout=RPC_LIMIT_S))
    source.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=RPC_LIMIT_S)


@pytest.mark.slow
def test_volumes_move_by_rpcs_under_writers(weed, tmp_path):
    """Slow: a dozen moves. No upstream server takes part."""
    cluster = make_cluster(weed, tmp_path, ["native"] * 3)
    try:
        ids = [cluster.allocate(*cluster.servers[:2], replication="001") for _ in range(3)]
        with Writers(cluster.servers, fids_in(ids)) as writers:
            for _ in range(4):
                for volume_id in ids:
                    holders = on(cluster, volume_id)
                    (target,) = (server for server in cluster.servers if server not in holders)
                    move(volume_id, holders[0], target)
                    wait_until(lambda: len(cluster.holders(volume_id)) == 2, "the move to be known")  # noqa: B023
        assert_alike(cluster, writers)
    finally:
        cluster.end()


def reaches(writer, copy, volume_id):
    fid = writer.new_fid(volume_id)
    return (
        writer.http("PUT", f"/{fid}", [], b"x").status == 201 and copy.http("GET", f"/{fid}?proxied=true").body == b"x"
    )


FIRSTS = [
    "native",
    *(pytest.param(name, marks=NEEDS_WEED) for name in (NATIVE_HTTP.name, NATIVE_RPCS.name, "proxy-go")),
]
OTHERS = ["native", pytest.param("go", marks=NEEDS_WEED)]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("first", FIRSTS)
def test_the_second_copy_moves_to_a_third_server(weed, tmp_path, first, other):
    """Every operation through the first server reaches the new copy at once, though the first server knew the old
    copy.
    """
    cluster = make_cluster(weed, tmp_path, [first, other, other])
    here, old, new = cluster.servers
    try:
        volume_id = cluster.allocate(here, old, replication="001")
        kept, doomed, chunk = (here.store(b"before", fid=here.new_fid(volume_id)) for _ in range(3))
        manifest = json.dumps({"name": "m", "size": 6, "chunks": [{"fid": chunk, "offset": 0, "size": 6}]}).encode()
        single = here.new_volume()
        whole = here.store(manifest, fid=here.new_fid(single), query="?cm=true")
        assert new.read(kept).body == b"before"
        move(volume_id, old, new)
        if other == "go":
            # The old holder acknowledges a write to a volume that it lacks, so only the leader's answer helps.
            wait_until(lambda: reaches(here, new, volume_id), "the move to be known")
        assert here.http("PUT", f"/{kept}", [], b"after").status == 201
        assert here.http("DELETE", f"/{doomed}").status == 202
        assert here.http("DELETE", f"/{whole}").status == 202
        assert [new.http("GET", f"/{fid}?proxied=true").status for fid in (kept, doomed, chunk)] == [200, 404, 404]
        assert new.read(kept).body == b"after"
        assert [old.read(kept).body, old.read(doomed).status] == [b"after", 404]
        assert cluster.holders(volume_id) == sorted([here.url, new.url])
    finally:
        cluster.end()


@pytest.mark.parametrize("name", ["native", pytest.param(NATIVE_HTTP.name, marks=NEEDS_WEED)])
def test_a_server_from_which_a_volume_went_still_serves_it(weed, tmp_path, name):
    """The server asks for the present holders, also when both copies have moved."""
    cluster = make_cluster(weed, tmp_path, [name, "native", "native", "native"])
    gone, second, third, fourth = cluster.servers
    try:
        volume_id = cluster.allocate(gone, second, replication="001")
        fid, doomed = (gone.store(b"before", fid=gone.new_fid(volume_id)) for _ in range(2))
        move(volume_id, gone, third)
        assert gone.read(fid).body == b"before"
        move(volume_id, second, fourth)
        assert gone.read(fid).body == b"before"
        assert gone.http("PUT", f"/{fid}", [], b"after").status == 201
        assert gone.http("DELETE", f"/{doomed}").status == 202
        for server in (third, fourth):
            assert server.http("GET", f"/{fid}?proxied=true").body == b"after"
            assert server.http("GET", f"/{doomed}?proxied=true").status == 404
    finally:
        cluster.end()


@NEEDS_WEED
def test_upstreams_writer_reaches_a_copy_that_moved_from_us(weed, tmp_path):
    """Go's server uses the old holder for minutes. The old holder forwards to the new one."""
    cluster = make_cluster(weed, tmp_path, ["go", "native", "native"])
    writer, old, new = cluster.servers
    try:
        volume_id = cluster.allocate(writer, old, replication="001")
        fid, doomed = (writer.store(b"before", fid=writer.new_fid(volume_id)) for _ in range(2))
        move(volume_id, old, new)
        assert writer.http("PUT", f"/{fid}", [], b"after").status == 201
        assert writer.http("DELETE", f"/{doomed}").status == 202
        assert new.http("GET", f"/{fid}?proxied=true").body == b"after"
        assert new.http("GET", f"/{doomed}?proxied=true").status == 404
    finally:
        cluster.end()
