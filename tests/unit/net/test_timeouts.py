"""How long a wait for the other end may take, on a virtual clock. The bytes that the other end acknowledges count."""

from __future__ import annotations

import pytest
import trio

from supervisor.net.errors import ConnectionSilent, ConnectionTooSlow
from supervisor.net.timeouts import LOOKS, ConnectionTimeouts, TimeoutLimits

IDLE_S = 20.0


class Reader:
    """The other end, which acknowledges some bytes a second of the sent ones, from the start to `until_s`."""

    def __init__(self, sent_bytes: int, bytes_per_s: float, until_s: float = float("inf")) -> None:
        self._sent_bytes = sent_bytes
        self._bytes_per_s = bytes_per_s
        self._until_s = until_s
        self._started_at = trio.current_time()
        self.looks = 0

    def unacknowledged(self) -> int:
        self.looks += 1
        elapsed_s = min(trio.current_time() - self._started_at, self._until_s)
        return max(self._sent_bytes - int(elapsed_s * self._bytes_per_s), 0)


def timeouts_with(reader: Reader, sent_bytes: int, **limits) -> ConnectionTimeouts:
    timeouts = ConnectionTimeouts(TimeoutLimits(IDLE_S, **limits))
    timeouts.unacknowledged = reader.unacknowledged
    timeouts.moved(timeouts.sending, sent_bytes)
    return timeouts


async def test_a_wait_to_send_goes_on_as_long_as_something_is_acknowledged(autojump_clock):
    reader = Reader(1_000_000, 5_000)
    timeouts = timeouts_with(reader, 1_000_000, min_bytes_per_s=128, grace_s=60)
    await timeouts.wait(timeouts.sending, trio.sleep_until, trio.current_time() + 190)
    # After the grace period one check is for the rate.
    assert reader.looks <= 2 * 190 / IDLE_S * LOOKS + 2


async def test_it_ends_when_the_other_end_acknowledges_nothing_any_more(autojump_clock):
    timeouts = timeouts_with(Reader(1_000_000, 5_000, until_s=100), 1_000_000)
    started_at = trio.current_time()
    with pytest.raises(ConnectionSilent):
        await timeouts.wait(timeouts.sending, trio.sleep_forever)
    assert 100 + IDLE_S <= trio.current_time() - started_at <= 100 + IDLE_S + IDLE_S / LOOKS


async def test_it_ends_after_the_idle_timeout_when_nothing_ever_moves(autojump_clock):
    timeouts = timeouts_with(Reader(1_000_000, 0), 1_000_000)
    started_at = trio.current_time()
    with pytest.raises(ConnectionSilent):
        await timeouts.wait(timeouts.sending, trio.sleep_forever)
    assert trio.current_time() - started_at == IDLE_S


async def test_what_is_acknowledged_keeps_a_wait_for_input_alive_too(autojump_clock):
    """A client that still receives an answer need not send anything."""
    timeouts = timeouts_with(Reader(1_000_000, 5_000), 1_000_000)

    async def wait_for_input() -> None:
        with pytest.raises(ConnectionSilent):
            await timeouts.wait(timeouts.receiving, trio.sleep_forever)

    started_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_input)
        await timeouts.wait(timeouts.sending, trio.sleep_until, trio.current_time() + 100)
    assert trio.current_time() - started_at == pytest.approx(100 + IDLE_S, abs=IDLE_S / LOOKS)


async def test_the_least_rate_is_of_what_is_acknowledged_not_of_what_the_kernel_took(autojump_clock):
    timeouts = timeouts_with(Reader(4_000_000, 100), 4_000_000, min_bytes_per_s=128, grace_s=60)
    started_at = trio.current_time()
    with pytest.raises(ConnectionTooSlow, match=r"bytes moved in 6\d s of waiting"):
        await timeouts.wait(timeouts.sending, trio.sleep_forever)
    assert 60 <= trio.current_time() - started_at <= 60 + IDLE_S / LOOKS


async def test_a_reader_above_the_least_rate_is_left_alone_over_many_short_waits(autojump_clock):
    timeouts = timeouts_with(Reader(4_000_000, 200), 4_000_000, min_bytes_per_s=128, grace_s=60)
    for _ in range(300):
        await timeouts.wait(timeouts.sending, trio.sleep_until, trio.current_time() + 3)


async def test_a_new_message_begins_a_new_account(autojump_clock):
    timeouts = timeouts_with(Reader(4_000_000, 200), 4_000_000, min_bytes_per_s=128, grace_s=60)
    await timeouts.wait(timeouts.sending, trio.sleep_until, trio.current_time() + 59)
    timeouts.sending.start_message()
    timeouts.moved(timeouts.sending, 10)
    # The rest of the previous message counts neither for nor against this one.
    await timeouts.wait(timeouts.sending, trio.sleep_until, trio.current_time() + 100)


async def test_without_an_idle_timeout_a_wait_is_one_wait(autojump_clock):
    reader = Reader(1000, 0)
    timeouts = ConnectionTimeouts(TimeoutLimits())
    timeouts.unacknowledged = reader.unacknowledged
    await timeouts.wait(timeouts.sending, trio.sleep_until, trio.current_time() + 80_000)
    assert reader.looks == 0


async def test_an_interrupt_that_is_taken_back_in_time_ends_no_wait(autojump_clock):
    timeouts = ConnectionTimeouts(TimeoutLimits(IDLE_S))

    async def disturb() -> None:
        await trio.sleep(5)
        timeouts.interrupt()
        timeouts.resume()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(disturb)
        await timeouts.wait(timeouts.receiving, trio.sleep_until, trio.current_time() + 10)
