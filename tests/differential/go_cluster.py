"""A real master and volume server of upstream on free loopback ports, for comparing answers."""

from __future__ import annotations

import signal
import subprocess
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.ports import free_ports
from support.waiting import LIMIT_S, wait_until

if TYPE_CHECKING:
    from pathlib import Path

STOP_S = 5.0


@dataclass(frozen=True)
class WeedVolume:
    """One volume server."""

    http: str
    grpc: str
    directory: Path


@dataclass(frozen=True)
class Weed:
    """A master (its address has the gRPC suffix) and its volume servers."""

    master: str
    volumes: list[WeedVolume]


@contextmanager
def running_weed(program: str, directory: Path, volume_servers: int = 1):
    """The running servers. They are ended in every case."""
    (directory / "config").mkdir()
    (directory / "master").mkdir()
    common = [program, f"-config_dir={directory / 'config'}"]
    port, grpc_port = free_ports(2)
    master = f"127.0.0.1:{port}.{grpc_port}"
    flags = ["-ip=127.0.0.1", f"-port={port}", f"-port.grpc={grpc_port}", f"-mdir={directory / 'master'}"]
    with ExitStack() as stack:
        stack.enter_context(running([*common, "master", "-telemetry=false", *flags], directory / "master.log"))
        wait_for(f"http://127.0.0.1:{port}/cluster/status", b"Leader")
        volumes = [
            start_volume(stack, [*common, "volume", f"-mserver={master}"], directory / f"volume{number}")
            for number in range(volume_servers)
        ]
        yield Weed(master, volumes)


def start_volume(stack: ExitStack, command: list[str], directory: Path) -> WeedVolume:
    directory.mkdir()
    port, grpc_port = free_ports(2)
    flags = [f"-port={port}", f"-port.grpc={grpc_port}", "-ip=127.0.0.1", f"-dir={directory}"]
    more = ["-max=8", "-dataCenter=dc1", "-rack=r1"]
    stack.enter_context(running([*command, *flags, *more], directory.with_suffix(".log")))
    wait_for(f"http://127.0.0.1:{port}/healthz", b"")
    return WeedVolume(f"127.0.0.1:{port}", f"127.0.0.1:{grpc_port}", directory)


@contextmanager
def running(command: list[str], log: Path):
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(STOP_S)


def wait_for(url: str, needed: bytes) -> None:
    wait_until(lambda: has_answer(url, needed), f"{url} to answer with {needed!r}")


def has_answer(url: str, needed: bytes) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
            return needed in answer.read()
    except OSError:
        return False
