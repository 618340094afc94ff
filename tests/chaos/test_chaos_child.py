"""What happens to the clients and to the cluster when the child, or the supervisor, dies without a word."""

import os
import signal
import threading
from pathlib import Path

import grpc
import pytest
from harness.http1 import Connection, Disconnected
from harness.processes import is_alive
from harness.waiting import wait_until

from native_handlers.pb import volume_server_pb2 as pb

SUPERVISED = pytest.mark.only(lambda implementation: implementation.is_supervised)
WITH_GO_CHILD = pytest.mark.only(lambda implementation: implementation.is_supervised and implementation.backend == "go")


@pytest.fixture
def supervised(fresh_server):
    """A server with a file in it."""
    server = fresh_server()
    server.fid = server.store(b"survives")
    return server


def the_child(server):
    (pid,) = server.child_pids()
    return pid


def kill_child(server):
    """Kills the child and returns its process id."""
    pid = the_child(server)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the child to be gone")
    return pid


class RegistrationWatch:
    """Asks the master without a pause whether it knows the server; `gaps` counts the times that it did not."""

    def __init__(self, server):
        self._server = server
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.looks = self.gaps = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(0.01):
            self.looks += 1
            self.gaps += not self._server.is_registered()


@SUPERVISED
def test_a_killed_child_comes_back_and_the_master_never_knows(supervised):
    with RegistrationWatch(supervised) as watch:
        killed = kill_child(supervised)
        wait_until(lambda: supervised.read(supervised.fid).status == 200, "reads to work again")
        assert supervised.read(supervised.store(b"new")).body == b"new"
        wait_until(lambda: watch.looks > 20, "the master to be asked often enough")
    assert watch.gaps == 0
    assert the_child(supervised) != killed
    assert supervised.process.exit_code is None
    assert supervised.read(supervised.fid).body == b"survives"


@SUPERVISED
def test_without_a_child_http_says_502_and_grpc_unavailable(supervised):
    seen_http, seen_grpc = set(), set()
    with supervised.open_channel() as channel:
        status = channel.unary_unary("/volume_server_pb.VolumeServer/VolumeStatus")
        request = pb.VolumeStatusRequest(volume_id=supervised.volume_id).SerializeToString()
        os.kill(the_child(supervised), signal.SIGKILL)

        def both_recovered():
            reply = supervised.http("PUT", f"/{supervised.new_fid()}", [], b"x")
            seen_http.add(reply.status)
            if reply.status == 502:
                assert reply.body
            try:
                status(request, timeout=5)
                seen_grpc.add(grpc.StatusCode.OK)
            except grpc.RpcError as error:
                seen_grpc.add(error.code())
                return False
            return reply.status == 201

        wait_until(both_recovered, "writes and calls to work again")
    assert seen_http <= {502, 201}
    assert seen_grpc <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK}


@SUPERVISED
def test_a_forward_in_flight_ends_when_the_child_dies(supervised):
    with Connection(supervised.admin) as connection:
        head = f"PUT /{supervised.new_fid()} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
        connection.send(head.encode() + bytes(100_000))
        kill_child(supervised)
        try:
            connection.send(bytes(900_000))
            assert connection.read_reply().status == 502
        except (Disconnected, ConnectionResetError, BrokenPipeError):
            return  # cut off: just as clear


@SUPERVISED
def test_a_download_in_flight_never_ends_as_if_it_were_whole(supervised):
    fid = supervised.store(bytes(64 << 20))
    with Connection(supervised.admin) as connection:
        connection.send(f"GET /{fid} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        connection.read_exactly(1000)
        kill_child(supervised)
        assert len(connection.read_to_end()) + 1000 <= 65 << 20
    wait_until(lambda: supervised.read(supervised.fid).status == 200, "reads to work again")


@SUPERVISED
def test_the_control_plane_answers_while_the_child_is_down(supervised):
    kill_child(supervised)
    assert supervised.http("GET", "/healthz").status in {200, 502}
    assert supervised.process.exit_code is None
    wait_until(lambda: supervised.http("GET", "/status").status == 200, "the status")


@SUPERVISED
def test_no_child_outlives_a_killed_supervisor(supervised):
    child = the_child(supervised)
    supervised.process.kill()
    wait_until(lambda: not is_alive(child), "the child to be gone", limit_s=5)
    supervised.restart()
    assert supervised.read(supervised.fid).body == b"survives"


@SUPERVISED
def test_no_zombie_stays_behind(supervised):
    for _ in range(2):
        before = kill_child(supervised)
        wait_until(lambda: supervised.read(supervised.fid).status == 200, "reads to work again")
        assert not Path(f"/proc/{before}").exists()
    assert len(supervised.child_pids()) == 1


@WITH_GO_CHILD
def test_a_child_that_cannot_start_any_more_ends_the_supervisor_loudly(fresh_server, weed, tmp_path):
    broken = tmp_path / "broken"
    wrapper = tmp_path / "weed-wrapper"
    wrapper.write_text(f'#!/bin/sh\n[ -e {broken} ] && {{ echo "no more" >&2; exit 7; }}\nexec {weed} "$@"\n')
    wrapper.chmod(0o755)
    server = fresh_server(f"-backend={wrapper}")
    broken.touch()
    kill_child(server)
    wait_until(lambda: server.process.exit_code is not None, "the supervisor to give up")
    assert server.process.exit_code == 1
    assert "4 starts in a row ended before it was ready, the last with exit code 7" in server.process.log_tail()
    wait_until(lambda: not server.is_registered(), "the master to forget the server")
