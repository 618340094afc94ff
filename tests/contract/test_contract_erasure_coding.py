"""Erasure-coded volumes from outside: encoding, mounting, reading with lost shards, deleting, rebuilding, decoding."""

import itertools
import json
import os

import grpc
import pytest
from harness.calls import code_and_text
from support.waiting import wait_until

from native_handlers.format.idx import iter_entries
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.erasure_coding import encode
from native_handlers.storage.erasure_coding.index_files import sorted_rows
from native_handlers.storage.erasure_coding.layout import DEFAULT_RATIO, shard_bytes_of
from native_handlers.storage.system.files import OS_FILES
from native_handlers.storage.volume.scan import DatScan

LIMIT_S = 60
ALL = list(range(14))
COOKIE = "12345678"


class Coded:
    """A volume on one server, with some needles of several blocks, after encoding. The regular volume is deleted."""

    def __init__(self, server, count=9, size_bytes=300_000):
        self.server = server
        self.id = server.new_volume()
        self.files = {}
        for number in range(1, count + 1):
            data = os.urandom(size_bytes * (8 if number == 4 else 1))
            self.files[server.store(data, fid=f"{self.id},{number:x}{COOKIE}")] = data
        gone = f"{self.id},{count:x}{COOKIE}"
        assert server.http("DELETE", f"/{gone}").status == 202
        del self.files[gone]

    @property
    def rpc(self):
        return self.server.rpc

    def generate(self):
        self.rpc.VolumeEcShardsGenerate(pb.VolumeEcShardsGenerateRequest(volume_id=self.id), timeout=LIMIT_S)

    def code(self):
        self.generate()
        self.mount(ALL)
        self.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=self.id), timeout=LIMIT_S)

    def mount(self, shards):
        self.rpc.VolumeEcShardsMount(
            pb.VolumeEcShardsMountRequest(volume_id=self.id, shard_ids=shards), timeout=LIMIT_S
        )

    def unmount(self, shards):
        request = pb.VolumeEcShardsUnmountRequest(volume_id=self.id, shard_ids=shards)
        self.rpc.VolumeEcShardsUnmount(request, timeout=LIMIT_S)

    def drop(self, shards):
        self.unmount(shards)
        request = pb.VolumeEcShardsDeleteRequest(volume_id=self.id, shard_ids=shards)
        self.rpc.VolumeEcShardsDelete(request, timeout=LIMIT_S)

    def rebuild(self):
        request = pb.VolumeEcShardsRebuildRequest(volume_id=self.id)
        return list(self.rpc.VolumeEcShardsRebuild(request, timeout=LIMIT_S).rebuilt_shard_ids)

    def info(self):
        return self.rpc.VolumeEcShardsInfo(pb.VolumeEcShardsInfoRequest(volume_id=self.id), timeout=LIMIT_S)

    def decode(self):
        request = pb.VolumeEcShardsToVolumeRequest(volume_id=self.id)
        self.rpc.VolumeEcShardsToVolume(request, timeout=LIMIT_S)

    def tear_down(self):
        self.unmount(ALL)
        request = pb.VolumeEcShardsDeleteRequest(volume_id=self.id, full_teardown=True)
        assert self.rpc.VolumeEcShardsDelete(request, timeout=LIMIT_S).full_teardown_done

    def path(self, extension):
        return self.server.data_dir / f"{self.id}{extension}"

    def shards(self):
        return {path.name: path.read_bytes() for path in self.server.data_dir.glob(f"{self.id}.ec[0-9]*")}

    def check_readable(self):
        assert {fid: self.server.read(fid).body for fid in self.files} == self.files


@pytest.fixture
def coded(server):
    made = Coded(server)
    yield made
    made.tear_down()


def test_shards_are_those_that_the_rule_gives(coded, tmp_path):
    """Bytes and names of every file, for each tested server: Go's files are these, so native files equal Go's."""
    coded.generate()
    dat, idx = coded.path(".dat").read_bytes(), coded.path(".idx").read_bytes()
    names = {shard: tmp_path / f"{shard:02d}" for shard in ALL}
    fds = [os.open(path, os.O_RDWR | os.O_CREAT) for path in names.values()]
    source = os.open(coded.path(".dat"), os.O_RDONLY)
    sums = encode.encode(OS_FILES, source, len(dat), DEFAULT_RATIO, fds)
    for fd in (*fds, source):
        os.close(fd)
    expected = {f"{coded.id}.ec{shard:02d}": path.read_bytes() for shard, path in names.items()}
    assert coded.shards() == expected
    assert {len(data) for data in expected.values()} == {shard_bytes_of(len(dat), 10)}
    width = 5 if len(idx) % 16 else 4
    assert coded.path(".ecx").read_bytes() == sorted_rows(idx, width)
    vif = json.loads(coded.path(".vif").read_text())
    assert int(vif["ecShardConfig"].pop("encodeTsNs")) > 0
    assert vif == {
        "files": [],
        "version": 3,
        "replication": "",
        "bytesOffset": 0,
        "datFileSize": str(len(dat)),
        "expireAtSec": "0",
        "readOnly": False,
        "ecShardConfig": {"dataShards": 10, "parityShards": 4},
        "readOnlyCanDelete": False,
    }
    assert len(sums.shards) == 14


def test_a_coded_volume_is_read_as_it_was(coded):
    coded.code()
    coded.check_readable()
    fid, data = next(iter(coded.files.items()))
    part = coded.server.http("GET", f"/{fid}", [("Range", "bytes=1000-1999")])
    assert (part.status, part.body) == (206, data[1000:2000])
    head = coded.server.http("HEAD", f"/{fid}")
    assert (head.status, head.get("Content-Length")) == (200, str(len(data)))
    assert coded.server.http("GET", f"/{fid}", [("If-None-Match", head.get("Etag"))]).status == 304
    assert coded.server.http("GET", f"/{coded.id},1{'0' * 8}").status == 404
    assert coded.server.http("GET", f"/{coded.id},99{COOKIE}").status == 404
    info = coded.info()
    assert sorted(row.shard_id for row in info.ec_shard_infos) == ALL
    assert (info.file_count, info.file_deleted_count) == (len(coded.files), 0)


def test_a_range_of_a_shard(coded):
    coded.code()
    shard = coded.path(".ec00").read_bytes()

    def read(**fields):
        request = pb.VolumeEcShardReadRequest(volume_id=coded.id, shard_id=0, **fields)
        return list(coded.rpc.VolumeEcShardRead(request, timeout=LIMIT_S))

    assert b"".join(one.data for one in read(offset=100, size=5000)) == shard[100:5100]
    assert b"".join(one.data for one in read(offset=len(shard) - 10, size=100)) == shard[-10:]
    whole = read(offset=0, size=len(shard))
    assert b"".join(one.data for one in whole) == shard
    stamp = whole[0].encode_ts_ns
    assert b"".join(one.data for one in read(offset=0, size=9, encode_ts_ns=stamp)) == shard[:9]
    code, details = code_and_text(lambda: read(offset=0, size=9, encode_ts_ns=stamp + 1))
    assert (code, details) == (
        grpc.StatusCode.UNKNOWN,
        f"ec shard {coded.id}.0 belongs to a different encode run",
    )
    coded.unmount([0])
    assert code_and_text(lambda: read(offset=0, size=1)) == (
        grpc.StatusCode.UNKNOWN,
        f"not found ec shard {coded.id}.0",
    )


def test_a_needle_that_is_deleted_stays_deleted(coded):
    """Deletions are noted by id, and get into the index when shards are rebuilt."""
    coded.code()
    fid = next(iter(coded.files))
    request = pb.VolumeEcBlobDeleteRequest(volume_id=coded.id, file_key=1, version=3)
    coded.rpc.VolumeEcBlobDelete(request, timeout=LIMIT_S)
    coded.rpc.VolumeEcBlobDelete(request, timeout=LIMIT_S)
    assert coded.path(".ecj").read_bytes() == (1).to_bytes(8, "big")
    assert coded.server.http("GET", f"/{fid}").status == 404
    del coded.files[fid]
    coded.unmount(ALL)
    coded.mount(ALL)
    assert coded.server.http("GET", f"/{fid}").status == 404
    coded.check_readable()
    before = coded.path(".ecx").read_bytes()
    assert coded.rebuild() == []
    # Go's server removes the journal; docs/erasure-coding.md says why ours keeps it.
    after = coded.path(".ecx").read_bytes()
    width = 5 if len(before) % 16 else 4
    assert [e.needle_id for e in iter_entries(after, width) if e.size == -1] == [1]
    assert len(after) == len(before)
    coded.check_readable()


@pytest.mark.parametrize("lost", [[0, 1, 2, 3], [10, 11, 12, 13], [3, 9, 12]])
def test_lost_shards_are_made_anew(coded, lost):
    coded.code()
    shards = coded.shards()
    coded.drop(lost)
    assert coded.shards() == {name: data for name, data in shards.items() if int(name[-2:]) not in lost}
    assert coded.rebuild() == lost
    assert coded.shards() == shards
    coded.mount(lost)
    coded.check_readable()


def test_too_many_lost_shards_are_not_made_anew(coded):
    coded.code()
    coded.drop([0, 1, 2, 3, 4])
    code, details = code_and_text(coded.rebuild)
    assert code is grpc.StatusCode.UNKNOWN
    assert "not enough shards to rebuild" in details
    assert "found 9 shards, need at least 10" in details
    assert len(coded.shards()) == 9


def test_a_volume_is_decoded(coded):
    coded.code()
    fids = list(coded.files)
    request = pb.VolumeEcBlobDeleteRequest(volume_id=coded.id, file_key=2, version=3)
    coded.rpc.VolumeEcBlobDelete(request, timeout=LIMIT_S)
    coded.decode()
    coded.unmount(ALL)
    coded.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=coded.id), timeout=LIMIT_S)
    coded.drop(ALL)
    assert not list(coded.server.data_dir.glob(f"{coded.id}.ec*"))
    assert coded.server.http("GET", f"/{fids[1]}").status == 404
    del coded.files[fids[1]]
    coded.check_readable()


def test_deletions_before_and_after_the_coding_outlive_a_decoding(coded):
    """The first record of the .dat is of a needle without a row, and the needle of the first row is deleted."""
    fids = list(coded.files)
    assert coded.server.http("DELETE", f"/{fids[0]}").status == 202
    coded.code()
    request = pb.VolumeEcBlobDeleteRequest(volume_id=coded.id, file_key=2, version=3)
    coded.rpc.VolumeEcBlobDelete(request, timeout=LIMIT_S)
    coded.rebuild()
    coded.decode()
    coded.unmount(ALL)
    coded.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=coded.id), timeout=LIMIT_S)
    coded.drop(ALL)
    for fid in fids[:2]:
        del coded.files[fid]
    for _ in range(2):
        assert [coded.server.http("GET", f"/{fid}").status for fid in fids[:2]] == [404, 404]
        coded.check_readable()
        coded.rpc.VolumeUnmount(pb.VolumeUnmountRequest(volume_id=coded.id), timeout=LIMIT_S)
        coded.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=coded.id), timeout=LIMIT_S)


def test_the_dat_of_a_decoding_tells_what_was_deleted(coded):
    """Also without the .idx: no tool that reads the .dat takes a deleted needle for a live one."""
    fids = list(coded.files)
    assert coded.server.http("DELETE", f"/{fids[2]}").status == 202
    coded.code()
    request = pb.VolumeEcBlobDeleteRequest(volume_id=coded.id, file_key=2, version=3)
    coded.rpc.VolumeEcBlobDelete(request, timeout=LIMIT_S)
    coded.decode()
    live = set()
    fd = os.open(coded.path(".dat"), os.O_RDONLY)
    try:
        for record in DatScan(OS_FILES, fd, 3, 8, os.fstat(fd).st_size):
            (live.add if record.header.size else live.discard)(record.header.needle_id)
    finally:
        os.close(fd)
    assert live == set(range(1, 9)) - {2, 3}


def test_a_volume_that_was_decoded_takes_writes(coded):
    """The shell first mounts the volume, and then deletes the shards."""
    coded.code()
    coded.decode()
    coded.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=coded.id), timeout=LIMIT_S)
    coded.unmount(ALL)
    coded.drop(ALL)
    coded.check_readable()
    fid = coded.server.store(b"more", fid=f"{coded.id},ffff{COOKIE}")
    assert coded.server.read(fid).body == b"more"


def test_a_volume_without_live_needles_is_not_decoded(server):
    coded = Coded(server, count=2, size_bytes=100)
    try:
        coded.code()
        coded.rpc.VolumeEcBlobDelete(pb.VolumeEcBlobDeleteRequest(volume_id=coded.id, file_key=1, version=3))
        code, details = code_and_text(coded.decode)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert details == f"ec volume {coded.id} has no live entries"
        assert not coded.path(".dat").exists()
    finally:
        coded.tear_down()


def test_coding_again_leaves_nothing_of_the_last_time(coded):
    coded.generate()
    first = coded.shards()
    coded.path(".ec20").write_bytes(b"of another ratio")
    fid = f"{coded.id},aa{COOKIE}"
    coded.files[coded.server.store(b"later", fid=fid)] = b"later"
    coded.generate()
    assert coded.shards().keys() == first.keys()
    coded.mount(ALL)
    coded.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=coded.id), timeout=LIMIT_S)
    coded.check_readable()


only_native = pytest.mark.only(lambda implementation: implementation.mode == "native")


@only_native
def test_reads_go_on_with_any_four_shards_lost(coded):
    """The server computes the lost blocks from its own shards. Upstream asks its master for holders; that is
    unnecessary here.
    """
    coded.code()
    for lost in itertools.islice(itertools.combinations(range(14), 4), 0, None, 97):
        coded.unmount(list(lost))
        coded.check_readable()
        coded.mount(list(lost))
    coded.unmount([0, 1, 2, 3, 4])
    assert coded.server.http("GET", f"/{next(iter(coded.files))}").status == 500


@only_native
def test_shards_are_opened_at_the_start(fresh_server):
    server = fresh_server()
    coded = Coded(server)
    coded.code()
    server.restart()
    assert sorted(row.shard_id for row in coded.info().ec_shard_infos) == ALL
    coded.check_readable()


@only_native
def test_shards_of_a_coding_that_did_not_end_go_at_the_start(fresh_server):
    server = fresh_server()
    coded = Coded(server)
    coded.generate()
    server.stop()
    coded.path(".ecx").unlink()
    coded.path(".ec03.7.receiving").write_bytes(b"part of a shard")
    server.start()
    assert not list(server.data_dir.glob(f"{coded.id}.ec*"))
    coded.check_readable()


@only_native
def test_a_deletion_over_http(coded):
    coded.code()
    fid, data = next(iter(coded.files.items()))
    deleted = coded.server.http("DELETE", f"/{fid}")
    assert (deleted.status, json.loads(deleted.body)["size"] >= len(data)) == (202, True)
    assert coded.server.http("GET", f"/{fid}").status == 404
    assert coded.path(".ecj").read_bytes() == (1).to_bytes(8, "big")


def test_a_deletion_of_what_the_shards_do_not_have_says_why(coded):
    """Servers that delete the chunks of a manifest tell by these texts of Go's server that a chunk is gone."""
    coded.code()
    (first, second), absent = list(coded.files)[:2], f"{coded.id},ff{COOKIE}"

    def deleted(fid):
        answer = coded.server.http("DELETE", f"/{fid}")
        return answer.status, json.loads(answer.body).get("error")

    wait_until(lambda: deleted(first)[0] == 202, "Go's server to hear of the holders of the shards")
    assert deleted(first) == (500, "Deletion Failed: already deleted")
    assert deleted(second[: -len(COOKIE)] + "99999999") == (500, "Deletion Failed: unexpected cookie 99999999")
    texts = {
        f"Deletion Failed: {text}not found" for text in ("", "locate in local ec volume: FindNeedleFromEcx: needle ")
    }
    status, error = deleted(absent)
    assert status == 500
    assert error in texts
    assert deleted(second[: -len(COOKIE)] + "00000000")[0] == 202
