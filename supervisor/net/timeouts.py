"""How long one connection may wait for its other end.

There are two rules. Idle: a wait ends when no byte has moved in either direction for the idle timeout. So a long
transfer one way keeps a quiet other way alive. Time in which this server works does not count. Slow: within one
message, after the waits add up to a grace period, the bytes moved must keep a minimum rate.

A sent byte has moved when the other end has acknowledged it. The kernel reports a socket as writable only when a third
of its buffer is free. That may be a megabyte, and minutes at 5 KB/s. So a wait to send looks at the acknowledged bytes
from time to time. Source of the idle rule: weed/util/net_timeout.go, which only looks at the buffer.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol, TypeVar, TypeVarTuple

import trio

from native_handlers.records import dataclass
from supervisor.net.errors import ConnectionSilent, ConnectionTooSlow, Interrupted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_Args = TypeVarTuple("_Args")


LOOKS = 4
"""How often within one idle timeout a wait to send looks for acknowledged bytes."""


@dataclass(frozen=True, slots=True)
class TimeoutLimits:
    """The limits. `idle_timeout_s` inf sets no limit. `min_bytes_per_s` 0 asks for no rate."""

    idle_timeout_s: float = inf
    min_bytes_per_s: float = 0.0
    grace_s: float = 60.0


class ServedWait(Protocol[_T_co]):
    """Waits for input, and answers some of it meanwhile. The last answer went out at `answered_at` (trio time)."""

    answered_at: float

    async def sleep(self) -> _T_co: ...


class Direction:
    """The state of one direction: the wait in progress, and the progress of the current message."""

    __slots__ = ("acknowledged_at_first", "deadline", "idle_until", "moved_bytes", "scope", "waited_s")

    def __init__(self) -> None:
        self.scope: trio.CancelScope | None = None
        self.idle_until = inf
        self.deadline = inf
        self.moved_bytes = 0
        self.waited_s = 0.0
        self.acknowledged_at_first: int | None = None  # when sending: the count before the message's first wait

    def start_message(self, deadline: float = inf) -> None:
        """Begins a new message. Waits for it end at `deadline` (trio time) at the latest."""
        self.moved_bytes = 0
        self.waited_s = 0.0
        self.acknowledged_at_first = None
        self.deadline = deadline


class ConnectionTimeouts:
    """The time limits of one connection, for both directions.

    Attributes:
        unacknowledged: returns how many of the bytes that moved in `sending` the other end has not acknowledged yet.
    """

    __slots__ = ("_is_interrupted", "_limits", "receiving", "sending", "unacknowledged")

    def __init__(self, limits: TimeoutLimits) -> None:
        self._limits = limits
        self._is_interrupted = False
        self.unacknowledged: Callable[[], int] | None = None
        self.receiving = Direction()
        self.sending = Direction()

    def moved(self, direction: Direction, count: int) -> None:
        """Notes progress of `count` bytes. This also postpones the idle deadline of a wait in the other direction."""
        direction.moved_bytes += count
        for other in (self.receiving, self.sending):
            if other.scope is not None:
                other.idle_until = trio.current_time() + self._limits.idle_timeout_s
                other.scope.deadline = min(other.idle_until, other.deadline)

    def interrupt(self) -> None:
        """Ends the wait for input, the current one or the next, until `resume`."""
        self._is_interrupted = True
        if self.receiving.scope is not None:
            self.receiving.scope.cancel()

    def resume(self) -> None:
        """Takes back an interrupt, because a request has begun to arrive."""
        self._is_interrupted = False

    async def wait(self, direction: Direction, wait: Callable[[*_Args], Awaitable[_T]], *args: *_Args) -> _T:
        """The result of `wait(*args)`, which waits for the other end.

        Raises:
            ConnectionSilent, ConnectionTooSlow, Interrupted: as their docstrings say. `wait` was cancelled.
        """
        if self._is_interrupted and direction is self.receiving:
            raise Interrupted
        started_at = trio.current_time()
        idle_timeout_s = self._limits.idle_timeout_s
        direction.idle_until = started_at + idle_timeout_s
        if min(direction.idle_until, direction.deadline) == inf:
            return await wait(*args)
        looks = direction is self.sending and self.unacknowledged is not None
        acknowledged = self._acknowledged_before_waiting() if looks else 0
        while True:
            deadline = min(direction.idle_until, direction.deadline)
            if looks:
                deadline = min(deadline, trio.current_time() + idle_timeout_s / LOOKS)
            with trio.CancelScope(deadline=deadline) as scope:
                direction.scope = scope
                try:
                    result = await wait(*args)
                finally:
                    direction.scope = None
            if not scope.cancelled_caught:
                break
            if looks and (now_acknowledged := self._acknowledged()) > acknowledged:
                acknowledged = now_acknowledged
                direction.idle_until = trio.current_time() + idle_timeout_s
                self.moved(direction, 0)
            self._check_limits(direction)
            self._check_rate(direction, trio.current_time() - started_at)
        direction.waited_s += trio.current_time() - started_at
        self._check_rate(direction)
        return result

    def begin_exchange(self) -> None:
        """A whole request has arrived: takes back an interrupt, and begins a new message in both directions."""
        self._is_interrupted = False
        self.receiving.start_message()
        self.sending.start_message()

    async def wait_served(self, wait: ServedWait[_T]) -> _T:
        """The result of `wait.sleep()`, which waits for input and answers some of it.

        An answer does not move the deadline of the running wait. When the deadline passes, the wait begins again if an
        answer went out meanwhile.

        Raises:
            ConnectionSilent, ConnectionTooSlow, Interrupted: as their docstrings say. `sleep` was cancelled.
        """
        idle_timeout_s, receiving = self._limits.idle_timeout_s, self.receiving
        while not self._is_interrupted:
            receiving.idle_until = wait.answered_at + idle_timeout_s
            deadline = min(receiving.idle_until, receiving.deadline)
            if trio.current_time() >= deadline:
                self._check_limits(receiving)
            with trio.CancelScope(deadline=deadline) as scope:
                self.receiving.scope = scope
                try:
                    return await wait.sleep()
                finally:
                    self.receiving.scope = None
        raise Interrupted

    def _acknowledged(self) -> int:
        """A count that grows with each acknowledged byte and by nothing else. Its start has no meaning."""
        assert self.unacknowledged is not None
        return self.sending.moved_bytes - self.unacknowledged()

    def _acknowledged_before_waiting(self) -> int:
        acknowledged = self._acknowledged()
        if self.sending.acknowledged_at_first is None:
            self.sending.acknowledged_at_first = acknowledged
        return acknowledged

    def _check_limits(self, direction: Direction) -> None:
        """Raises a ConnectionFailed where the wait that was just cancelled must not go on."""
        now = trio.current_time()
        if self._is_interrupted and direction is self.receiving:
            raise Interrupted
        if now >= direction.deadline:
            raise ConnectionTooSlow("the message did not arrive in time")
        if now >= direction.idle_until:
            raise ConnectionSilent(self._limits.idle_timeout_s)

    def _check_rate(self, direction: Direction, waits_since_s: float = 0.0) -> None:
        limits, waited_s = self._limits, direction.waited_s + waits_since_s
        if waited_s <= limits.grace_s:
            return
        before = direction.acknowledged_at_first
        moved_bytes = direction.moved_bytes if before is None else self._acknowledged() - before
        if moved_bytes < limits.min_bytes_per_s * waited_s:
            raise ConnectionTooSlow(f"{moved_bytes} bytes moved in {waited_s:.0f} s of waiting")
