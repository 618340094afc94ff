"""A call's deadline as a forwarder passes it on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

NO_DEADLINE_S = 10 * 365 * 86400.0
"""grpcio tells a call without a deadline by a remaining time of centuries, and takes that for none when it comes back
as a timeout: the sum overflows, and the call ends at once with DEADLINE_EXCEEDED."""


def remaining_s(context: grpc.ServicerContext) -> float | None:
    """Seconds to the deadline of the call that `context` is of; None where it has none."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None or remaining > NO_DEADLINE_S else remaining
