"""The pace of a copy: how long a throttle pauses, and what ends a pause."""

from __future__ import annotations

import threading

import pytest
from support.grpc_copy import Caller

from native_handlers.grpc import copy_client
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.throttle import WriteThrottler


def test_it_keeps_the_pace():
    now_ns, pauses = [0], []

    def pause(seconds):
        pauses.append(seconds)
        now_ns[0] += round(seconds * 10**9)

    throttle = WriteThrottler(1000, pause, lambda: now_ns[0])
    for _ in range(10):
        throttle.passed(100)
    assert sum(pauses) == pytest.approx(1.0, abs=0.02)


def test_a_slow_source_is_not_made_up_for():
    now_ns, pauses = [0], []
    throttle = WriteThrottler(1000, pauses.append, lambda: now_ns[0])
    now_ns[0] = 60 * 10**9
    throttle.passed(1000)
    assert pauses == [pytest.approx(1.0, abs=0.02)]


@pytest.mark.parametrize("rate", [0, -1])
def test_no_bound(rate):
    WriteThrottler(rate, pytest.fail).passed(1 << 40)


def test_a_pause_ends_with_the_call():
    caller = Caller()
    end = copy_client.CallEnd(caller.context)
    thread = threading.Timer(0, caller.leave)
    thread.start()
    with pytest.raises(RpcFailure):
        end.pause(3600)
    thread.join()
