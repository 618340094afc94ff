"""Costs that grow with the number of volumes: start, stop, status, metrics, heartbeat, reload; native and Go's. During
each step a reader reads one small file repeatedly; its longest wait is printed with the step.
"""

import compileall
import resource
import signal
import statistics
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from bench.processor_time import processor_s as processor_s_of
from harness import implementations
from harness.http1 import fetch
from harness.processes import memory_bytes
from harness.server import VolumeServer
from reader_beside import reader_beside
from support.ports import LOOPBACK, free_port
from support.waiting import wait_until
from tables import print_head, print_row
from volume_dirs import file_id, make_volumes

import native_handlers
import supervisor
from native_handlers.pb import volume_server_pb2

LIMIT_S = 900.0
ROUNDS = 5
NEW_VOLUMES = 100
LAST_VOLUMES = 4
"""So many of the new volumes are asked for to see that a reload is over."""
QUIET_S = 12.0
"""Two pulses and a little more: the heartbeats' cost without other work."""
RELOAD_S = 4.0
_SPARE_DESCRIPTORS = 4500
"""Descriptors for other uses than volumes; the native server keeps some free for connections."""


@dataclass
class Step:
    """How long each round took, and the longest wait of the reader beside them."""

    times_s: list[float] = field(default_factory=list)
    stall_s: float = 0.0

    @property
    def cells(self):
        took = "" if not self.times_s else f"{statistics.median(self.times_s) * 1000:,.1f}"
        slowest = "" if len(self.times_s) < 2 else f"{max(self.times_s) * 1000:,.1f}"
        return took, slowest, f"{self.stall_s * 1000:,.0f}" if self.stall_s else ""


def run(options, master, base, weed):
    """Prints one table for each number of volumes. Asks for as many descriptors as the largest one needs."""
    compile_sources()
    names = [name for name in options.servers.split(",") if weed or not _known(name).needs_weed]
    for count in [int(text) for text in options.volumes.split(",")]:
        allowed = _raise_descriptors(2 * (count + NEW_VOLUMES) + _SPARE_DESCRIPTORS)
        most = (allowed - _SPARE_DESCRIPTORS) // 2 - NEW_VOLUMES
        if count > most:
            print(f"\n{count:,} volumes need more descriptors than the {allowed:,} allowed here: {most:,} instead")
            count = most  # noqa: PLW2901  what is measured
        tables = {name: sweep(name, count, master, base / f"{name}-{count}", weed) for name in names}
        print_table(count, tables)


def compile_sources():
    """As an installer does. Else, with PYTHONDONTWRITEBYTECODE, each start compiles 370 modules: half a second."""
    for package in (native_handlers, supervisor):
        compileall.compile_dir(Path(package.__file__).parent, quiet=1)


def print_table(count, tables):
    print(f"\n{count:,} volumes, in ms: the median, the slowest, and the longest wait of a reader beside it\n")
    print_head("", *(f"{name}{what}" for name in tables for what in ("", ", slowest", ", reader")))
    for step in next(iter(tables.values())):
        print_row(step, *(cell for table in tables.values() for cell in _cells(table.get(step))))


def _cells(value):
    return value.cells if isinstance(value, Step) else (value or "", "", "")


def _known(name):
    return {one.name: one for one in implementations.ALL}[name]


def _raise_descriptors(wanted):
    """How many descriptors this process, and so each server that it starts, may have: `wanted` where possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return wanted


def sweep(name, count, master, base, weed):
    """step -> what it took, for one server with `count` volumes."""
    metrics_port = free_port()
    flags = [f"-max={count + 2 * NEW_VOLUMES}", f"-metricsPort={metrics_port}", f"-metricsIp={LOOPBACK}"]
    server = VolumeServer(_known(name), base, master, weed, flags, waits=False)
    server.process.end()  # its ports are chosen; the volumes come before it serves
    make_volumes(server.data_dir, 1, count)
    for path in server.data_dir.glob(".weed-volume-py*"):
        path.unlink()
    try:
        return _measure(server, count, metrics_port)
    finally:
        server.end()


def _measure(server, count, metrics_port):
    steps = start(server, count)
    target = f"/{file_id(1)}"
    steps["resident after start, MiB"] = f"{memory_bytes(server.process.pid, 'VmRSS') / 2**20:,.0f}"

    def get(port, path):
        reply = fetch((LOOPBACK, port), "GET", path)
        assert reply.status == 200, reply
        return reply

    def repeated(work, rounds=ROUNDS):
        with _step(server, target) as step:
            for _ in range(rounds):
                begun = time.perf_counter()
                work()
                step.times_s.append(time.perf_counter() - begun)
        return step

    rpc, port = server.rpc, server.layout.http_port
    steps["/status"] = repeated(lambda: get(port, "/status"))
    steps["/status?pretty=y"] = repeated(lambda: get(port, "/status?pretty=y"))
    steps["/ui/index.html"] = repeated(lambda: get(port, "/ui/index.html"))
    steps["metrics"] = repeated(lambda: get(metrics_port, "/metrics"))
    steps["VolumeServerStatus"] = repeated(
        lambda: rpc.VolumeServerStatus(volume_server_pb2.VolumeServerStatusRequest())
    )
    steps["GetState"] = repeated(lambda: rpc.GetState(volume_server_pb2.GetStateRequest()))
    steps["unmount one, mount it again"] = repeated(lambda: _remount(rpc, count))
    new_ids = iter(range(count + NEW_VOLUMES + 1, count + 2 * NEW_VOLUMES))
    steps["AllocateVolume, DeleteVolume"] = repeated(lambda: _come_and_go(rpc, next(new_ids)))
    with _step(server, target) as step:
        _let_pass(QUIET_S)
    steps[f"nothing but heartbeats for {QUIET_S:g} s"] = step
    with _step(server, target) as step:
        server.process.send_signal(signal.SIGHUP)
        _let_pass(RELOAD_S)
    steps["SIGHUP, nothing new"] = step
    make_volumes(server.data_dir, count + 1, NEW_VOLUMES)
    with _step(server, target) as step:
        begun = time.perf_counter()
        server.process.send_signal(signal.SIGHUP)
        new = range(count + 1, count + NEW_VOLUMES + 1)
        _wait_for_volumes(rpc, new)
        step.times_s.append(time.perf_counter() - begun)
    assert all(_has_volume(rpc, volume_id) for volume_id in new)
    steps[f"SIGHUP, {NEW_VOLUMES} new volumes"] = step
    with _step(server, target) as step:
        begun = time.perf_counter()
        rpc.DeleteCollection(volume_server_pb2.DeleteCollectionRequest(collection="pictures"), timeout=LIMIT_S)
        step.times_s.append(time.perf_counter() - begun)
    steps["DeleteCollection of every tenth volume"] = step
    steps["stop"] = stop(server)
    return steps


def start(server, count):
    """The program from exec on; the master is asked how many volumes it knows of."""
    begun = time.perf_counter()
    server.launch()
    wait_until(lambda: _is_healthy(server), f"{server.name} to serve", LIMIT_S)
    healthy_s = time.perf_counter() - begun
    wait_until(lambda: _listed(server) == count, f"{server.name} to list its volumes", LIMIT_S)
    listed_s = time.perf_counter() - begun
    wait_until(
        lambda: server.master.volume_count(server.url) == count, f"the master to know {server.name}'s volumes", LIMIT_S
    )
    known_s, processor_s = time.perf_counter() - begun, processor_s_of(server.process.pid)
    return {
        "start: first healthy answer": Step([healthy_s]),
        "start: all volumes in /status": Step([listed_s]),
        "start: all volumes known to the master": Step([known_s]),
        "start: processor time until then": Step([processor_s]),
    }


def stop(server):
    """From the signal to the end of the process."""
    begun = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.process.exit_code is not None, f"{server.name} to end", LIMIT_S)
    return Step([time.perf_counter() - begun])


@contextmanager
def _step(server, target):
    step = Step()
    with reader_beside(server.admin, target) as stalls:
        yield step
    assert not stalls.failed, stalls
    step.stall_s = stalls.longest_s


def _let_pass(duration_s):
    """The reader works meanwhile."""
    threading.Event().wait(duration_s)


def _remount(rpc, volume_id):
    rpc.VolumeUnmount(volume_server_pb2.VolumeUnmountRequest(volume_id=volume_id))
    rpc.VolumeMount(volume_server_pb2.VolumeMountRequest(volume_id=volume_id))


def _come_and_go(rpc, volume_id):
    request = volume_server_pb2.AllocateVolumeRequest(volume_id=volume_id, replication="000", version=3)
    rpc.AllocateVolume(request)
    rpc.VolumeDelete(volume_server_pb2.VolumeDeleteRequest(volume_id=volume_id))


def _wait_for_volumes(rpc, volume_ids):
    """Asks for the last ones, which come last: a call for each of them, or a list, would be work of its own."""
    for volume_id in reversed(volume_ids[-LAST_VOLUMES:]):
        wait_until(lambda wanted=volume_id: _has_volume(rpc, wanted), f"volume {volume_id}", LIMIT_S)


def _has_volume(rpc, volume_id):
    try:
        rpc.VolumeStatus(volume_server_pb2.VolumeStatusRequest(volume_id=volume_id))
    except grpc.RpcError:
        return False
    return True


def _is_healthy(server):
    if server.process.exit_code is not None:
        raise RuntimeError(f"{server.name} ended; its log:\n{server.process.log_tail()}")
    try:
        return server.http("GET", "/healthz").status == 200
    except OSError:
        return False


def _listed(server):
    return len(server.http("GET", "/status").json().get("Volumes") or [])
