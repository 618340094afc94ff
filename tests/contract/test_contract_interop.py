"""Upstream's tools find no fault in native volumes, and a native server reads upstream's volumes. In a real cluster:
master, filer and shell are upstream's. Skipped without `weed`.
"""

import re

import pytest
from harness.filer import Filer
from harness.implementations import ALL
from harness.master import Master
from harness.server import VolumeServer
from support.waiting import wait_until

from native_handlers.storage.check import check_directory

NAMED = {one.name: one for one in ALL}
ROOM = ("-max=60", "-minFreeSpacePercent=0")
HARMLESS = re.compile(
    r"(> )*(working directory: .*|collecting .*|dn .* (collected|filtered) .*|checking .*|no orphan data"
    r"|total \d+ directories, \d+ files|find missing file chunks in dataNodeId .*"
    r"|dataNode:\S+\s+volume:\d+\s+entries:\d+\s+orphan:0\s.*|Total\s+entries:\d+\s+orphan:0\s.*"
    r"|This could be normal if multiple filers or no filers are used\.)?"
)
"""The output of a verbose fsck for a healthy cluster. Any other line is a fault."""
SCREENS = [
    "volume.fsck -v -verifyNeedles -cutoffTimeAgo=0s",
    "volume.fsck -v -findMissingChunksInFiler -cutoffTimeAgo=0s",
]

CHUNK_BYTES = 1 << 20
REPLACED, REMOVED = range(0, 20, 3), range(1, 20, 3)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def own_master(weed, tmp_path):
    """A master that knows no volumes of other tests."""
    if weed is None:
        pytest.skip("needs a `weed`: it is the filer, the shell and the other server")
    made = Master(tmp_path / "master", weed)
    yield made
    made.process.end()


@pytest.fixture
def filer(weed, own_master, tmp_path):
    made = Filer(tmp_path / "filer", weed, own_master)
    yield made
    made.process.end()


@pytest.fixture
def start(weed, own_master, tmp_path):
    """start(implementation name) -> VolumeServer."""
    made = []

    def begin(name):
        base = tmp_path / f"server{len(made)}"
        made.append(VolumeServer(NAMED[name], base, own_master, weed, ROOM))
        return made[-1]

    yield begin
    for server in made:
        server.end()


def fill(filer):
    """Stores files of every kind that a filer puts on volumes. Returns the contents that must be there at the end."""
    files = {
        "/a/empty.bin": b"",
        "/a/text.txt": b"a text that is compressed on the way " * 200,
        "/a/binary.bin": bytes(range(256)) * 300,
        "/a/one.bin": b"x",
        "/a/chunks.bin": bytes(range(251)) * 12_000,
    }
    for path, data in files.items():
        filer.put(path, data, content_type="text/plain" if path.endswith("txt") else "application/octet-stream")
    for number in range(20):
        filer.put(f"/many/{number}", b"%d" % number * (number * 37 % 101 + 1))
        files[f"/many/{number}"] = b"%d" % number * (number * 37 % 101 + 1)
    filer.put("/c/in-a-collection", b"collected" * 50, "?collection=pics")
    filer.put("/c/short-lived", b"ttl" * 50, "?ttl=5h")
    files |= {"/c/in-a-collection": b"collected" * 50, "/c/short-lived": b"ttl" * 50}
    for number in REPLACED:
        filer.put(f"/many/{number}", b"second" * number + b"!")
        files[f"/many/{number}"] = b"second" * number + b"!"
    for number in REMOVED:
        filer.delete(f"/many/{number}")
        del files[f"/many/{number}"]
    return files


def check_files(filer, files):
    assert {path: filer.get(path) for path in files} == files


def wait_until_deleted(server):
    """A filer deletes replaced and removed chunks later; until then they are orphaned."""

    def is_done():
        volumes = server.http("GET", "/status").json()["Volumes"]
        return sum(volume["DeleteCount"] for volume in volumes) == len(REPLACED) + len(REMOVED)

    wait_until(is_done, "the filer to delete", 60.0)


def examine(filer, files):
    """Runs the shell's checks for orphaned chunks, and for files with missing chunks."""
    chunks = sum(-(-len(data) // CHUNK_BYTES) for data in files.values())
    for command in SCREENS:
        said = filer.shell(command)
        assert (
            f"total {len({path.rpartition('/')[0] for path in files} | {''})} directories, {len(files)} files" in said
        )
        assert not complaints(said), said
    assert f"entries:{chunks}" in filer.shell(SCREENS[0]), "it saw every chunk"


def complaints(text):
    return [line for line in text.splitlines() if not HARMLESS.fullmatch(line)]


@pytest.mark.parametrize("examined", ["go", "mixed-go", "native"])
def test_fsck_of_what_a_filer_stored_here(start, filer, weed, examined):
    server = start("native")
    files = fill(filer)
    check_files(filer, files)
    wait_until_deleted(server)
    assert server.stop() == 0
    report = check_directory(server.data_dir)
    assert report.is_healthy, str(report)
    server.become(NAMED[examined], weed, ROOM)
    check_files(filer, files)
    examine(filer, files)


def test_what_a_filer_stored_on_upstreams_server_is_read_here(start, filer, weed):
    server = start("go")
    files = fill(filer)
    check_files(filer, files)
    wait_until_deleted(server)
    before = {volume["Id"]: volume for volume in server.http("GET", "/status").json()["Volumes"]}
    server.stop()
    report = check_directory(server.data_dir)
    assert report.is_healthy, str(report)
    server.become(NAMED["native"], weed, ROOM)
    check_files(filer, files)
    status = server.http("GET", "/status").json()
    assert "Findings" not in status
    counted = (
        "Size",
        "FileCount",
        "DeleteCount",
        "DeletedByteCount",
        "Collection",
        "Ttl",
        "Version",
        "ReplicaPlacement",
    )
    for volume in status["Volumes"]:
        assert {name: volume[name] for name in counted} == {name: before[volume["Id"]][name] for name in counted}
    # Writes go on here. Back on upstream's server, all files are there.
    filer.put("/b/ours", b"ours" * 100)
    assert server.stop() == 0
    server.become(NAMED["go"], weed, ROOM)
    files["/b/ours"] = b"ours" * 100
    check_files(filer, files)
    examine(filer, files)


def test_replicas_written_through_one_server_of_each_kind_agree(start, weed, own_master, filer):
    """volume.check.disk compares the indexes of replicas, and would repair a difference."""
    ours, theirs = start("native"), start("go")
    servers = {server.url: server for server in (ours, theirs)}
    fids = []
    for number in range(30):
        assigned = own_master.get("/dir/assign?replication=001")
        fids.append(assigned["fid"])
        reply = servers[assigned["url"]].http("PUT", f"/{assigned['fid']}", (), b"%d" % number * (number + 1))
        assert reply.status == 201, reply
    for number, fid in enumerate(fids):
        server = (ours, theirs)[number % 2]
        if number % 5 == 0:
            assert server.http("DELETE", f"/{fid}").status == 202
        elif number % 7 == 0:
            assert server.http("PUT", f"/{fid}", (), b"replaced").status == 201
    for number, fid in enumerate(fids):
        answers = [server.read(fid) for server in (ours, theirs)]
        assert answers[0].status == answers[1].status == (404 if number % 5 == 0 else 200)
        assert answers[0].body == answers[1].body
    assert ours.stop() == 0
    assert check_directory(ours.data_dir).is_healthy
    assert check_directory(theirs.data_dir).is_healthy
    ours.become(NAMED["go"], weed, ROOM)
    wait_until(lambda: len(own_master.registered_urls()) == 2, "both to be registered")
    said = filer.shell("volume.check.disk -slow -v")
    vids = {fid.partition(",")[0] for fid in fids}
    compared = re.findall(
        r"volume (\d+) \S+ has \d+ entries, \S+ missed (\d+) and partially deleted (\d+) entries", said
    )
    assert {vid for vid, *_ in compared} >= vids, said
    assert {(missed, half) for _, missed, half in compared} == {("0", "0")}, said
    assert not re.search("error|failed|resurrect", said), said
