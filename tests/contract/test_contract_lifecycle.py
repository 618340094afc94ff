"""From start to end: signals, exit codes, a crash, and what is there afterwards."""

import signal
import socket

import grpc
import pytest
from harness.http1 import Connection
from harness.processes import is_alive
from harness.waiting import wait_until

from native_handlers.pb import volume_server_pb2 as pb


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_leaves_nothing(fresh_server, number):
    server = fresh_server()
    server.store(b"x")
    server.close_channel()
    children = server.child_pids()
    server.process.send_signal(number)
    wait_until(lambda: server.process.exit_code is not None, "the exit")
    assert server.process.exit_code == 0
    wait_until(lambda: not server.is_registered(), "the master to forget the server")
    assert [pid for pid in children if is_alive(pid)] == []
    for address in (server.admin, server.public, (server.admin[0], server.layout.grpc_port)):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
    left = [path.name for path in (server.base / "tmp").iterdir() if not path.name.startswith("weed.")]
    assert left == []  # weed.* are the Go program's log files, where nothing told it to write to stderr


def test_what_was_acknowledged_survives_a_crash(fresh_server):
    server = fresh_server()
    stored = {server.store(f"needle {at}".encode()): f"needle {at}".encode() for at in range(50)}
    deleted = next(iter(stored))
    assert server.http("DELETE", f"/{deleted}").status == 202
    server.process.kill()
    server.restart()
    assert server.read(deleted).status == 404
    del stored[deleted]
    assert {fid: server.read(fid).body for fid in stored} == stored
    assert server.read(server.store(b"and it takes more")).body == b"and it takes more"


def test_data_is_there_after_an_orderly_restart(fresh_server):
    server = fresh_server()
    fid = server.store(b"kept", [("Content-Type", "text/plain")])
    before = server.read(fid)
    assert server.stop() == 0
    server.restart()
    after = server.read(fid)
    assert (after.body, after.get("Etag"), after.get("Last-Modified")) == (
        b"kept",
        before.get("Etag"),
        before.get("Last-Modified"),
    )


def test_the_state_survives_a_restart(fresh_server):
    server = fresh_server()
    state = pb.VolumeServerState(maintenance=True, version=0)
    server.rpc.SetState(pb.SetStateRequest(state=state), timeout=10)
    assert server.stop() == 0
    server.restart()
    kept = server.rpc.GetState(pb.GetStateRequest(), timeout=10).state
    assert kept == pb.VolumeServerState(maintenance=True, version=1)


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
    server.rpc.VolumeServerLeave(pb.VolumeServerLeaveRequest(), timeout=10)
    wait_until(lambda: not server.is_registered(), "the master to forget the server")
    wait_until(lambda: server.http("GET", "/healthz").status == 503, "healthz to say so")
    assert server.http("GET", "/status").status == 200
    assert server.read(fid).body == b"still served"
    assert server.stop() == 0


def test_a_hang_up_is_no_reason_to_end(fresh_server):
    server = fresh_server()
    fid = server.store(b"x")
    server.process.send_signal(signal.SIGHUP)
    server.process.send_signal(signal.SIGHUP)
    assert server.read(fid).body == b"x"
    assert server.http("GET", "/healthz").status == 200
    assert server.process.exit_code is None


def test_a_hang_up_takes_up_new_volumes(fresh_server):
    donor, taker = fresh_server(), fresh_server()
    fid = donor.store(b"moved by hand")
    assert donor.stop() == 0
    for extension in (".dat", ".idx", ".vif"):
        name = f"{donor.volume_id}{extension}"
        (donor.data_dir / name).rename(taker.data_dir / name)
    assert taker.read(fid).status == 404
    taker.process.send_signal(signal.SIGHUP)
    wait_until(lambda: taker.read(fid).status == 200, "the volume to be loaded")
    assert taker.read(fid).body == b"moved by hand"


def test_grpc_refuses_after_the_end(fresh_server):
    server = fresh_server()
    channel = server.channel
    assert server.process.stop() == 0
    call = channel.unary_unary("/volume_server_pb.VolumeServer/Ping")
    with pytest.raises(grpc.RpcError) as raised:
        call(b"", timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
