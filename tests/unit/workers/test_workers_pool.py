"""The parent's side of the workers, with played workers: their processes are objects, their channels socket pairs."""

import itertools
import socket
from collections import Counter
from contextlib import asynccontextmanager

import pytest
import trio
from support.waiting import until

from supervisor.backend.errors import BackendStartFailed
from supervisor.backend.restart_policy import RestartPolicy
from supervisor.routing.decision import Engine
from supervisor.workers.channel import CallRefused, ControlChannel
from supervisor.workers.counts import WorkerCounts
from supervisor.workers.errors import WorkersGaveUp
from supervisor.workers.pool import WorkerBounds, Workers, WorkersSpec

POLICY = RestartPolicy(jitter=0.0)


class PlayedWorker:
    """A worker: its process, and its end of the channel. `behaviour` names calls that are carried out in another way.

    Attributes:
        seen: the calls so far, by kind.
        is_reaped: whether its parent has waited for it.
    """

    def __init__(self, stage, number, pid):
        self.number = number
        ours, self.parents_end = socket.socketpair()
        self.pid = pid
        self.channel = ControlChannel(ours)
        self.seen = Counter()
        self.behaviour = dict(stage.behaviour)
        self.status = None
        self.is_reaped = False
        self.outlives_its_channel = False
        self.waits_for_a_disk = False
        self._ended = trio.Event()
        self._life = trio.CancelScope()
        stage.nursery.start_soon(self._run)

    async def _run(self):
        with self._life:
            kinds = ("start", "access", "counts", "drain", "release")
            await self.channel.run({kind: self._handler(kind) for kind in kinds})
        if not self.outlives_its_channel:
            self.exit(0)

    def _handler(self, kind):
        async def handle(body):
            self.seen[kind] += 1
            if kind in self.behaviour:
                return await self.behaviour[kind](self, body)
            await trio.lowlevel.checkpoint()
            if kind == "drain":
                self.exit(0)
            return counts_of(len(self.seen)).as_data() if kind == "counts" else {}

        return handle

    def exit(self, status):
        if self.status is None:
            self.status = status
            self._life.cancel()
            self._ended.set()

    # what the pool uses of a process

    async def wait_exit(self):
        await self._ended.wait()

    def kill_group(self):
        assert not self.is_reaped, "the number may be another process's"
        if not self.waits_for_a_disk:
            self.exit(-9)

    async def end(self, limit_s):
        self.kill_group()
        with trio.move_on_after(limit_s, shield=True):
            await self._ended.wait()
        self.is_reaped = True
        return self.status or -9


class Stage:
    """Where workers are played. `made` are all of them, in the order of their starts; `starts` the times."""

    def __init__(self, nursery):
        self.nursery = nursery
        self.made = []
        self.starts = []
        self.ended = []
        self.behaviour = {}
        self.cannot_start = False
        self._pids = itertools.count(1000)

    def start(self, number):
        self.starts.append((number, trio.current_time()))
        if self.cannot_start:
            raise BackendStartFailed(["python"], OSError(11, "no process left")) from OSError(11, "no process left")
        worker = PlayedWorker(self, number, next(self._pids))
        self.made.append(worker)
        return worker, worker.parents_end

    def spec(self, count=2, **changes):
        return WorkersSpec(
            count=count,
            start=self.start,
            settings=lambda number: {"number": number},
            handlers={},
            note_end=self.ended.append,
            policy=POLICY,
            **changes,
        )

    def last(self, number):
        """The latest worker with this number."""
        return next(worker for worker in reversed(self.made) if worker.number == number)

    @property
    def running(self):
        return [worker for worker in self.made if worker.status is None]


def counts_of(number):
    return WorkerCounts(Counter({("http.read", Engine.BACKEND): number}), open_count=1)


async def turn_until(condition):
    """As `until`, for what takes many seconds of the test's clock."""
    for _ in range(1000):
        if condition():
            return
        await trio.sleep(0.5)
    pytest.fail("waited in vain")


async def sleep_on(_worker, _body):
    await trio.sleep_forever()


async def refuse(_worker, _body):
    await trio.lowlevel.checkpoint()
    raise CallRefused("another version")


@pytest.fixture
async def stage():
    async with trio.open_nursery() as nursery:
        yield Stage(nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(stage, **changes):
    workers = Workers(stage.spec(**changes))
    async with trio.open_nursery() as nursery:
        await nursery.start(workers.serve)
        yield workers
        nursery.cancel_scope.cancel()
    assert all(worker.waits_for_a_disk for worker in stage.running)
    assert all(worker.is_reaped for worker in stage.made)


async def test_it_is_started_when_all_serve_and_a_stop_drains_all(autojump_clock, stage):
    async with serving(stage) as workers:
        assert workers.ready_count == 2
        assert {*workers.pids.values()} == {1000, 1001}
        assert workers.restarts == 0
        workers.request_stop()
        await until(lambda: not workers.pids)
    assert [worker.status for worker in stage.made] == [0, 0]
    assert [worker.seen["drain"] for worker in stage.made] == [1, 1]
    assert sorted(stage.ended) == [0, 1]


async def test_a_worker_that_dies_is_started_again_after_a_growing_delay(autojump_clock, stage):
    async with serving(stage) as workers:
        for _ in range(4):
            stage.last(0).exit(-9)
            await until(lambda: workers.ready_count == 1)
            await until(lambda: workers.ready_count == 2)
        assert workers.restarts == 4
        assert len(stage.made) == 6
        times = [at_s for number, at_s in stage.starts if number == 0]
        delays = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6], abs=0.05)
        assert [number for number, _ in stage.starts].count(1) == 1, "the other one goes on"


async def test_while_another_worker_serves_a_place_is_never_given_up(autojump_clock, stage, caplog):
    async with serving(stage) as workers:
        stage.behaviour["start"] = refuse
        stage.last(0).exit(1)
        await turn_until(lambda: len(stage.starts) > 8)
        assert workers.ready_count == 1
        stage.behaviour.clear()
        await turn_until(lambda: workers.ready_count == 2)
    assert "does not serve: another version" in caplog.text


async def test_workers_that_cannot_be_started_are_given_up(autojump_clock, stage):
    stage.behaviour["start"] = refuse
    with pytest.RaisesGroup(pytest.RaisesExc(WorkersGaveUp, match="4 starts in a row"), flatten_subgroups=True):
        async with serving(stage):
            pytest.fail("it does not serve")
    assert all(worker.is_reaped for worker in stage.made)


async def test_a_system_without_processes_is_told_like_a_worker_that_ends(autojump_clock, stage, caplog):
    stage.cannot_start = True
    with pytest.RaisesGroup(WorkersGaveUp, flatten_subgroups=True):
        async with serving(stage):
            pytest.fail("it does not serve")
    assert "cannot be started: [Errno 11] no process left" in caplog.text


async def test_a_worker_that_does_not_serve_in_time_is_ended(autojump_clock, stage, caplog):
    async with serving(stage, bounds=WorkerBounds(start_s=20.0)) as workers:
        stage.behaviour["start"] = sleep_on
        stage.last(0).exit(1)
        await until(lambda: len(stage.made) == 3)
        stage.behaviour.clear()
        began_s = trio.current_time()
        await turn_until(lambda: workers.ready_count == 2)
        assert trio.current_time() - began_s > 19
    assert stage.last(0).status == -9
    assert "is ended: it does not serve" in caplog.text


async def test_a_push_is_over_when_all_have_acknowledged(autojump_clock, stage):
    async with serving(stage) as workers:
        assert await workers.push("access", {}) == 2
        assert [worker.seen["access"] for worker in stage.made] == [1, 1]


async def test_a_worker_that_does_not_acknowledge_is_ended_before_the_push_is_over(autojump_clock, stage, caplog):
    async with serving(stage) as workers:
        silent = stage.last(0)
        silent.behaviour["access"] = sleep_on
        began_s = trio.current_time()
        assert await workers.push("access", {}) == 1
        assert trio.current_time() - began_s == pytest.approx(5.0, abs=0.1)
        assert silent.is_reaped
        assert stage.last(1).status is None
        await until(lambda: workers.ready_count == 2)
    assert "is ended: access: no answer" in caplog.text


async def test_a_push_does_not_wait_for_a_killed_worker_that_a_disk_keeps_from_ending(autojump_clock, stage, caplog):
    async with serving(stage) as workers:
        stuck = stage.last(0)
        stuck.behaviour["access"] = sleep_on
        stuck.waits_for_a_disk = True
        began_s = trio.current_time()
        assert await workers.push("access", {}) == 1
        assert trio.current_time() - began_s == pytest.approx(7.0, abs=0.1)
        assert "was killed and has not ended yet" in caplog.text
        stuck.waits_for_a_disk = False
        stuck.kill_group()
        await until(lambda: workers.ready_count == 2)


async def test_a_push_may_spare_a_worker_that_is_late_for_a_reason(autojump_clock, stage, caplog):
    async with serving(stage, count=3) as workers:
        stage.last(0).behaviour["release"] = stage.last(1).behaviour["release"] = sleep_on
        waiting, hanging = stage.last(0), stage.last(1)
        assert await workers.push("release", {"volume_ids": [3]}, spares=waiting.pid.__eq__) == 1
        assert waiting in stage.running
        assert hanging not in stage.running
        assert f"(pid {waiting.pid}) waits for a disk, and does later: release" in caplog.text


async def test_a_push_may_leave_out_a_worker_that_does_not_serve_yet(autojump_clock, stage):
    async with serving(stage) as workers:
        stage.behaviour["start"] = sleep_on
        stage.last(0).exit(1)
        await turn_until(lambda: len(stage.made) == 3)
        began_s = trio.current_time()
        assert await workers.push("release", {"volume_ids": [3]}, waits_for_new=False) == 1
        assert trio.current_time() - began_s < 1
        assert stage.last(1).seen["release"] == 1
        assert not stage.last(0).seen["release"]


async def test_a_worker_that_refuses_a_push_is_ended(autojump_clock, stage):
    async with serving(stage) as workers:
        refusing = stage.last(1)
        refusing.behaviour["access"] = refuse
        assert await workers.push("access", {}) == 1
        assert refusing.is_reaped


async def test_a_push_waits_for_a_worker_that_is_starting(autojump_clock, stage):
    async with serving(stage) as workers:
        may_start = trio.Event()

        async def start_late(_worker, _body):
            await may_start.wait()
            return {}

        stage.behaviour["start"] = start_late
        stage.last(0).exit(1)
        await until(lambda: len(stage.made) == 3)
        is_over = trio.Event()

        async def push():
            assert await workers.push("access", {}) == 2
            is_over.set()

        async with trio.open_nursery() as pushing:
            pushing.start_soon(push)
            await until(lambda: stage.last(1).seen["access"] == 1)
            assert not is_over.is_set()
            may_start.set()
        assert stage.last(0).seen == {"start": 1, "access": 1}


async def test_pushes_are_made_one_after_the_other(autojump_clock, stage):
    under_way = most = 0

    async def count(_worker, _body):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await trio.sleep(0.1)
        under_way -= 1
        return {}

    stage.behaviour["access"] = count
    async with serving(stage, count=1) as workers, trio.open_nursery() as pushing:
        for _ in range(3):
            pushing.start_soon(workers.push, "access", {})
    assert most == 1


async def test_a_worker_that_does_not_drain_in_time_is_killed(autojump_clock, stage):
    async with serving(stage, bounds=WorkerBounds(drain_s=35.0)) as workers:

        async def go_on(_worker, _body):
            await trio.lowlevel.checkpoint()
            return {}

        stage.last(0).behaviour["drain"] = go_on
        began_s = trio.current_time()
        workers.request_stop()
        await turn_until(lambda: not workers.pids)
        assert trio.current_time() - began_s == pytest.approx(35.0, abs=0.6)
    assert [stage.last(number).status for number in (0, 1)] == [-9, 0]


async def test_a_worker_that_starts_is_not_drained(autojump_clock, stage):
    async with serving(stage) as workers:
        stage.behaviour["start"] = sleep_on
        stage.last(0).exit(1)
        await until(lambda: len(stage.made) == 3)
        workers.request_stop()
        await until(lambda: not workers.pids)
    assert stage.last(0).status == -9
    assert len(stage.made) == 3, "none is started after the stop"


async def test_no_worker_is_started_after_a_stop_during_the_pause(autojump_clock, stage):
    async with serving(stage) as workers:
        stage.last(0).exit(1)
        await until(lambda: workers.ready_count == 1)
        workers.request_stop()
        await until(lambda: not workers.pids)
    assert len(stage.made) == 2


async def test_a_cancellation_kills_all_at_once(autojump_clock, stage):
    began_s = trio.current_time()
    async with serving(stage):
        pass
    assert [worker.status for worker in stage.made] == [-9, -9]
    assert trio.current_time() - began_s < 1


async def test_a_cancellation_waits_for_a_disk_for_a_moment_only(autojump_clock, stage):
    async with serving(stage):
        stuck = stage.last(0)
        stuck.waits_for_a_disk = stuck.outlives_its_channel = True
        began_s = trio.current_time()
    assert trio.current_time() - began_s == pytest.approx(2.0, abs=0.1)
    assert stage.ended == [1, 0]


async def test_a_worker_without_its_channel_is_ended(autojump_clock, stage, caplog):
    async with serving(stage) as workers:
        worker = stage.last(0)
        worker.outlives_its_channel = True
        worker.parents_end.shutdown(socket.SHUT_RDWR)
        await turn_until(lambda: worker.status is not None)
        assert worker.status == -9
        await until(lambda: workers.ready_count == 2)
    assert "is ended: it has closed its channel" in caplog.text


async def test_counts_of_running_and_ended_workers_add_up(autojump_clock, stage):
    async with serving(stage) as workers:
        await workers.refresh_counts()
        requests = workers.sums.total().requests.total()
        assert requests > 0
        assert workers.sums.total().open_count == 2
        stage.last(0).exit(-9)
        await until(lambda: workers.ready_count == 1)
        assert workers.sums.total().requests.total() == requests
        assert workers.sums.total().open_count == 1
        assert list(workers.sums.running()) == [1]


async def test_counts_that_do_not_come_in_time_are_left_as_they_were(autojump_clock, stage):
    async with serving(stage) as workers:
        await workers.refresh_counts()
        before = workers.sums.running()[0]
        stage.last(0).behaviour["counts"] = sleep_on
        began_s = trio.current_time()
        await workers.refresh_counts()
        assert trio.current_time() - began_s == pytest.approx(1.0, abs=0.1)
        assert workers.sums.running()[0] == before
        assert stage.last(0).status is None


async def test_workers_tell_their_counts_by_themselves(autojump_clock, stage):
    async with serving(stage) as workers:
        await stage.last(1).channel.call("counted", counts_of(40).as_data())
        assert workers.sums.running()[1].requests.total() == 40
