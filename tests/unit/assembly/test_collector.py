"""Surviving objects are scanned once and set apart from the collector of cycles; garbage is found before."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest
import trio

from supervisor.assembly import collector
from supervisor.assembly.collector import (
    MANY_VOLUMES,
    objects_set_apart,
    set_apart_volumes,
    without_collection,
)


def setting_apart():
    """The collector as in the composition root; within one trio run."""
    token = trio.lowlevel.current_trio_token()
    return objects_set_apart(partial(token.run_sync_soon, idempotent=True))


class Thing:
    """An object that may refer to itself."""


USUAL_THRESHOLDS = 700, 10, 10


@pytest.fixture(autouse=True)
def undisturbed():
    """The collector begins as often as in a program, and not as `tests/conftest.py` says. Sets apart again what that
    has set apart.
    """
    before = gc.get_threshold()
    gc.set_threshold(*USUAL_THRESHOLDS)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()
    gc.freeze()


async def make_many(count=40_000):
    """Makes so many objects that survive."""
    things = []
    for number in range(count):
        things.append(Thing())
        if number % 1000 == 0:
            await trio.lowlevel.checkpoint()
    await told_the_loop()
    return things


async def told_the_loop():
    """Returns when the event loop has called all functions that it was asked to call until now."""
    called = trio.Event()
    trio.lowlevel.current_trio_token().run_sync_soon(called.set)
    await called.wait()


async def test_what_survives_is_set_apart_in_portions():
    with setting_apart() as collected:
        apart = gc.get_freeze_count()
        things = await make_many()
        assert collected.portions > 1
        assert gc.get_freeze_count() - apart > len(things) // 2
        assert len(gc.get_objects(generation=2)) < len(things) // 2


async def test_cycles_are_found_before_they_are_set_apart():
    with setting_apart():
        thing = Thing()
        thing.itself = thing
        gone = weakref.ref(thing)
        del thing
        things = await make_many()
        assert gone() is None
        assert things


@pytest.mark.slow
async def test_cycles_that_were_set_apart_are_found_when_there_is_twice_as_much(monkeypatch):
    """Slow: collects all cycles of the process."""
    monkeypatch.setattr(collector, "LEAST_GROWTH", -(1 << 40))
    thing = Thing()
    thing.itself = thing
    gone = weakref.ref(thing)
    with setting_apart() as collected:
        del thing
        things = []
        while collected.portions < collector.LOOK_EVERY:
            things += await make_many(10_000)
        assert gone() is None


async def test_no_portion_has_all_that_is_set_apart_counted(monkeypatch):
    """That is gone over for it: tens of milliseconds with thousands of volumes."""
    counted = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: counted.append(1) or 0)
    with setting_apart() as collected:
        things = []
        while collected.portions <= collector.LOOK_EVERY:
            things += await make_many(10_000)
        assert not counted


async def test_the_collector_is_as_before_afterwards():
    before = gc.get_threshold(), list(gc.callbacks)
    with setting_apart():
        assert gc.get_threshold() != before[0]
    assert (gc.get_threshold(), list(gc.callbacks)) == before


async def test_few_objects_are_left_alone():
    with setting_apart() as collected:
        await told_the_loop()
        collected.set_apart_portion()
        assert collected.portions == 0


def test_nothing_is_collected_while_much_is_made_that_stays():
    on = gc.isenabled()
    with without_collection():
        assert not gc.isenabled()
    assert gc.isenabled() == on
    with pytest.raises(OSError, match="disk"), without_collection():
        raise OSError("disk")
    assert gc.isenabled() == on


@pytest.mark.parametrize(("count", "is_many"), [(0, False), (MANY_VOLUMES - 1, False), (MANY_VOLUMES, True)])
def test_what_many_volumes_are_made_of_is_set_apart(count, is_many):
    gc.unfreeze()
    set_apart_volumes(count)
    assert (gc.get_freeze_count() > 0) == is_many
