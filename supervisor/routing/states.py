"""The states that a route can have. The values are written in routing tables, and their meaning never changes."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Which engine answers, and whether the other engine is asked too."""

    FORWARD = "forward"
    SHADOW = "shadow"
    VERIFY = "verify"
    CANARY = "canary"
    NATIVE = "native"


AVAILABLE_STATES = (State.FORWARD, State.NATIVE)
"""The states that a table may use. The states between them need a comparison of both engines' answers."""
