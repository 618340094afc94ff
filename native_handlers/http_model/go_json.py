"""JSON as upstream writes it: no spaces, HTML characters escaped, float32 in shortest form.

Objects keep the order of their keys, so callers give the keys in upstream's order. Source of the rules: Go's
encoding/json Marshal and MarshalIndent.
"""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from functools import lru_cache
from json.encoder import encode_basestring
from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SMALLEST_PLAIN: float = struct.unpack("<f", struct.pack("<f", 1e-6))[0]
_HTML = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
_ITEM_NEWLINE = "\n    "
_SHORT = 64


def encode_json(value: object, *, is_pretty: bool = False) -> bytes:
    """`value` as UTF-8 JSON without a final newline; `is_pretty` indents by two spaces.

    Surrogate escapes in text (bytes that are no UTF-8) become an escaped U+FFFD. Floats are rounded to 32 bits, the
    only width that answers use.
    """
    return _encode(value, "\n" if is_pretty else "").encode()


def text_of_wire(wire: str) -> str:
    """Wire text (one character for each byte) as text, with a surrogate escape for each byte that is not UTF-8."""
    return wire.encode("latin-1").decode("utf-8", "surrogateescape")


def format_float32(value: float) -> str:
    """`value` rounded to 32 bits, in the fewest digits that parse to the same 32 bits."""
    (single,) = struct.unpack("<f", struct.pack("<f", value))
    if not math.isfinite(single):
        raise ValueError(f"{value} has no JSON form")
    digits = next(text for count in range(1, 18) if _same(text := f"{single:.{count}g}", single))
    if single != 0 and not _SMALLEST_PLAIN <= abs(single) < 1e21:
        mantissa, _, exponent = f"{Decimal(digits):e}".partition("e")
        return f"{mantissa}e{int(exponent):+03d}".replace("e-0", "e-")
    plain = format(Decimal(digits), "f")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _same(text: str, single: float) -> bool:
    try:
        return bool(struct.unpack("<f", struct.pack("<f", float(text)))[0] == single)
    except OverflowError:
        return False  # rounded up beyond the largest float32


@dataclass(frozen=True, slots=True)
class EncodedList:
    """A list in an object at the top of an answer, with its items encoded already as one text. `of` makes it. The
    caller may keep it and use it again while the items are the same.
    """

    text: str

    @classmethod
    def of(cls, items: Iterable[str], *, is_pretty: bool) -> EncodedList:
        """Joins `items`, which `encode_item` made with the same `is_pretty`."""
        return cls(f",{_ITEM_NEWLINE if is_pretty else ''}".join(items))

    def __bool__(self) -> bool:
        """Whether the list has items."""
        return bool(self.text)


def encode_item(value: object, *, is_pretty: bool) -> str:
    """Encodes one item of an `EncodedList`. Callers encode a long answer item by item, because encoding it in one call
    would keep the interpreter for the whole time.
    """
    return _encode(value, _ITEM_NEWLINE if is_pretty else "")


def _encode(value: object, newline: str) -> str:
    kind = type(value)
    if kind is int:
        return str(value)
    if isinstance(value, str):
        return _short_text(value) if len(value) <= _SHORT else _text(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if isinstance(value, dict):
        return _encode_object(value, newline)
    if isinstance(value, (list, tuple)):
        return _wrap("[]", [_encode(item, _deeper(newline)) for item in value], newline)
    if isinstance(value, float):
        return format_float32(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, EncodedList):
        return _wrap("[]", (value.text,), newline)
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def _text(value: str) -> str:
    return _escape(encode_basestring(value))


@lru_cache(maxsize=1024)
def _short_text(value: str) -> str:
    """Cached, because the same names of fields and of collections come often."""
    return _text(value)


def _encode_object(value: Mapping[object, object], newline: str) -> str:
    deeper, colon = _deeper(newline), ": " if newline else ":"
    # Most values of the long answers are numbers: encoding them here saves a call for each.
    items = [
        f"{_encode(key, '')}{colon}{item if type(item) is int else _encode(item, deeper)}"
        for key, item in value.items()
    ]
    return _wrap("{}", items, newline)


def _escape(text: str) -> str:
    """Escapes the characters that Go escapes and Python does not. In JSON they occur only inside strings."""
    if not text.isascii():
        # `encode` writes each surrogate as a question mark. Those of the text are zero bytes meanwhile: JSON has none.
        data = text.replace("?", "\0").encode("utf-8", "replace")
        text = data.replace(b"?", b"\\ufffd").replace(b"\0", b"?").decode()
    for character, escaped in _HTML:
        if character in text:
            text = text.replace(character, escaped)
    return text


def _deeper(newline: str) -> str:
    return f"{newline}  " if newline else ""


def _wrap(brackets: str, items: Iterable[str], newline: str) -> str:
    inner = f",{_deeper(newline)}".join(items)
    return f"{brackets[0]}{_deeper(newline)}{inner}{newline}{brackets[1]}" if inner else brackets
