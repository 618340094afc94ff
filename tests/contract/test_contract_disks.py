"""Disk locations from outside: their flags, a full disk, and a disk that fails and recovers."""

import subprocess
from contextlib import suppress

import grpc
import pytest
from harness.http1 import fetch
from support.ports import LOOPBACK, free_port
from support.waiting import LIMIT_S as RPC_LIMIT_S
from support.waiting import wait_until

from native_handlers.pb import volume_server_pb2 as pb

PROBE = """[volume.disk.io]
probe = true
interval = "1s"
timeout = "500ms"
window = "1s"
min.samples = 1
"""
PROBE_FILE = ".disk-health-check"


def topology_node(master, server):
    """The master's entry for `server`."""
    return next(
        node
        for center in master.get("/dir/status")["Topology"]["DataCenters"]
        for rack in center["Racks"]
        for node in rack["DataNodes"]
        if node["Url"] == server.url
    )


class TestFlags:
    @pytest.fixture
    def directories(self, tmp_path):
        made = [tmp_path / name for name in ("first", "second", "index")]
        for path in made:
            path.mkdir()
        return made

    def test_two_directories_of_two_kinds_and_an_index_directory(self, fresh_server, directories, master):
        first, second, index = directories
        server = fresh_server(
            f"-dir={first},{second}", "-disk=hdd,ssd", "-max=3,4", "-tags=a:b,c", f"-dir.idx={index}",
            "-minFreeSpace=0,1MiB",
        )  # fmt: skip
        statuses = server.http("GET", "/status").json()["DiskStatuses"]
        assert [(row["dir"], row.get("disk_type")) for row in statuses] == [
            (str(first), statuses[0].get("disk_type")),
            (str(second), "ssd"),
        ]
        assert all("error" not in row and row["all"] >= row["free"] > 0 for row in statuses)
        wait_until(lambda: topology_node(master, server)["Max"] == 7, "the master to know all slots")
        volumes = {kind: server.new_volume(disk_type=kind) for kind in ("", "ssd")}
        for kind, home in (("", first), ("ssd", second)):
            name = str(volumes[kind])
            assert (home / f"{name}.dat").exists()
            assert (index / f"{name}.idx").exists()
            assert not (home / f"{name}.idx").exists()
        fids = [server.store(b"data", fid=server.new_fid(vid)) for vid in volumes.values()]
        with pytest.raises(grpc.RpcError) as caught:
            server.new_volume(disk_type="nvme")
        assert caught.value.details() == "No more free space left"
        server.stop()
        server.restart()
        assert [server.read(fid).body for fid in fids] == [b"data", b"data"]

    def test_automatic_slots(self, fresh_server, master):
        server = fresh_server("-max=0")
        wait_until(lambda: topology_node(master, server)["Max"] > 0, "the slots to be counted")

    def test_a_full_disk_reads_and_deletes_until_there_is_room(self, fresh_server, weed, master):
        server = fresh_server("-minFreeSpace=0")
        vid = server.new_volume()
        kept, removed = (server.store(b"data", fid=server.new_fid(vid)) for _ in range(2))
        server.stop()
        # More than is free on any machine that runs this.
        server.become(server.implementation, weed, ["-minFreeSpace=100"])
        status = pb.VolumeStatusRequest(volume_id=vid)
        wait_until(lambda: server.rpc.VolumeStatus(status, timeout=RPC_LIMIT_S).is_read_only, "the disk to be full")
        refused = server.http("PUT", f"/{server.new_fid(vid)}", (), b"more")
        assert (refused.status, refused.json()) == (
            500,
            {"error": f"failed to write to local disk: volume {vid} is read only"},
        )
        assert server.read(kept).body == b"data"
        assert server.http("DELETE", f"/{removed}").status == 202
        with pytest.raises(grpc.RpcError) as caught:
            server.new_volume()
        assert caught.value.details() == "No more free space left"
        wait_until(lambda: topology_node(master, server)["Max"] == 1, "the slots that are used to be all")
        server.stop()
        server.become(server.implementation, weed, ["-minFreeSpace=0"])
        assert not server.rpc.VolumeStatus(status, timeout=RPC_LIMIT_S).is_read_only
        server.store(b"more", fid=server.new_fid(vid))

    @pytest.mark.only(lambda one: one.mode == "native")
    def test_a_directory_has_one_server(self, fresh_server):
        """Upstream has no such lock."""
        holder = fresh_server()
        with pytest.raises(RuntimeError, match="is in use by pid") as raised:
            fresh_server(f"-dir={holder.data_dir}")
        assert "Traceback" not in str(raised.value)
        assert holder.http("GET", "/status").status == 200


class TestNoByteFree:
    """A disk that other programs filled to the last block."""

    @pytest.fixture
    def disk(self, tmp_path):
        path = tmp_path / "disk"
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(path)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        yield path
        subprocess.run(["umount", "-l", str(path)], check=True)

    @staticmethod
    def fill(disk):
        with (disk / "filler").open("ab", buffering=0) as filler:
            for length in (1 << 20, 4096):
                with suppress(OSError):
                    while True:
                        filler.write(bytes(length))

    def test_the_server_starts_and_serves(self, fresh_server, disk):
        server = fresh_server(f"-dir={disk}")
        fids = [server.store(f"needle {number}".encode()) for number in range(5)]
        server.stop()
        self.fill(disk)
        server.restart()
        assert [server.read(fid).body for fid in fids] == [f"needle {number}".encode() for number in range(5)]
        # The free rest of the last blocks of .dat and .idx.
        assert server.http("DELETE", f"/{fids[0]}").status == 202
        assert server.read(fids[0]).status == 404
        refused = server.http("PUT", f"/{server.new_fid()}", (), bytes(100_000))
        assert refused.status == 500
        assert "error" in refused.json()
        server.stop()
        server.restart()
        assert server.read(fids[1]).body == b"needle 1"

    @pytest.mark.only(lambda one: one.mode == "native")
    def test_deletions_and_marks_go_on_until_there_is_room_again(self, fresh_server, disk):
        """Upstream keeps no reserve for deletions and marks."""
        server = fresh_server(f"-dir={disk}")
        vid = server.volume_id
        fids = [server.store(b"x" * 100, fid=server.new_fid(vid)) for _ in range(300)]
        wait_until((disk / ".weed-volume-py.reserve").exists, "the reserve to be made")
        self.fill(disk)
        assert [server.http("DELETE", f"/{fid}").status for fid in fids[:-1]] == [202] * (len(fids) - 1)
        for call, request in (
            (server.rpc.VolumeMarkReadonly, pb.VolumeMarkReadonlyRequest(volume_id=vid, persist=True)),
            (server.rpc.VolumeMarkWritable, pb.VolumeMarkWritableRequest(volume_id=vid)),
        ):
            call(request, timeout=RPC_LIMIT_S)
        assert server.http("PUT", f"/{server.new_fid(vid)}", (), b"more").status == 500
        assert server.read(fids[-1]).body == b"x" * 100
        (disk / "filler").unlink()
        wait_until(
            lambda: server.http("PUT", f"/{server.new_fid(vid)}", (), b"more").status == 201, "writes to be taken"
        )
        server.stop()
        server.restart()
        assert [server.read(fid).status for fid in fids] == [404] * (len(fids) - 1) + [200]


@pytest.mark.only(lambda one: one.mode == "native")
class TestProbe:
    """Upstream checks its disks once a minute, and never answers 503: these tests are for native servers only."""

    @pytest.fixture
    def server(self, fresh_server):
        self.metrics = (LOOPBACK, free_port())
        return fresh_server(f"-metricsPort={self.metrics[1]}", f"-metricsIp={LOOPBACK}", security=PROBE)

    def error_metric(self, server):
        text = fetch(self.metrics, "GET", "/metrics").body.decode()
        name = f'SeaweedFS_volumeServer_disk_error_status{{name="{server.data_dir}",type="error"}} '
        return float(next(line.removeprefix(name) for line in text.splitlines() if line.startswith(name)))

    def test_one_that_fails_goes_out_of_service_and_comes_back(self, server, master):
        vid = server.new_volume()
        fid = server.store(b"data", fid=server.new_fid(vid))
        probe_file = server.data_dir / PROBE_FILE
        wait_until(probe_file.exists, "the first probe")
        wait_until(lambda: "locations" in self.lookup(master, vid), "the volume to be announced")
        assert self.error_metric(server) == 0
        # For the probe, a file that cannot be opened for writing is a failing disk.
        probe_file.unlink()
        probe_file.mkdir()
        wait_until(lambda: server.read(fid).status == 503, "the disk to go out of service")
        why = "is out of service: disk health check failed: io: Is a directory"
        assert why in server.read(fid).body.decode()
        for method, body in (("PUT", b"new"), ("DELETE", None)):
            reply = server.http(method, f"/{fid}", (), body)
            assert reply.status == 503
            assert why in reply.json()["error"]
        with pytest.raises(grpc.RpcError) as caught:
            server.rpc.VolumeNeedleStatus(pb.VolumeNeedleStatusRequest(volume_id=vid, needle_id=1), timeout=RPC_LIMIT_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert why in caught.value.details()
        [row] = server.http("GET", "/status").json()["DiskStatuses"]
        assert row["error"] == "disk health check failed: io: Is a directory"
        assert self.error_metric(server) == 1
        wait_until(lambda: "locations" not in self.lookup(master, vid), "the volume to be taken back")
        assert server.http("GET", "/healthz").status == 200, "the server is well, a disk of it is not"
        probe_file.rmdir()
        wait_until(lambda: server.read(fid).status == 200, "the disk to come back")
        server.store(b"again", fid=server.new_fid(vid))
        assert self.error_metric(server) == 0
        wait_until(lambda: "locations" in self.lookup(master, vid), "the volume to be announced again")
        log = server.process.log_tail()
        assert why in log
        assert "is well again and back in service" in log

    @staticmethod
    def lookup(master, vid):
        return master.get(f"/dir/lookup?volumeId={vid}")


@pytest.mark.only(lambda one: one.mode == "native")
def test_what_a_start_found_is_in_the_status(fresh_server):
    server = fresh_server()
    vid = server.new_volume()
    fid = server.store(b"data", fid=server.new_fid(vid))
    assert "Findings" not in server.http("GET", "/status").json()
    server.stop()
    (server.data_dir / f"{vid}.idx").unlink()
    server.restart()
    found = server.http("GET", "/status").json()["Findings"]
    assert [(row["Path"], row["Kind"]) for row in found] == [
        (str(server.data_dir / str(vid)), kind) for kind in ("IDX_LOST", "IDX_BEHIND")
    ]
    assert all(row["Text"] in server.process.log_tail() for row in found)
    assert server.read(fid).body == b"data"
