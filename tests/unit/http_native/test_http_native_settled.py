"""Many clients wait for a volume that settles: one of them looks, and all go on."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from support.http_native import fetch, make_context

from native_handlers.http.settled import LOOK_S, WAIT_S

WAITING = 300
READ = {"target": "/7,0212345678"}
LIMIT_S = WAIT_S / 2


@dataclass
class Watched:
    """The volumes that settle. Counts how often they are looked at."""

    ids: frozenset = frozenset({7})
    looks: int = 0

    @property
    def volume_ids(self):
        self.looks += 1
        return self.ids


@dataclass
class Store:
    """A store without volumes: a request that has waited gets an answer for an absent volume."""

    settling: Watched = field(default_factory=Watched)

    def find_volume(self, _volume_id):
        return None


@pytest.fixture
def settling():
    return Watched()


@pytest.fixture
def context(settling):
    return make_context(store=Store(settling))


async def ask(context, answers, route="http.read", **request):
    answers.append((await fetch(route, context, **(READ | request))).status)


async def test_the_looks_do_not_grow_with_those_that_wait(context, settling, autojump_clock):
    answers = []
    async with trio.open_nursery() as nursery:
        for _ in range(WAITING):
            nursery.start_soon(ask, context, answers)
        nursery.start_soon(ask, context, answers, "http.delete")
        await trio.sleep(LIMIT_S)
        assert answers == []
        settling.ids = frozenset()
    assert answers == [404] * (WAITING + 1)
    assert settling.looks < 5 * WAITING + LIMIT_S / LOOK_S


async def test_another_one_looks_when_the_one_that_looks_goes(context, settling, autojump_clock):
    answers, scopes = [], [trio.CancelScope() for _ in range(3)]

    async def ask_within(scope):
        with scope:
            await ask(context, answers)

    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(ask_within, scope)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        settling.ids = frozenset()
    assert answers == [404]


async def test_all_give_up_and_later_ones_wait_anew(context, settling, autojump_clock):
    answers = []
    async with trio.open_nursery() as nursery:
        for _ in range(WAITING):
            nursery.start_soon(ask, context, answers, "http.delete")
    assert answers == [500] * WAITING
    answers.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, context, answers, "http.delete")
        await trio.sleep(LIMIT_S)
        assert answers == []
        settling.ids = frozenset()
    assert answers == [404]


async def test_each_volume_is_waited_for_by_itself(context, settling, autojump_clock):
    answers, others = [], []
    settling.ids = frozenset({7, 8})
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask, context, answers)
            nursery.start_soon(ask_for_8, context, others)
        await trio.sleep(LIMIT_S)
        settling.ids = frozenset({8})
        await trio.sleep(2 * LOOK_S)
        assert (answers, others) == ([404] * 3, [])
        settling.ids = frozenset()
    assert others == [404] * 3


async def ask_for_8(context, answers):
    await ask(context, answers, target="/8,0212345678")
