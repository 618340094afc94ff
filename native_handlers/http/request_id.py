"""Request ids in upstream's form. Source: weed/util/request_id/request_id.go."""

from __future__ import annotations

import secrets
import time

REQUEST_ID_HEADER = "X-Amz-Request-Id"


def new_request_id() -> str:
    """A fresh id: the time in nanoseconds and four random bytes, in upper-case hex."""
    return f"{time.time_ns():X}{secrets.token_hex(4).upper()}"
