"""Clients and the cluster when the child dies without notice. (tests/contract/test_contract_lifecycle.py and, for each
way to die, tests/unit/backend/test_backend_process.py show that no child outlives a killed supervisor.)
"""

import os
import signal
import threading

import grpc
import pytest
from harness.http1 import Connection, Disconnected
from harness.processes import is_alive
from harness.server import VolumeServer
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import volume_server_pb2 as pb

SUPERVISED = pytest.mark.only(lambda implementation: implementation.is_supervised)
WITH_GO_CHILD = pytest.mark.only(lambda implementation: implementation.is_supervised and implementation.backend == "go")


@pytest.fixture(scope="module")
def supervised(implementation, master, weed, tmp_path_factory):
    """A server with a file in it. Each kill makes the next restart slower, so the tests of this module kill the child
    only three times.
    """
    server = VolumeServer(implementation, tmp_path_factory.mktemp(f"chaos-{implementation.name}"), master, weed)
    server.fid = server.store(b"survives")
    yield server
    server.end()


def the_child(server):
    (pid,) = server.child_pids()
    return pid


def kill_child(server):
    """Kills the child and returns its process id."""
    pid = the_child(server)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the child to be gone")
    return pid


def wait_for_recovery(server):
    wait_until(lambda: server.http("PUT", f"/{server.new_fid()}", [], b"x").status == 201, "writes to work again")
    assert server.read(server.fid).body == b"survives"


class RegistrationWatch:
    """Asks the master without a pause whether it knows the server. `gaps` counts the negative answers."""

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


class ErrorWatch:
    """Writes and calls without a pause until both succeed, and keeps the errors."""

    def __init__(self, server, channel):
        self._server = server
        self._status = channel.unary_unary("/volume_server_pb.VolumeServer/VolumeStatus")
        self._request = pb.VolumeStatusRequest(volume_id=server.volume_id).SerializeToString()
        self.http, self.grpc = set(), set()

    def both_work(self):
        reply = self._server.http("PUT", f"/{self._server.new_fid()}", [], b"x")
        if reply.status != 201:
            self.http.add((reply.status, bool(reply.body)))
        try:
            self._status(self._request, timeout=LIMIT_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:  # as our own server says, once it is back
                self.grpc.add(error.code())
                return False
        return reply.status == 201


@SUPERVISED
def test_a_killed_child_comes_back_and_the_master_never_knows(supervised):
    with RegistrationWatch(supervised) as watch, supervised.open_channel() as channel:
        errors = ErrorWatch(supervised, channel)
        assert errors.both_work()
        killed = the_child(supervised)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: not is_alive(killed), "the child to be gone")
        wait_until(errors.both_work, "writes and calls to work again")
        wait_until(lambda: watch.looks > 20, "the master to be asked often enough")
    assert watch.gaps == 0
    assert errors.http <= {(502, True)}
    assert errors.grpc <= {grpc.StatusCode.UNAVAILABLE}
    assert errors.http or errors.grpc
    assert the_child(supervised) != killed, "the dead child is still there, as a zombie or not restarted"
    assert supervised.process.exit_code is None
    assert supervised.read(supervised.fid).body == b"survives"


@SUPERVISED
def test_an_upload_in_flight_ends_when_the_child_dies(supervised):
    with Connection(supervised.admin) as connection:
        head = f"PUT /{supervised.new_fid()} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
        connection.send(head.encode() + bytes(100_000))
        kill_child(supervised)
        try:
            connection.send(bytes(900_000))
            assert connection.read_reply().status == 502
        except (Disconnected, ConnectionResetError, BrokenPipeError):
            assert supervised.process.exit_code is None  # cut off: just as clear
    wait_for_recovery(supervised)


@SUPERVISED
def test_a_download_in_flight_never_ends_as_if_it_were_whole(supervised):
    fid = supervised.store(bytes(64 << 20))
    with Connection(supervised.admin) as connection:
        connection.send(f"GET /{fid} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        connection.read_head()
        connection.read_exactly(1000)
        kill_child(supervised)
        assert len(connection.read_to_end()) < (64 << 20) - 1000
    wait_for_recovery(supervised)


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
