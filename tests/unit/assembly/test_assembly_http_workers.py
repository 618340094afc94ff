"""The messages of a node to its HTTP workers, and how their counts join those of the node."""

from types import SimpleNamespace

import pytest
import trio

from native_handlers.http.context import Location, LookupFailed
from supervisor.assembly.http_workers import (
    WorkerCollector,
    WorkerSeats,
    find_holders,
    follow_backend,
    follow_stop,
    start_worker,
)
from supervisor.assembly.lifecycle import StopRequest
from supervisor.backend.handle import BackendHandle, BackendState
from supervisor.backend.ports import BackendPorts
from supervisor.control.text_format import Family
from supervisor.routing.decision import Engine
from supervisor.workers.channel import CallRefused
from supervisor.workers.counts import CountSums, WorkerCounts
from supervisor.workers.messages import Fields
from supervisor.workers.spawn import EarlyWorkers, WorkerKind


class PlayedWorkers:
    """Keeps what is pushed."""

    def __init__(self):
        self.pushed = []
        self.sums = CountSums()
        self.ready_count, self.restarts = 2, 1

    async def push(self, kind, body):
        await trio.lowlevel.checkpoint()
        self.pushed.append((kind, dict(body)))
        return 2


async def test_ports_that_a_restart_has_changed_are_pushed_and_no_others(nursery):
    handle, workers = BackendHandle("played", BackendPorts(1, 2, 3, 4)), PlayedWorkers()
    nursery.start_soon(follow_backend, handle, workers)

    async def restart():
        for state in (BackendState.BACKOFF, BackendState.STARTING, BackendState.READY):
            handle.enter(state)
            await trio.testing.wait_all_tasks_blocked()

    await restart()
    assert not workers.pushed
    handle.ports = BackendPorts(11, 12, 13, 14)
    await restart()
    assert workers.pushed == [("backend", {"admin_port": 11, "public_port": 13})]
    nursery.cancel_scope.cancel()


async def test_a_stop_is_pushed_once(nursery):
    workers, stop = PlayedWorkers(), StopRequest()
    nursery.start_soon(follow_stop, SimpleNamespace(stop=stop), workers)
    await trio.testing.wait_all_tasks_blocked()
    assert not workers.pushed
    stop.ask("TERM")
    await trio.testing.wait_all_tasks_blocked()
    stop.ask("TERM")
    assert workers.pushed == [("stopping", {})]


class PlayedMaster:
    async def locations(self, vid, *, refresh):
        await trio.lowlevel.checkpoint()
        if vid != 3:
            raise LookupFailed(vid, f"volume id {vid} not found")
        return [Location("a:1", "b:2", 3)] if refresh else []


async def test_a_worker_is_told_the_holders_or_the_masters_reason():
    master = PlayedMaster()
    rows = [{"url": "a:1", "public_url": "b:2", "grpc_port": 3}]
    assert await find_holders(master, Fields({"volume_id": 3, "refresh": True})) == {"holders": rows}
    assert await find_holders(master, Fields({"volume_id": 3, "refresh": False})) == {"holders": []}
    with pytest.raises(CallRefused, match="volume id 4 not found"):
        await find_holders(master, Fields({"volume_id": 4, "refresh": True}))


def counts_of(requests, connections):
    counts = WorkerCounts(open_count=connections, given_up=1, refused=2, handed_on=10)
    counts.requests["http.read", Engine.BACKEND] = requests
    return counts


def test_the_metrics_show_sums_and_each_worker():
    workers = PlayedWorkers()
    workers.sums.note(0, counts_of(5, 3))
    workers.sums.note(1, counts_of(7, 4))
    seats = WorkerSeats(workers, 200)
    assert (seats.most, seats.open_count, seats.given_up, seats.refused) == (200, 7, 2, 4)
    own = {("http.read", Engine.BACKEND): 100, ("http.write", Engine.NATIVE): 1}
    families = WorkerCollector(workers, [own]).collect()
    text = "".join(family.render() for family in families if isinstance(family, Family))
    assert text.count('route="http.read"') == 1
    for line in (
        'http_requests_total{engine="backend",route="http.read"} 112',
        'http_requests_total{engine="native",route="http.write"} 1',
        'worker_http_requests_total{worker="0"} 15',
        'worker_http_requests_total{worker="1"} 17',
        'worker_handed_on_requests_total{worker="1"} 10',
        'worker_connections{worker="1"} 4',
        "workers 2",
        "worker_restarts 1",
    ):
        assert f"SeaweedFS_volumeSupervisor_{line}\n" in text


@pytest.mark.slow
async def test_an_early_worker_is_taken_first_and_each_ends_with_its_channel():
    """Slow: starts programs."""
    early = EarlyWorkers()
    early.spawn(1, WorkerKind.NATIVE)
    started = [start_worker(early, WorkerKind.NATIVE, [0, 1]) for _ in range(2)]
    assert early.take() is None
    for process, sock in started:
        sock.close()
        try:
            with trio.fail_after(60):
                await process.wait_exit()
        finally:
            assert process.reap() == 0
