"""Decodes percent escapes in paths, queries and forms. A C routine does it: Python code takes seconds for a long
form.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def unescape(data: bytes) -> bytes:
    """`data` with each `%` and its two hex digits decoded to one byte. Any other `%` stays."""
    if b"%" not in data:
        return data
    if _BAD_ESCAPE.search(data):
        return unquote_to_bytes(data)
    # Quoted-printable has the same escapes with "=" for "%". Its soft line break cannot occur here: each "=" of the
    # data is escaped.
    return binascii.a2b_qp(data.replace(b"=", b"=3D").replace(b"%", b"="))
