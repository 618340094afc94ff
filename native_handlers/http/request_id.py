"""Request ids in upstream's form. Source: weed/util/request_id/request_id.go."""

from __future__ import annotations

import random
import time

REQUEST_ID_HEADER = "X-Amz-Request-Id"


def new_request_id() -> str:
    """A fresh id: the time in nanoseconds and four random bytes, in upper-case hex. It is no secret."""
    return f"{time.time_ns():X}{random.getrandbits(32):08X}"
