"""Decodes percent escapes in paths, queries and forms, and writes them in paths. A C routine decodes: Python code takes
seconds for a long form.
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def unescape(data: bytes) -> bytes:
    """`data` with each `%` and its two hex digits decoded to one byte. Any other `%` stays."""
    if b"%" not in data:
        return data
    # A function of the standard library takes ten times as long for many percent signs that begin no escape.
    data = _BAD_ESCAPE.sub(b"%25", data)
    # Quoted-printable has the same escapes with "=" for "%". Its soft line break cannot occur here: each "=" of the
    # data is escaped.
    return binascii.a2b_qp(data.replace(b"=", b"=3D").replace(b"%", b"="))


def escapes_but(kept: Collection[str]) -> Sequence[str]:
    """For `escape`: how each byte is written. The ASCII characters in `kept` stand for themselves."""
    return [chr(code) if chr(code) in kept else f"%{code:02X}" for code in range(256)]


def escape(wire: str, written: Sequence[str]) -> str:
    """`wire` (one character for each byte) with each byte as `written` has it.

    A regular expression with a function, or `quote`, takes two to thirty times as long for a text of many escapes.
    """
    return "".join([written[code] for code in wire.encode("latin-1")])
