"""What a route can be told to do. The values are written in routing tables and never change meaning."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Which engine answers, and whether the other one is asked too."""

    FORWARD = "forward"
    SHADOW = "shadow"
    VERIFY = "verify"
    CANARY = "canary"
    NATIVE = "native"


AVAILABLE_STATES = (State.FORWARD, State.NATIVE)
"""What a table may say today: the states between need both engines' answers compared."""
