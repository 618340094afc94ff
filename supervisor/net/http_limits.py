"""The limits of one HTTP listener. docs/policy/limits.md describes the same for operators."""

from __future__ import annotations

from dataclasses import field, replace
from math import inf

from native_handlers.records import dataclass
from supervisor.net.timeouts import TimeoutLimits
from supervisor.wire.http1 import WireLimits

GIB = 1024**3

MAX_BODY_BYTES = 5 * GIB
"""A needle holds at most 4 GiB. The rest is room for the multipart form around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Bounds and deadlines of one listener.

    Args:
        idle_timeout_s: a connection ends after this time without activity in either direction; inf sets no limit.
        head_timeout_s: the time for a head, from its first byte; the time for a TLS handshake, from the accept.
        min_bytes_per_s: the rate that a message must keep, after its waits add up to `grace_s`.
        linger_s, linger_bytes: how long, and how much, is read and thrown away after an answer that was sent before the
            request had ended. The client can read the answer meanwhile.
        unread_body_bytes: the most that is read and thrown away of an unread body to keep the connection.
        drain_s: the time for running requests after the listener stops.
        max_connections: beyond it a newcomer takes the place of a connection that waits, or is turned away; see
            `seats`.
        turn_away_s: the time that a client who is turned away has for a head, and for taking the answer.
        max_turned_away: how many clients are turned away at once. Further ones replace those that have sent nothing.
    """

    wire: WireLimits = field(default_factory=lambda: WireLimits(max_body_bytes=MAX_BODY_BYTES))
    idle_timeout_s: float = 30.0
    head_timeout_s: float = 30.0
    min_bytes_per_s: float = 128.0
    grace_s: float = 60.0
    linger_s: float = 2.0
    linger_bytes: int = 64 * 1024 * 1024
    unread_body_bytes: int = 256 * 1024
    drain_s: float = 30.0
    max_connections: int = 16384
    turn_away_s: float = 1.0
    max_turned_away: int = 32

    @property
    def for_turning_away(self) -> HttpLimits:
        """The limits for clients that are turned away: time for one short request."""
        seconds = self.turn_away_s
        return replace(self, idle_timeout_s=seconds, head_timeout_s=seconds, linger_s=seconds, unread_body_bytes=0)

    @property
    def timeouts(self) -> TimeoutLimits:
        return TimeoutLimits(
            self.idle_timeout_s if self.idle_timeout_s > 0 else inf, self.min_bytes_per_s, self.grace_s
        )
