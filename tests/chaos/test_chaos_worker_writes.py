"""Writes in the workers of a native server: nothing acknowledged is lost, whoever dies or hangs in a write."""

import json
import os
import random
import re
import signal
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import pytest
from harness.http1 import Connection, Disconnected
from harness.implementations import NATIVE_WORKERS
from harness.processes import is_alive
from support.descriptors import links_of
from support.stores import open_at
from support.waiting import LIMIT_S, wait_until
from test_chaos_workers import Served, named

from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.check import check_directory
from native_handlers.storage.disk.directory_lock import LOCK_FILE_NAME
from supervisor.assembly.lock_watch import HOLD_S

FOUR = replace(NATIVE_WORKERS, name="native-workers-4", workers=4)
BROKEN = (Disconnected, ConnectionResetError, BrokenPipeError, ConnectionRefusedError)
NEEDLES = 8
ROUNDS = 20
ABSENT = None


@pytest.fixture(params=named(NATIVE_WORKERS, FOUR))
def served(request, master, weed, tmp_path):
    made = Served(request.param, tmp_path / "server", master, weed)
    made.live = {}
    yield made
    made.server.end()
    report = check_directory(made.server.data_dir)
    assert report.is_healthy, str(report)
    store = open_at(made.server.data_dir)
    try:
        assert store.findings == []
        for volume_id, count in made.live.items():
            entries = store.find_volume(volume_id).handle.get().index.ascending()
            assert sum(at.size > 0 for _, at in entries) == count
    finally:
        store.close()


class Writer(threading.Thread):
    """Writes, overwrites, deletes and reads needles of its own, over a new connection whenever one breaks.

    `now` has what each needle may be: one content after an acknowledgement, two while a change is under way. A needle
    whose change broke off is not changed again: the change may be made at any time later, as it was handed on already.
    """

    def __init__(self, served, volume_id, seed):
        super().__init__(daemon=True)
        self._served = served
        self._random = random.Random(seed)
        self._new_fid = partial(served.server.new_fid, volume_id)
        self.now = {self._new_fid(): [ABSENT] for _ in range(NEEDLES)}
        self._fids = list(self.now)
        self.is_over = threading.Event()
        self.changes = self.refused = self.broken = 0
        self.failure = None

    def run(self):
        try:
            while not self.is_over.is_set():
                try:
                    with Connection(self._served.server.admin) as connection:
                        while not self.is_over.is_set():
                            self._step(connection)
                except BROKEN:
                    self.broken += 1
                    self._fids = [fid for fid in self._fids if len(self.now[fid]) == 1]
                    while len(self._fids) < NEEDLES:
                        self._fids.append(self._new_fid())
                        self.now[self._fids[-1]] = [ABSENT]
        except BaseException as failure:
            self.failure = failure
            raise

    def _step(self, connection):
        self._change(connection, self._random.choice(self._fids))
        self.check(connection, self._random.choice(list(self.now)))

    def _change(self, connection, fid):
        old = self.now[fid]
        if old[-1] is not ABSENT and self._random.random() < 0.3:
            self.now[fid] = [*old, ABSENT]
            reply = connection.request("DELETE", f"/{fid}")
            assert reply.status in {202, 404, 500}, reply
            if reply.status == 404:
                assert ABSENT in old
        else:
            data = self._random.randbytes(self._random.choice([10, 1000, 20_000]))
            self.now[fid] = [*old, data]
            query = "?fsync=true" if self._random.random() < 0.05 else ""
            reply = connection.request("PUT", f"/{fid}{query}", [], data)
            assert reply.status in {201, 500}, reply
        if reply.status == 500:
            assert b"read only" in reply.body, reply
            self.now[fid] = old
            self.refused += 1
        else:
            self.now[fid] = self.now[fid][-1:]
            self.changes += 1

    def check(self, connection, fid):
        """A read gives what was acknowledged, or what a change that broke off may have left. Returns that."""
        reply = connection.request("GET", f"/{fid}")
        found = reply.body if reply.status == 200 else ABSENT
        assert reply.status in {200, 404}, reply
        assert found in self.now[fid], (fid, reply.status, len(self.now[fid]))
        return found


def started(served, volume_id, count):
    writers = [Writer(served, volume_id, seed) for seed in range(count)]
    for writer in writers:
        writer.start()
    return writers


def ended(served, volume_id, writers):
    """Ends the writers, and checks all their needles. `served.live` has how many needles the volume must have then."""
    for writer in writers:
        writer.is_over.set()
    for writer in writers:
        writer.join(LIMIT_S)
        assert not writer.is_alive()
        assert writer.failure is None
    # The next change of the volume finishes or undoes a change that broke off.
    served.server.store(b"last", fid=served.server.new_fid(volume_id))
    with Connection(served.server.admin) as connection:
        found = [writer.check(connection, fid) for writer in writers for fid in writer.now]
    served.live[volume_id] = 1 + sum(one is not ABSENT for one in found)


def wait_for_changes(writers, more=60):
    before = [one.changes for one in writers]
    wait_until(
        lambda: all(one.failure or one.changes >= count + more for one, count in zip(writers, before, strict=True)),
        "more changes",
    )


def answered_by_workers(served):
    """How many requests the workers have answered themselves."""
    requests = sum(served.requests_by_worker().values())
    return requests - sum(served.metric("worker_handed_on_requests_total").values())


def test_the_directory_stays_locked_until_every_worker_has_ended(served):
    """A worker that waits for a disk may write after the server was killed."""
    lock = served.server.data_dir / LOCK_FILE_NAME
    for pid in served.server.worker_pids():
        assert str(lock) in links_of(pid).values()


def test_workers_write_themselves(served):
    """On a busy machine a disk may look slow, and some changes are handed on. Most are not."""
    server = served.server
    with ExitStack() as stack:
        connections = list(served.connect_to_each(stack).values())
        fids = {connection: server.new_fid() for connection in connections}

        def are_all_attached():
            before = answered_by_workers(served)
            for connection, fid in fids.items():
                assert connection.request("PUT", f"/{fid}", [], b"first").status in {201, 204}
            return answered_by_workers(served) == before + len(fids)

        wait_until(are_all_attached, "every worker to write")
        before, count = answered_by_workers(served), 0
        for number in range(ROUNDS):
            for connection, fid in fids.items():
                data = b"%d of %d" % (number, ROUNDS)
                reply = connection.request("PUT", f"/{fid}?fsync={str(number % 2 == 0).lower()}", [], data)
                assert (reply.status, json.loads(reply.body)["size"]) == (201, len(data))
                for other in connections:
                    assert other.request("GET", f"/{fid}").body == data
                assert connection.request("DELETE", f"/{fid}").status == 202
                for other in connections:
                    assert other.request("GET", f"/{fid}").status == 404
                count += 1
        reads = count * len(connections)
        assert answered_by_workers(served) - before - reads > count, "half of the changes, and no absent needle"
        totals = served.metric("http_requests_total")
        assert totals['engine="native",route="http.delete"'] == count
        assert totals['engine="native",route="http.read"'] == 2 * reads


@pytest.mark.slow
def test_killed_writers_lose_nothing_acknowledged_while_the_volume_is_vacuumed(served):
    """Slow: kills workers of a server that is busy."""
    server = served.server
    writers = started(served, server.volume_id, 6)
    try:
        for _ in range(3):
            wait_for_changes(writers)
            pid = served.pid_of(served.busiest())
            os.kill(pid, signal.SIGKILL)
            list(server.rpc.VacuumVolumeCompact(pb.VacuumVolumeCompactRequest(volume_id=server.volume_id), timeout=60))
            wait_for_changes(writers, 20)
            server.rpc.VacuumVolumeCommit(pb.VacuumVolumeCommitRequest(volume_id=server.volume_id), timeout=60)
            served.wait_for_new_worker(pid)
    finally:
        ended(served, server.volume_id, writers)
    assert sum(one.broken for one in writers) > 0
    assert answered_by_workers(served) > 0


@pytest.mark.slow
def test_a_worker_that_hangs_with_a_lock_is_ended_and_its_volume_repaired(served):
    """Slow: waits for the bound."""
    server = served.server
    writers = started(served, server.volume_id, 4)
    try:
        wait_for_changes(writers)
        pid = stop_with_a_lock(served)
        stopped_s = time.monotonic()
        wait_until(lambda: not is_alive(pid), "the worker that hangs to be ended", 4 * HOLD_S)
        assert time.monotonic() - stopped_s < 3 * HOLD_S
        served.wait_for_new_worker(pid)
        wait_for_changes(writers)
    finally:
        ended(served, server.volume_id, writers)
    why = f"is ended: it has held the lock of volume {server.volume_id} for"
    assert re.search(rf"HTTP worker \d+ \(pid {pid}\) {why}", served.log())


def stop_with_a_lock(served):
    """Stops a worker that holds a lock, and returns its process id."""
    deadline_s = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline_s:
        for pid in served.server.worker_pids():
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda pid=pid: is_stopped(pid), "the worker to stop")
            # The kernel says whose lock it is; which file that is does not matter here.
            if holds_a_lock(pid):
                return pid
            os.kill(pid, signal.SIGCONT)
    raise AssertionError("no worker was ever met with a lock")


def is_stopped(pid):
    """Whether no thread of the process runs any more: the signal takes a moment."""
    tasks = f"/proc/{pid}/task"
    states = [text_of(f"{tasks}/{task}/stat").rpartition(")")[2][1:2] for task in os.listdir(tasks)]
    return all(state in {"T", ""} for state in states)


def holds_a_lock(pid):
    directory = f"/proc/{pid}/fdinfo"
    return any("OFDLCK" in text_of(f"{directory}/{name}") for name in os.listdir(directory))


def text_of(path):
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


@pytest.mark.slow
def test_after_a_call_no_worker_writes_any_more(served):
    """Slow: many rounds of marks and unmounts below writers."""
    server = served.server
    volume_id = server.new_volume()
    writers = started(served, volume_id, 4)
    data = server.data_dir / f"{volume_id}.dat"
    try:
        for _ in range(5):
            wait_for_changes(writers, 20)
            server.rpc.VolumeMarkReadonly(pb.VolumeMarkReadonlyRequest(volume_id=volume_id), timeout=60)
            facts = data.stat()
            refused = [one.refused for one in writers]
            wait_until(
                lambda refused=refused: all(
                    one.failure or one.refused > count + 5 for one, count in zip(writers, refused, strict=True)
                ),
                "refusals",
            )
            assert (data.stat().st_size, data.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
            server.rpc.VolumeMarkWritable(pb.VolumeMarkWritableRequest(volume_id=volume_id), timeout=60)
    finally:
        ended(served, volume_id, writers)
    server.rpc.VolumeUnmount(pb.VolumeUnmountRequest(volume_id=volume_id), timeout=60)
    assert not [path for pid in server.worker_pids() for path in links_of(pid).values() if data.name in path]
