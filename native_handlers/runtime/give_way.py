"""Keeps a thread that computes for long from delaying the others."""

from __future__ import annotations

import time

_GIVEN_S = 0.00005


def give_way() -> None:
    """Lets a thread that waits for the interpreter lock run at once, not after the interpreter's 5 ms. Threads that
    compute for long call it between steps of about a millisecond.
    """
    time.sleep(_GIVEN_S)  # noqa: TID251  waits for nothing: it lets go of the lock
