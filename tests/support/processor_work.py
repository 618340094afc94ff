"""Processor time in a measure that holds for each machine."""

from __future__ import annotations

import time

_CALLS = 20_000
_ROUNDS = 10


def calls_worth(work) -> float:
    """How many calls of an empty function take as much processor time as one call of `work`. The least of some rounds,
    for other programs make both slower.
    """
    rounds = [(_processor_s(work), _processor_s(_many_calls)) for _ in range(_ROUNDS)]
    work_s, calls_s = map(min, zip(*rounds, strict=True))
    return work_s / calls_s * _CALLS


def _processor_s(work) -> float:
    started_s = time.thread_time()
    work()
    return time.thread_time() - started_s


def _many_calls() -> None:
    for _ in range(_CALLS):
        _nothing()


def _nothing() -> None:
    pass
