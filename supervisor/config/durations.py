"""Go duration texts: `1m30s`, `250ms`, `-1.5h`, `0`.

Source: Go's time.ParseDuration. The grammar is an optional sign and a sequence of decimal numbers, each with a unit.
"""

from __future__ import annotations

import re
from fractions import Fraction

from supervisor.config.errors import BadValue

NANOSECONDS_PER_SECOND = 1_000_000_000
_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek letter mu
    "ms": 1_000_000,
    "s": NANOSECONDS_PER_SECOND,
    "m": 60 * NANOSECONDS_PER_SECOND,
    "h": 3600 * NANOSECONDS_PER_SECOND,
}
_TERM = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_MAX_NS = (1 << 63) - 1
EXPECTED = "a duration such as 90s, 1m30s or 250ms"


def parse_duration_ns(text: str) -> int:
    """The nanoseconds of a duration. As in Go, each term is truncated towards zero.

    Raises:
        BadValue: no unit, an unknown unit, or more than about 292 years.
    """
    sign, body = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if body == "0":
        return 0
    total_ns, position = 0, 0
    while position < len(body):
        term = _TERM.match(body, position)
        if term is None:
            raise BadValue(text, EXPECTED)
        total_ns += int(Fraction(term[1].rstrip(".")) * _UNIT_NS[term[2]])
        position = term.end()
    if not body or total_ns > _MAX_NS:
        raise BadValue(text, EXPECTED)
    return sign * total_ns


def parse_duration_s(text: str) -> float:
    """The seconds of a duration. Raises BadValue as `parse_duration_ns` does."""
    return parse_duration_ns(text) / NANOSECONDS_PER_SECOND
