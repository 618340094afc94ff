"""A Go master and volume server on loopback, for tests that compare with the Go server's answer."""

from __future__ import annotations

import http.client
import subprocess
from contextlib import ExitStack, contextmanager

import grpc
from support.ports import free_ports
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb.methods import volume_server
from native_handlers.pb.volume_server_pb2 import AllocateVolumeRequest

START_LIMIT_S = 60
STOP_LIMIT_S = 60


@contextmanager
def go_volume_server(weed, folder, volume_id, *flags, security=""):
    """Yields (admin port, public port) of a server with one empty volume. Both processes end with the block. `security`
    is the content of its security.toml. With None as `volume_id` no volume is made: a white list forbids the test to
    make one.
    """
    master, master_grpc, admin, volume_grpc, public = free_ports(5)
    config = folder / "config"
    for name in ("config", "master", "volume"):
        (folder / name).mkdir()
    (config / "security.toml").write_text(security)
    head = [weed, f"-config_dir={config}", "-logtostderr=true"]
    common = {"ip": "127.0.0.1", "port": master, "port.grpc": master_grpc}
    volume = {
        "ip": "127.0.0.1",
        "port": admin,
        "port.grpc": volume_grpc,
        "port.public": public,
        "dir": folder / "volume",
        "master": f"127.0.0.1:{master}.{master_grpc}",
        "preStopSeconds": 0,
    }
    with ExitStack() as stack:
        log = stack.enter_context((folder / "weed.log").open("wb"))
        stack.enter_context(
            _running([*head, "master", "-telemetry=false", *_flags({**common, "mdir": folder / "master"})], log)
        )
        stack.enter_context(_running([*head, "volume", *_flags(volume), *flags], log))
        _wait_until_answered(admin, "/healthz")
        if volume_id is not None:
            with grpc.insecure_channel(f"127.0.0.1:{volume_grpc}") as channel:
                allocation = AllocateVolumeRequest(volume_id=volume_id, version=3)
                volume_server(channel).AllocateVolume(allocation, timeout=START_LIMIT_S, wait_for_ready=True)
            # The server caches for minutes the answer about a volume that the master does not know yet.
            _wait_until_answered(master, f"/dir/lookup?volumeId={volume_id}")
        yield admin, public


def _flags(values):
    return [f"-{name}={value}" for name, value in values.items()]


@contextmanager
def _running(command, log):
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_answered(port, path):
    wait_until(lambda: _answers(port, path), f"the Go program on port {port} to answer {path}", START_LIMIT_S)


def _answers(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
