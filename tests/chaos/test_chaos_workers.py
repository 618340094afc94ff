"""HTTP workers as processes: who serves, and what clients see when a worker, the backend or the parent dies.

`served` is a server whose workers forward to a backend, and then a native one.
"""

import os
import re
import signal
import threading
from contextlib import ExitStack
from dataclasses import replace

import pytest
from harness.http1 import Connection, Disconnected, fetch
from harness.implementations import NATIVE_WORKERS, WORKERS
from harness.processes import is_alive
from harness.server import VolumeServer
from support.ports import LOOPBACK, free_port
from support.waiting import LIMIT_S, wait_until

UPLOAD_BYTES = 1_000_000
MOST_TRIES = 50


class Served:
    """A server with workers, and its metrics."""

    def __init__(self, implementation, base, master, weed):
        self.metrics_port = free_port()
        self.count = implementation.workers
        flags = (f"-metricsPort={self.metrics_port}",)
        self.server = VolumeServer(implementation, base, master, weed, flags)
        wait_until(lambda: len(self.server.worker_pids()) == self.count, "the workers")

    def metric(self, name):
        """The values of a family of this program, by the text of their labels."""
        text = fetch((LOOPBACK, self.metrics_port), "GET", "/metrics").body.decode()
        rows = re.findall(rf"^SeaweedFS_volumeSupervisor_{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        return {labels: float(value) for labels, value in rows}

    def requests_by_worker(self):
        return {int(labels[8:-1]): count for labels, count in self.metric("worker_http_requests_total").items()}

    def owner_of(self, connection):
        """The number of the worker that serves `connection`. Sends a request over it."""
        before = self.requests_by_worker()
        assert connection.request("GET", "/healthz").status == 200
        after = self.requests_by_worker()
        (owner,) = (number for number in after if after[number] > before.get(number, 0))
        return owner

    def busiest(self):
        """The number of a worker that has connections, and no fewer than the other."""
        by_label = self.metric("worker_connections")
        label = max(by_label, key=by_label.__getitem__)
        assert by_label[label] > 0
        return int(label[8:-1])

    def pid_of(self, number):
        """The process id of the latest worker with this number."""
        started = re.findall(rf"HTTP worker {number} started: pid (\d+)", self.log())
        return int(started[-1])

    def log(self):
        return self.server.process.log_path.read_text()

    def connect_to_each(self, stack):
        """A connection to each worker, by its number."""
        found = {}
        for _ in range(MOST_TRIES):
            connection = stack.enter_context(Connection(self.server.admin))
            found.setdefault(self.owner_of(connection), connection)
            if len(found) == self.count:
                return found
        raise AssertionError(f"{MOST_TRIES} connections went to worker {set(found)}")

    def wait_for_new_worker(self, gone_pid):
        wait_until(
            lambda: gone_pid not in (pids := self.server.worker_pids()) and len(pids) == self.count,
            "another worker to start",
        )
        wait_until(lambda: self.metric("workers")[""] == self.count, "all workers to serve")

    def reload(self, security):
        """Puts other access rules in force."""
        done = len(re.findall("have the access rules", self.log()))
        self.server.security_file.write_text(security)
        self.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(re.findall("have the access rules", self.log())) > done, "the reload to be over")


FOUR_NATIVE = replace(NATIVE_WORKERS, name="native-workers-4", workers=4)


def named(*implementations):
    return [pytest.param(one, id=one.name) for one in implementations]


@pytest.fixture(params=named(WORKERS, NATIVE_WORKERS))
def served(request, master, weed, tmp_path):
    made = Served(request.param, tmp_path / "server", master, weed)
    yield made
    made.server.end()


def begin_upload(connection, fid):
    """Sends a tenth of an upload. Returns when the worker reads it: the rest of the head's answer is still to come."""
    head = f"PUT /{fid} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n"
    connection.send(head.encode())
    assert connection.read_exactly(len(b"HTTP/1.1 100")) == b"HTTP/1.1 100"
    connection.read_exactly(len(b" Continue\r\n\r\n"))
    connection.send(bytes(UPLOAD_BYTES // 10))


def end_upload(connection):
    connection.send(bytes(UPLOAD_BYTES - UPLOAD_BYTES // 10))
    return connection.read_reply()


def test_both_workers_serve_and_their_counts_are_the_servers(served):
    fid = served.server.store(b"hello")
    with ExitStack() as stack:
        for connection in served.connect_to_each(stack).values():
            assert connection.request("GET", f"/{fid}").body == b"hello"
        assert served.metric("connections")['listener="http"'] >= 2
    by_worker = served.requests_by_worker()
    assert set(by_worker) == {0, 1}
    assert all(by_worker.values())
    totals = served.metric("http_requests_total")
    engine = "native" if served.server.implementation.mode == "native" else "backend"
    assert totals[f'engine="{engine}",route="http.read"'] == 2
    assert sum(totals.values()) == sum(by_worker.values())


@pytest.mark.parametrize("served", named(WORKERS, NATIVE_WORKERS, FOUR_NATIVE), indirect=True)
def test_a_worker_killed_in_an_upload_breaks_its_own_connections_only(served):
    with ExitStack() as stack:
        first, second, *_ = served.connect_to_each(stack).items()
        (number, uploading), (_, other) = first, second
        fid = served.server.new_fid()
        begin_upload(uploading, fid)
        before = sum(served.metric("http_requests_total").values())
        pid = served.pid_of(number)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises((Disconnected, ConnectionResetError, BrokenPipeError)):
            end_upload(uploading)
        assert other.request("GET", f"/{fid}").status == 404, "nothing of the upload is there"
        assert served.server.read(served.server.store(b"after")).body == b"after"
        served.wait_for_new_worker(pid)
        assert sum(served.metric("http_requests_total").values()) >= before, "no count goes back"
        assert served.metric("worker_restarts")[""] == 1
        assert other.request("GET", "/healthz").status == 200
    with ExitStack() as stack:
        assert set(served.connect_to_each(stack)) == set(range(served.count))


class Writer(threading.Thread):
    """Writes one file after the other, over a new connection whenever one breaks. `stored` was acknowledged."""

    def __init__(self, server, is_over):
        super().__init__(daemon=True)
        self._server = server
        self._is_over = is_over
        self.stored = {}
        self.broken = 0
        self.refused = set()

    def run(self):
        while not self._is_over.is_set():
            try:
                with Connection(self._server.admin) as connection:
                    while not self._is_over.is_set():
                        self._write(connection)
            except (Disconnected, ConnectionResetError, BrokenPipeError):
                self.broken += 1

    def _write(self, connection):
        fid = self._server.new_fid()
        data = fid.encode() * 100
        status = connection.request("PUT", f"/{fid}", [], data).status
        if status == 201:
            self.stored[fid] = data
        else:
            self.refused.add(status)


@pytest.mark.parametrize("served", named(WORKERS, NATIVE_WORKERS, FOUR_NATIVE), indirect=True)
def test_nothing_acknowledged_is_lost_while_workers_are_killed(served):
    """Clients see closed connections and nothing else, and a worker serves at every moment."""
    assert served.server.volume_id
    is_over = threading.Event()
    writers = [Writer(served.server, is_over) for _ in range(4)]
    for writer in writers:
        writer.start()
    for wanted in (20, 40, 60):
        wait_until(lambda wanted=wanted: all(len(one.stored) > wanted for one in writers), "more writes")
        pid = served.pid_of(served.busiest())
        os.kill(pid, signal.SIGKILL)
        served.wait_for_new_worker(pid)
    is_over.set()
    for writer in writers:
        writer.join(LIMIT_S)
        assert not writer.is_alive()
        assert not writer.refused
    assert sum(writer.broken for writer in writers) > 0
    for fid, data in {fid: data for writer in writers for fid, data in writer.stored.items()}.items():
        reply = served.server.read(fid)
        assert (reply.status, reply.body) == (200, data)


def test_new_access_rules_are_in_force_in_every_worker_when_the_log_says_so(served):
    with ExitStack() as stack:
        connections = served.connect_to_each(stack).values()
        for connection in connections:
            assert connection.request("PUT", f"/{served.server.new_fid()}", [], b"x").status == 201
        served.reload('[guard]\nwhite_list = "10.9.9.9"\n')
        for connection in connections:
            assert connection.request("PUT", f"/{served.server.new_fid()}", [], b"x").status == 401
        served.reload("")
        for connection in connections:
            assert connection.request("PUT", f"/{served.server.new_fid()}", [], b"x").status == 201


def test_a_worker_that_hangs_is_ended_before_new_access_rules_are_said_to_hold(served):
    with ExitStack() as stack:
        connections = served.connect_to_each(stack)
        assert connections[1].request("PUT", f"/{served.server.new_fid()}", [], b"x").status == 201
        pid = served.pid_of(0)
        os.kill(pid, signal.SIGSTOP)
        served.reload('[guard]\nwhite_list = "10.9.9.9"\n')
        assert not is_alive(pid)
        assert connections[1].request("PUT", f"/{served.server.new_fid()}", [], b"x").status == 401
        served.wait_for_new_worker(pid)
    with ExitStack() as stack:
        for connection in served.connect_to_each(stack).values():
            assert connection.request("PUT", f"/{served.server.new_fid()}", [], b"x").status == 401


@pytest.mark.parametrize("served", named(WORKERS), indirect=True)
def test_a_restart_of_the_backend_breaks_no_connection_to_a_worker(served):
    fid = served.server.store(b"survives")
    workers = served.server.worker_pids()
    with ExitStack() as stack:
        connections = served.connect_to_each(stack).values()
        served.server.kill_child()
        wait_until(lambda: served.server.http("GET", f"/{fid}").status == 200, "reads to work again")
        for connection in connections:
            reply = connection.request("GET", f"/{fid}")
            assert (reply.status, reply.body) == (200, b"survives")
    assert served.server.worker_pids() == workers
    assert served.server.is_registered()


def test_a_stop_drains_the_workers(served):
    workers = served.server.worker_pids()
    with Connection(served.server.admin) as connection:
        begin_upload(connection, served.server.new_fid())
        served.server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "serving on for 0 s" in served.log(), "the stop")
        wait_until(lambda: not accepts(served.server.admin), "the port to be closed")
        assert end_upload(connection).status == 201
    wait_until(lambda: served.server.process.exit_code is not None, "the end")
    assert served.server.process.exit_code == 0
    assert not any(map(is_alive, workers))
    assert "did not end" not in served.log()


def accepts(address):
    try:
        with Connection(address):
            return True
    except (ConnectionRefusedError, ConnectionResetError):
        return False


def test_a_second_stop_cuts(served):
    workers = served.server.worker_pids()
    with Connection(served.server.admin) as connection:
        begin_upload(connection, served.server.new_fid())
        served.server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(served.server.admin), "the port to be closed")
        served.server.process.send_signal(signal.SIGTERM)
        assert is_cut(connection)
    wait_until(lambda: served.server.process.exit_code is not None, "the end")
    assert not any(map(is_alive, workers))


def is_cut(connection):
    """Whether the request that runs gets no answer, or one that says so: parent and worker end at the same time."""
    try:
        return connection.read_reply().status == 502
    except (Disconnected, ConnectionResetError, BrokenPipeError):
        return True


def test_a_signal_that_the_whole_service_gets_does_not_end_the_workers_at_once(served):
    """A service manager sends its stop signal to every process of the service."""
    with Connection(served.server.admin) as connection:
        begin_upload(connection, served.server.new_fid())
        workers = served.server.worker_pids()
        for pid in workers:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(pid, number)
        assert end_upload(connection).status == 201
        assert served.server.worker_pids() == workers


def test_no_worker_outlives_a_killed_parent(served):
    workers = served.server.worker_pids()
    with Connection(served.server.admin) as connection:
        begin_upload(connection, served.server.new_fid())
        served.server.process.kill()
        wait_until(lambda: not any(map(is_alive, workers)), "the workers to be gone")
        wait_until(lambda: not accepts(served.server.admin), "the port to be closed")
