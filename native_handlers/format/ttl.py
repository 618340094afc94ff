"""Time to live: a count and a unit, two bytes on disk, ``3d`` as text. Source: weed/storage/needle/volume_ttl.go."""

from __future__ import annotations

import re
from typing import Self

from native_handlers.format.errors import BadTtl, Truncated
from native_handlers.records import dataclass

MINUTES_OF_UNIT = (0, 1, 60, 60 * 24, 60 * 24 * 7, 60 * 24 * 30, 60 * 24 * 365)
"""Indexed by the stored unit byte, which is frozen: 0 none, then minute, hour, day, week, month, year."""
_LETTERS = " mhdwMy"
_COARSEST_FIRST = (6, 5, 4, 3, 2, 1)
_MAX_COUNT = 255
_NS = 10**9
_COUNT = re.compile("([+-]?)(?=[0-9])0*+([0-9]{0,18})")
"""A count: its sign, and its digits behind the zeros. One pass over the text: a form field may have 10 MB of zeros."""


@dataclass(frozen=True, slots=True)
class Ttl:
    """A time to live. `unit` is the stored byte. An unknown unit is kept and means: never expires."""

    count: int
    unit: int

    @classmethod
    def from_bytes(cls, raw: bytes | memoryview) -> Self:
        """The TTL in the first two bytes of `raw`: count, unit.

        Raises:
            Truncated: `raw` is shorter.
        """
        if len(raw) < 2:
            raise Truncated("TTL", 2, len(raw))
        return cls(raw[0], raw[1])

    @classmethod
    def from_uint32(cls, value: int) -> Self:
        """The TTL whose wire form is `value`: ``count << 8 | unit``."""
        return cls(value >> 8 & 0xFF, value & 0xFF)

    def to_bytes(self) -> bytes:
        return bytes((self.count, self.unit))

    def to_uint32(self) -> int:
        """The wire form, ``count << 8 | unit``; 0 when there is no count."""
        return self.count << 8 | self.unit if self.count else 0

    @property
    def minutes(self) -> int:
        """The lifetime in minutes; 0 means for ever."""
        return self.count * MINUTES_OF_UNIT[self.unit] if self.unit < len(MINUTES_OF_UNIT) else 0

    @property
    def seconds(self) -> int:
        return self.minutes * 60

    def expires_at_ns(self, append_at_ns: int) -> int:
        """When a needle that was appended at `append_at_ns` expires with this TTL; 0 means never."""
        return append_at_ns + self.seconds * _NS if self else 0

    def __bool__(self) -> bool:
        """Whether needles with this TTL expire: false for the empty TTL and for an unknown unit."""
        return self.minutes > 0

    def __str__(self) -> str:
        return f"{self.count}{_LETTERS[self.unit]}" if self else ""


EMPTY_TTL = Ttl(0, 0)


def parse_ttl(text: str) -> Ttl:
    """Parses a TTL (``5m``, ``3d``; bare digits are minutes) and returns it in the coarsest unit that is exact.

    Where no unit is exact, the result has the finest unit whose count fits a byte, rounded down. As upstream, an
    unknown unit letter, a count of zero or less, and more than 255 years mean no TTL.

    Raises:
        BadTtl: the count is not a number, or has more than 18 digits.
    """
    if not text:
        return EMPTY_TTL
    count_text, unit_letter = (text, "m") if text[-1] in "0123456789" else (text[:-1], text[-1])
    count = _COUNT.fullmatch(count_text)
    if count is None:
        raise BadTtl(text)
    unit = _LETTERS.find(unit_letter)
    minutes = int(count[1] + (count[2] or "0")) * MINUTES_OF_UNIT[unit] if unit > 0 else 0
    return _fit(minutes)


def _fit(minutes: int) -> Ttl:
    if minutes <= 0:
        return EMPTY_TTL
    for unit in _COARSEST_FIRST:
        count, rest = divmod(minutes, MINUTES_OF_UNIT[unit])
        if not rest and count <= _MAX_COUNT:
            return Ttl(count, unit)
    for unit in reversed(_COARSEST_FIRST):
        count = minutes // MINUTES_OF_UNIT[unit]
        if count <= _MAX_COUNT:
            return Ttl(count, unit)
    return EMPTY_TTL
