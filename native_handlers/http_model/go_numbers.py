"""Numbers and booleans in queries and paths, accepted and refused exactly as upstream does.

Python's own int() accepts more: spaces, underscores, digits of other scripts. Source of the rules: Go's
strconv.ParseUint, ParseInt, Atoi and ParseBool.
"""

from __future__ import annotations

from native_handlers.http_model.errors import BadNumber

_DIGITS = {10: frozenset("0123456789"), 16: frozenset("0123456789abcdefABCDEF")}
_TRUE = frozenset(("1", "t", "T", "true", "True", "TRUE"))
_INVALID = "invalid syntax"
_RANGE = "value out of range"


def parse_uint(text: str, base: int = 10, bits: int = 64) -> int:
    """Parses an unsigned number of at most `bits` bits.

    Raises:
        BadNumber: not all characters are digits (a sign is none), or the number is too large.
    """
    if not text or not _DIGITS[base].issuperset(text):
        raise BadNumber("ParseUint", text, _INVALID)
    value = int(text, base) if len(text) <= 64 else int(text.lstrip("0")[:64] or "0", base)
    if value >> bits:
        raise BadNumber("ParseUint", text, _RANGE)
    return value


def parse_int(text: str) -> int:
    """Parses a signed 64-bit decimal number.

    Raises:
        BadNumber: there are other characters than digits after at most one sign, or the number is too large.
    """
    sign = -1 if text.startswith("-") else 1
    digits = text[1:] if text[:1] in {"-", "+"} else text
    if not digits or not _DIGITS[10].issuperset(digits):
        raise BadNumber("ParseInt", text, _INVALID)
    value = sign * int(digits[-4000:]) if len(digits) <= 20 else sign * int(digits.lstrip("0")[:64] or "0")
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
