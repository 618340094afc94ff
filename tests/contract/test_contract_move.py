"""`volume.move` of upstream's shell between two servers, under writers that go to the server that accepts writes."""

import itertools
import subprocess
import threading

import pytest
from harness.http1 import Disconnected
from harness.implementations import Implementation
from harness.server import VolumeServer
from support.waiting import wait_until

LIMIT_S = 120.0
WRITERS = 3


@pytest.fixture
def other_server(master, weed, tmp_path):
    """A native server to move the volume to or from."""
    made = VolumeServer(Implementation("other", mode="native"), tmp_path / "other", master, weed)
    yield made
    made.end()


class Writer(threading.Thread):
    """Writes and deletes as a client does: after a refusal at the other server."""

    def __init__(self, source, target, volume_id):
        super().__init__(daemon=True)
        self.source, self.target, self.volume_id = source, target, volume_id
        self.is_over = threading.Event()
        self.alive, self.dead, self.unsure = {}, set(), set()

    def run(self):
        for number in itertools.count():
            if self.is_over.is_set():
                return
            fid, data = self.source.new_fid(self.volume_id), b"written %d " % number * 20
            if self.says("PUT", fid, 201, data):
                self.alive[fid] = data
            if number % 7 == 3 and self.alive:
                self.delete(next(iter(self.alive)))

    def delete(self, fid):
        # A deletion that failed half-way may have happened; the test says nothing of its needle.
        del self.alive[fid]
        (self.dead if self.says("DELETE", fid, 202) else self.unsure).add(fid)

    def says(self, method, fid, status, data=None):
        return any(self.says_at(server, method, fid, status, data) for server in (self.source, self.target))

    @staticmethod
    def says_at(server, method, fid, status, data):
        try:
            return server.http(method, f"/{fid}", [], data).status == status
        except (OSError, Disconnected):
            return False


@pytest.mark.native_rpcs
@pytest.mark.only(lambda implementation: implementation.needs_weed or implementation.name == "native")
@pytest.mark.parametrize("direction", ["from", "to"])
def test_a_move_loses_nothing_that_was_acknowledged(fresh_server, other_server, master, weed, tmp_path, direction):
    if weed is None:
        pytest.skip("the shell is upstream's program")
    server = fresh_server()
    source, target = (server, other_server) if direction == "from" else (other_server, server)
    volume_id = source.new_volume()
    writers = [Writer(source, target, volume_id) for _ in range(WRITERS)]
    for writer in writers:
        writer.start()
    wait_until(lambda: all(len(writer.alive) > 30 for writer in writers), "the writers to be under way")
    ends = [f"-{word}={one.url}.{one.layout.grpc_port}" for word, one in (("source", source), ("target", target))]
    commands = f"lock\nvolume.move {' '.join(ends)} -volumeId={volume_id}\nunlock\nexit\n"
    shell = subprocess.run(
        [weed, "shell", f"-master={master.address}"],
        input=commands,
        text=True,
        capture_output=True,
        timeout=LIMIT_S,
        cwd=tmp_path,
        check=False,
    )
    for writer in writers:
        writer.is_over.set()
    for writer in writers:
        writer.join(LIMIT_S)
    assert f"moved volume {volume_id} from" in shell.stdout, shell.stdout + shell.stderr
    assert not list(source.data_dir.glob(f"{volume_id}.*"))
    for writer in writers:
        for fid, data in writer.alive.items():
            reply = target.read(fid)
            assert (reply.status, reply.body) == (200, data), fid
        if target is other_server or server.implementation.has_our_rpcs:
            # Upstream's receiver stores an empty needle for a deletion in the tail.
            assert {target.read(fid).status for fid in writer.dead} <= {404}
