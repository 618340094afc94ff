"""A bound on open connections. A newcomer takes the place of a waiting connection and does not have to wait itself.

When all seats are taken, a newcomer gets the seat of a connection that only waits for a request. Connections that never
sent a whole request are closed first, then those that have been idle longest; among these, one of the client with the
most connections. A connection with a running request is never closed. One client has at most three quarters of all
seats. Many clients may share one address, a proxy for example, and others must still find room. Beyond that a client
can only get the seat of one of its own connections. Upstream has no bound.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_LOOKED_AT = 32
"""How many of the longest waiting are compared when a seat is needed. This bounds the work for a newcomer."""

_ROUNDS = 4
_TELL_EVERY_S = 5.0
_CLIENT_PART = (3, 4)
_NETWORK_BITS = 64
"""One IPv6 client can use any number of addresses within a network of this length."""


def client_of(host: str) -> str:
    """The key of `host` as one client: an IPv4 address, or an IPv6 network of 64 bits."""
    if ":" not in host:
        return host
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    return str(IPv6Address(int(address) >> _NETWORK_BITS << _NETWORK_BITS))


class Seat:
    """The seat of one open connection. The owner tells when the connection waits, works on a request, and is over.

    Attributes:
        give_up: called when another connection gets the seat; must end this connection soon. The owner may replace it.
        served_at: returns when the client was last answered without `work`, by the clock of `Seats`.
    """

    __slots__ = ("_seats", "client", "give_up", "has_worked", "is_over", "served_at", "waits_since")

    def __init__(self, seats: Seats, client: str, give_up: Callable[[], object]) -> None:
        self._seats = seats
        self.client = client
        self.give_up = give_up
        self.served_at: Callable[[], float] = _never
        self.has_worked = False
        self.is_over = False
        self.waits_since = 0.0

    def wait(self) -> None:
        """The connection waits for a request from now on, and may be closed for a newcomer."""
        self._seats.wait(self)

    def work(self) -> None:
        """A whole request has arrived: the connection may not be closed for a newcomer."""
        self.has_worked = True
        self._seats.stop_waiting(self)

    def leave(self) -> None:
        """The connection is closed."""
        self._seats.leave(self)


class Seats:
    """The seats of one kind of connection. Only one thread uses them.

    Args:
        kind: the name of these connections in the log.
        most: returns how many seats there are now. It is called each time, because other needs for descriptors change.

    Attributes:
        open_count: how many seats are taken.
        given_up: how many connections were closed for newcomers so far.
        refused: how many newcomers got no seat so far.
    """

    def __init__(self, kind: str, most: Callable[[], int], clock: Callable[[], float] = trio.current_time) -> None:
        self._kind = kind
        self._most = most
        self._clock = clock
        self._waiting: OrderedDict[Seat, None] = OrderedDict()  # the one that waits longest comes first
        self._open: dict[str, int] = {}
        self._told_at_s = -inf
        self.open_count = 0
        self.given_up = 0
        self.refused = 0

    @property
    def most(self) -> int:
        """How many seats there are now."""
        return max(self._most(), 1)

    @property
    def waiting_count(self) -> int:
        """How many of the taken seats belong to connections that wait, and may be closed."""
        return len(self._waiting)

    @property
    def taken_by_client(self) -> dict[str, int]:
        """How many seats each client has. An IPv6 client is named by its network."""
        return dict(self._open)

    def take(self, host: str, give_up: Callable[[], object]) -> Seat | None:
        """A seat for a connection from `host`, which waits for a request; None where no connection can be closed."""
        client, most = client_of(host), self.most
        part, parts = _CLIENT_PART
        if self.open_count > most:  # the bound has shrunk: close two connections for each newcomer
            self.give_up_one()
        is_greedy = self._open.get(client, 0) >= max(most * part // parts, 1)
        if (self.open_count >= most or is_greedy) and not self.give_up_one(client if is_greedy else None):
            self.refused += 1
            self._tell()
            return None
        seat = Seat(self, client, give_up)
        self.open_count += 1
        self._open[client] = self._open.get(client, 0) + 1
        self.wait(seat)
        return seat

    def give_up_one(self, client: str | None = None) -> bool:
        """Closes a connection that only waits, of one client or of any. False where there is none."""
        for _ in range(_ROUNDS):
            oldest = list(islice(self._waiting, _LOOKED_AT))
            idle = self._without_those_served(oldest)
            candidates = [seat for seat in idle if client is None or seat.client == client]
            if candidates:
                victim = min(candidates, key=lambda seat: (seat.has_worked, -self._open[seat.client]))
                give_up = victim.give_up
                self.leave(victim)
                self.given_up += 1
                self._tell()
                give_up()
                return True
            if len(idle) == len(oldest):
                return False
        return False

    def wait(self, seat: Seat) -> None:
        """See `Seat.wait`."""
        if not seat.is_over:
            seat.waits_since = self._clock()
            self._waiting[seat] = None

    def stop_waiting(self, seat: Seat) -> None:
        """See `Seat.work`."""
        self._waiting.pop(seat, None)

    def leave(self, seat: Seat) -> None:
        """See `Seat.leave`. Does nothing for a seat that was given up."""
        if seat.is_over:
            return
        seat.is_over = True
        # The owner refers to the seat, and these methods refer to the owner: without a cycle both are freed at once.
        seat.give_up, seat.served_at = _nothing, _never
        self._waiting.pop(seat, None)
        self.open_count -= 1
        self._open[seat.client] -= 1
        if not self._open[seat.client]:
            del self._open[seat.client]

    def _without_those_served(self, oldest: list[Seat]) -> list[Seat]:
        """The seats of `oldest` that were not served since they began to wait.

        The others move to the end of the row.
        """
        times = [(seat.served_at(), number) for number, seat in enumerate(oldest)]
        served = sorted((at_s, number) for at_s, number in times if at_s > oldest[number].waits_since)
        for at_s, number in served:
            seat = oldest[number]
            seat.has_worked, seat.waits_since = True, at_s
            self._waiting.move_to_end(seat)
        busy = {number for _, number in served}
        return [seat for number, seat in enumerate(oldest) if number not in busy]

    def _tell(self) -> None:
        now_s = self._clock()
        if now_s - self._told_at_s < _TELL_EVERY_S:
            return
        self._told_at_s = now_s
        log.warning(
            "%d %s connections are open, of %d that may be; so far %d that only waited were closed for newcomers, and"
            " %d newcomers were turned away",
            self.open_count, self._kind, self.most, self.given_up, self.refused,
        )  # fmt: skip


def _nothing() -> None:
    """Does nothing: the connection is over, and no owner needs to know."""


def _never() -> float:
    return -inf
