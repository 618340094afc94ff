"""Time to live: a count and a unit, two bytes on disk, ``3d`` as text. Source: weed/storage/needle/volume_ttl.go."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from native_handlers.format.errors import BadTtl, Truncated

_MINUTES_OF_UNIT = (0, 1, 60, 60 * 24, 60 * 24 * 7, 60 * 24 * 30, 60 * 24 * 365)
"""Indexed by the stored unit byte, which is frozen: 0 none, then minute, hour, day, week, month, year."""
_LETTERS = " mhdwMy"
_COARSEST_FIRST = (6, 5, 4, 3, 2, 1)
_MAX_COUNT = 255
_NS = 10**9


@dataclass(frozen=True, slots=True)
class Ttl:
    """A time to live. `unit` is the stored byte; a unit that is not known is kept and means: never expires."""

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
        """The TTL that the wire form ``count << 8 | unit`` stands for."""
        return cls(value >> 8 & 0xFF, value & 0xFF)

    def to_bytes(self) -> bytes:
        return bytes((self.count, self.unit))

    def to_uint32(self) -> int:
        """``count << 8 | unit``, 0 when there is no count."""
        return self.count << 8 | self.unit if self.count else 0

    @property
    def minutes(self) -> int:
        """How long a needle lives, 0 for ever."""
        return self.count * _MINUTES_OF_UNIT[self.unit] if self.unit < len(_MINUTES_OF_UNIT) else 0

    @property
    def seconds(self) -> int:
        return self.minutes * 60

    def expires_at_ns(self, append_at_ns: int) -> int:
        """When a needle with this TTL that was appended at `append_at_ns` expires; 0 when it never does."""
        return append_at_ns + self.seconds * _NS if self else 0

    def __bool__(self) -> bool:
        """Whether it has an end: false for the empty TTL."""
        return self.minutes > 0

    def __str__(self) -> str:
        return f"{self.count}{_LETTERS[self.unit]}" if self else ""


EMPTY_TTL = Ttl(0, 0)


def parse_ttl(text: str) -> Ttl:
    """The TTL in `text` (``5m``, ``3d``, bare digits are minutes), in the coarsest unit that says the same exactly.

    Where no unit is exact, the finest unit whose count fits a byte is taken, rounded down. As upstream, an unknown
    unit letter, a count of zero or less, and more than 255 years mean no TTL.

    Raises:
        BadTtl: the count is not a number.
    """
    if not text:
        return EMPTY_TTL
    count_text, unit_letter = (text, "m") if text[-1] in "0123456789" else (text[:-1], text[-1])
    if not re.fullmatch(r"[+-]?[0-9]+", count_text, re.ASCII):
        raise BadTtl(text)
    unit = _LETTERS.find(unit_letter)
    minutes = int(count_text) * _MINUTES_OF_UNIT[unit] if unit > 0 else 0
    return _fit(minutes)


def _fit(minutes: int) -> Ttl:
    if minutes <= 0:
        return EMPTY_TTL
    for unit in _COARSEST_FIRST:
        count, rest = divmod(minutes, _MINUTES_OF_UNIT[unit])
        if not rest and count <= _MAX_COUNT:
            return Ttl(count, unit)
    for unit in reversed(_COARSEST_FIRST):
        count = minutes // _MINUTES_OF_UNIT[unit]
        if count <= _MAX_COUNT:
            return Ttl(count, unit)
    return EMPTY_TTL
