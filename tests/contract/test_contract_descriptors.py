"""Few descriptors: the soft limit is raised, volumes are counted, and who is connected for nothing makes room.

Upstream raises the soft limit as well. It bounds no connections: when it runs out of descriptors it accepts nobody
until some end, so what says so here is asked of our own server alone.
"""

import socket
from contextlib import ExitStack

import grpc
import pytest
from harness.http1 import Connection, Disconnected, fetch
from harness.processes import open_files
from harness.server import VolumeServer, new_volume_id
from support.waiting import wait_until

from native_handlers.pb import volume_server_pb2

ours = pytest.mark.only(lambda implementation: implementation.mode in {"native", "proxy", "mixed"})
native = pytest.mark.only(lambda implementation: implementation.name == "native")

MAX_FLAG = "-max=2000"
HALF_A_HEAD = b"GET /status HTTP/1.1\r\nHost: x\r\nX-Never-"
PROMPTLY_S = 15.0
"""Answers come within milliseconds. A server that waits for timeouts of others takes half a minute."""


class LimitedServer(VolumeServer):
    """A server with `limits` as its soft and hard limit of open files."""

    def __init__(self, limits, *arguments, **named):
        soft, hard = limits
        self.command_prefix = ["/bin/sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh"]
        super().__init__(*arguments, **named)


@pytest.fixture
def limited(implementation, tmp_path, master, weed):
    """A factory: limited((soft, hard), *flags) -> LimitedServer, ended with the test."""
    with ExitStack() as stack:

        def make(limits, *flags):
            made = LimitedServer(limits, implementation, tmp_path / "server", master, weed, flags)
            stack.callback(made.end)
            return made

        yield make


def test_the_soft_limit_is_raised(limited):
    server = limited((150, 2000), MAX_FLAG)
    volumes = [server.new_volume() for _ in range(120)]
    fid = server.store(b"the last one's", fid=server.new_fid(volumes[-1]))
    assert server.read(fid).body == b"the last one's"
    server.restart()
    assert server.read(fid).body == b"the last one's"


@native
def test_a_volume_that_there_is_no_descriptor_for_is_refused_whole_and_those_that_are_there_serve_on(limited):
    server = limited((300, 300), MAX_FLAG)
    made, refusal = [], None
    while refusal is None and len(made) < 200:
        try:
            made.append(server.new_volume())
        except grpc.RpcError as error:
            refusal = error.details()
    assert "may open 300 files" in refusal
    assert "ulimit -Hn" in refusal
    assert len(made) > 80
    names = {path.name.partition(".")[0] for path in server.data_dir.glob("*.dat")}
    assert names == {str(volume_id) for volume_id in made}
    with pytest.raises(grpc.RpcError):
        server.allocate(new_volume_id())
    for volume_id in (made[0], made[-1]):
        server.store(b"x", fid=server.new_fid(volume_id))
    server.restart()
    assert len([line for line in open_files(server.process.pid) if line.endswith(".dat")]) == len(made)
    assert f"({len(made)} are open)" in server.process.log_path.read_text()


@ours
def test_health_checks_and_reads_go_on_beside_half_open_connections_of_more_than_there_are_descriptors(limited):
    server = limited((400, 400))
    fid = server.store(b"read me")
    with ExitStack() as stack:
        for _ in range(600):
            attacker = stack.enter_context(socket.socket())
            attacker.settimeout(PROMPTLY_S)
            attacker.connect(server.admin)
            attacker.sendall(HALF_A_HEAD)
        for _ in range(20):
            assert fetch(server.admin, "GET", "/healthz", limit_s=PROMPTLY_S).status == 200
            assert fetch(server.admin, "GET", f"/{fid}", limit_s=PROMPTLY_S).body == b"read me"
        assert server.rpc.VolumeServerStatus(volume_server_pb2.VolumeServerStatusRequest(), timeout=PROMPTLY_S)
    assert "Traceback" not in server.process.log_path.read_text()


@native
def test_beside_readers_that_take_nothing_health_checks_are_answered_and_others_are_told(limited):
    server = limited((400, 400))
    fid = server.store(bytes(8 << 20))
    with ExitStack() as stack:
        served = 0
        for number in range(420):
            # From many addresses: one client never gets all seats.
            reader = stack.enter_context(Connection(server.admin, source=f"127.0.1.{number % 40 + 1}"))
            reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.send(f"GET /{fid} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            status_line, _ = reader.read_head()
            served += status_line.split()[1] == "200"
        assert 150 < served < 400
        for _ in range(5):
            assert fetch(server.admin, "GET", "/healthz", limit_s=PROMPTLY_S).status == 200
            turned_away = fetch(server.admin, "GET", f"/{fid}", limit_s=PROMPTLY_S)
            assert (turned_away.status, turned_away.get("Connection")) == (503, "close")
    wait_until(lambda: _is_served(server, fid), "the server to serve again")


@native
def test_one_address_never_gets_all_seats(limited):
    server = limited((400, 400))
    fid = server.store(bytes(8 << 20))
    with ExitStack() as stack:
        for _ in range(420):
            reader = stack.enter_context(Connection(server.admin, source="127.0.0.9"))
            reader.send(f"GET /{fid} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            reader.read_head()
        assert fetch(server.admin, "GET", f"/{fid}", limit_s=PROMPTLY_S, source="127.0.0.9").status == 503
        assert fetch(server.admin, "HEAD", f"/{fid}", limit_s=PROMPTLY_S).status == 200


@ours
def test_silent_grpc_connections_make_room_for_others(limited):
    server = limited((400, 400))
    with ExitStack() as stack:
        for _ in range(300):
            silent = stack.enter_context(socket.socket())
            silent.connect((server.host, server.layout.grpc_port))
        with server.open_channel() as channel:
            grpc.channel_ready_future(channel).result(timeout=PROMPTLY_S)
        assert fetch(server.admin, "GET", "/healthz", limit_s=PROMPTLY_S).status == 200


def _is_served(server, fid):
    try:
        return server.read(fid).status == 200
    except (OSError, Disconnected):
        return False
