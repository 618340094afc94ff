"""Reads in the workers of a native server: each sees what was acknowledged before, and nobody notices one that dies."""

import itertools
import os
import random
import signal
import threading
from contextlib import ExitStack
from dataclasses import replace

import grpc
import pytest
from harness.http1 import Connection, Disconnected
from harness.implementations import NATIVE_WORKERS
from harness.processes import is_alive
from support.descriptors import links_of
from support.waiting import LIMIT_S, wait_until
from test_chaos_workers import Served, named

from native_handlers.pb import volume_server_pb2 as pb

FOUR = replace(NATIVE_WORKERS, name="native-workers-4", workers=4)
BROKEN = (Disconnected, ConnectionResetError, BrokenPipeError)
ROUNDS = 150


@pytest.fixture(params=named(NATIVE_WORKERS))
def served(request, master, weed, tmp_path):
    made = Served(request.param, tmp_path / "server", master, weed)
    yield made
    made.server.end()


def check(connection, fid, data):
    """A read of `fid` over `connection` gives `data`; None is a deleted needle."""
    reply = connection.request("GET", f"/{fid}")
    if data is None:
        assert reply.status == 404
    else:
        assert (reply.status, reply.body) == (200, data)


def has_open(served, volume_id):
    """The workers that have the volume's data open."""
    ends = (f"/{volume_id}.dat", f"/{volume_id}.dat (deleted)")
    pids = served.server.worker_pids()
    return {pid for pid in pids if any(path.endswith(ends) for path in links_of(pid).values())}


def attach_all(served, connections, volume_id):
    """Reads until every worker has the volume open. Returns a needle of it."""
    fid = served.server.new_fid(volume_id)
    served.server.store(b"first", fid=fid)

    def are_all_open():
        before = served.metric("worker_handed_on_requests_total")
        for connection in connections:
            check(connection, fid, b"first")
        return served.metric("worker_handed_on_requests_total") == before

    wait_until(are_all_open, "every worker to read the volume")
    assert has_open(served, volume_id) == set(served.server.worker_pids())
    return fid


class Hammer(threading.Thread):
    """Writes and deletes some needles over one connection, and reads each at once over all connections."""

    def __init__(self, served, volume_id, seed):
        super().__init__(daemon=True)
        self._served = served
        self._random = random.Random(seed)
        self._fids = [served.server.new_fid(volume_id) for _ in range(6)]
        self._now = dict.fromkeys(self._fids)
        self.rounds = 0
        self.failure = None

    def run(self):
        try:
            with ExitStack() as stack:
                connections = [stack.enter_context(Connection(self._served.server.admin)) for _ in range(6)]
                while self.rounds < ROUNDS:
                    self._change(self._random.choice(connections))
                    self.rounds += 1
                    for fid, connection in itertools.product(self._random.sample(self._fids, 2), connections):
                        check(connection, fid, self._now[fid])
        except BaseException as failure:
            self.failure = failure
            raise

    def _change(self, connection):
        fid = self._random.choice(self._fids)
        if self._now[fid] is not None and self._random.random() < 0.3:
            assert connection.request("DELETE", f"/{fid}").status == 202
            self._now[fid] = None
            return
        data = self._random.randbytes(self._random.choice([10, 3000, 200_000]))
        assert connection.request("PUT", f"/{fid}", [], data).status == 201
        self._now[fid] = data


def test_every_worker_sees_what_was_acknowledged(served):
    """While the volume is vacuumed, too."""
    server, volume_id = served.server, served.server.volume_id
    with ExitStack() as stack:
        attach_all(served, list(served.connect_to_each(stack).values()), volume_id)
    hammers = [Hammer(served, volume_id, seed) for seed in range(3)]
    for hammer in hammers:
        hammer.start()
    for wanted in (ROUNDS // 3, 2 * ROUNDS // 3):
        wait_until(
            lambda wanted=wanted: all(one.rounds > wanted or one.failure for one in hammers), "more rounds", LIMIT_S
        )
        list(server.rpc.VacuumVolumeCompact(pb.VacuumVolumeCompactRequest(volume_id=volume_id), timeout=LIMIT_S))
        server.rpc.VacuumVolumeCommit(pb.VacuumVolumeCommitRequest(volume_id=volume_id), timeout=LIMIT_S)
    for hammer in hammers:
        hammer.join(LIMIT_S)
        assert not hammer.is_alive()
        assert hammer.failure is None
    counts = served.metric("http_requests_total")
    assert counts['engine="native",route="http.read"'] >= 3 * ROUNDS * 12


def test_workers_answer_reads_themselves(served):
    with ExitStack() as stack:
        connections = list(served.connect_to_each(stack).values())
        fid = attach_all(served, connections, served.server.volume_id)
        before = sum(served.requests_by_worker().values())
        stopped = served.server.process.pid
        os.kill(stopped, signal.SIGSTOP)
        try:
            for connection in connections:
                for target in (f"/{fid}", f"/{fid}.txt", f"/{fid}?readDeleted=true"):
                    reply = connection.request("GET", target)
                    assert (reply.status, reply.body) == (200, b"first"), "without the parent"
                assert connection.request("HEAD", f"/{fid}").status == 200
        finally:
            os.kill(stopped, signal.SIGCONT)
        wait_until(lambda: sum(served.requests_by_worker().values()) >= before + 8, "the counts")


def test_what_is_closed_is_closed_in_every_worker_when_the_call_returns(served):
    server = served.server
    volume_id = server.new_volume()
    with ExitStack() as stack:
        connections = list(served.connect_to_each(stack).values())
        fid = attach_all(served, connections, volume_id)
        server.rpc.VolumeUnmount(pb.VolumeUnmountRequest(volume_id=volume_id), timeout=LIMIT_S)
        assert not has_open(served, volume_id)
        for connection in connections:
            check(connection, fid, None)
        server.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=volume_id), timeout=LIMIT_S)
        for connection in connections:
            check(connection, fid, b"first")
        fid = attach_all(served, connections, volume_id)
        list(server.rpc.VacuumVolumeCompact(pb.VacuumVolumeCompactRequest(volume_id=volume_id), timeout=LIMIT_S))
        server.rpc.VacuumVolumeCommit(pb.VacuumVolumeCommitRequest(volume_id=volume_id), timeout=LIMIT_S)
        assert not has_open(served, volume_id), "no worker keeps the old files"
        for connection in connections:
            check(connection, fid, b"first")
        attach_all(served, connections, volume_id)
        server.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=LIMIT_S)
        assert not has_open(served, volume_id)
        for connection in connections:
            check(connection, fid, None)
    assert "is ended" not in served.log()


def test_a_worker_that_hangs_is_ended_before_an_unmount_is_over(served):
    server = served.server
    volume_id = server.new_volume()
    with ExitStack() as stack:
        connections = served.connect_to_each(stack)
        attach_all(served, list(connections.values()), volume_id)
        pid = served.pid_of(0)
        os.kill(pid, signal.SIGSTOP)
        server.rpc.VolumeUnmount(pb.VolumeUnmountRequest(volume_id=volume_id), timeout=LIMIT_S)
        assert not is_alive(pid)
        assert not has_open(served, volume_id)
        served.wait_for_new_worker(pid)


class Reader(threading.Thread):
    """Reads some needles over and over, over a new connection whenever one breaks."""

    def __init__(self, served, needles):
        super().__init__(daemon=True)
        self._served = served
        self._needles = needles
        self.is_over = threading.Event()
        self.broken = self.reads = 0
        self.failure = None

    def run(self):
        while not self.is_over.is_set():
            try:
                with Connection(self._served.server.admin) as connection:
                    while not self.is_over.is_set():
                        for fid, data in self._needles.items():
                            check(connection, fid, data)
                            self.reads += 1
            except BROKEN:
                self.broken += 1
            except BaseException as failure:
                self.failure = failure
                raise


@pytest.mark.parametrize("served", named(NATIVE_WORKERS, FOUR), indirect=True)
def test_killed_readers_are_noticed_by_their_own_clients_only(served):
    server = served.server
    needles = {server.new_fid(): os.urandom(size) for size in (10, 5000, 300_000, 3_000_000)}
    for fid, data in needles.items():
        server.store(data, fid=fid)
    readers = [Reader(served, needles) for _ in range(4)]
    for reader in readers:
        reader.start()
    for wanted in (20, 60):
        wait_until(lambda wanted=wanted: all(one.reads > wanted or one.failure for one in readers), "more reads")
        pid = served.pid_of(served.busiest())
        os.kill(pid, signal.SIGKILL)
        fid = server.new_fid()
        needles_after = b"written while a worker dies"
        try:
            server.store(needles_after, fid=fid)
        except (*BROKEN, ConnectionRefusedError):
            server.store(needles_after, fid=fid)
        assert server.read(fid).body == needles_after
        served.wait_for_new_worker(pid)
    for reader in readers:
        reader.is_over.set()
        reader.join(LIMIT_S)
        assert not reader.is_alive()
        assert reader.failure is None
    assert sum(reader.broken for reader in readers) > 0
    try:
        server.rpc.VolumeUnmount(pb.VolumeUnmountRequest(volume_id=server.volume_id), timeout=LIMIT_S)
    except grpc.RpcError as error:
        raise AssertionError(f"no dead worker holds a lock: {error.details()}") from error
