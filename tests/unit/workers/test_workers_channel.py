"""The control channel: two ends of a socket pair in one event loop."""

import socket

import pytest
import trio
from support.waiting import until

from supervisor.workers.channel import CallRefused, ChannelClosed, ControlChannel
from supervisor.workers.messages import encode_call


@pytest.fixture
def ends():
    first, second = socket.socketpair()
    return ControlChannel(first), ControlChannel(second)


async def echo(body):
    await trio.lowlevel.checkpoint()
    return {"said": body.text("say")}


async def test_both_ends_may_call(ends, nursery):
    for end in ends:
        nursery.start_soon(end.run, {"echo": echo})
    for end in ends:
        assert (await end.call("echo", {"say": "a"})).text("said") == "a"
    nursery.cancel_scope.cancel()


async def test_calls_at_once_get_their_own_answers(ends, nursery):
    caller, other = ends
    waiting = {"first": trio.Event(), "second": trio.Event()}

    async def wait(body):
        await waiting[body.text("say")].wait()
        return await echo(body)

    nursery.start_soon(caller.run, {})
    nursery.start_soon(other.run, {"wait": wait})
    answers = []

    async def call(word):
        answers.append((await caller.call("wait", {"say": word})).text("said"))

    async with trio.open_nursery() as calls:
        for word in waiting:
            calls.start_soon(call, word)
        waiting["second"].set()
        await until(lambda: answers == ["second"])
        waiting["first"].set()
    assert answers == ["second", "first"]
    nursery.cancel_scope.cancel()


async def test_a_call_that_cannot_be_carried_out_is_refused_with_the_reason(ends, nursery):
    caller, other = ends

    async def refuse(_body):
        await trio.lowlevel.checkpoint()
        raise CallRefused("not today")

    nursery.start_soon(caller.run, {})
    nursery.start_soon(other.run, {"refuse": refuse, "echo": echo})
    for kind, why in (("refuse", "not today"), ("unknown", "no call 'unknown'"), ("echo", "'say' is no text")):
        with pytest.raises(CallRefused, match=why):
            await caller.call(kind, {})
    assert (await caller.call("echo", {"say": "a"})).text("said") == "a"
    nursery.cancel_scope.cancel()


async def test_calls_fail_when_the_other_end_goes(ends, nursery):
    caller, other = ends

    async def never(_body):
        await trio.sleep_forever()

    nursery.start_soon(caller.run, {})
    with trio.CancelScope() as others_life:
        async with trio.open_nursery() as others:
            others.start_soon(other.run, {"never": never})

            async def leave():
                await trio.testing.wait_all_tasks_blocked()
                others_life.cancel()

            others.start_soon(leave)
            with pytest.raises(ChannelClosed):
                await caller.call("never", {})
    with pytest.raises(ChannelClosed):
        await caller.call("never", {})


async def test_a_cancelled_call_leaves_the_channel_usable(ends, nursery):
    caller, other = ends
    goes_on = trio.Event()

    async def wait(body):
        await goes_on.wait()
        return await echo(body)

    nursery.start_soon(caller.run, {})
    nursery.start_soon(other.run, {"wait": wait, "echo": echo})
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as calls:
            calls.start_soon(caller.call, "wait", {"say": "late"})
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    goes_on.set()  # the late answer is for nobody
    for word in ("a", "b"):
        assert (await caller.call("echo", {"say": word})).text("said") == word
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("sent", [b"\xff\xff\xff\xff", encode_call(1, "a", {})[:-1]], ids=["no message", "half of one"])
async def test_a_channel_ends_with_what_is_no_message(sent, caplog):
    first, second = socket.socketpair()
    with second:
        second.sendall(sent)
        second.shutdown(socket.SHUT_WR)
        await ControlChannel(first).run({})
        assert second.recv(1) == b"", "the other end notices"
    assert "the control channel" in caplog.text
