"""When to start the backend again, and when to give up: a pure function of the exits so far.

There are two budgets. A sliding window counts every exit. So a child that crashes now and then is restarted for ever,
and a child that crashes again and again is not. Starts that never became ready have a smaller budget, because a wrong
flag or a damaged directory does not heal by retrying. The delay grows with the exits inside the window, so it shrinks
again by itself. Jitter keeps servers with one common failure from restarting at the same moment.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Exit:
    """One end of the child. `status` is as in `subprocess`: an exit code, or minus the signal's number."""

    at_s: float
    status: int
    was_ready: bool
    lifetime_s: float

    @property
    def description(self) -> str:
        """The exit in words, such as `exit code 1` or `SIGKILL`."""
        if self.status >= 0:
            return f"exit code {self.status}"
        try:
            return signal.Signals(-self.status).name
        except ValueError:
            return f"signal {-self.status}"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Limits of the restarts. Times are in seconds. `jitter` 0.25 changes a delay by up to a quarter either way."""

    first_delay_s: float = 0.2
    factor: float = 2.0
    max_delay_s: float = 15.0
    jitter: float = 0.25
    window_s: float = 120.0
    max_exits_in_window: int = 10
    max_failed_starts: int = 4


@dataclass(frozen=True, slots=True)
class Delay:
    """Start again after this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not start again."""

    why: str


def next_step(policy: RestartPolicy, exits: Sequence[Exit], now_s: float, chance: float) -> Delay | GiveUp:
    """The step that follows the last of `exits` (oldest first, not empty).

    Args:
        now_s: the time on the clock of `Exit.at_s`.
        chance: a random number in [0, 1), for the jitter.
    """
    last = exits[-1]
    failed_starts = _failed_starts_at_end(exits)
    if failed_starts >= policy.max_failed_starts:
        return GiveUp(f"{failed_starts} starts in a row ended before it was ready, the last with {last.description}")
    recent = sum(1 for ended in exits if now_s - ended.at_s <= policy.window_s)
    if recent >= policy.max_exits_in_window:
        return GiveUp(f"it ended {recent} times within {policy.window_s:g} s, the last time with {last.description}")
    delay_s = min(policy.max_delay_s, policy.first_delay_s * policy.factor ** max(0, recent - 1))
    return Delay(delay_s * (1 + policy.jitter * (2 * chance - 1)))


def relevant_exits(policy: RestartPolicy, exits: Sequence[Exit], now_s: float) -> list[Exit]:
    """The exits that can still matter to `next_step`. This bounds the history."""
    kept = len(exits) - _failed_starts_at_end(exits)
    return [ended for index, ended in enumerate(exits) if index >= kept or now_s - ended.at_s <= policy.window_s]


def _failed_starts_at_end(exits: Sequence[Exit]) -> int:
    count = 0
    for ended in reversed(exits):
        if ended.was_ready:
            break
        count += 1
    return count
