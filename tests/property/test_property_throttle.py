"""Requests that wait for room among the bytes in flight: whatever they do, nobody waits while there is room."""

from __future__ import annotations

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.gateway import throttle
from supervisor.gateway.throttle import LOOK_S, InflightBytes, InflightLimit

AT_ONCE = 2
"""Here so few of unknown length begin at once, so that few examples have more."""
MAX_BYTES = 10
WAIT_S = 60.0
LONG_S = 7.0
"""Longer than any request keeps others waiting that has not counted its bytes."""


class One:
    """A request. `length` is known before it begins, or else only when the test says so."""

    def __init__(self, number, length, *, is_known):
        self.number, self.length, self.is_known = number, length, is_known
        self.scope, self.counts, self.ends = trio.CancelScope(), trio.Event(), trio.Event()
        self.state = "new"

    async def run(self, inflight, begun):
        with self.scope:
            with inflight.turn(self.length if self.is_known else None) as turn:
                if inflight.must_wait():
                    self.state = "waits"
                    if await inflight.wait_for_room(turn) is not None:
                        self.state = "refused"
                        return
                    begun.append(self.number)
                self.state = "begun"
                if not self.is_known:
                    await self.counts.wait()
                inflight.add(self.length)
                self.state = "counted"
            try:
                await self.ends.wait()
            finally:
                inflight.remove(self.length)
        self.state = "over"


ASKS = st.tuples(st.just("ask"), st.sampled_from([0, 1, 6, 11]), st.booleans())
STEPS = st.one_of(
    ASKS,
    st.tuples(st.sampled_from(["count", "end", "cancel"]), st.integers(0, 4)),
    st.tuples(st.just("elsewhere"), st.sampled_from([0, 5, 11])),
    st.tuples(st.just("pass"), st.sampled_from([LOOK_S, LONG_S])),
)
CROWD = st.lists(ASKS, max_size=6).map(lambda asks: [("ask", 11, True), *asks])
"""The first one leaves no room for the others, or has none itself where other processes have taken it."""


FULL = [("ask", 11, True), *[("ask", 0, False)] * (AT_ONCE + 1), ("end", 0)]
"""As many as may begin at once have begun, and one waits for them."""


@pytest.mark.slow
@example(steps=[*FULL, ("cancel", 1)], has_others=False)
@example(steps=[*FULL, ("pass", LONG_S)], has_others=False)
@example(steps=[*[("ask", 1, True)] * 2, ("cancel", 0), ("elsewhere", 0)], has_others=True)
@given(steps=st.builds(list.__add__, CROWD, st.lists(STEPS, max_size=20)), has_others=st.booleans())
def test_nobody_waits_while_there_is_room(steps, has_others):
    """Slow: each of many examples runs an event loop."""

    async def main():
        elsewhere = 11 if has_others else 0
        others = (lambda: elsewhere) if has_others else None
        inflight = InflightBytes(InflightLimit(MAX_BYTES, WAIT_S), elsewhere=others)
        ones, begun, asked_at = [], [], {}
        async with trio.open_nursery() as nursery:
            for step in steps:
                match step:
                    case ("ask", length, is_known):
                        one = One(len(ones), length, is_known=is_known)
                        ones.append(one)
                        asked_at[one.number] = trio.current_time()
                        nursery.start_soon(one.run, inflight, begun)
                    case ("elsewhere", count):
                        elsewhere = count
                        if has_others:
                            await trio.sleep(2 * LOOK_S)
                    case ("pass", duration_s):
                        await trio.sleep(duration_s)
                    case (act, number) if ones:
                        one = ones[number % len(ones)]
                        {"count": one.counts.set, "end": one.ends.set, "cancel": one.scope.cancel}[act]()
                await trio.testing.wait_all_tasks_blocked()
                waiting = [one for one in ones if one.state == "waits"]
                undecided = [one for one in ones if one.state == "begun"]
                may_keep_others = step != ("pass", LONG_S) and len(undecided) >= AT_ONCE
                assert not waiting or inflight.is_over or may_keep_others
                assert all(trio.current_time() - asked_at[one.number] <= WAIT_S for one in waiting)
                assert inflight.bytes == sum(one.length for one in ones if one.state == "counted")
                late = [one.number for one in waiting if any(one.number < number for number in begun)]
                assert not late, "one that came later was let in before"
            nursery.cancel_scope.cancel()
        assert inflight.bytes == 0
        assert not inflight.must_wait() or elsewhere > MAX_BYTES

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throttle, "AT_ONCE", AT_ONCE)
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
