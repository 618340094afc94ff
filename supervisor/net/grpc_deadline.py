"""The deadline of a gRPC call, as a forwarder passes it on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

NO_DEADLINE_S = 10 * 365 * 86400.0
"""For a call without a deadline grpcio reports a remaining time of centuries. Given that as a timeout, grpcio overflows
and the call ends at once with DEADLINE_EXCEEDED. So more than this counts as no deadline."""


def remaining_s(context: grpc.ServicerContext) -> float | None:
    """Seconds until the deadline of the call of `context`; None where the call has no deadline."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None or remaining > NO_DEADLINE_S else remaining
