"""Damaged records from outside: no way of reading returns other data than the stored data, and the server logs the
damage.
"""

import gzip
import os

import grpc
import pytest
from support.waiting import LIMIT_S as RPC_LIMIT_S

from native_handlers.pb import volume_server_pb2 as pb

ROW_BYTES = 16
SMALL, LARGE = b"a small object", os.urandom((3 << 20) + 5)
PACKED = gzip.compress(LARGE, 1)


@pytest.fixture
def damaged(fresh_server):
    """A server with three objects. `damage` changed their .dat and .idx before."""

    def serve(damage, *payloads):
        server = fresh_server()
        vid = server.new_volume()
        fids = [
            server.store(data, [("Content-Encoding", "gzip")] if data == PACKED else (), fid=server.new_fid(vid))
            for data in (*payloads, b"the last one")
        ]
        server.stop()
        damage(*(server.data_dir / f"{vid}.{extension}" for extension in ("dat", "idx")))
        server.restart()
        return server, fids

    return serve


def of_size_0(_dat, idx):
    """Sets the size in the first row to 0."""
    rows = bytearray(idx.read_bytes())
    rows[12:ROW_BYTES] = bytes(4)
    idx.write_bytes(rows)


def flipped(data):
    """Flips a bit of a payload."""

    def damage(dat, _idx):
        raw = bytearray(dat.read_bytes())
        raw[raw.index(data) + len(data) // 2] ^= 1
        dat.write_bytes(raw)

    return damage


def other_cookie(fid):
    return fid[:-8] + ("00000001" if not fid.endswith("00000001") else "00000002")


def damage_findings(server):
    found = server.http("GET", "/status").json().get("Findings") or []
    return [one for one in found if one["Kind"] == "DAMAGED"]


def test_a_wrong_checksum_is_an_error(damaged):
    server, fids = damaged(flipped(SMALL), SMALL)
    assert server.http("GET", f"/{fids[0]}").status == 500
    assert server.read(fids[1]).body == b"the last one"


@pytest.mark.parametrize("headers", [[], [("Accept-Encoding", "gzip")], [("Range", "bytes=0-9")]])
def test_a_wrong_checksum_of_large_compressed_content_is_an_error_however_it_is_asked_for(damaged, headers):
    server, fids = damaged(flipped(PACKED), PACKED)
    assert server.http("GET", f"/{fids[0]}", headers).status == 500


@pytest.mark.parametrize("data", [SMALL, LARGE, PACKED], ids=["small", "large", "compressed"])
def test_what_is_damaged_is_not_there_for_a_delete(damaged, data):
    server, fids = damaged(flipped(data), data)
    reply = server.http("DELETE", f"/{fids[0]}")
    assert (reply.status, reply.json()) == (404, {"size": 0})


@pytest.mark.only(lambda one: one.mode == "native")
@pytest.mark.parametrize("data", [SMALL, LARGE, PACKED], ids=["small", "large", "compressed"])
@pytest.mark.parametrize("how", ["checksum", "row"])
def test_it_is_said_once(damaged, data, how):
    """Upstream logs nothing of a small object, and sends all of a large one, with 200."""
    server, fids = damaged(flipped(data) if how == "checksum" else of_size_0, data)
    assert damage_findings(server) == []
    for _ in range(3):
        assert server.http("GET", f"/{fids[0]}").status == 500
    (finding,) = damage_findings(server)
    assert finding["Path"].startswith(str(server.data_dir))
    log = server.process.log_path.read_text(errors="replace")
    assert log.count("a record is damaged and cannot be read") == 1


@pytest.mark.only(lambda one: one.mode == "native")
class TestRowOfSize0:
    """Upstream answers 200 with an empty body, under any cookie."""

    @pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
    def test_the_record_decides_whichever_way_it_is_read(self, damaged, data):
        server, fids = damaged(of_size_0, data)
        for fid in (fids[0], other_cookie(fids[0])):
            assert server.http("GET", f"/{fid}").status == 500
            assert server.http("HEAD", f"/{fid}").status == 500
            assert server.http("GET", f"/{fid}", [("Range", "bytes=0-3")]).status == 500
            assert server.http("GET", f"/{fid}?readDeleted=true").status == 500
            assert server.http("DELETE", f"/{fid}").status == 404
            reply = server.rpc.BatchDelete(pb.BatchDeleteRequest(file_ids=[fid]), timeout=RPC_LIMIT_S)
            assert reply.results[0].status == 404
        vid, needle = fids[0].split(",")
        request = pb.VolumeNeedleStatusRequest(volume_id=int(vid), needle_id=int(needle[:-8], 16))
        with pytest.raises(grpc.RpcError):
            server.rpc.VolumeNeedleStatus(request, timeout=RPC_LIMIT_S)
        assert server.read(fids[1]).body == b"the last one"


def test_an_empty_object_is_found_under_any_cookie(server):
    fid = server.store(b"")
    for one in (fid, other_cookie(fid)):
        assert (server.read(one).status, server.read(one).body) == (200, b"")
