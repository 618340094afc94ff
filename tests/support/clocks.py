"""A clock for what is made with a clock of its own, such as a store."""

from __future__ import annotations

import pytest


class Clock:
    """A clock that only the test moves. A call of it gives nanoseconds."""

    def __init__(self, now_s: float = 1_700_000_000) -> None:
        self.now_ns = int(now_s * 10**9)

    def __call__(self) -> int:
        return self.now_ns

    def seconds(self) -> float:
        return self.now_ns / 10**9

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 10**9)


class TickingClock(Clock):
    """A clock that advances with each reading, by a microsecond unless the test says otherwise."""

    def __init__(self, now_s: float = 1_700_000_000, step_s: float = 1e-6) -> None:
        super().__init__(now_s)
        self.step_s = step_s

    def __call__(self) -> int:
        self.advance(self.step_s)
        return self.now_ns

    def seconds(self) -> float:
        return self() / 10**9


@pytest.fixture
def clock() -> Clock:
    return Clock()
