from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from supervisor.config.config import JwtKey, Mode, NativeBackend
from supervisor.logs.setup import start_line
from supervisor.wire.server_address import ServerAddress


def config(**changes):
    """What the line is made of; a whole Config has some fifty fields more."""
    facts = {
        "mode": Mode.MIXED,
        "backend": Path("/usr/bin/weed"),
        "ip": "node1",
        "port": 8080,
        "port_grpc": 18080,
        "port_public": 8080,
        "bind_ip": "::",
        "masters": (ServerAddress("m1", 9333, 19333), ServerAddress("m2", 9333, 9334)),
        "directories": (SimpleNamespace(path=Path("/data1")), SimpleNamespace(path=Path("/data2"))),
        "metrics_port": 0,
        "metrics_ip": "0.0.0.0",
        "security": SimpleNamespace(write_key=JwtKey(b"s3cr3t", 10)),
    }
    return SimpleNamespace(**facts | changes)


def test_it_says_what_was_started_where_and_in_which_mode():
    assert start_line(config(), version="1.2", routing="phase 1 of table.yaml") == (
        "weed-volume-py 1.2 in mixed mode (phase 1 of table.yaml); HTTP [::]:8080; gRPC [::]:18080; "
        "known to the cluster as node1:8080; masters m1:9333, m2:9333.9334; directories /data1, /data2; "
        "backend /usr/bin/weed"
    )


def test_it_names_the_other_ports_where_there_are_any():
    line = start_line(config(port_public=8081, metrics_port=9327), version="1.2", routing="")
    assert "; public HTTP [::]:8081; metrics 0.0.0.0:9327; " in line


@pytest.mark.parametrize(
    ("mode", "backend", "end"),
    [
        (Mode.NATIVE, None, "/data2"),
        (Mode.NATIVE, Path("/usr/bin/weed"), "/data2"),
        (Mode.PROXY, NativeBackend.NATIVE, "; backend this program"),
    ],
)
def test_the_backend_is_named_only_where_there_is_one(mode, backend, end):
    assert start_line(config(mode=mode, backend=backend), version="", routing="").endswith(end)


def test_it_is_one_line_and_tells_no_key():
    line = start_line(config(), version="1.2", routing="")
    assert "\n" not in line
    assert "s3cr3t" not in line
