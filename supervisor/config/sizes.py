"""Byte sizes with units, and the -minFreeSpace reserve.

Source: weed/util/bytes.go (ParseBytes) and weed/util/minfreespace.go (ParseMinFreeSpace).
"""

from __future__ import annotations

import re

from supervisor.config.config import MinFreeSpace
from supervisor.config.errors import BadValue

_PREFIXES = "kmgtpe"
_UNITS = (
    {"": 1, "b": 1}
    | {f"{prefix}{suffix}": 1000 ** (n + 1) for n, prefix in enumerate(_PREFIXES) for suffix in ("", "b")}
    | {f"{prefix}i{suffix}": 1024 ** (n + 1) for n, prefix in enumerate(_PREFIXES) for suffix in ("", "b")}
)
_SIZE = re.compile(r"([0-9.,]+)\s*([a-z]*)\s*", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MAX_SIZE_BYTES = 1 << 64
_SMALLEST_RESERVE_BYTES = 101
_RESERVE_EXPECTED = "a percentage from 0 to 100, or a size above 100 bytes with its unit such as 10GiB"


def parse_size_bytes(text: str) -> int:
    """The bytes of a size: `42MB` is 42000000, `42 mib` is 44040192. Commas are skipped, fractions truncated.

    Raises:
        BadValue: an unknown unit, no number, or 2^64 and more.
    """
    match = _SIZE.fullmatch(text)
    factor = _UNITS.get(match[2].lower()) if match else None
    number = _NUMBER.fullmatch(match[1].replace(",", "")) if match else None
    if number is None or factor is None:
        raise BadValue(text, "a size such as 512MiB or 10GB")
    size = float(number[0]) * factor
    if size >= _MAX_SIZE_BYTES:
        raise BadValue(text, "a size below 16EiB")
    return int(size)


def parse_min_free_space(text: str) -> MinFreeSpace:
    """A reserve: a plain number is a percentage, a number with a unit is a size.

    Raises:
        BadValue: neither, a percentage outside 0 to 100, or a size of 100 bytes or less.
    """
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped):
        percent = float(stripped)
        if not 0 <= percent <= 100:
            raise BadValue(text, _RESERVE_EXPECTED)
        return MinFreeSpace(percent=percent, text=stripped)
    try:
        size_bytes = parse_size_bytes(stripped)
    except BadValue as error:
        raise BadValue(text, _RESERVE_EXPECTED) from error
    if size_bytes < _SMALLEST_RESERVE_BYTES:
        raise BadValue(text, _RESERVE_EXPECTED)
    return MinFreeSpace(size_bytes=size_bytes, text=stripped)
