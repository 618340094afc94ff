"""The socket of the inner gRPC server has no name that other users could use."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from support.descriptors import open_descriptors

from supervisor.net.errors import CannotListen, NoPrivateSocket
from supervisor.net.private_socket import private_socket


@pytest.fixture
def listening():
    with socket.socket(socket.AF_UNIX) as sock:
        yield sock


def test_only_we_find_it(listening, tmp_path, monkeypatch):
    """Also where the path of the temporary directory is longer than the limit of a Unix socket's path."""
    deep = tmp_path / ("x" * 200)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    made = []
    before = open_descriptors()

    def listen(path):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        made.append(Path(os.readlink(path.parent)))
        assert made[0].parent == deep
        listening.bind(str(path))
        listening.listen()

    with private_socket(listen) as path:
        assert list(deep.iterdir()) == []
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                with listening.accept()[0] as server:
                    client.sendall(b"x")
                    assert server.recv(1) == b"x"
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError, match="No such file"):
        client.connect(str(path))
    assert not open_descriptors() - before


def test_nothing_is_left_where_nobody_listens():
    made = []

    def fail(path):
        made.append(Path(os.readlink(path.parent)))
        raise RuntimeError("no socket")

    with pytest.raises(NoPrivateSocket, match=r"no socket\. Set TMPDIR to"), private_socket(fail):
        raise AssertionError("there is none")
    assert not made[0].exists()


def test_without_a_directory_to_write_the_operator_is_told_what_to_set(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(CannotListen, match=r"missing.*Set TMPDIR"), private_socket(lambda _path: None):
        raise AssertionError("there is none")
