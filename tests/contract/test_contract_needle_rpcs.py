"""RPCs on needles: deleted in batches, described, and read and stored as they are on disk."""

import contextlib
import json
import struct
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from harness.calls import LIMIT_S, call, maintenance, refusal
from harness.processes import open_files
from support.waiting import wait_until

from native_handlers.pb import volume_server_pb2 as pb

ABSENT = 999_999
HEADER_BYTES, CHECKSUM_BYTES, TIME_BYTES = 16, 4, 8
pytestmark = pytest.mark.native_rpcs


@pytest.fixture
def volume_id(server):
    """A volume for one test."""
    made = server.new_volume()
    yield made
    with contextlib.suppress(grpc.RpcError):
        call(server, "VolumeDelete", volume_id=made)


def put(server, volume_id, data=b"data", query=""):
    """Stores a needle whose payload is stored unchanged. Returns its file id."""
    headers = [("Content-Type", "application/octet-stream")]
    return server.store(data, headers, fid=server.new_fid(volume_id), query=query)


def key_of(fid):
    """Needle id and cookie."""
    rest = fid.partition(",")[2]
    return int(rest[:-8], 16), int(rest[-8:], 16)


def rows_of(server, volume_id):
    """(needle id, offset in bytes, size) of each row of the index."""
    raw = (server.data_dir / f"{volume_id}.idx").read_bytes()
    return [(key, offset * 8, size) for key, offset, size in struct.iter_unpack(">QIi", raw)]


def sizes_of(server, volume_id):
    return [(server.data_dir / f"{volume_id}.{name}").stat().st_size for name in ("dat", "idx")]


def blob_of(server, volume_id, row):
    _, offset, size = row
    return call(server, "ReadNeedleBlob", volume_id=volume_id, offset=offset, size=size).needle_blob


class TestBatchDelete:
    def test_each_has_a_result_of_its_own(self, server, volume_id):
        one, two, three = (put(server, volume_id) for _ in range(3))
        manifest = server.new_fid(volume_id)
        body = json.dumps({"name": "m", "size": 0, "chunks": []}).encode()
        assert server.http("PUT", f"/{manifest}?cm=true", body=body).status == 201
        other_cookie = f"{one[:-8]}{key_of(one)[1] ^ 1:08x}"
        absent = server.new_fid(volume_id)
        fids = [one, "nonsense", "", ",x", other_cookie, two, absent, f"{ABSENT},01637037d6", manifest, one, three]
        results = call(server, "BatchDelete", file_ids=fids).results
        assert [result.file_id for result in results] == fids
        assert [result.status for result in results] == [202, 400, 400, 400, 404, 202, 404, 404, 406, 404, 202]
        assert results[8].error == "ChunkManifest: not allowed in batch delete mode."
        assert results[9].error == "already deleted"
        assert [bool(result.size) for result in results] == [result.status == 202 for result in results]
        assert [server.read(fid).status for fid in (one, two, three)] == [404, 404, 404]
        assert server.read(f"{manifest}?cm=false").status == 200

    def test_another_cookie_deletes_nothing(self, server, volume_id):
        fid, after = put(server, volume_id), put(server, volume_id)
        before = sizes_of(server, volume_id)
        other_cookie = f"{fid[:-8]}{key_of(fid)[1] ^ 1:08x}"
        (result,) = call(server, "BatchDelete", file_ids=[other_cookie]).results
        assert (result.status, result.error) == (400, "File Random Cookie does not match.")
        assert sizes_of(server, volume_id) == before
        results = call(server, "BatchDelete", file_ids=[other_cookie, after]).results
        assert [result.status for result in results] == [400, 202]
        assert server.read(fid).body == b"data"

    def test_without_looking_at_cookies(self, server, volume_id):
        fid = put(server, volume_id)
        other_cookie = f"{fid[:-8]}00000000"
        fids = [other_cookie, other_cookie, server.new_fid(volume_id), f"{ABSENT},01637037d6", "x"]
        results = call(server, "BatchDelete", file_ids=fids, skip_cookie_check=True).results
        assert [result.status for result in results] == [202, 304, 304, 500, 400]
        assert server.read(fid).status == 404

    def test_of_a_read_only_volume(self, server, volume_id):
        fid = put(server, volume_id)
        call(server, "VolumeMarkReadonly", volume_id=volume_id)
        (result,) = call(server, "BatchDelete", file_ids=[fid]).results
        assert (result.status, result.error) == (500, f"volume {volume_id} is read only")
        assert server.read(fid).body == b"data"

    def test_of_a_closed_volume(self, server, volume_id):
        fid = put(server, volume_id)
        call(server, "VolumeUnmount", volume_id=volume_id)
        (result,) = call(server, "BatchDelete", file_ids=[fid]).results
        assert (result.status, result.error) == (404, f"volume {volume_id} not found")
        call(server, "VolumeMount", volume_id=volume_id)
        assert server.read(fid).body == b"data"

    def test_nothing_at_all(self, server):
        assert not call(server, "BatchDelete").results

    def test_maintenance(self, server, volume_id):
        fid = put(server, volume_id)
        with maintenance(server) as text:
            assert refusal(server, "BatchDelete", file_ids=[fid]) == text
        assert server.read(fid).body == b"data"


class TestReadingRecords:
    def test_a_record_is_what_is_on_disk(self, server, volume_id):
        fid = put(server, volume_id, b"payload" * 9, "?ts=1700000000&ttl=3d")
        (row,) = rows_of(server, volume_id)
        _, offset, size = row
        blob = blob_of(server, volume_id, row)
        assert blob == (server.data_dir / f"{volume_id}.dat").read_bytes()[offset:]
        needle_id, cookie = key_of(fid)
        assert struct.unpack(">IQi", blob[:HEADER_BYTES]) == (cookie, needle_id, size)
        place = {"volume_id": volume_id, "offset": offset, "size": size}
        meta = call(server, "ReadNeedleMeta", needle_id=needle_id, **place)
        status = call(server, "VolumeNeedleStatus", volume_id=volume_id, needle_id=needle_id)
        assert (meta.cookie, meta.last_modified, meta.ttl) == (cookie, 1_700_000_000, "3d")
        assert (meta.crc, meta.ttl) == (status.crc, status.ttl)
        at = HEADER_BYTES + size + CHECKSUM_BYTES
        assert meta.append_at_ns == int.from_bytes(blob[at : at + TIME_BYTES], "big") > 1_600_000_000 * 10**9

    def test_a_deletion_has_metadata(self, server, volume_id):
        fid = put(server, volume_id)
        assert server.http("DELETE", f"/{fid}").status == 202
        _, (needle_id, offset, size) = rows_of(server, volume_id)
        assert size < 0
        place = {"volume_id": volume_id, "needle_id": needle_id, "offset": offset, "size": size}
        meta = call(server, "ReadNeedleMeta", **place)
        assert meta.cookie == key_of(fid)[1]
        assert (meta.ttl, meta.last_modified) == ("", 0)
        assert meta.append_at_ns > 1_600_000_000 * 10**9

    def test_a_deleted_record_can_still_be_read(self, server, volume_id):
        fid = put(server, volume_id)
        assert server.http("DELETE", f"/{fid}").status == 202
        row, _ = rows_of(server, volume_id)
        assert b"data" in blob_of(server, volume_id, row)

    def test_any_place_within_the_file(self, server, volume_id):
        put(server, volume_id, b"x" * 200)
        dat = (server.data_dir / f"{volume_id}.dat").read_bytes()
        for offset, size in ((0, 8), (3, 5), (8, 0), (8, -1)):
            blob = call(server, "ReadNeedleBlob", volume_id=volume_id, offset=offset, size=size).needle_blob
            assert blob == dat[offset : offset + len(blob)]
            assert len(blob) % 8 == 0
            assert len(blob) > HEADER_BYTES + size

    @pytest.mark.parametrize(("offset", "size"), [(1 << 40, 64), (8, 100_000), (2**62, 1), (400, 64)])
    def test_beyond_the_end(self, server, volume_id, offset, size):
        put(server, volume_id)
        place = {"volume_id": volume_id, "offset": offset, "size": size}
        assert refusal(server, "ReadNeedleBlob", **place) == f"read needle blob offset {offset} size {size}: EOF"
        assert refusal(server, "ReadNeedleMeta", **place) == "EOF"

    def test_before_the_start(self, server, volume_id):
        put(server, volume_id)
        place = {"volume_id": volume_id, "offset": -8, "size": 64}
        assert refusal(server, "ReadNeedleBlob", **place).startswith("read needle blob offset -8 size 64: readat ")
        assert refusal(server, "ReadNeedleMeta", **place).endswith(f"{volume_id}.dat: negative offset")

    @pytest.mark.only(lambda implementation: implementation.has_our_rpcs)
    def test_a_size_far_below_zero(self, server, volume_id):
        """Go crashes."""
        put(server, volume_id)
        told = refusal(server, "ReadNeedleBlob", volume_id=volume_id, offset=8, size=-500)
        assert told == "read needle blob offset 8 size -500: invalid needle size -500"

    def test_metadata_of_another_size(self, server, volume_id):
        put(server, volume_id)
        ((_, offset, size),) = rows_of(server, volume_id)
        for wrong in (size + 1, size - 1, 0, -1):
            assert refusal(server, "ReadNeedleMeta", volume_id=volume_id, offset=offset, size=wrong) == "EOF"

    def test_of_what_is_not_open_here(self, server, volume_id):
        call(server, "VolumeUnmount", volume_id=volume_id)
        for absent in (volume_id, ABSENT, 0):
            text = f"not found volume id {absent}"
            assert refusal(server, "ReadNeedleBlob", volume_id=absent, offset=8, size=-500) == text
            told = refusal(server, "ReadNeedleMeta", volume_id=absent, offset=8, size=5)
            assert told == f"{text} and read needle metadata at ec shards is not supported"

    def test_maintenance_does_not_matter(self, server, volume_id):
        put(server, volume_id)
        (row,) = rows_of(server, volume_id)
        with maintenance(server):
            assert blob_of(server, volume_id, row)
            call(server, "ReadNeedleMeta", volume_id=volume_id, offset=row[1], size=row[2])


class TestWritingRecords:
    def test_a_needle_goes_to_another_volume(self, server, volume_id):
        fid = put(server, volume_id, b"to be copied", "?ts=1700000000")
        (row,) = rows_of(server, volume_id)
        blob, target = blob_of(server, volume_id, row), server.new_volume()
        try:
            fields = {"volume_id": target, "needle_id": row[0], "size": row[2], "needle_blob": blob}
            call(server, "WriteNeedleBlob", **fields)
            assert server.read(f"{target},{fid.partition(',')[2]}").body == b"to be copied"
            (copied,) = rows_of(server, target)
            assert copied == row
            again = blob_of(server, target, copied)
            at = HEADER_BYTES + row[2] + CHECKSUM_BYTES
            assert (again[:at], again[at + TIME_BYTES :]) == (blob[:at], blob[at + TIME_BYTES :])
            assert again[at : at + TIME_BYTES] > blob[at : at + TIME_BYTES], "it was appended later"
            before = sizes_of(server, target)
            call(server, "WriteNeedleBlob", **fields)
            assert sizes_of(server, target) == before, "the same again is not written again"
        finally:
            call(server, "VolumeDelete", volume_id=target)

    def test_it_replaces_what_is_there(self, server, volume_id):
        first, second = put(server, volume_id, b"first one"), put(server, volume_id, b"second")
        rows = rows_of(server, volume_id)
        blob = blob_of(server, volume_id, rows[1])
        call(server, "WriteNeedleBlob", volume_id=volume_id, needle_id=rows[0][0], size=rows[1][2], needle_blob=blob)
        assert rows_of(server, volume_id)[2][::2] == (rows[0][0], rows[1][2])
        assert server.read(first).body == server.read(second).body == b"second"

    def test_a_needle_under_another_id(self, server, volume_id):
        """Upstream's own test suite copies this way: the record keeps its id."""
        fid = put(server, volume_id, b"twice")
        (row,) = rows_of(server, volume_id)
        blob, other = blob_of(server, volume_id, row), server.new_fid(volume_id)
        call(server, "WriteNeedleBlob", volume_id=volume_id, needle_id=key_of(other)[0], size=row[2], needle_blob=blob)
        status = call(server, "VolumeNeedleStatus", volume_id=volume_id, needle_id=key_of(other)[0])
        assert (status.needle_id, status.cookie) == key_of(fid)
        assert server.read(other).body == b"twice"

    def test_a_deleted_needle_comes_back(self, server, volume_id):
        fid = put(server, volume_id)
        (row,) = rows_of(server, volume_id)
        blob = blob_of(server, volume_id, row)
        assert server.http("DELETE", f"/{fid}").status == 202
        call(server, "WriteNeedleBlob", volume_id=volume_id, needle_id=row[0], size=row[2], needle_blob=blob)
        assert server.read(fid).body == b"data"

    def test_append_times_grow(self, server, volume_id):
        put(server, volume_id)
        (row,) = rows_of(server, volume_id)
        blob = blob_of(server, volume_id, row)
        with ThreadPoolExecutor(4) as threads:
            fields = {"volume_id": volume_id, "size": row[2], "needle_blob": blob}
            jobs = [threads.submit(call, server, "WriteNeedleBlob", needle_id=at, **fields) for at in range(900, 940)]
            assert [job.result() for job in jobs]
        rows = sorted(rows_of(server, volume_id), key=lambda row: row[1])
        place = {"volume_id": volume_id, "size": row[2]}
        times = [call(server, "ReadNeedleMeta", offset=offset, **place).append_at_ns for _, offset, _ in rows]
        assert len(times) == 41
        assert times == sorted(set(times))

    def test_what_is_no_record_is_refused_and_nothing_is_written(self, server, volume_id):
        put(server, volume_id)
        ((_, _, size),) = rows = rows_of(server, volume_id)
        blob = blob_of(server, volume_id, rows[0])
        needed = HEADER_BYTES + size + CHECKSUM_BYTES + TIME_BYTES
        before = sizes_of(server, volume_id)
        for bad, its_size, why in (
            (b"", size, "needle 77 blob of 0 bytes is shorter than a needle header"),
            (blob[:15], size, "needle 77 blob of 15 bytes is shorter than a needle header"),
            (blob, size + 1, f"needle 77 size {size + 1} does not match its blob header size {size}"),
            (blob, -1, f"needle 77 size -1 does not match its blob header size {size}"),
            (blob[: needed - 1], size, f"needle blob buffer too small: need {needed} bytes, have {needed - 1}"),
            (
                blob[:12] + struct.pack(">i", -50) + blob[16:],
                -50,
                "invalid needle size -50 results in negative timestamp offset -30",
            ),
            (
                blob[:12] + struct.pack(">i", 2**30) + blob[16:],
                2**30,
                f"needle blob buffer too small: need {2**30 + 28} bytes, have {len(blob)}",
            ),
        ):
            fields = {"volume_id": volume_id, "needle_id": 77, "size": its_size, "needle_blob": bad}
            assert refusal(server, "WriteNeedleBlob", **fields) == f"write blob needle 77 size {its_size}: {why}"
        assert sizes_of(server, volume_id) == before
        assert refusal(server, "VolumeNeedleStatus", volume_id=volume_id, needle_id=77) == "not found"

    @pytest.mark.only(lambda implementation: implementation.has_our_rpcs)
    def test_what_go_takes_and_nobody_can_read(self, server, volume_id):
        put(server, volume_id, b"payload")
        ((_, _, size),) = rows = rows_of(server, volume_id)
        blob = blob_of(server, volume_id, rows[0])
        before = sizes_of(server, volume_id)
        for bad, its_size in (
            (blob.replace(b"payload", b"pbyload"), size),
            (blob[:-1], size),
            (blob + bytes(8), size),
            (blob[:16] + bytes(4) + blob[20:], size),
            (blob[:12] + struct.pack(">i", -5) + blob[16:], -5),
        ):
            fields = {"volume_id": volume_id, "needle_id": 77, "size": its_size, "needle_blob": bad}
            assert refusal(server, "WriteNeedleBlob", **fields).startswith(f"write blob needle 77 size {its_size}: ")
        assert sizes_of(server, volume_id) == before

    def test_of_a_read_only_volume(self, server, volume_id):
        put(server, volume_id)
        (row,) = rows_of(server, volume_id)
        blob = blob_of(server, volume_id, row)
        call(server, "VolumeMarkReadonly", volume_id=volume_id, can_delete=True)
        before = sizes_of(server, volume_id)
        fields = {"volume_id": volume_id, "needle_id": 77, "size": row[2], "needle_blob": blob}
        told = refusal(server, "WriteNeedleBlob", **fields)
        assert told == f"write blob needle 77 size {row[2]}: volume {volume_id} is read only"
        assert sizes_of(server, volume_id) == before

    def test_of_what_is_not_open_here(self, server, volume_id):
        call(server, "VolumeUnmount", volume_id=volume_id)
        for absent in (volume_id, ABSENT):
            told = refusal(server, "WriteNeedleBlob", volume_id=absent, needle_id=1, needle_blob=b"x")
            assert told == f"not found volume id {absent}"

    def test_maintenance(self, server):
        with maintenance(server) as text:
            assert refusal(server, "WriteNeedleBlob", volume_id=ABSENT) == text


class TestReadAll:
    def read_all(self, server, *volume_ids):
        request = pb.ReadAllNeedlesRequest(volume_ids=volume_ids)
        return server.rpc.ReadAllNeedles(request, timeout=LIMIT_S)

    def test_everything_in_the_order_of_dat_over_overwrites(self, server, volume_id):
        first = put(server, volume_id, b"first")
        second = put(server, volume_id, b"second", "?ts=1700000000")
        server.store(b"first again", [("Content-Type", "application/octet-stream")], fid=first)
        answers = list(self.read_all(server, volume_id))
        assert [(answer.needle_id, answer.cookie) for answer in answers] == [key_of(second), key_of(first)]
        assert [answer.needle_blob for answer in answers] == [b"second", b"first again"]
        status = call(server, "VolumeNeedleStatus", volume_id=volume_id, needle_id=key_of(second)[0])
        assert (answers[0].crc, answers[0].last_modified) == (status.crc, 1_700_000_000)
        assert answers[0].volume_id == volume_id
        assert not answers[0].needle_blob_compressed

    def test_what_is_compressed_says_so(self, server, volume_id):
        server.store(b"<html>" * 500, [("Content-Type", "text/html")], fid=server.new_fid(volume_id))
        (answer,) = self.read_all(server, volume_id)
        assert answer.needle_blob_compressed
        assert len(answer.needle_blob) < 3000
        assert answer.mime == b"text/html"

    @pytest.mark.only(lambda implementation: implementation.has_our_rpcs)
    def test_what_was_deleted_is_not_there(self, server, volume_id):
        """Go sends it until the index is rebuilt."""
        gone, kept = put(server, volume_id, b"gone"), put(server, volume_id, b"kept")
        assert server.http("DELETE", f"/{gone}").status == 202
        assert [answer.needle_id for answer in self.read_all(server, volume_id)] == [key_of(kept)[0]]

    def test_a_missing_volume_ends_it_after_those_before(self, server, volume_id):
        fid = put(server, volume_id)
        came = []
        with pytest.raises(grpc.RpcError) as raised:
            came.extend(self.read_all(server, volume_id, ABSENT, volume_id))
        assert [answer.needle_id for answer in came] == [key_of(fid)[0]]
        assert (raised.value.code(), raised.value.details()) == (
            grpc.StatusCode.UNKNOWN,
            f"not found volume id {ABSENT}",
        )

    def test_of_an_empty_volume_of_none_and_of_one_twice(self, server, volume_id):
        assert not list(self.read_all(server, volume_id))
        assert not list(self.read_all(server))
        put(server, volume_id)
        assert len(list(self.read_all(server, volume_id, volume_id))) == 2

    def test_maintenance_does_not_matter(self, server, volume_id):
        put(server, volume_id)
        with maintenance(server):
            assert len(list(self.read_all(server, volume_id))) == 1

    def test_a_client_that_gives_up_harms_nobody(self, server, volume_id):
        payload = b"x" * (1 << 20)
        fids = [put(server, volume_id, payload) for _ in range(24)]
        stream = self.read_all(server, volume_id)
        next(stream)
        stream.cancel()
        assert server.read(fids[-1]).body == payload
        call(server, "VolumeUnmount", volume_id=volume_id)
        call(server, "VolumeMount", volume_id=volume_id)

    @pytest.mark.only(lambda implementation: implementation.name == "native")
    def test_a_volume_that_goes_away_meanwhile_is_read_to_its_end(self, server, volume_id):
        """Flow control holds the stream, so it is under way. Go waits or fails; a forwarding server waits for Go."""
        payload = b"x" * (1 << 20)
        for _ in range(24):
            put(server, volume_id, payload)
        stream = self.read_all(server, volume_id)
        assert next(stream).needle_blob == payload
        call(server, "VolumeDelete", volume_id=volume_id)
        assert refusal(server, "VolumeStatus", volume_id=volume_id) == f"not found volume id {volume_id}"
        assert len(list(stream)) == 23
        path = str(server.data_dir / f"{volume_id}.dat")
        wait_until(lambda: path not in open_files(server.process.pid), "the file to be let go")


class TestRestart:
    """An accepted write does not make the volume read-only at the next start."""

    @staticmethod
    def write_all(server, volume_id):
        """Leaves a record with another id at the end. Returns its new id."""
        fid = put(server, volume_id, b"twice")
        (row,) = rows_of(server, volume_id)
        blob, other = blob_of(server, volume_id, row), server.new_fid(volume_id)
        call(server, "WriteNeedleBlob", volume_id=volume_id, needle_id=key_of(other)[0], size=row[2], needle_blob=blob)
        return fid, other

    def check(self, server, volume_id):
        fids = self.write_all(server, volume_id)
        server.stop()
        server.restart()
        assert not call(server, "VolumeStatus", volume_id=volume_id).is_read_only
        assert [server.read(fid).body for fid in fids] == [b"twice"] * 2
        server.store(b"more", fid=server.new_fid(volume_id))

    def test_after_a_record_under_another_id(self, fresh_server):
        server = fresh_server()
        self.check(server, server.new_volume())

    @pytest.mark.only(lambda one: one.mode == "native")
    @pytest.mark.parametrize("version", [1, 2])
    def test_in_old_versions(self, fresh_server, version):
        """Upstream's volume is read-only."""
        server = fresh_server()
        volume_id = server.new_volume(version=version)
        self.check(server, volume_id)
