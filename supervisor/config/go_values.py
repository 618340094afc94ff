"""Go's texts of numbers and booleans, as Go's strconv package parses them for flags."""

from __future__ import annotations

import re

from supervisor.config.errors import BadValue

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_INTEGER = re.compile(
    r"(?P<sign>[+-]?)(?:0[xX](?P<hex>_?[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*)|0[bB](?P<bin>_?[01]+(?:_[01]+)*)"
    r"|0[oO]?(?P<oct>_?[0-7]+(?:_[0-7]+)*)|(?P<dec>0|[1-9][0-9]*(?:_[0-9]+)*))"
)
_BASES = {"hex": 16, "bin": 2, "oct": 8, "dec": 10}
_INT64 = range(-(1 << 63), 1 << 63)
_DECIMAL = re.compile(r"[+-]?[0-9]+")


def parse_bool(text: str) -> bool:
    """The value of every spelling of strconv.ParseBool. Raises BadValue for any other text."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise BadValue(text, "true or false (also 1, t, T, True, TRUE, 0, f, F, False, FALSE)")


def parse_int(text: str) -> int:
    """As strconv.ParseInt(text, 0, 64): decimal, 0x, 0o or 0, 0b, underscores between digits. Raises BadValue."""
    match = _INTEGER.fullmatch(text)
    if match is None:
        raise BadValue(text, "a whole number")
    digits_group = match.lastgroup
    assert digits_group is not None
    value = int(match[digits_group].replace("_", ""), _BASES[digits_group])
    value = -value if match["sign"] == "-" else value
    if value not in _INT64:
        raise BadValue(text, "a whole number of at most 64 bits")
    return value


def parse_decimal(text: str) -> int:
    """As strconv.ParseInt(text, 10, 64): decimal digits only. Raises BadValue."""
    if not _DECIMAL.fullmatch(text) or int(text) not in _INT64:
        raise BadValue(text, "a whole number")
    return int(text)
