"""The shares of callers: how many places each may have, and whose call gives way."""

from __future__ import annotations

from types import SimpleNamespace

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clocks import Clock

from native_handlers.grpc.context import RpcFailure
from supervisor.gateway import grpc_shares
from supervisor.gateway.grpc_shares import PROGRESS_BYTES, CallPlace, CallShares, ShareRule, StallLimits, Waiting
from supervisor.net.grpc_clients import GrpcClient

MASTER = "10.0.0.1"


@pytest.fixture
def clock(monkeypatch):
    made = Clock(1000)
    monkeypatch.setattr(grpc_shares, "time", SimpleNamespace(monotonic=made.seconds))
    return made


@pytest.fixture
def shares(clock):
    return CallShares(16, "unary", lambda client: client.host == MASTER)


class Calls:
    """Takes places and records which calls were cancelled."""

    def __init__(self, shares):
        self.shares = shares
        self.cancelled = []

    def take(self, client, waiting=None):
        place = self.shares.take(client, lambda: self.cancelled.append(place))
        if waiting is not None:
            place.wait_for(waiting)
        return place

    def refused(self, client):
        with pytest.raises(RpcFailure) as caught:
            self.take(client)
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        return caught.value.message


@pytest.fixture
def calls(shares):
    return Calls(shares)


def client(host="192.0.2.1", port=1):
    return GrpcClient(host, port)


def test_a_connection_has_half_a_host_five_eighths_and_strangers_three_quarters(calls):
    connection = client()
    for _ in range(8):
        calls.take(connection)
    assert calls.refused(connection) == "8 unary calls of this connection are in progress; try again later"
    other = client(port=2)
    for _ in range(2):
        calls.take(other)
    assert calls.refused(other) == "10 unary calls from 192.0.2.1 are in progress; try again later"
    stranger = client("192.0.2.2")
    for _ in range(2):
        calls.take(stranger)
    assert calls.refused(stranger) == "12 unary calls from outside the cluster are in progress; try again later"
    assert calls.cancelled == []


def test_what_strangers_cannot_have_is_left_for_the_cluster(calls):
    for at in range(6):
        for _ in range(2):
            calls.take(client(f"192.0.2.{at}"))
    calls.refused(client("192.0.2.99"))
    first, second = client(MASTER, 1), client(MASTER, 2)
    for _ in range(2):
        calls.take(first)
        calls.take(second)
    assert calls.refused(first) == "16 unary calls are in progress; try again later"


def test_two_connections_with_one_address_are_two(calls):
    """A client may connect to two addresses of this server from one port."""
    first, second = client(), client()
    assert first == second
    for _ in range(8):
        calls.take(first)
    calls.take(second)


def test_a_place_is_free_when_thread_and_client_are_done(calls, shares):
    place = calls.take(client())
    place.give_up()
    assert len(shares) == 1
    place.give_up()
    assert len(shares) == 0


def test_a_silent_call_gives_way_after_a_moment(calls, clock):
    connection = client()
    silent = [calls.take(connection, Waiting.FIRST_MESSAGE) for _ in range(8)]
    calls.refused(connection)
    clock.advance(StallLimits().yields_first_s)
    taken = calls.take(connection)
    assert calls.cancelled == [silent[0]]
    assert silent[0].end_text == "the call was ended to make room for another call"
    assert taken.end_text == ""
    for _ in range(7):
        calls.take(connection)
    assert len(calls.cancelled) == 8
    calls.refused(connection)


def test_a_flood_does_not_go_over_all_calls_for_each_that_is_refused(calls, clock, monkeypatch):
    """Each look takes a millisecond with hundreds of calls, and holds up everybody."""
    looks, waited_s = [], CallPlace.waited_s
    monkeypatch.setattr(CallPlace, "waited_s", lambda self, now_s: looks.append(self) or waited_s(self, now_s))
    connection, other = client(), client(port=2)
    for _ in range(8):
        calls.take(connection, Waiting.FIRST_MESSAGE)
    for _ in range(1000):
        calls.refused(connection)
    assert len(looks) == 8
    # For another connection of the host there is a look of its own.
    calls.take(other)
    calls.take(other)
    calls.refused(other)
    assert len(looks) == 8 + 10
    clock.advance(StallLimits().looks_again_s)
    calls.refused(connection)
    assert len(looks) == 8 + 10 + 8


def test_silent_calls_of_a_connection_with_many_give_way_to_one_without_any_at_once(calls):
    """A burst of one connection never keeps another connection of its host out."""
    burst, another = client(port=1), client(port=2)
    silent = [calls.take(burst, Waiting.FIRST_MESSAGE) for _ in range(8)]
    for _ in range(2):
        calls.take(another)
    calls.refused(another)
    calls.take(client(port=3))
    assert calls.cancelled == [silent[0]]
    # What works, and what reads slowly, is left alone.
    for place in silent:
        place.go_on()
    calls.refused(client(port=4))


def test_a_place_that_was_taken_away_is_given_up_all_the_same(calls, clock, shares):
    connection = client()
    silent = [calls.take(connection, Waiting.FIRST_MESSAGE) for _ in range(8)]
    clock.advance(1)
    calls.take(connection)
    for _ in range(2):
        silent[0].give_up()
    assert len(shares) == 8


@pytest.mark.parametrize("waiting", [Waiting.NEXT_MESSAGE, Waiting.READING])
def test_a_stalled_call_gives_way_later(calls, clock, waiting):
    connection = client()
    for _ in range(8):
        calls.take(connection, waiting)
    clock.advance(StallLimits().yields_first_s)
    calls.refused(connection)
    clock.advance(StallLimits().yields_later_s)
    calls.take(connection)
    assert len(calls.cancelled) == 1


@pytest.mark.parametrize(
    ("waiting", "direction"),
    [
        (Waiting.FIRST_MESSAGE, "received_bytes"),
        (Waiting.NEXT_MESSAGE, "received_bytes"),
        (Waiting.READING, "sent_bytes"),
    ],
)
def test_what_moves_does_not_give_way(calls, clock, shares, waiting, direction):
    """A large message over a slow line takes its time; the connection shows that it comes."""
    connection = client()
    for _ in range(8):
        calls.take(connection, waiting)
    for _ in range(100):
        clock.advance(29)
        setattr(connection.traffic, direction, getattr(connection.traffic, direction) + PROGRESS_BYTES)
        shares.end_stalled()
    assert calls.refused(connection)
    assert calls.cancelled == []
    other = "sent_bytes" if direction == "received_bytes" else "received_bytes"
    for _ in range(100):
        clock.advance(29)
        setattr(connection.traffic, other, getattr(connection.traffic, other) + PROGRESS_BYTES)
        shares.end_stalled()
    assert len(calls.cancelled) == 8


def test_pings_are_no_progress(calls, clock, shares):
    connection = client()
    calls.take(connection, Waiting.FIRST_MESSAGE)
    for _ in range(31):
        clock.advance(1)
        connection.traffic.received_bytes += 100
        shares.end_stalled()
    assert len(calls.cancelled) == 1


def test_a_call_that_works_is_never_ended(calls, clock, shares):
    connection = client()
    place = calls.take(connection, Waiting.FIRST_MESSAGE)
    place.go_on()
    clock.advance(1e6)
    shares.end_stalled()
    assert calls.cancelled == []
    place.wait_for(Waiting.READING)
    clock.advance(StallLimits().ends_later_s)
    shares.end_stalled()
    assert calls.cancelled == [place]
    assert place.end_text == "the call was ended: the client did not read the answer for 300 s"


def test_whoever_has_most_gives_way_first(calls, clock):
    greedy = [calls.take(client(port=at), Waiting.FIRST_MESSAGE) for at in range(10)]
    modest = [calls.take(client("192.0.2.2"), Waiting.FIRST_MESSAGE) for _ in range(2)]
    clock.advance(1)
    for at in range(8):
        calls.take(client(f"192.0.2.{at + 10}"))
    assert set(calls.cancelled) <= set(greedy)
    assert not set(calls.cancelled) & set(modest)


def test_a_connection_with_as_few_calls_is_left_alone(calls, clock):
    """The message of a small caller may come late in a flood of others."""
    small = client(port=9)
    waiting = calls.take(small, Waiting.FIRST_MESSAGE)
    clock.advance(1)
    large = client(port=1)
    for _ in range(8):
        calls.take(large)
    calls.take(client(port=2))
    another = client(port=3)
    calls.take(client("192.0.2.2"))
    calls.take(client("192.0.2.3"))
    assert calls.refused(large)
    assert calls.cancelled == []
    # Whoever has none at all may have it.
    calls.take(another)
    assert calls.cancelled == [waiting]


def test_a_stranger_never_takes_the_place_of_the_cluster(calls, clock):
    master = [calls.take(client(MASTER, at), Waiting.FIRST_MESSAGE) for at in range(12)]
    stranger = [calls.take(client(port=at)) for at in range(4)]
    clock.advance(1)
    calls.refused(client("192.0.2.2"))
    assert calls.cancelled == []
    stranger[0].wait_for(Waiting.FIRST_MESSAGE)
    clock.advance(1)
    calls.take(client(MASTER, 99))
    assert calls.cancelled == [stranger[0]]
    calls.take(client(MASTER, 100))
    assert calls.cancelled[1] in master


@given(st.lists(st.tuples(st.sampled_from([MASTER, "a", "b", "c"]), st.integers(1, 3), st.booleans()), max_size=120))
def test_no_share_is_ever_exceeded_and_the_count_returns_to_zero(steps):
    shares = CallShares(
        16, "unary", lambda one: one.host == MASTER, ShareRule(), StallLimits(yields_first_s=0.0, yields_later_s=0.0)
    )
    clients, held, ended = {}, [], set()
    for host, port, is_silent in steps:
        caller = clients.setdefault((host, port), GrpcClient(host, port))
        try:
            place = shares.take(caller, lambda: ended.add(len(held)))
        except RpcFailure:
            continue
        if is_silent:
            place.wait_for(Waiting.FIRST_MESSAGE)
        held.append(place)
        live = [one for one in held if not one.end_text]
        assert len(live) == len(shares) <= 16
        strangers = [one for one in live if one.client.host != MASTER]
        assert len(strangers) <= 12
        for other in clients.values():
            assert sum(1 for one in live if one.client.traffic is other.traffic) <= 8
            assert other.host == MASTER or sum(1 for one in strangers if one.client.host == other.host) <= 10
    for place in held:
        place.give_up()
        place.give_up()
    assert len(shares) == 0
    assert not shares.counted_keys
