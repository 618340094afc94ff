"""The ports of tests belong to one process alone, and a server of that process can listen on them."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import ports
from support.waiting import LIMIT_S

OTHER_WORKER = """
import sys
from support import ports
ports.PAIRED_PORTS = range(int(sys.argv[1]), int(sys.argv[1]) + 1)
try:
    ports.free_port_pair()
except OSError as error:
    print(error)
"""


def listen(port):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((ports.LOOPBACK, port))
    made.listen()
    return made


@pytest.mark.parametrize("is_served", [False, True])
def test_another_process_does_not_get_a_held_pair(is_served):
    first, second = ports.free_port_pair()
    assert second == first + ports.GRPC_PORT_DELTA
    servers = [listen(port) for port in (first, second)] if is_served else []
    path = str(Path(ports.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", OTHER_WORKER, str(first)],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert "no pair of free ports" in done.stdout
    for server in servers:
        server.close()


def test_a_server_listens_on_a_held_port_again_and_again():
    port = ports.free_port()
    for _ in range(3):
        with listen(port), socket.create_connection((ports.LOOPBACK, port)):
            pass
