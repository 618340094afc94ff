"""Results that several tasks want at the same time: found out once, kept or not."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from native_handlers.content.kept_results import KeptResults

KEY = (1, 2, 3, 4, 5, 6, 7)
WAITING = 200


class Search:
    """A search that ends when it is told to: with the next of `outcomes`; the last one stays."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.calls = 0
        self.goes_on = trio.Event()

    async def __call__(self):
        self.calls += 1
        await self.goes_on.wait()
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Turns(trio.abc.Instrument):
    """Counts the turns of all tasks."""

    def __init__(self):
        self.count = 0

    def before_task_step(self, _task):
        self.count += 1


async def ask(kept, search, outcomes):
    try:
        outcomes.append(await kept.get(KEY, search))
    except ValueError as failure:
        outcomes.append(failure)


async def answers_of_many(kept, search):
    """The outcomes of many requests that wait together, and the turns that the tasks had from the end of the search."""
    outcomes, turns = [], Turns()
    async with trio.open_nursery() as nursery:
        for _ in range(WAITING):
            nursery.start_soon(ask, kept, search, outcomes)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(turns)
        search.goes_on.set()
    trio.lowlevel.remove_instrument(turns)
    return outcomes, turns.count


@pytest.mark.parametrize("memory", [1, 101], ids=["kept", "not kept"])
async def test_all_that_wait_get_one_result(memory):
    search = Search("found")
    outcomes, turns = await answers_of_many(KeptResults(100, lambda _found: memory), search)
    assert outcomes == ["found"] * WAITING
    assert (search.calls, turns < 2 * WAITING) == (1, True)


async def test_what_is_not_kept_is_found_out_again_later():
    kept, search = KeptResults(100, lambda _found: 101), Search("found")
    await answers_of_many(kept, search)
    assert await kept.get(KEY, search) == "found"
    assert search.calls == 2


async def test_after_a_failure_one_takes_over_and_the_others_wait():
    search = Search(ValueError("first"), "found")
    outcomes, turns = await answers_of_many(KeptResults(100, lambda _found: 101), search)
    assert [str(one) for one in outcomes] == ["first"] + ["found"] * (WAITING - 1)
    assert (search.calls, turns < 3 * WAITING) == (2, True)


async def test_where_each_fails_each_is_woken_once():
    search = Search(ValueError("no"))
    outcomes, turns = await answers_of_many(KeptResults(100, lambda _found: 1), search)
    assert [str(one) for one in outcomes] == ["no"] * WAITING
    assert (search.calls, turns < 4 * WAITING) == (WAITING, True)


async def test_after_a_failure_without_others_the_next_request_searches():
    kept, search = KeptResults(100, lambda _found: 1), Search(ValueError("no"), "found")
    search.goes_on.set()
    with pytest.raises(ValueError, match="no"):
        await kept.get(KEY, search)
    assert await kept.get(KEY, search) == "found"


async def test_a_request_that_is_cancelled_hands_its_search_over():
    kept, search, outcomes = KeptResults(100, lambda _found: 1), Search("found"), []
    scopes = [trio.CancelScope() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(ask_within, scope, kept, search, outcomes)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert search.calls == 2
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert search.calls == 3
        search.goes_on.set()
    assert outcomes == ["found"]


async def test_requests_that_are_cancelled_together_leave_nothing_behind():
    kept, search, outcomes = KeptResults(100, lambda _found: 1), Search("found"), []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask, kept, search, outcomes)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    search.goes_on.set()
    assert (await kept.get(KEY, search), outcomes) == ("found", [])


async def ask_within(scope, kept, search, outcomes):
    with scope:
        await ask(kept, search, outcomes)
