import errno
import os
import signal
import sys
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from support.waiting import LIMIT_S

from native_handlers.storage.model.errors import StoreClosed
from supervisor.app import INTERPRETER_TURN_S, leaves_of, reload, run_until_stopped, say_goodbye
from supervisor.assembly.lifecycle import Reloads, StopRequest, serve_signals
from supervisor.assembly.node import make_node
from supervisor.cli.load import Surroundings, load_config


def test_a_thread_that_computes_gives_the_event_loop_its_turn_soon():
    before, seen = sys.getswitchinterval(), []

    async def serve(_stop):
        seen.append(sys.getswitchinterval())
        await trio.lowlevel.checkpoint()

    try:
        assert run_until_stopped(serve) == 0
        assert seen == [pytest.approx(INTERPRETER_TURN_S)]
        assert seen[0] <= 0.001
    finally:
        sys.setswitchinterval(before)


async def test_one_request_drains_and_a_second_hurries(autojump_clock):
    stop = StopRequest()
    assert not stop.is_asked
    stop.ask("SIGTERM")
    await stop.wait()
    assert stop.is_asked
    assert stop.reason == "SIGTERM"
    began = trio.current_time()
    await stop.sleep_unless_forced(10)
    assert trio.current_time() - began == 10
    stop.ask("SIGINT")
    await stop.wait_forced()
    await stop.sleep_unless_forced(10)
    assert trio.current_time() - began == 10
    assert stop.reason == "SIGTERM"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGALRM])
async def test_stop_signals_stop(number):
    stop = StopRequest()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_signals, stop, partial(trio.lowlevel.checkpoint))
        os.kill(os.getpid(), number)
        with trio.fail_after(LIMIT_S):
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
        with trio.fail_after(LIMIT_S):
            await reloaded.wait()
        nursery.cancel_scope.cancel()
    assert not stop.is_asked


async def test_a_reload_that_fails_ends_nothing(caplog):
    stop, reloads = StopRequest(), [trio.Event(), trio.Event()]
    left = iter(reloads)

    async def reload():
        next(left).set()
        raise OSError(errno.EIO, "Input/output error")

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_signals, stop, reload)
        with trio.fail_after(LIMIT_S):
            for reloaded in reloads:
                os.kill(os.getpid(), signal.SIGHUP)
                await reloaded.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            await stop.wait()
        nursery.cancel_scope.cancel()
    assert "SIGHUP: the reload failed" in caplog.text
    assert "Input/output error" in caplog.text


async def test_a_reload_that_hangs_keeps_no_stop_waiting_and_one_more_is_kept(caplog):
    stop, go_on, reloads = StopRequest(), trio.Event(), [trio.Event(), trio.Event()]
    left = iter(reloads)

    async def reload():
        next(left).set()
        await go_on.wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_signals, stop, reload)
        with trio.fail_after(LIMIT_S):
            os.kill(os.getpid(), signal.SIGHUP)
            await reloads[0].wait()
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGHUP)
                await trio.testing.wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGTERM)
            await stop.wait()
            assert not reloads[1].is_set()
            go_on.set()
            await reloads[1].wait()
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not caplog.text, "no third one"


async def test_a_disk_that_fails_in_one_part_of_a_reload_keeps_no_other_from_being_done(caplog):
    done = []

    async def fail_by_the_disk():
        raise OSError(errno.EIO, "Input/output error")

    async def fail_by_the_store():
        raise StoreClosed

    async def go_well():
        done.append("volumes")

    node = SimpleNamespace(
        reload_security=lambda: done.append("security"),
        table=SimpleNamespace(reload=lambda: done.append("table")),
        reloads=Reloads(),
    )
    with ExitStack() as parts:
        for part in (fail_by_the_disk, fail_by_the_store, go_well):
            parts.enter_context(node.reloads.including(part))
        await reload(node)
    assert done == ["security", "table", "volumes"]
    assert "a part of the reload failed: [Errno 5] Input/output error" in caplog.text
    assert "a part of the reload failed: the store is closed" in caplog.text


async def test_a_part_of_a_reload_that_hangs_or_has_a_fault_keeps_no_other_waiting(nursery, caplog):
    """New volumes may be looked for on a disk that hangs. Workers must learn of revoked keys all the same."""
    reloads, told, parts = Reloads(), trio.Event(), ExitStack()

    async def fail():
        raise KeyError("a fault")

    async def tell_workers():
        told.set()

    with parts:
        for part in (trio.sleep_forever, fail, tell_workers):
            parts.enter_context(reloads.including(part))
        nursery.start_soon(reloads.run)
        with trio.fail_after(LIMIT_S):
            await told.wait()
            await trio.testing.wait_all_tasks_blocked()
    assert "a fault" in caplog.text
    nursery.cancel_scope.cancel()


def test_leaves_of_nested_groups():
    first, second = ValueError("first"), KeyError("second")
    group = ExceptionGroup("outer", [first, ExceptionGroup("inner", [second])])
    assert leaves_of(group) == [first, second]


@pytest.fixture
def starting(tmp_path):
    """A node that serves for 10 s before it stops, and has not begun to register."""
    flags = ["-mode=native", f"-dir={tmp_path}", "-preStopSeconds=10"]
    config = load_config(flags, {}, tmp_path, Surroundings(detect_address=lambda: "192.0.2.7"))
    made = make_node(config, StopRequest())
    made.stop.ask("SIGTERM")
    return made


@pytest.fixture
def node(starting):
    """A node that takes itself for registered."""
    starting.heartbeat.begin(lambda: None)
    return starting


async def goodbye_s(node):
    """The seconds that the goodbye takes."""
    began = trio.current_time()
    await say_goodbye(node)
    return trio.current_time() - began


async def test_a_node_that_stops_leaves_and_serves_on(node, autojump_clock):
    assert node.is_heartbeating
    assert await goodbye_s(node) == 10
    assert not node.is_heartbeating


async def test_one_that_left_before_does_not_wait(node, autojump_clock):
    assert node.leave()
    assert await goodbye_s(node) == 0


async def test_one_that_has_not_begun_to_register_has_nothing_to_leave(starting, autojump_clock):
    assert not starting.leave()
    assert await goodbye_s(starting) == 0
    assert starting.is_heartbeating


async def test_a_second_signal_ends_the_wait(node, autojump_clock):
    node.stop.ask("SIGINT")
    assert await goodbye_s(node) == 0
    assert not node.is_heartbeating
