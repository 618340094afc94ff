"""HTTP dates, and the two conditions that reads honour: If-Modified-Since and If-None-Match.

Source: weed/server/volume_server_handlers_read.go GetOrHeadHandler.
"""

from __future__ import annotations

import re
from calendar import monthrange, timegm
from datetime import UTC, datetime
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CYCLE_YEARS = 400
_CYCLE_S = 146097 * 86400
"""Dates and weekdays repeat after so many seconds: 400 years."""
_LAST_SECOND = 253402300799
"""The end of the year 9999, the last second that Python's datetime knows."""
_DATE = re.compile(
    rf"(?:{'|'.join(_DAYS)}), ([0-9]{{2}}) ({'|'.join(_MONTHS)}) ([0-9]{{4}}) "
    "([0-9]{1,2}):([0-9]{2}):([0-9]{2}) GMT",
    re.IGNORECASE | re.ASCII,
)


@lru_cache(maxsize=1024)
def format_http_date(seconds: int) -> str:
    """Formats `seconds` since 1970 as an HTTP date. A year beyond 9999 has more digits: a record may hold such a
    date.
    """
    cycles = max(0, seconds - _LAST_SECOND + _CYCLE_S - 1) // _CYCLE_S
    when = datetime.fromtimestamp(max(seconds, 0) - cycles * _CYCLE_S, UTC)
    month, year = _MONTHS[when.month - 1].title(), when.year + cycles * _CYCLE_YEARS
    return f"{_DAYS[when.weekday()]}, {when.day:02} {month} {year:04} {when:%H:%M:%S} GMT"


def parse_http_date(text: str) -> int | None:
    """Parses the preferred form of HTTP dates into seconds since 1970; None for any other text. The weekday is not
    checked.
    """
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    day, year, hour, minute, second = (int(found.group(index)) for index in (1, 3, 4, 5, 6))
    month = _MONTHS.index(found.group(2).lower()) + 1
    if year == 0 or not 1 <= day <= monthrange(year, month)[1] or hour > 23 or minute > 59 or second > 59:
        return None
    return timegm((year, month, day, hour, minute, second))


def is_not_modified_since(condition: str | None, last_modified_s: int) -> bool:
    """Whether the client's copy is current. A date that cannot be parsed is no condition."""
    since = parse_http_date(condition) if condition else None
    return since is not None and since >= last_modified_s


def is_same_etag(condition: str | None, etag: str) -> bool:
    """Whether the condition is exactly the quoted tag. Lists, weak tags and `*` never match, as upstream."""
    return condition == f'"{etag}"'
