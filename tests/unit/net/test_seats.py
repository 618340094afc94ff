"""Which connection gets a seat, and which connection gives one up."""

from __future__ import annotations

import pytest
from support.clocks import TickingClock

from supervisor.net.seats import Seats, client_of


class Room:
    """Seats whose connections are names."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seats = Seats("test", lambda: self.most, TickingClock(0, step_s=1).seconds)
        self.gone: list[str] = []

    def take(self, name: str, host: str = ""):
        return self.seats.take(host or name, lambda: self.gone.append(name))


@pytest.fixture
def room():
    return Room(4)


def test_while_there_are_seats_nobody_is_given_up(room):
    assert all(room.take(name) for name in "abcd")
    assert room.gone == []
    assert room.seats.open_count == 4


def test_who_never_sent_a_request_goes_before_who_is_idle_and_of_these_the_one_that_waits_longest(room):
    seats = [room.take(name) for name in "abcd"]
    for seat in seats[:2]:
        seat.work()
        seat.wait()
    for newcomer in "ef":
        room.take(newcomer).work()
    assert room.gone == ["c", "d"]
    for newcomer in "gh":
        room.take(newcomer).work()
    assert room.gone == ["c", "d", "a", "b"]
    assert room.take("i") is None
    assert (room.seats.open_count, room.seats.given_up, room.seats.refused) == (4, 4, 1)


def test_who_is_served_is_never_given_up(room):
    for name in "abcd":
        room.take(name).work()
    assert room.take("e") is None
    assert room.gone == []


def test_who_left_makes_room_and_leaves_once(room):
    seats = [room.take(name) for name in "abcd"]
    for seat in seats:
        seat.work()
    for _ in range(2):
        seats[0].leave()
    assert room.seats.open_count == 3
    assert room.take("e") is not None
    assert room.take("f") is not None
    assert room.gone == ["e"]


def test_who_was_given_up_comes_back_by_no_way(room):
    seats = [room.take(name) for name in "abcd"]
    room.take("e")
    assert room.gone == ["a"]
    seats[0].work()
    seats[0].wait()
    seats[0].leave()
    assert room.seats.open_count == 4
    for newcomer in "fghi":
        room.take(newcomer)
    assert room.gone == ["a", "b", "c", "d", "e"]


def test_one_client_has_three_quarters_and_then_only_what_it_gives_up_itself():
    room = Room(8)
    mine = [room.take(f"mine{number}", "10.0.0.1") for number in range(6)]
    assert room.take("mine6", "10.0.0.1") is not None
    assert room.gone == ["mine0"]
    for seat in mine[1:]:
        seat.work()
    assert room.take("mine7", "10.0.0.1") is not None
    assert room.gone == ["mine0", "mine6"]
    room.take("other", "10.0.0.2").work()
    assert room.take("mine8", "10.0.0.1") is not None
    assert room.gone == ["mine0", "mine6", "mine7"]
    assert room.take("other2", "10.0.0.3") is not None
    assert room.gone == ["mine0", "mine6", "mine7"]


def test_of_those_that_are_alike_the_client_with_the_most_gives_up_one():
    room = Room(5)
    for name, host in (("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.2"), ("d", "10.0.0.3"), ("e", "10.0.0.4")):
        room.take(name, host)
    room.take("f", "10.0.0.5")
    assert room.gone == ["b"]


def test_who_was_served_without_a_word_to_the_seat_counts_from_then(room):
    served = {}
    for name in "abcd":
        seat = room.take(name)
        seat.served_at = lambda name=name: served.get(name, float("-inf"))
    served |= {"a": 100.0, "b": 90.0}
    room.take("e")
    assert room.gone == ["c"]
    room.take("f")
    assert room.gone == ["c", "d"]
    served["f"] = served["e"] = 200.0
    # A served connection has sent a whole request; a connection without one goes first.
    room.take("g")
    room.take("h")
    assert room.gone == ["c", "d", "e", "f"]


def test_a_bound_that_shrinks_is_kept_to_by_the_next_ones(room):
    for name in "abcd":
        room.take(name)
    room.most = 2
    room.take("e")
    assert room.gone == ["a", "b"]
    room.take("f")
    assert room.gone == ["a", "b", "c", "d"]
    room.take("g")
    assert room.seats.open_count == 2


def test_the_work_for_a_newcomer_does_not_grow_with_those_that_wait():
    """Of 5,000 connections that wait no more, as many are looked at as of 100."""
    looked_at = []
    for count in (100, 5000):
        room, asked = Room(count), []
        for number in range(count):
            room.take(f"n{number}", f"10.0.{number // 250}.{number % 250}").served_at = lambda asked=asked: (
                asked.append(1) or float("-inf")
            )
        for number in range(50):
            room.take(f"new{number}", f"11.0.0.{number}")
        looked_at.append(len(asked))
    assert looked_at[0] >= looked_at[1] > 0


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_a_client_is_an_address_or_a_network(host, client):
    assert client_of(host) == client
