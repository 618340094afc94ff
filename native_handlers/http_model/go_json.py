"""JSON as upstream writes it: no spaces, HTML characters escaped, float32 in shortest form.

Objects keep the order of their keys, so callers put them in the order of the answer that they imitate.
Source of the rules: Go's encoding/json Marshal and MarshalIndent.
"""

from __future__ import annotations

import json
import math
import re
import struct
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SMALLEST_PLAIN: float = struct.unpack("<f", struct.pack("<f", 1e-6))[0]
_SURROGATE = re.compile("[\ud800-\udfff]")
_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def encode_json(value: object, *, is_pretty: bool = False) -> bytes:
    """`value` as UTF-8 JSON without a final newline; `is_pretty` indents by two spaces.

    Surrogate escapes in text (bytes that are no UTF-8) become an escaped U+FFFD. Floats are rounded to 32 bits,
    the only width on this surface.
    """
    return _encode(value, "\n" if is_pretty else "").encode()


def text_of_wire(wire: str) -> str:
    """Wire text (one character for each byte) as text, with a surrogate escape for each byte that is not UTF-8."""
    return wire.encode("latin-1").decode("utf-8", "surrogateescape")


def format_float32(value: float) -> str:
    """`value` rounded to 32 bits, in the fewest digits that give the same 32 bits back."""
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


def _encode(value: object, newline: str) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return format_float32(value)
    if isinstance(value, str):
        return _SURROGATE.sub(r"\\ufffd", json.dumps(value, ensure_ascii=False)).translate(_HTML)
    if isinstance(value, dict):
        colon = ": " if newline else ":"
        rows = ((_encode(key, ""), _encode(item, _deeper(newline))) for key, item in value.items())
        return _wrap("{}", (f"{key}{colon}{item}" for key, item in rows), newline)
    if isinstance(value, (list, tuple)):
        return _wrap("[]", (_encode(item, _deeper(newline)) for item in value), newline)
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def _deeper(newline: str) -> str:
    return f"{newline}  " if newline else ""


def _wrap(brackets: str, items: Iterable[str], newline: str) -> str:
    inner = f",{_deeper(newline)}".join(items)
    return f"{brackets[0]}{_deeper(newline)}{inner}{newline}{brackets[1]}" if inner else brackets
