"""A worker's side of the control channel, with a played service and a played parent."""

import socket
from collections import Counter
from contextlib import asynccontextmanager

import pytest
import trio
from support.waiting import until
from test_workers_messages import SETTINGS

from native_handlers.http.context import Location, LookupFailed
from supervisor.net.errors import BadCertificate
from supervisor.routing.decision import Engine
from supervisor.workers.channel import CallRefused, ChannelClosed, ControlChannel
from supervisor.workers.counts import WorkerCounts
from supervisor.workers.service import HOLDERS_S, ParentLookup, WorkerService, start_body
from supervisor.workers.settings import AccessRules, BackendAddress


class PlayedServing:
    """Serves nothing, and remembers what it is told. `drained` lets its drain end."""

    def __init__(self, settings):
        self.settings = settings
        self.access = self.backend = None
        self.is_stopping = self.is_draining = False
        self.requests = 0
        self.drained = trio.Event()

    def set_access(self, rules):
        self.access = rules

    def set_backend(self, address):
        self.backend = address

    def set_stopping(self):
        self.is_stopping = True

    async def release(self, volume_ids):
        await trio.lowlevel.checkpoint()
        self.released = volume_ids

    def counts(self):
        return WorkerCounts(Counter({("http.read", Engine.BACKEND): self.requests}))

    async def serve(self, *, task_status):
        with trio.CancelScope() as accepting:
            task_status.started(accepting)
            await trio.sleep_forever()
        self.is_draining = True
        await self.drained.wait()


class PlayedParent:
    """The parent's end. `told` are the counts of requests that it was told; `serving` is what the worker has made."""

    def __init__(self):
        self.sock, workers_end = socket.socketpair()
        self.channel = ControlChannel(self.sock)
        self.worker = WorkerService(ControlChannel(workers_end), self._make)
        self.told = []
        self.serving = None
        self.failure = None
        self.has_ended = trio.Event()

    def _make(self, settings):
        if self.failure:
            raise self.failure
        self.serving = PlayedServing(settings)
        return self.serving

    async def run(self):
        await self.channel.run({"counted": self._note})

    async def run_worker(self):
        await self.worker.run()
        self.has_ended.set()

    async def _note(self, body):
        await trio.lowlevel.checkpoint()
        self.told.append(WorkerCounts.from_data(body).requests.total())
        return {}

    async def start(self):
        await self.channel.call("start", start_body(SETTINGS))
        return self.serving


@asynccontextmanager
async def played():
    parent = PlayedParent()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parent.run)
        nursery.start_soon(parent.run_worker)
        yield parent
        nursery.cancel_scope.cancel()


async def test_it_serves_with_the_settings_it_was_sent():
    async with played() as parent:
        assert (await parent.start()).settings == SETTINGS


async def test_what_changes_is_in_force_when_it_is_acknowledged():
    async with played() as parent:
        serving = await parent.start()
        rules, address = AccessRules(("10.0.0.1",), b"key"), BackendAddress(1, 2)
        await parent.channel.call("access", rules.as_data())
        assert serving.access == rules
        await parent.channel.call("backend", address.as_data())
        assert serving.backend == address
        await parent.channel.call("stopping", {})
        assert serving.is_stopping
        await parent.channel.call("release", {"volume_ids": [3, 4]})
        assert serving.released == (3, 4)


@pytest.mark.parametrize("kind", ["access", "backend", "stopping", "counts", "release"])
async def test_a_worker_that_was_not_started_refuses_the_rest(kind):
    bodies = {
        "access": AccessRules(()).as_data(),
        "backend": BackendAddress(1, 2).as_data(),
        "release": {"volume_ids": []},
    }
    async with played() as parent:
        with pytest.raises(CallRefused, match="was not started"):
            await parent.channel.call(kind, bodies.get(kind, {}))


@pytest.mark.parametrize("changed", [{"protocol": 99}, {"version": "0.0.1"}])
async def test_another_version_refuses_to_serve(changed):
    async with played() as parent:
        with pytest.raises(CallRefused, match="the program was changed while it ran"):
            await parent.channel.call("start", {**start_body(SETTINGS), **changed})
        assert parent.serving is None


@pytest.mark.parametrize("failure", [BadCertificate("no such file"), OSError(24, "too many open files")])
async def test_a_worker_that_cannot_serve_says_why(failure):
    async with played() as parent:
        parent.failure = failure
        with pytest.raises(CallRefused, match=str(failure).replace("[", r"\[")):
            await parent.start()


async def test_it_ends_after_its_drain_and_tells_its_last_counts():
    async with played() as parent:
        serving = await parent.start()
        serving.requests = 5
        await parent.channel.call("drain", {})
        await until(lambda: serving.is_draining)
        serving.requests = 6
        assert (await parent.channel.call("counts", {})).items("requests") == [["http.read", "backend", 6]]
        assert not parent.has_ended.is_set()
        serving.drained.set()
        await parent.has_ended.wait()
        assert parent.told[-1] == 6


async def test_it_ends_when_the_parent_is_gone():
    async with played() as parent:
        await parent.start()
        parent.sock.shutdown(socket.SHUT_RDWR)
        await parent.has_ended.wait()


async def test_counts_are_told_when_they_have_changed(autojump_clock):
    async with played() as parent:
        serving = await parent.start()
        serving.requests = 1
        await until(lambda: parent.told == [1])
        await trio.sleep(10)
        assert parent.told == [1]
        serving.requests = 2
        await until(lambda: parent.told == [1, 2])


HOLDERS = {"holders": [{"url": "a:1", "public_url": "b:2", "grpc_port": 3}]}


@asynccontextmanager
async def lookup_through(answer):
    """A `ParentLookup` whose parent answers with `answer(body)`."""
    first, second = socket.socketpair()
    workers_end, parents_end = ControlChannel(first), ControlChannel(second)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers_end.run, {})
        nursery.start_soon(parents_end.run, {"holders": answer})
        yield ParentLookup(workers_end), second
        nursery.cancel_scope.cancel()


async def test_holders_are_asked_for_at_the_parent():
    asked = []

    async def answer(body):
        await trio.lowlevel.checkpoint()
        asked.append((body.integer("volume_id"), body.boolean("refresh")))
        return HOLDERS

    async with lookup_through(answer) as (lookup, _):
        assert await lookup.locations(7) == [Location("a:1", "b:2", 3)]
        assert await lookup.locations(8, refresh=True) == [Location("a:1", "b:2", 3)]
    assert asked == [(7, False), (8, True)]


async def test_a_look_up_that_fails_has_the_masters_reason():
    async def answer(_body):
        await trio.lowlevel.checkpoint()
        raise CallRefused("volume id 7 not found")

    async with lookup_through(answer) as (lookup, _):
        with pytest.raises(LookupFailed, match="volume id 7 not found"):
            await lookup.locations(7)


async def test_a_look_up_without_an_answer_fails(autojump_clock):
    async def answer(_body):
        await trio.sleep_forever()

    async with lookup_through(answer) as (lookup, _):
        with pytest.raises(LookupFailed, match=f"no answer within {HOLDERS_S:g} s"):
            await lookup.locations(7)


async def test_a_look_up_fails_when_the_parent_goes():
    async def answer(_body):
        await trio.sleep_forever()

    async with lookup_through(answer) as (lookup, parents_sock), trio.open_nursery() as nursery:

        async def go():
            await trio.testing.wait_all_tasks_blocked()
            parents_sock.shutdown(socket.SHUT_RDWR)

        nursery.start_soon(go)
        with pytest.raises(LookupFailed) as failed:
            await lookup.locations(7)
        assert isinstance(failed.value.__cause__, ChannelClosed)
