"""The child or the supervisor is killed at each step of a hand-over, in both directions, with either child.
tests/chaos/failpoint_server.py holds the steps, so that each kill hits the intended step.
"""

import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from harness.http1 import Disconnected
from harness.implementations import OURS, Implementation, find_weed
from harness.server import VolumeServer
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import methods
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.check import check_directory

FAILPOINT_SERVER = Path(__file__).with_name("failpoint_server.py")
TABLE = """
phase: 2
routes:
  "grpc.*": forward
"""
TO_NATIVE = (
    "backend.look.before",
    "backend.close.before",
    "backend.close.after",
    "backend.close.lost",
    "native.open.after",
)
TO_BACKEND = ("native.close.before", "native.close.after", "backend.open.after", "backend.open.lost")


@dataclass(frozen=True)
class WithFailpoints(Implementation):
    """The native program, held at points that `directory` names."""

    directory: Path | None = None

    def command(self, layout, weed, extra=()):
        words = super().command(layout, weed, extra)
        return [sys.executable, FAILPOINT_SERVER, self.directory, *words[len(OURS) :]]


class Held:
    """A server with failpoints, and the volume of the test: its acknowledged needles and its deleted ones."""

    def __init__(self, server, directory):
        self.server = server
        self._directory = directory
        self.kept = {}
        self.gone = []
        self.codes = set()
        """The failures of forwarded calls, in all tests of the server."""

    def new_volume(self):
        self.kept, self.gone = {}, []
        self.volume_id = self.server.new_volume()
        for number in range(3):
            self.write(b"first %d" % number)
        self.delete(next(iter(self.kept)))

    def write(self, data):
        """Writes natively. Returns whether the write was acknowledged."""
        fid = self.server.new_fid(self.volume_id)
        reply = self.server.http("PUT", f"/{fid}", [], data)
        if reply.status == 201:
            self.kept[fid] = data
        else:
            assert reply.status in {502, 503}, reply
        return reply.status == 201

    def delete(self, fid):
        """Deletes by a forwarded RPC. Returns whether the deletion was acknowledged."""
        try:
            request = pb.BatchDeleteRequest(file_ids=[fid])
            (result,) = self.server.rpc.BatchDelete(request, timeout=LIMIT_S).results
        except grpc.RpcError as error:
            self.codes.add(error.code())
            return False
        assert result.status in {202, 304}, result
        del self.kept[fid]
        self.gone.append(fid)
        return True

    def hold(self, point, operation):
        """Starts `operation`, and returns its thread when `point` is reached."""
        for old in self._directory.iterdir():
            old.unlink()
        (self._directory / point).touch()
        thread = threading.Thread(target=operation)
        thread.start()
        wait_until((self._directory / f"{point}.reached").exists, f"{point} to be reached")
        return thread

    def let_go(self, point):
        (self._directory / f"{point}.go").touch()

    def assert_right(self):
        """Both engines work on the volume again, one at a time, and no acknowledged operation is lost."""
        wait_until(lambda: self.write(b"afterwards"), "native writes to work")
        self.assert_contents()
        wait_until(lambda: not self.child_has_it_open(), "a restarted child to give back what is native")
        wait_until(lambda: self.delete(list(self.kept)[-1]), "forwarded calls to work")
        assert self.child_has_it_open()
        self.assert_contents()

    def assert_contents(self):
        assert {fid: self.server.read(fid).body for fid in self.kept} == self.kept
        for fid in self.gone:
            assert self.server.read(fid).status == 404

    def child_has_it_open(self):
        wait_until(self.server.child_pids, "a child")
        with self.server.open_child_channel() as channel:
            request = pb.VolumeStatusRequest(volume_id=self.volume_id)
            status = methods.volume_server(channel).VolumeStatus.future(request, timeout=LIMIT_S, wait_for_ready=True)
            if status.code() is grpc.StatusCode.OK:
                return True
        assert status.details().startswith("not found volume"), status.details()
        return False


@pytest.fixture(scope="module", params=["native", "go"])
def held(request, master, weed, tmp_path_factory):
    """A server of which any process may be killed."""
    if request.param == "go" and weed is None:
        pytest.skip(find_weed()[1])
    base = tmp_path_factory.mktemp(f"held-{request.param}")
    table, directory = base / "routes.yaml", base / "failpoints"
    table.write_text(TABLE)
    directory.mkdir()
    implementation = WithFailpoints(f"held-{request.param}", mode="mixed", backend=request.param, directory=directory)
    server = VolumeServer(implementation, base / "server", master, weed, [f"-routes={table}", "-max=60"])
    held = Held(server, directory)
    yield held
    assert server.stop() == 0
    assert "Traceback" not in (server.base / "server.log").read_text()
    assert held.codes <= {grpc.StatusCode.UNAVAILABLE}
    report = check_directory(server.data_dir)
    assert report.is_healthy, report


def bring_to(held, point):
    """The volume is where the hand-over starts. Returns the operation that begins the hand-over."""
    if point in TO_NATIVE:
        assert held.delete(list(held.kept)[-1])
        return lambda: held.write(b"through the hand-over")
    assert held.write(b"natively")
    return lambda: held.delete(list(held.kept)[-1])


@pytest.mark.parametrize("point", TO_NATIVE + TO_BACKEND)
def test_the_child_is_killed(held, point):
    held.new_volume()
    thread = held.hold(point, bring_to(held, point))
    held.server.kill_child()
    held.let_go(point)
    thread.join()
    held.assert_right()


@pytest.mark.parametrize("point", [point for point in TO_NATIVE + TO_BACKEND if point.endswith(".lost")])
def test_an_answer_is_lost(held, point):
    held.new_volume()
    thread = held.hold(point, bring_to(held, point))
    held.let_go(point)
    thread.join()
    held.assert_right()


@pytest.mark.parametrize("point", [point for point in TO_NATIVE + TO_BACKEND if not point.endswith(".lost")])
def test_the_supervisor_is_killed(held, point):
    held.new_volume()
    operation = bring_to(held, point)
    kept, gone = dict(held.kept), list(held.gone)

    def unanswered():
        try:
            operation()
        except (OSError, Disconnected):
            return

    thread = held.hold(point, unanswered)
    held.server.process.kill()
    thread.join()
    held.kept, held.gone = kept, gone
    if point in TO_BACKEND:
        # The deletion was not acknowledged, so the needle may be there or not.
        held.kept.pop(list(held.kept)[-1])
    held.server.restart()
    held.assert_right()
