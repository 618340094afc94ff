"""The owner of a loopback connection: by the kernel's table, and with real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import grpc
import pytest
from support.waiting import LIMIT_S as DEADLINE_S

from native_handlers.pb import master_pb2
from native_handlers.pb.methods import master as master_client
from supervisor.cluster import caller_check
from supervisor.cluster.caller_check import ChildCheck, is_own_user, owner_of
from supervisor.cluster.master_view import MasterView
from supervisor.cluster.node_model import NodeModel
from supervisor.cluster.relay import MasterRelay
from supervisor.wire.server_address import ServerAddress

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
ME = os.geteuid()
MAPPED = "0000000000000000FFFF00000100007F"


def row(local_port, remote_port, uid, *, local="0100007F", remote="0100007F", state="01", inode=77):
    return (
        f"   1: {local}:{local_port:04X} {remote}:{remote_port:04X} {state} 00000000:00000000 00:00000000 00000000 "
        f"{uid:5d}        0 {inode} 1 0000000000000000 20 4 30 10 -1"
    )


@pytest.fixture
def table(tmp_path, monkeypatch):
    def write(*rows, family=4):
        path = tmp_path / f"tcp{family}"
        path.write_text("\n".join([HEAD, *rows, ""]))

    monkeypatch.setattr(caller_check, "TABLE_V4", tmp_path / "tcp4")
    monkeypatch.setattr(caller_check, "TABLE_V6", tmp_path / "tcp6")
    return write


@contextmanager
def connected(host="127.0.0.1", port=0, server_host="127.0.0.1"):
    """A connection; (client socket, the server's end of it, server's port)."""
    with socket.create_server((server_host, 0)) as server:
        server_port = server.getsockname()[1]
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind((host, port))
            client.connect((server_host, server_port))
            with server.accept()[0] as accepted:
                yield client, accepted, server_port


def test_our_own_connections_are_ours():
    with connected() as (client, _, server_port):
        caller = f"ipv4:127.0.0.1:{client.getsockname()[1]}"
        owner = owner_of(caller, server_port)
        assert owner == (ME, os.fstat(client.fileno()).st_ino)
        assert is_own_user(caller, server_port)
        assert not is_own_user(caller, server_port + 1)


def test_another_loopback_address_with_the_same_port_is_another_socket():
    with connected() as (client, _, server_port):
        port = client.getsockname()[1]
        for other in ("ipv4:127.0.0.2", "ipv4:127.1.0.1", "ipv6:%5B::1%5D"):
            assert owner_of(f"{other}:{port}", server_port) is None


def test_a_connection_from_another_loopback_address_is_found_whole():
    with connected("127.0.0.2") as (client, _, server_port):
        port = client.getsockname()[1]
        assert owner_of(f"ipv4:127.0.0.2:{port}", server_port).inode == os.fstat(client.fileno()).st_ino
        assert owner_of(f"ipv4:127.0.0.1:{port}", server_port) is None


def test_a_client_with_a_socket_of_the_other_family_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET6) as client:
        server_port = server.getsockname()[1]
        client.connect(("::ffff:127.0.0.1", server_port))
        port = client.getsockname()[1]
        for caller in (f"ipv4:127.0.0.1:{port}", f"ipv6:%5B::ffff:127.0.0.1%5D:{port}"):
            assert owner_of(caller, server_port) == (ME, os.fstat(client.fileno()).st_ino)


def test_a_closed_connection_that_the_kernel_still_lists_is_nobodys():
    """Such a row has the user 0, whichever user made the socket."""
    with connected() as (client, accepted, server_port):
        caller = f"ipv4:127.0.0.1:{client.getsockname()[1]}"
        client.close()
        assert owner_of(caller, server_port) is None, "in the middle of closing"
        accepted.close()
        assert owner_of(caller, server_port) is None, "in TIME_WAIT"


def test_a_port_that_is_used_again_belongs_to_its_new_owner():
    with connected() as (client, _, _port):
        port = client.getsockname()[1]
        with connected("127.0.0.2", port) as (second, _, server_port):
            assert owner_of(f"ipv4:127.0.0.1:{port}", server_port) is None
            assert owner_of(f"ipv4:127.0.0.2:{port}", server_port).inode == os.fstat(second.fileno()).st_ino


@pytest.mark.parametrize(("uid", "expected"), [(ME, True), (ME + 12345, False)])
def test_the_owner_of_the_other_end_decides(table, uid, expected):
    table(row(8000, 9000, 77777), row(4711, 9000, uid), row(9000, 4711, 77777))
    assert is_own_user("ipv4:127.0.0.1:4711", 9000) is expected


@pytest.mark.parametrize("state", ["02", "04", "05", "06", "07", "08", "0A", "0C"])
def test_only_established_connections_count(table, state):
    table(row(4711, 9000, ME, state=state))
    assert not is_own_user("ipv4:127.0.0.1:4711", 9000)


@pytest.mark.parametrize(
    "other",
    [
        {"local": "0200007F"},
        {"remote": "0200007F"},
        {"local": "0100000A"},
        {"remote": "00000000"},
    ],
)
def test_ports_alone_are_nobody(table, other):
    table(row(4711, 9000, ME, **other))
    assert not is_own_user("ipv4:127.0.0.1:4711", 9000)


def test_a_row_of_a_stranger_does_not_hide_behind_ours(table):
    table(row(4711, 9000, ME + 1, local="0200007F", inode=5), row(4711, 9000, ME, inode=6))
    assert owner_of("ipv4:127.0.0.1:4711", 9000) == (ME, 6)
    assert owner_of("ipv4:127.0.0.2:4711", 9000) == (ME + 1, 5)


@pytest.mark.parametrize(
    "caller",
    [
        "ipv4:10.0.0.1:4711",
        "ipv4:127.0.0.1:4712",
        "unix:",
        "",
        "ipv4:127.0.0.1:x",
        "ipv4:127.0.0.1:٤٧١١",
        "ipv4:localhost:4711",
        "ipv6:%5B::2%5D:4711",
        "ipv6:%5B::1%5D:4711",
        "ipv6:%5B::ffff:10.0.0.1%5D:4711",
    ],
)
def test_who_is_not_listed_or_not_local_is_refused(table, caller):
    table(row(4711, 9000, ME), "a torn line")
    assert not is_own_user(caller, 9000)


def test_a_torn_row_is_no_owner(table):
    table(row(4711, 9000, ME)[:70])
    assert not is_own_user("ipv4:127.0.0.1:4711", 9000)


def test_a_mapped_address_of_the_other_table(table):
    table()
    table(row(4711, 9000, ME, local=MAPPED, remote=MAPPED), family=6)
    assert is_own_user("ipv4:127.0.0.1:4711", 9000)


def test_a_system_without_the_table_lets_nobody_in(table):
    assert not is_own_user("ipv4:127.0.0.1:4711", 9000)


CONNECT = """
import socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(client.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def child_connected():
    """A process with a connection to this one: (its id, grpc's name of the connection, server's port)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        words = [sys.executable, "-c", CONNECT, str(port)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            yield process.pid, f"ipv4:127.0.0.1:{process.stdout.readline().strip()}", port
            process.stdin.close()


class TestChild:
    def test_the_connection_is_held_by_the_child(self):
        check = ChildCheck()
        with child_connected() as (pid, caller, port):
            assert not check(caller, port), "there is no child yet"
            check.set_process(pid)
            assert check(caller, port)
            check.set_process(os.getpid())
            assert not check(caller, port), "another process of our user holds it"
            check.set_process(None)
            assert not check(caller, port)

    def test_a_connection_that_is_known_is_not_looked_for_again(self, monkeypatch):
        check = ChildCheck()
        looked = []
        scandir = os.scandir

        def counting(path):
            looked.append(path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", counting)
        with child_connected() as (pid, caller, port):
            check.set_process(pid)
            assert [check(caller, port) for _ in range(3)] == [True] * 3
        assert len(looked) == 1

    def test_a_process_that_has_ended_holds_nothing(self):
        check = ChildCheck()
        with subprocess.Popen([sys.executable, "-c", ""]) as process:
            process.wait()
        check.set_process(process.pid)
        with connected() as (client, _, port):
            assert not check(f"ipv4:127.0.0.1:{client.getsockname()[1]}", port)

    def test_a_process_that_hides_its_descriptors_is_known_by_its_user(self, monkeypatch, caplog):
        def refuse(path):
            raise PermissionError(13, "Permission denied", path)

        check = ChildCheck()
        check.set_process(1)
        monkeypatch.setattr(os, "scandir", refuse)
        with connected() as (client, _, port):
            for _ in range(2):
                assert check(f"ipv4:127.0.0.1:{client.getsockname()[1]}", port)
        assert len([one for one in caplog.records if "cannot be told" in one.getMessage()]) == 1

    def test_the_relay_serves_the_child_and_not_another_program_of_its_user(self):
        """The connecting program is this one: once it counts as the child, once not."""
        check = ChildCheck()
        view = MasterView([ServerAddress("127.0.0.1", 1, 1)])
        relay = MasterRelay(NodeModel(["child"]), None, view, None, is_allowed_caller=check)
        relay.start()
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        words = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        try:
            with (
                subprocess.Popen(words, stdin=subprocess.PIPE) as other,
                grpc.insecure_channel(relay.address.grpc, options) as channel,
            ):
                rpc = master_client(channel)

                def code():
                    beats = iter([master_pb2.Heartbeat()])
                    call = rpc.SendHeartbeat(beats, timeout=DEADLINE_S)
                    try:
                        next(call, None)
                    except grpc.RpcError as error:
                        return error.code()
                    finally:
                        call.cancel()
                    return grpc.StatusCode.OK

                assert code() is grpc.StatusCode.PERMISSION_DENIED
                check.set_process(other.pid)
                assert code() is grpc.StatusCode.PERMISSION_DENIED
                check.set_process(os.getpid())
                assert code() is not grpc.StatusCode.PERMISSION_DENIED
        finally:
            relay.stop()
