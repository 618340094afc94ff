"""From start to end: signals, exit codes, a crash, and the state afterwards.

Starting a server takes about a second, so each test checks several related facts.
"""

import shutil
import signal
import socket

import pytest
from harness.http1 import Connection
from harness.implementations import SHIPPED
from harness.processes import is_alive
from harness.server import VolumeServer
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import volume_server_pb2 as pb


def assert_ended(server, children):
    """The server ended with success, and left nothing: no registration, no process, no port, no temporary file."""
    wait_until(lambda: server.process.exit_code is not None, "the exit")
    assert server.process.exit_code == 0
    wait_until(lambda: not server.is_registered(), "the master to forget the server")
    assert [pid for pid in children if is_alive(pid)] == []
    for address in (server.admin, server.public, (server.admin[0], server.layout.grpc_port)):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
    left = [path.name for path in (server.base / "tmp").iterdir() if not path.name.startswith("weed.")]
    assert left == []  # weed.* are the Go program's log files, where nothing told it to write to stderr


def test_an_orderly_stop_leaves_nothing_but_the_data(fresh_server):
    server = fresh_server()
    fid = server.store(b"kept", [("Content-Type", "text/plain")])
    before, children = server.read(fid), server.child_pids()
    maintenance = pb.VolumeServerState(maintenance=True, version=0)
    server.rpc.SetState(pb.SetStateRequest(state=maintenance), timeout=LIMIT_S)
    server.close_channel()
    server.process.send_signal(signal.SIGTERM)
    assert_ended(server, children)

    server.restart()
    after = server.read(fid)
    same = ("Etag", "Last-Modified", "Content-Type", "Content-Length")
    assert (after.body, [after.get(name) for name in same]) == (b"kept", [before.get(name) for name in same])
    kept = server.rpc.GetState(pb.GetStateRequest(), timeout=LIMIT_S).state
    assert kept == pb.VolumeServerState(maintenance=True, version=1)


def test_what_was_acknowledged_survives_a_crash_and_no_child_does(fresh_server):
    server = fresh_server()
    stored = {server.store(f"needle {at}".encode()): f"needle {at}".encode() for at in range(50)}
    deleted = next(iter(stored))
    assert server.http("DELETE", f"/{deleted}").status == 202
    children = server.child_pids()
    assert bool(children) == server.implementation.is_supervised
    server.process.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in children), "the child to be gone")

    server.restart()
    assert server.read(deleted).status == 404
    del stored[deleted]
    assert {fid: server.read(fid).body for fid in stored} == stored
    assert server.read(server.store(b"and it takes more")).body == b"and it takes more"


def test_a_hang_up_takes_up_new_volumes_and_ends_nothing(server, fresh_server):
    volume_id = server.new_volume()
    fid = server.store(b"copied by hand", fid=server.new_fid(volume_id))
    taker = fresh_server("-readMode=local")
    assert taker.read(fid).status == 404
    for extension in (".dat", ".idx", ".vif"):
        shutil.copy(server.data_dir / f"{volume_id}{extension}", taker.data_dir)
    children = taker.child_pids()
    taker.process.send_signal(signal.SIGHUP)
    wait_until(lambda: taker.read(fid).status == 200, "the volume to be loaded")
    assert taker.read(fid).body == b"copied by hand"
    taker.process.send_signal(signal.SIGINT)
    assert_ended(taker, children)


def test_a_hang_up_while_a_disk_cannot_be_looked_at_ends_nothing(server, fresh_server):
    volume_id = server.new_volume()
    fid = server.store(b"copied by hand", fid=server.new_fid(volume_id))
    taker = fresh_server("-readMode=local")
    own = taker.store(b"its own")
    for extension in (".dat", ".idx", ".vif"):
        shutil.copy(server.data_dir / f"{volume_id}{extension}", taker.data_dir)
    children = taker.child_pids()
    away = taker.data_dir.with_name("away")
    taker.data_dir.rename(away)
    try:
        for _ in range(2):
            taker.process.send_signal(signal.SIGHUP)
            assert taker.read(own).body == b"its own"
        assert taker.read(fid).status == 404
    finally:
        away.rename(taker.data_dir)

    def is_loaded():
        taker.process.send_signal(signal.SIGHUP)
        return taker.read(fid).status == 200

    wait_until(is_loaded, "the volume to be loaded")
    assert taker.read(own).body == b"its own"
    taker.process.send_signal(signal.SIGINT)
    assert_ended(taker, children)


def test_a_running_download_is_finished_before_the_end(fresh_server):
    server = fresh_server()
    fid = server.store(bytes(48 << 20))
    server.close_channel()
    with Connection(server.admin) as connection:
        connection.send(f"GET /{fid} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        connection.read_head()
        connection.read_exactly(1000)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not server.is_registered(), "the server to take its leave")
        assert connection.read_exactly((48 << 20) - 1000) == bytes((48 << 20) - 1000)
        assert connection.is_closed_by_server()
    wait_until(lambda: server.process.exit_code is not None, "the exit")
    assert server.process.exit_code == 0


def test_leaving_the_cluster_ends_the_registration_but_not_the_service(fresh_server):
    server = fresh_server()
    fid = server.store(b"still served")
    server.rpc.VolumeServerLeave(pb.VolumeServerLeaveRequest(), timeout=LIMIT_S)
    wait_until(lambda: not server.is_registered(), "the master to forget the server")
    wait_until(lambda: server.http("GET", "/healthz").status == 503, "healthz to say so")
    assert server.http("GET", "/status").status == 200
    assert server.read(fid).body == b"still served"
    assert server.stop() == 0


def test_a_table_that_forwards_nothing_starts_no_backend(tmp_path, master, weed):
    server = VolumeServer(SHIPPED, tmp_path, master, weed)
    try:
        assert server.read(server.store(b"native")).body == b"native"
        assert server.child_pids() == []
        assert "forwards nothing: the backend native is not started" in (server.base / "server.log").read_text()
        assert server.stop() == 0
    finally:
        server.end()
