"""Tests documents against a filter, and makes rows from them.

Source: weed/query/json (query_json.go filterJson and QueryJson, seralize.go ToJson).
"""

from __future__ import annotations

import re
from operator import eq, ge, gt, le, lt, ne
from typing import TYPE_CHECKING, Any

from native_handlers.query.lexing import is_word
from native_handlers.query.paths import JsonPath
from native_handlers.query.strings import Pattern, string_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
_PATTERN_OPERANDS = ("%", "!%")
_DECIMAL = re.compile(rb"[+-]?[0-9._]+(?:[eE][+-]?[0-9_]+)?")
_HEXADECIMAL = re.compile(rb"[+-]?0[xX][0-9a-fA-F._]+[pP][+-]?[0-9_]+")
_BAD_UNDERSCORE = re.compile(rb"_(?![0-9a-fA-F])|(?<![0-9a-fA-FxX])_")
_NAMED = re.compile(rb"[+-]?inf(?:inity)?|nan", re.IGNORECASE)
_MAX_NUMBER_CHARS = 1_000_000
_QUOTED, _COMPOUND = frozenset(b'"'), frozenset(b"{[")
_TRUE, _FALSE = b"true", b"false"


def go_float(text: bytes) -> float:
    """The number in `text` as upstream parses it: text that is no number is 0, a number that is too large is infinite.

    Decimal and hexadecimal, with or without an underscore between digits. A number of more than a million characters is
    0; upstream parses it. Source: Go's strconv.ParseFloat.
    """
    if len(text) > _MAX_NUMBER_CHARS:
        return 0.0
    try:
        if _DECIMAL.fullmatch(text) or _NAMED.fullmatch(text):
            return float(text)
        if _HEXADECIMAL.fullmatch(text) and not _BAD_UNDERSCORE.search(text):
            return float.fromhex(text.replace(b"_", b"").decode())
    except ValueError:
        return 0.0
    except OverflowError:
        return float("-inf") if text.startswith(b"-") else float("inf")
    return 0.0


class Filter:
    """Passes the documents whose field compares with the value as the operand says.

    Strings compare byte by byte; ``%`` (matches the pattern) and ``!%`` are for strings alone. Numbers compare as
    numbers; true and false compare with ``true`` and ``false``, false being the smaller. null, objects, lists and
    absent fields pass no comparison. An unknown operand passes nothing.

    Args:
        field: a path; the empty path names a field with an empty name.
        operand: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``%``, ``!%``; an empty operand tests only whether the
            field is there.
    """

    def __init__(self, field: str, operand: str, value: str) -> None:
        self._path = JsonPath(field.encode())
        self._operand = operand
        self._value = value.encode()
        self._number = go_float(self._value)
        self._pattern = Pattern(self._value if operand in _PATTERN_OPERANDS else b"")

    def passes(self, document: bytes) -> bool:
        """Whether `document` passes.

        Raises:
            PatternTooCostly: the comparison takes too long.
        """
        found = self._path.find(document)
        if found is None or not self._operand:
            return found is not None
        if found[0] in _QUOTED:
            return self._passes_string(string_bytes(found[1:-1]))
        if found[0] in _COMPOUND:
            return False
        if is_word(found, 0):
            return self._passes_word(found)
        compare = _COMPARISONS.get(self._operand)
        return compare is not None and compare(go_float(found), self._number)

    def _passes_string(self, said: bytes) -> bool:
        if self._operand in _PATTERN_OPERANDS:
            return self._pattern.matches(said) == (self._operand == "%")
        compare = _COMPARISONS.get(self._operand)
        return compare is not None and compare(said, self._value)

    def _passes_word(self, word: bytes) -> bool:
        """Compares true, false or null, which upstream tells apart by the first letter."""
        if word.startswith(b"n"):
            return False
        own, other = (_TRUE, _FALSE) if word.startswith(b"t") else (_FALSE, _TRUE)
        beyond = ">" if own is _TRUE else "<"
        return {
            "=": self._value == own,
            "!=": self._value != own,
            beyond: self._value == other,
            f"{beyond}=": True,
        }.get(self._operand, False)


class Selection:
    """Makes rows: ``{name:"Tom",age:37}``, with the names as requested and without quotes.

    Values stand as in the document. A null or absent value is empty: ``{name:,age:37}``.

    Args:
        fields: paths; without any, each row is ``{}``.
    """

    def __init__(self, fields: Iterable[str]) -> None:
        self._fields = [(field.encode(), JsonPath(field.encode())) for field in fields]

    def row(self, document: bytes) -> Iterator[bytes]:
        """The row of `document`, in pieces.

        Raises:
            PatternTooCostly: a field takes too long to find.
        """
        separator = b"{"
        for name, path in self._fields:
            yield separator + name + b":"
            found = path.find(document)
            if found is not None and not (found.startswith(b"n") and is_word(found, 0)):
                yield found
            separator = b","
        yield b"}" if self._fields else b"{}"
