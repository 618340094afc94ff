"""How much of an upload is received at once, and which uploads are kept until they are whole."""

from __future__ import annotations

from supervisor.net.idle_poller import LongRequests

LONG_REQUESTS = LongRequests((b"POST ", b"PUT "), more_bytes=36 * 1024, max_kept_bytes=68 * 1024)
"""Uploads. One receive is enough for `write_request.MAX_BODY_BYTES`. An upload that arrives in pieces, or is longer and
is forwarded, is kept until it is whole, if its body has no more than 64 KiB."""
