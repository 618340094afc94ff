import os
import signal
from functools import partial

import pytest
import trio

from supervisor.app import leaves_of
from supervisor.lifecycle import StopRequest, serve_signals


async def test_one_request_drains_and_a_second_hurries(autojump_clock):
    stop = StopRequest()
    assert not stop.is_asked
    stop.ask("SIGTERM")
    await stop.wait()
    assert stop.is_asked
    assert stop.reason == "SIGTERM"
    began = trio.current_time()
    await stop.sleep_unless_hurried(10)
    assert trio.current_time() - began == 10
    stop.ask("SIGINT")
    await stop.wait_hurried()
    await stop.sleep_unless_hurried(10)
    assert trio.current_time() - began == 10
    assert stop.reason == "SIGTERM"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGALRM])
async def test_stop_signals_stop(number):
    stop = StopRequest()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_signals, stop, partial(trio.lowlevel.checkpoint))
        os.kill(os.getpid(), number)
        with trio.fail_after(5):
            await stop.wait()
        nursery.cancel_scope.cancel()
    assert stop.reason == number.name


async def test_a_hang_up_reloads_and_stops_nothing():
    stop, reloaded = StopRequest(), trio.Event()

    async def reload():
        reloaded.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_signals, stop, reload)
        os.kill(os.getpid(), signal.SIGHUP)
        with trio.fail_after(5):
            await reloaded.wait()
        nursery.cancel_scope.cancel()
    assert not stop.is_asked


def test_leaves_of_nested_groups():
    first, second = ValueError("first"), KeyError("second")
    group = ExceptionGroup("outer", [first, ExceptionGroup("inner", [second])])
    assert leaves_of(group) == [first, second]
