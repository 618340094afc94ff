"""Connections that have not sent a whole request yet. They have no task.

Thousands of such connections may come at once. One that never sends a request costs only an entry in the poller.
The poller watches a newcomer from the start. The newcomer's bytes are kept until its head is whole, or cannot become
whole. Then a task serves it. Requests that can be answered at once are answered without a task, any number of times.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING

import trio

from supervisor.net.awaiting_connection import Arrival
from supervisor.net.delivery import leave_to_the_kernel
from supervisor.net.idle_poller import FAST_PATH_BYTES, IdleConnection, receive_request
from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1_head import HeadLimits, find_head

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from native_handlers.http_model.message import FastAnswer
    from supervisor.net.http_connection import Client
    from supervisor.net.http_limits import HttpLimits
    from supervisor.net.idle_poller import Begin, IdlePoller
    from supervisor.net.seats import Seat

log = logging.getLogger(__name__)

MAX_HELD_BYTES = 4096
"""The most that is kept of a head that is not whole. A longer head is read by a task."""
_ENDED_IN_A_ROW = 64
_LOOKS = 8
"""How often within one timeout the overdue newcomers are looked for."""
_LOOK_AT_LEAST_S = 1.0
_NO_LIMIT = HeadLimits(max_bytes=2 * MAX_HELD_BYTES + FAST_PATH_BYTES)


class Newcomer(IdleConnection):
    """One connection that is watched. After `begin` is called with it, the owner of the task owns its socket.

    Attributes:
        client: the other end.
        head_due: when the rest of the head must have arrived; inf while nothing has arrived. Trio time.
        is_given_up: whether its next request is the last one, because another connection has its seat.
    """

    __slots__ = ("_held", "_moved_at", "_newcomers", "client", "head_due", "is_given_up", "seat")

    def __init__(  # noqa: PLR0913, PLR0917  made by http_server alone
        self,
        newcomers: Newcomers,
        poller: IdlePoller,
        sock: socket.socket,
        client: Client,
        answer: Callable[[bytes], FastAnswer],
        begin: Begin | None = None,
    ) -> None:
        super().__init__(poller, sock, answer, begin)
        self.client = client
        self._newcomers = newcomers
        self._held = b""
        self._moved_at = self.answered_at
        self.seat: Seat | None = None
        self.head_due = inf
        self.is_given_up = False

    @property
    def sock(self) -> socket.socket:
        return self._sock

    @property
    def moved_at(self) -> float:
        """When bytes last came from the client or went to the client. Trio time."""
        return max(self._moved_at, self.answered_at)

    def served_at(self) -> float:
        """When the client was last answered; -inf for never. `Seats` asks this."""
        return self.answered_at if self.answered_bytes else -inf

    def take(self) -> bool:
        """Takes the socket's bytes. True when the head is whole, or a task has to refuse it."""
        try:
            data = receive_request(self._sock, self._poller.long_requests)
        except BlockingIOError:
            return False
        except OSError as error:
            self._woken_by = error
            return True
        self._held += data
        if data and _may_become_whole(self._held):
            self._moved_at = trio.current_time()
            self._newcomers.note_half_a_head(self)
            return False
        # At the end of the stream the task reads that end again.
        self._newcomers.forget_half(self)
        self.taken, self._held = self._held, b""
        return True

    def serve_taken(self, now: float) -> bool:
        is_served = super().serve_taken(now)
        if is_served:
            self.head_due = inf
        return is_served

    def take_half(self) -> bytes:
        """Returns the part of a head that has arrived. The newcomer keeps nothing of it."""
        held, self._held = self._held, b""
        return held

    def give_up(self) -> None:
        """Ends the connection. If its request has become whole, the request is answered first."""
        if self._poller.is_asleep(self):
            self._newcomers.end(self)
        else:
            self.is_given_up = self._is_cancelled = True  # it gets a task, which closes after the answer
            self.leave_soon()

    def wake(self) -> None:
        woken_by, self._woken_by = self._woken_by, None
        self._newcomers.arrived(self, woken_by)


def _may_become_whole(head: bytes) -> bool:
    """Whether `head` is the beginning of a head that a task could neither answer nor refuse yet."""
    if len(head) > MAX_HELD_BYTES:
        return False
    try:
        return find_head(head, 0, _NO_LIMIT) < 0
    except RemoteProtocolError:
        return False


class Newcomers:
    """All newcomers of one server. Only the trio thread of its poller uses it.

    Args:
        begin: starts the task of a newcomer, with the bytes that have arrived.
    """

    def __init__(self, poller: IdlePoller, limits: HttpLimits, begin: Callable[[Newcomer, Arrival], None]) -> None:
        self._poller = poller
        self._begin = begin
        self._idle_s, self._head_s = limits.timeouts.idle_timeout_s, limits.head_timeout_s
        self._all: OrderedDict[Newcomer, float] = OrderedDict()
        """Until when each newcomer may be silent, as of its last look; the soonest first."""
        self._half: OrderedDict[Newcomer, float] = OrderedDict()
        """Newcomers with a part of a head, and when the rest is due; the soonest first."""

    def add(self, newcomer: Newcomer) -> None:
        """Watches `newcomer` from now on. `newcomer` already has its seat."""
        self._all[newcomer] = newcomer.moved_at + self._idle_s
        self._poller.connections += 1
        self._poller.watch(newcomer.fd, newcomer)

    def note_half_a_head(self, newcomer: Newcomer) -> None:
        """Notes that a part of a head has arrived."""
        if newcomer.head_due == inf:
            newcomer.head_due = self._half[newcomer] = trio.current_time() + self._head_s

    def forget_half(self, newcomer: Newcomer) -> None:
        """Notes that the head is whole, or that a task reads it."""
        self._half.pop(newcomer, None)

    def arrived(self, newcomer: Newcomer, woken_by: Arrival | Exception | None) -> None:
        """Handles an arrival that was not answered at once. The poller no longer watches `newcomer`."""
        if newcomer not in self._all:
            return
        if isinstance(woken_by, Arrival) and woken_by.data != b"":
            self._forget(newcomer)
            self._begin(newcomer, woken_by)
            return
        if isinstance(woken_by, Exception) and not isinstance(woken_by, OSError):
            log.error("a connection broke by a bug of ours", exc_info=woken_by)
        self.end(newcomer)

    def end(self, newcomer: Newcomer) -> None:
        """Closes a connection. The kernel still delivers what was sent."""
        if self._poller.is_asleep(newcomer):
            self._poller.forget(newcomer.fd)
        newcomer.abandon_exchange()
        self._forget(newcomer)
        if newcomer.seat is not None:
            newcomer.seat.leave()
        leave_to_the_kernel(newcomer.sock)
        newcomer.sock.close()

    def _forget(self, newcomer: Newcomer) -> None:
        self._all.pop(newcomer, None)
        self._half.pop(newcomer, None)
        self._poller.connections -= 1

    async def run(self) -> None:
        """Ends overdue newcomers, until cancelled."""
        look_s = min(_LOOK_AT_LEAST_S, self._idle_s / _LOOKS, self._head_s / _LOOKS)
        while True:
            await trio.sleep(look_s)
            now = trio.current_time()
            await self._for_each_due(self._half, now, self._end_half)
            await self._for_each_due(self._all, now, self._end_silent)

    async def _for_each_due(
        self, line: OrderedDict[Newcomer, float], now: float, end: Callable[[Newcomer, float], None]
    ) -> None:
        done = 0
        while line:
            newcomer, due = next(iter(line.items()))
            if due > now:
                return
            end(newcomer, now)
            done += 1
            if done % _ENDED_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()

    def _end_half(self, newcomer: Newcomer, _now: float) -> None:
        """Gives a newcomer whose head is overdue to a task, which answers 408."""
        del self._half[newcomer]
        if self._poller.is_asleep(newcomer):
            self._poller.forget(newcomer.fd)
            self._forget(newcomer)
            self._begin(newcomer, Arrival(newcomer.take_half()))

    def _end_silent(self, newcomer: Newcomer, now: float) -> None:
        due = newcomer.moved_at + self._idle_s
        if due <= now and self._poller.is_asleep(newcomer):
            self.end(newcomer)
        else:  # bytes have moved since the last look, or bytes that were taken wait for their turn
            del self._all[newcomer]
            self._all[newcomer] = max(due, now + self._idle_s / _LOOKS)

    def close(self) -> None:
        """Ends at once the newcomers that `drain` has left."""
        for newcomer in list(self._all):
            self.end(newcomer)

    async def drain(self) -> None:
        """Ends all newcomers. Those whose requests have become whole get their tasks first."""
        for number, newcomer in enumerate(list(self._all), 1):
            if newcomer in self._all:
                newcomer.give_up()
            if number % _ENDED_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
        while self._all:  # noqa: ASYNC110  the poller gives each newcomer its turn
            await trio.lowlevel.checkpoint()
