from __future__ import annotations

import os
import socket

import pytest

from supervisor.cluster import peer_check
from supervisor.cluster.peer_check import is_own_user

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"


def row(local_port, remote_port, uid):
    return f"   1: 0100007F:{local_port:04X} 0100007F:{remote_port:04X} 01 0:0 00:0 0 {uid} 0 1 1 0 20 4 30 10 -1"


@pytest.fixture
def table(tmp_path, monkeypatch):
    def write(*rows):
        path = tmp_path / "tcp"
        path.write_text("\n".join([HEAD, *rows]))
        monkeypatch.setattr(peer_check, "_TABLES", (path, tmp_path / "missing"))

    return write


@pytest.fixture
def connection():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        yield client.getsockname()[1], server.getsockname()[1]


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="this system has no table of sockets")
def test_our_own_connections_are_ours(connection):
    peer_port, server_port = connection
    assert is_own_user(f"ipv4:127.0.0.1:{peer_port}", server_port)
    assert not is_own_user(f"ipv4:127.0.0.1:{peer_port}", server_port + 1)


@pytest.mark.parametrize(("uid", "expected"), [(os.geteuid(), True), (0, True), (os.geteuid() + 12345, False)])
def test_the_owner_of_the_other_end_decides(table, uid, expected):
    table(row(8000, 9000, 77777), row(4711, 9000, uid), row(9000, 4711, 77777))
    assert is_own_user("ipv4:127.0.0.1:4711", 9000) is expected


@pytest.mark.parametrize(
    "peer", ["ipv4:10.0.0.1:4711", "ipv4:127.0.0.1:4712", "unix:", "", "ipv4:127.0.0.1:x", "ipv6:%5B::2%5D:4711"]
)
def test_who_is_not_listed_or_not_local_is_refused(table, peer):
    table(row(4711, 9000, os.geteuid()), "a torn line")
    assert not is_own_user(peer, 9000)


def test_ipv6_loopback_is_understood(table):
    long = "00000000000000000000000001000000"
    table(row(4711, 9000, os.geteuid()).replace("0100007F", long))
    assert is_own_user("ipv6:%5B::1%5D:4711", 9000)


def test_a_system_without_the_table_trusts_loopback(monkeypatch, tmp_path):
    monkeypatch.setattr(peer_check, "_TABLES", (tmp_path / "missing",))
    assert is_own_user("ipv4:127.0.0.1:4711", 9000)
    assert not is_own_user("ipv4:10.0.0.1:4711", 9000)
