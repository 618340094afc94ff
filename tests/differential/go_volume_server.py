"""A Go master and volume server on loopback, for tests that ask it what the right answer is."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager

import grpc

from native_handlers.pb.methods import volume_server
from native_handlers.pb.volume_server_pb2 import AllocateVolumeRequest

START_LIMIT_S = 60
STOP_LIMIT_S = 30


def find_weed():
    """The program in WEED_BINARY or on PATH, or None."""
    named = os.environ.get("WEED_BINARY")
    return named if named and os.access(named, os.X_OK) else shutil.which("weed")


@contextmanager
def go_volume_server(weed, folder, volume_id, *flags, security=""):
    """Yields (admin port, public port) of a server with one empty volume; both processes end with the block.

    `security` is what its security.toml says. None as `volume_id` makes no volume: a white list forbids us to.
    """
    master, master_grpc, admin, volume_grpc, public = _free_ports(5)
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
        _wait_until_healthy(admin)
        if volume_id is not None:
            with grpc.insecure_channel(f"127.0.0.1:{volume_grpc}") as channel:
                allocation = AllocateVolumeRequest(volume_id=volume_id, version=3)
                volume_server(channel).AllocateVolume(allocation, timeout=START_LIMIT_S, wait_for_ready=True)
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


def _wait_until_healthy(port):
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        threading.Event().wait(0.05)
    raise AssertionError("the Go volume server did not become healthy")


def _free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
