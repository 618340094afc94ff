"""The header fields that the fast paths ignore."""

from __future__ import annotations

IGNORED_FIELDS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "connection",
        "host",
        "pragma",
        "traceparent",
        "user-agent",
        "x-amz-request-id",
        "x-forwarded-for",
    }
)
"""Fields that do not change the answer to a request for a plain needle. Accept-Encoding matters for compressed ones
only, `Connection` and `Host` only by their values."""
