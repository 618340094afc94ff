"""Numbers and booleans in queries and paths, accepted and refused exactly as upstream does.

Python's own int() accepts more: spaces, underscores, digits of other scripts. Source of the rules: Go's
strconv.ParseUint, ParseInt, Atoi and ParseBool.
"""

from __future__ import annotations

import re

from native_handlers.http_model.errors import BadNumber

_SHORT = re.compile("[+-]?[0-9]{1,18}")
"""Fits 64 bits."""
_HEX = re.compile("[0-9a-fA-F]++")
_ZEROS = re.compile("0*+")
_MOST_DIGITS = 64
"""A number of so many digits is beyond each limit here. Python refuses to parse thousands of digits."""
_TRUE = frozenset(("1", "t", "T", "true", "True", "TRUE"))
_INVALID = "invalid syntax"
_RANGE = "value out of range"


def parse_uint(text: str, base: int = 10, bits: int = 64) -> int:
    """Parses an unsigned number of at most `bits` bits.

    Raises:
        BadNumber: not all characters are digits (a sign is none), or the number is too large.
    """
    if not _is_number(text, base):
        raise BadNumber("ParseUint", text, _INVALID)
    value = _value(text, base)
    if value >> bits:
        raise BadNumber("ParseUint", text, _RANGE)
    return value


def parse_int(text: str) -> int:
    """Parses a signed 64-bit decimal number.

    Raises:
        BadNumber: there are other characters than digits after at most one sign, or the number is too large.
    """
    if _SHORT.fullmatch(text):
        return int(text)
    digits = text[1:] if text[:1] in {"-", "+"} else text
    if not _is_number(digits, 10):
        raise BadNumber("ParseInt", text, _INVALID)
    value = -_value(digits, 10) if text[0] == "-" else _value(digits, 10)
    if not -(1 << 63) <= value < 1 << 63:
        raise BadNumber("ParseInt", text, _RANGE)
    return value


def parse_int_or_zero(text: str) -> int:
    """As `parse_int`, but returns 0 for text that is no number and the nearest limit for a number that is too large."""
    try:
        return parse_int(text)
    except BadNumber as failure:
        if failure.reason is not _RANGE:
            return 0
        return -(1 << 63) if text.startswith("-") else (1 << 63) - 1


def parse_uint_or_zero(text: str) -> int:
    """As `parse_uint`, but returns 0 for text that is no number and the greatest value for a number that is too
    large.
    """
    try:
        return parse_uint(text)
    except BadNumber as failure:
        return (1 << 64) - 1 if failure.reason is _RANGE else 0


def parse_bool(text: str) -> bool:
    """True for the six words that Go accepts for true; false for every other text."""
    return text in _TRUE


def _is_number(digits: str, base: int) -> bool:
    if base != 10:
        return _HEX.fullmatch(digits) is not None
    # In C, because a form field may have 10 MB. The method of `str` takes ten times as long.
    return digits.isascii() and digits.encode().isdigit()


def _value(digits: str, base: int) -> int:
    """The number, or another one that is beyond all limits."""
    if len(digits) <= _MOST_DIGITS:
        return int(digits, base)
    zeros = _ZEROS.match(digits)
    assert zeros is not None, "the pattern matches nothing too"
    return int(digits[zeros.end() :][:_MOST_DIGITS] or "0", base)
