"""When a volume with a TTL is to be left out of reports, and when to be deleted.

Source: weed/storage/volume.go (expired, expiredLongEnough).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from native_handlers.format.ttl import Ttl

MAX_REMOVAL_DELAY_MINUTES = 10


def is_expired(ttl: Ttl, last_modified_s: int, now_s: int) -> bool:
    """Whether more whole minutes than the TTL have passed since the last modification."""
    return bool(ttl) and (now_s - last_modified_s) // 60 > ttl.minutes


def is_expired_long_enough(ttl: Ttl, last_modified_s: int, now_s: int) -> bool:
    """Whether it expired so long ago that it is to be deleted: a tenth of the TTL, at most 10 minutes."""
    delay_minutes = min(ttl.minutes // 10, MAX_REMOVAL_DELAY_MINUTES)
    return bool(ttl) and (ttl.minutes + delay_minutes) * 60 + last_modified_s < now_s
