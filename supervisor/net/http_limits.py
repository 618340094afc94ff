"""What one HTTP listener grants its clients. docs/policy/limits.md says the same for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from supervisor.net.pace import PaceLimits
from supervisor.wire.http1 import WireLimits

GIB = 1024**3

MAX_BODY_BYTES = 5 * GIB
"""A needle holds at most 4 GiB; the rest is for the multipart wrapping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Bounds and deadlines of one listener.

    Args:
        idle_timeout_s: no activity in either direction for that long ends a connection; inf never does.
        head_timeout_s: a head must be complete that long after its first byte, a TLS handshake after accept.
        min_bytes_per_s: the rate that a message must keep once its waits add up to `grace_s`.
        linger_s, linger_bytes: how long, and how much, is read and thrown away after an answer that came before the
            request was over, so that the client gets to see it.
        unread_body_bytes: the most of an unread body that is read and thrown away to keep the connection.
        drain_s: how long running requests have when the listener stops.
        max_connections: more wait in the kernel's backlog.
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

    @property
    def pace(self) -> PaceLimits:
        return PaceLimits(self.idle_timeout_s if self.idle_timeout_s > 0 else inf, self.min_bytes_per_s, self.grace_s)
