"""The metrics port after a few requests: the same families, series and counts for either engine."""

import os

import pytest
from harness.http1 import fetch
from support.ports import LOOPBACK, free_port
from support.waiting import LIMIT_S as RPC_LIMIT_S
from support.waiting import wait_until

from native_handlers.pb import volume_server_pb2 as pb
from supervisor.control.text_format import parse_families

PREFIX = "SeaweedFS_volumeServer_"
FAMILIES = {
    "concurrent_download_limit": "gauge",
    "concurrent_upload_limit": "gauge",
    "disk_error_status": "gauge",
    "file_read_failures": "counter",
    "file_read_invalid_needles": "counter",
    "file_write_failures": "counter",
    "handler_total": "counter",
    "in_flight_download_size": "gauge",
    "in_flight_requests": "gauge",
    "in_flight_upload_size": "gauge",
    "max_volumes": "gauge",
    "read_only_volumes": "gauge",
    "replication_targets": "histogram",
    "request_seconds": "histogram",
    "request_total": "counter",
    "resource": "gauge",
    "start_time_seconds": "gauge",
    "total_disk_size": "gauge",
    "volumes": "gauge",
}
"""Go's metrics after the requests of these tests."""


class Scraped:
    """One scrape. Each series of `text` occurs once, as Prometheus demands."""

    def __init__(self, address):
        self.text = fetch(address, "GET", "/metrics").body.decode()
        series = [line.rpartition(" ")[0] for line in self.text.splitlines() if line and not line.startswith("#")]
        assert len(series) == len(set(series)), sorted({one for one in series if series.count(one) > 1})
        types = [line.split()[2] for line in self.text.splitlines() if line.startswith("# TYPE")]
        assert len(types) == len(set(types))
        self.families = parse_families(self.text)

    def value(self, series_name, /, **labels):
        """The value of one of upstream's series; None for an absent series."""
        pairs = ",".join(f'{label}="{labels[label]}"' for label in sorted(labels, key=lambda one: (one == "le", one)))
        series = f"{PREFIX}{series_name}" + (f"{{{pairs}}}" if pairs else "")
        for family in self.families.values():
            if series in family.samples:
                return family.samples[series]
        return None


class Watched:
    """A server with a metrics port."""

    def __init__(self, fresh_server, *flags):
        self.metrics = (LOOPBACK, free_port())
        self.server = fresh_server(f"-metricsPort={self.metrics[1]}", f"-metricsIp={LOOPBACK}", *flags)

    def scrape(self):
        return Scraped(self.metrics)

    def wait_for(self, name, value, /, **labels):
        """Polls: the server counts after it sends an answer, and the client may see the answer first."""
        wait_until(lambda: self.scrape().value(name, **labels) == value, f"{name}{labels} to be {value}")
        return self.scrape()


@pytest.fixture
def watched(fresh_server):
    return Watched(fresh_server)


def test_a_few_requests_are_counted_once(watched):
    server = watched.server
    fid = server.store(b"counted" * 100)
    before = watched.scrape()
    stored = before.value("request_total", type="PUT", code="201") or 0
    assert server.read(fid).status == 200
    assert server.http("GET", f"/{fid}", [("Range", "bytes=0-3")]).status == 206
    assert server.http("HEAD", f"/{fid}").status == 200
    assert server.read(f"{fid.partition(',')[0]},0000").status == 400
    assert server.read(f"{fid.partition(',')[0]},ff00000000").status == 404
    assert server.read("4000000,0100000000").status == 404
    assert server.http("PATCH", f"/{fid}").status == 400
    assert server.http("OPTIONS", f"/{fid}").status == 200
    assert server.http("GET", "/status").status == 200
    assert server.http("GET", "/a//b").status == 307
    assert server.http("DELETE", f"/{fid}").status == 202
    got = watched.wait_for("request_total", 1, type="DELETE", code="202")
    for method, code, count in (
        ("PUT", 201, stored),
        ("GET", 200, 1),
        ("GET", 206, 1),
        ("GET", 400, 1),
        ("GET", 404, 2),
        ("GET", 307, None),
        ("HEAD", 200, 1),
        ("OPTIONS", 200, 1),
        ("INVALID", 400, 1),
    ):
        assert got.value("request_total", type=method, code=str(code)) == count, (method, code)
    assert got.value("request_seconds_count", type="GET") == 5
    assert got.value("request_seconds_bucket", type="GET", le="+Inf") == 5
    assert 0 < got.value("request_seconds_sum", type="GET") < 60
    assert got.value("request_seconds_count", type="writeToLocalDisk") == stored
    assert got.value("file_read_failures") == 2
    assert got.value("file_read_invalid_needles") == 2
    assert got.value("handler_total", type="errorGetNotFound") == 2
    assert got.value("handler_total", type="emptyReadProxyLocaction") is None, "the master knows no such volume"
    assert got.value("file_write_failures") == 0
    assert got.value("replication_targets_count") == stored + 1
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "writeToLocalDisk"):
        assert got.value("in_flight_requests", type=method) == 0, method


def test_every_family_of_upstream_is_there_with_its_type(watched):
    server = watched.server
    server.http("DELETE", f"/{server.store(b'here')}")
    assert server.read("4000000,0100000000").status == 404
    wait_until(lambda: watched.scrape().value("total_disk_size", collection="", type="normal"), "the disk's size")
    got = watched.scrape()
    kinds = {name.removeprefix(PREFIX): family.kind for name, family in got.families.items()}
    assert {name: kinds.get(name) for name in FAMILIES} == FAMILIES
    assert got.value("max_volumes") > 0
    assert got.value("volumes", collection="", type="volume") > 0
    for kind in ("IsReadOnly", "noWriteOrDelete", "noWriteCanDelete", "isDiskSpaceLow"):
        assert got.value("read_only_volumes", collection="", type=kind) == 0
    for kind in ("all", "used", "free", "avail"):
        assert got.value("resource", name=str(server.data_dir), type=kind) > 0
    assert got.value("disk_error_status", name=str(server.data_dir), type="error") == 0
    (build,) = got.families["SeaweedFS_build_info"].samples
    for label in ('version="4.44"', 'goos="linux"', 'sizelimit="', 'goarch="', 'commit="'):
        assert label in build
    assert got.families["process_resident_memory_bytes"].samples["process_resident_memory_bytes"] > 1 << 20


def test_read_only_volumes_are_counted_by_their_reason(watched):
    server = watched.server
    vid = server.new_volume()
    server.store(b"x", fid=server.new_fid(vid))
    server.rpc.VolumeMarkReadonly(pb.VolumeMarkReadonlyRequest(volume_id=vid), timeout=RPC_LIMIT_S)
    got = watched.wait_for("read_only_volumes", 1, collection="", type="IsReadOnly")
    assert got.value("read_only_volumes", collection="", type="noWriteOrDelete") == 1
    assert got.value("read_only_volumes", collection="", type="noWriteCanDelete") == 0


def test_failed_rpcs_and_writes_are_counted(watched):
    server = watched.server
    vid = server.new_volume()
    for call, request in (
        (server.rpc.ReadNeedleBlob, pb.ReadNeedleBlobRequest(volume_id=4_000_000, offset=8, size=8)),
        (server.rpc.ReadNeedleMeta, pb.ReadNeedleMetaRequest(volume_id=4_000_000, needle_id=1, offset=8, size=8)),
        (server.rpc.WriteNeedleBlob, pb.WriteNeedleBlobRequest(volume_id=4_000_000, needle_id=1, size=8)),
    ):
        with pytest.raises(Exception, match="not found volume id"):
            call(request, timeout=RPC_LIMIT_S)
    assert server.http("PUT", f"/{vid},zz", (), b"x").status == 400
    got = watched.wait_for("request_total", 1, type="PUT", code="400")
    assert got.value("file_read_failures") == 2
    assert got.value("file_write_failures") == 2


def test_the_limits_and_who_waits_for_them_are_shown(fresh_server):
    watched = Watched(fresh_server, "-concurrentUploadLimitMB=7", "-concurrentDownloadLimitMB=9")
    got = watched.scrape()
    assert got.value("concurrent_upload_limit") == 7 << 20
    assert got.value("concurrent_download_limit") == 9 << 20
    assert got.value("in_flight_upload_size") == got.value("in_flight_download_size") == 0


def test_what_the_guard_refuses_is_counted(fresh_server):
    watched = Watched(fresh_server, "-whiteList=10.1.1.1")
    assert watched.server.http("PUT", "/4,0100000000", (), b"x").status == 401
    got = watched.wait_for("request_total", 1, type="PUT", code="401")
    assert got.value("request_seconds_count", type="PUT") == 1


def test_damaged_records_are_counted_by_their_kind(watched):
    server = watched.server
    vid = server.new_volume()
    data = os.urandom(200)  # which is stored as it is
    fid = server.store(data, fid=server.new_fid(vid))
    server.store(b"the last one", fid=server.new_fid(vid))
    server.stop()
    dat = server.data_dir / f"{vid}.dat"
    raw = bytearray(dat.read_bytes())
    raw[raw.index(data) + 50] ^= 1
    dat.write_bytes(raw)
    server.restart()
    assert server.read(fid).status == 500
    got = watched.wait_for("handler_total", 1, type="errorCRC")
    assert got.value("handler_total", type="errorGetInternal") == 1
    assert got.value("file_read_failures") == 1
