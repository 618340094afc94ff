"""How long one connection may wait for its peer.

Two rules. Idle: a wait ends when nothing has moved in either direction for the idle timeout, so a long transfer one
way keeps a quiet other way alive; time in which we ourselves work does not count. Slow: within one message, once the
waits for the peer add up to a grace period, what moved must keep a minimum rate.
Source of the idle rule: weed/util/net_timeout.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import trio

from supervisor.net.errors import Interrupted, PeerError, PeerSilent, PeerTooSlow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """`idle_timeout_s` inf waits for ever. `min_bytes_per_s` 0 asks for no rate."""

    idle_timeout_s: float = inf
    min_bytes_per_s: float = 0.0
    grace_s: float = 60.0


class Direction:
    """One direction's account: the wait in progress, and how the current message goes."""

    __slots__ = ("deadline", "moved_bytes", "scope", "waited_s")

    def __init__(self) -> None:
        self.scope: trio.CancelScope | None = None
        self.deadline = inf
        self.moved_bytes = 0
        self.waited_s = 0.0

    def start_message(self, deadline: float = inf) -> None:
        """A new message begins; waits for it end at `deadline` (trio time) at the latest."""
        self.moved_bytes = 0
        self.waited_s = 0.0
        self.deadline = deadline


class Pace:
    """The patience of one connection; shared by its reading and its writing."""

    __slots__ = ("_is_interrupted", "_limits", "receiving", "sending")

    def __init__(self, limits: PaceLimits) -> None:
        self._limits = limits
        self._is_interrupted = False
        self.receiving = Direction()
        self.sending = Direction()

    def moved(self, direction: Direction, count: int) -> None:
        """Notes progress; pushes the idle deadline of a wait in the other direction on."""
        direction.moved_bytes += count
        for other in (self.receiving, self.sending):
            if other.scope is not None:
                other.scope.deadline = min(trio.current_time() + self._limits.idle_timeout_s, other.deadline)

    def interrupt(self) -> None:
        """Ends the wait for input, now or when it comes, until `resume`."""
        self._is_interrupted = True
        if self.receiving.scope is not None:
            self.receiving.scope.cancel()

    def resume(self) -> None:
        """Takes back an interrupt that came too late."""
        self._is_interrupted = False

    async def wait(self, direction: Direction, wait: Callable[[*_Args], Awaitable[_T]], *args: *_Args) -> _T:
        """The result of `wait(*args)`, which waits for the peer.

        Raises:
            PeerSilent, PeerTooSlow, Interrupted: as their docstrings say; `wait` was cancelled.
        """
        if self._is_interrupted and direction is self.receiving:
            raise Interrupted
        started_at = trio.current_time()
        deadline = min(started_at + self._limits.idle_timeout_s, direction.deadline)
        if deadline == inf:
            return await wait(*args)
        with trio.CancelScope(deadline=deadline) as scope:
            direction.scope = scope
            try:
                result = await wait(*args)
            finally:
                direction.scope = None
        if scope.cancelled_caught:
            raise self._verdict(direction)
        direction.waited_s += trio.current_time() - started_at
        self._check_rate(direction)
        return result

    async def wait_served(self, wait: Callable[[], Awaitable[_T]], served_at: Callable[[], float]) -> _T:
        """The result of `wait()`, which waits for input and serves the peer meanwhile, at `served_at()` the last time.

        A wait may be begun again, so that no deadline has to move while it serves.

        Raises:
            PeerSilent, Interrupted: as their docstrings say; `wait` was cancelled.
        """
        idle_timeout_s = self._limits.idle_timeout_s
        while not self._is_interrupted:
            deadline = served_at() + idle_timeout_s
            if trio.current_time() >= deadline:
                raise PeerSilent(idle_timeout_s)
            with trio.CancelScope(deadline=deadline) as scope:
                self.receiving.scope = scope
                try:
                    return await wait()
                finally:
                    self.receiving.scope = None
        raise Interrupted

    def _verdict(self, direction: Direction) -> PeerError:
        if self._is_interrupted and direction is self.receiving:
            return Interrupted()
        if trio.current_time() >= direction.deadline:
            return PeerTooSlow("the message did not arrive in time")
        return PeerSilent(self._limits.idle_timeout_s)

    def _check_rate(self, direction: Direction) -> None:
        limits, waited_s = self._limits, direction.waited_s
        if waited_s > limits.grace_s and direction.moved_bytes < limits.min_bytes_per_s * waited_s:
            raise PeerTooSlow(f"{direction.moved_bytes} bytes moved in {waited_s:.0f} s of waiting")
