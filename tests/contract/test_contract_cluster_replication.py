"""Writes and deletes go to every copy of a volume, whoever holds them: ours and upstream's, in either direction.

The copies must be alike to the byte: the records in both .dat files are compared, but for the time of the append.
"""

import gzip
import json

import pytest
from harness.cluster import Cluster
from harness.http1 import multipart
from harness.implementations import find_weed
from support.waiting import wait_until

NATIVE, OTHER, GO, PROXY = "native", "another native", "go", "proxy-go"
PAIRS = [(NATIVE, OTHER), (NATIVE, GO), (GO, NATIVE), (NATIVE, PROXY), (PROXY, NATIVE)]
HAS_WEED = find_weed()[0] is not None
NEEDS_WEED = pytest.mark.skipif(not HAS_WEED, reason=find_weed()[1])


@pytest.fixture(scope="module")
def cluster(weed, tmp_path_factory):
    """Two native servers in one rack, Go's server in another, and a native front with Go behind it in another data
    center.
    """
    made = Cluster(tmp_path_factory.mktemp("replication"), weed)
    wanted = {
        NATIVE: ["native", "-rack=r1", "-dataCenter=dc1"],
        OTHER: ["native", "-rack=r1", "-dataCenter=dc1"],
        GO: ["go", "-rack=r2", "-dataCenter=dc1"],
        PROXY: ["proxy-go", "-rack=r3", "-dataCenter=dc2"],
    }
    roles = list(wanted)[: 4 if weed else 2]
    made.by_role = dict(zip(roles, made.add_all(*(wanted[role] for role in roles)), strict=True))
    yield made
    made.end()


def pair_ids(pairs):
    return [
        pytest.param(pair, id="-".join(pair).replace(" ", "-"), marks=[NEEDS_WEED] if {GO, PROXY} & set(pair) else [])
        for pair in pairs
    ]


@pytest.fixture(params=pair_ids(PAIRS))
def pair(request, cluster):
    """(the server that is written to, the server that gets the copy)."""
    return tuple(cluster.by_role[role] for role in request.param)


def uploads():
    """Name -> (method, query, headers, body): every way to give a needle its metadata."""
    text = b"the same line, over and over\n" * 40
    image_headers, image_body = multipart(
        b"\x89PNG\r\n\x1a\n" + bytes(300), file_name="p\u00edc.png", content_type="image/png"
    )
    form_headers, form_body = multipart(text, file_name="notes.txt", content_type="text/plain")
    manifest = json.dumps({"name": "big.bin", "size": 0, "mime": "application/x-big", "chunks": []}).encode()
    return {
        "raw": ("PUT", "", [("Content-Type", "text/x-plain")], b"raw body"),
        "no type": ("PUT", "", [], b"\x00\x01\x02"),
        "empty": ("PUT", "", [], b""),
        "form": ("POST", "", form_headers, form_body),
        "image": ("POST", "", image_headers, image_body),
        "gzipped": ("PUT", "", [("Content-Encoding", "gzip")], gzip.compress(text, mtime=0)),
        "pairs": ("PUT", "", [("Seaweed-Color", "blue"), ("Seaweed-size", "L")], b"with pairs"),
        "ttl": ("PUT", "?ttl=3h", [], b"for three hours"),
        "time": ("PUT", "?ts=1600000000", [], b"in 2020"),
        "md5": ("PUT", "", [("Content-MD5", "CY9rzUYh03PK3k6DJie09g==")], b"test"),
        # As a form: after a raw upload upstream's copies lack the type, and so do native ones.
        "manifest": ("POST", "?cm=true", *multipart(manifest, file_name="m", content_type="application/json")),
        "synced": ("PUT", "?fsync=true", [], b"on disk"),
        "large": ("PUT", "", [], bytes(range(256)) * 6000),
    }


def records(server, volume_id, collection=""):
    """The needle records of the volume's .dat, each without its append time and padding."""
    stem = f"{collection}_{volume_id}" if collection else str(volume_id)
    data = (server.data_dir / f"{stem}.dat").read_bytes()
    found, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at + 12 : at + 16], "big")
        end = at + 16 + size + 4
        found.append(data[at:end])
        at = end + 8 + (8 - (end + 8) % 8)
    return found


def told(reply):
    """The answer to a client, without the parts that depend on time and place."""
    left_out = {"date", "server", "x-amz-request-id", "connection", "request_id"}
    return reply.status, sorted((name.lower(), value) for name, value in reply.headers if name.lower() not in left_out)


@pytest.mark.parametrize("name", list(uploads()))
def test_a_write_is_the_same_on_both(cluster, shared_volume, pair, name):
    writer, copy = pair
    volume_id = shared_volume(writer, copy)
    method, query, headers, body = uploads()[name]
    fid = writer.new_fid(volume_id)
    reply = writer.http(method, f"/{fid}{query}", headers, body)
    assert reply.status == 201, reply
    target = f"/{fid}?cm=false" if name == "manifest" else f"/{fid}"
    here, there = writer.http("GET", target), copy.http("GET", target)
    assert here.status == 200
    assert here.body == there.body
    assert told(here) == told(there)
    assert records(writer, volume_id)[-1] == records(copy, volume_id)[-1]


@pytest.fixture(scope="module")
def shared_volume(cluster):
    """A volume that two servers have: one for each pair."""
    made = {}

    def find(*servers):
        key = frozenset(server.url for server in servers)
        if key not in made:
            made[key] = cluster.allocate(*servers, replication="001")
        return made[key]

    return find


def test_a_delete_reaches_both(shared_volume, pair):
    writer, copy = pair
    volume_id = shared_volume(writer, copy)
    fid = writer.store(b"soon gone", fid=writer.new_fid(volume_id))
    assert copy.read(fid).status == 200
    assert writer.http("DELETE", f"/{fid}").status == 202
    assert [writer.read(fid).status, copy.read(fid).status] == [404, 404]
    assert records(writer, volume_id)[-1] == records(copy, volume_id)[-1]
    assert writer.http("DELETE", f"/{fid}").status == 404


def test_another_cookie_changes_neither(shared_volume, pair):
    writer, copy = pair
    volume_id = shared_volume(writer, copy)
    fid = writer.store(b"guarded by its cookie", fid=writer.new_fid(volume_id))
    before = [records(server, volume_id) for server in pair]
    wrong = fid[:-8] + "00000001"
    assert writer.http("PUT", f"/{wrong}", [], b"mine now").status == 500
    assert writer.http("DELETE", f"/{wrong}").status == 400
    assert [server.read(fid).body for server in pair] == [b"guarded by its cookie"] * 2
    assert [records(server, volume_id) for server in pair] == before


@pytest.mark.parametrize(
    "replication", ["001", pytest.param("010", marks=NEEDS_WEED), pytest.param("100", marks=NEEDS_WEED)]
)
def test_what_the_master_places_is_written_to_all_copies(cluster, replication):
    assigned = cluster.master.get(f"/dir/assign?writableVolumeCount=1&collection=placed&replication={replication}")
    volume_id = int(assigned["fid"].split(",")[0])
    urls = cluster.holders(volume_id)
    holders = [server for server in cluster.servers if server.url in urls]
    assert len(holders) == 2, assigned
    assert len({center_and_rack(cluster, server)[0] for server in holders}) == (2 if replication == "100" else 1)
    for writer in holders:
        data = b"by " + writer.url.encode()
        writer.store(data, fid=assigned["fid"])
        assert [server.read(assigned["fid"]).body for server in holders] == [data, data]


def center_and_rack(cluster, server):
    return next((center, rack) for center, rack, node in cluster.nodes() if node.id == server.url)


def test_a_write_fails_while_a_copy_is_away(cluster, shared_volume, pair):
    writer, copy = pair
    volume_id = shared_volume(writer, copy)
    writer.store(b"both there", fid=writer.new_fid(volume_id))
    copy.process.kill()
    fid = writer.new_fid(volume_id)
    try:
        reply = writer.http("PUT", f"/{fid}", [], b"half")
        assert reply.status == 500
        error = reply.json()["error"]
        assert error.startswith((
            f"failed to write to replicas for volume {volume_id}: [{copy.url}]: ",
            f"replicating operations [1] is less than volume {volume_id} replication copy count [2]",
        )), error  # fmt: skip
    finally:
        copy.restart()
    wait_until(lambda: len(cluster.holders(volume_id)) == 2, "the copy to be known again")
    wait_until(lambda: writer.http("PUT", f"/{fid}", [], b"whole").status == 201, "writes to go on")
    assert [server.read(fid).body for server in pair] == [b"whole", b"whole"]
