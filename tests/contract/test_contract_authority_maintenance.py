"""Native work that takes long, at the pace of its limits: other volumes are served meanwhile, and so is a child that
dies and comes back.
"""

import threading
import time

import grpc
import pytest
from harness.implementations import Implementation, find_weed
from harness.server import VolumeServer
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import volume_server_pb2 as pb

TABLE = """
phase: 3
routes:
  grpc.VolumeNeedleStatus: forward
"""
MIB = 1 << 20
WORK_S = 2 * LIMIT_S
"""The work would take so long."""


@pytest.fixture(scope="module", params=["native", "go"])
def shared(request, master, weed, tmp_path_factory):
    """A server that compacts and scrubs natively, a megabyte each second."""
    if request.param == "go" and weed is None:
        pytest.skip(find_weed()[1])
    base = tmp_path_factory.mktemp(f"maintenance-{request.param}")
    table = base / "routes.yaml"
    table.write_text(TABLE)
    implementation = Implementation(f"maintenance-{request.param}", mode="mixed", backend=request.param)
    flags = [f"-routes={table}", "-compactionMBps=1", "-maintenanceMBps=1"]
    server = VolumeServer(implementation, base / "server", master, weed, flags)
    yield server
    assert server.stop() == 0
    assert "Traceback" not in (server.base / "server.log").read_text()


@pytest.fixture(autouse=True)
def _volumes_go(shared):
    """A scrub of all volumes would read those of the tests before too, for a second each MiB."""
    yield
    shared.delete_all_but(set())


class Work:
    """A call in a thread of its own. `answer` is its answer, or the failure."""

    def __init__(self, call):
        self.answer = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self.began_s = time.monotonic()
        self._thread.start()

    def _run(self):
        try:
            self.answer = self._call()
        except grpc.RpcError as error:
            self.answer = error

    @property
    def is_running(self):
        return self._thread.is_alive()

    def wait(self):
        self._thread.join()
        return self.answer


def filled(server, size_bytes):
    """A needle in a new volume with so much content."""
    fid = server.new_fid(server.new_volume())
    for _ in range(size_bytes // (4 * MIB)):
        server.store(bytes(4 * MIB), fid=server.new_fid(int(fid.partition(",")[0])))
    return server.store(b"first", fid=fid)


def look(server, fid):
    """Whether a forwarded call about the needle succeeds."""
    volume_id, _, rest = fid.partition(",")
    request = pb.VolumeNeedleStatusRequest(volume_id=int(volume_id), needle_id=int(rest[:-8], 16))
    try:
        return server.rpc.VolumeNeedleStatus(request, timeout=LIMIT_S).size > 0
    except grpc.RpcError:
        return False


def writes(server, volume_id):
    """Whether a native write to the volume succeeds."""
    return server.http("PUT", f"/{server.new_fid(volume_id)}", [], b"x").status == 201


@pytest.mark.slow(reason="writes as much as takes minutes at the pace")
def test_a_child_that_dies_during_a_compaction_comes_back(shared):
    fid, other = filled(shared, int(WORK_S) * MIB), shared.new_volume()
    volume_id = int(fid.partition(",")[0])
    assert look(shared, fid)
    request = pb.VacuumVolumeCompactRequest(volume_id=volume_id)
    work = Work(lambda: list(shared.rpc.VacuumVolumeCompact(request)))
    wait_until((shared.data_dir / f"{volume_id}.cpd").exists, "the compaction to begin")
    shared.kill_child()
    wait_until(lambda: writes(shared, other), "writes to another volume")
    assert work.wait().code() is grpc.StatusCode.CANCELLED
    assert time.monotonic() - work.began_s < WORK_S
    wait_until(lambda: look(shared, fid), "forwarded calls")
    assert not (shared.data_dir / f"{volume_id}.cpd").exists()
    assert shared.read(fid).body == b"first"


@pytest.mark.slow(reason="a scrub at a slow pace")
@pytest.mark.parametrize("is_all", [False, True])
def test_a_scrub_keeps_no_forwarded_call_waiting_and_no_child_away(shared, is_all):
    fid, other = filled(shared, 32 * MIB), shared.new_volume()
    request = pb.ScrubVolumeRequest(volume_ids=[] if is_all else [int(fid.partition(",")[0])], mode=pb.FULL)
    work = Work(lambda: shared.rpc.ScrubVolume(request))
    for number in range(10):
        assert look(shared, fid), number
        assert writes(shared, other)
    assert work.is_running
    shared.kill_child()
    wait_until(lambda: writes(shared, other), "writes to another volume")
    wait_until(lambda: look(shared, fid), "forwarded calls")
    answer = work.wait()
    assert not isinstance(answer, grpc.RpcError), answer
    assert answer.total_volumes >= (2 if is_all else 1)
    assert not answer.broken_volume_ids
