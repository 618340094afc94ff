"""Quoted-printable content of a part, accepted and refused as upstream's library does.

Bytes above 127 pass unescaped, and so does `=` where no hex digits follow.
Source: RFC 2045, 6.7; Go's mime/quotedprintable.
"""

from __future__ import annotations

import re

from native_handlers.http.errors import BadUpload, quote

_BLANKS = b" \t\r\n"
_BAD_BYTE = re.compile(rb"[^\t\r\n\x20-\x7e\x80-\xff]")
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")
_ESCAPE = re.compile(rb"=([0-9A-Fa-f]{2})")


def decode_quoted_printable(content: bytes) -> bytes:
    """What `content` stands for.

    Raises:
        BadUpload: a byte that has to be escaped is not, or something stands between a `=` and the line end it hides.
    """
    return b"".join(map(_decode_line, _LINE.findall(content)))


def _decode_line(line: bytes) -> bytes:
    text = line.rstrip(_BLANKS)
    blanks = line[len(text) :]
    is_hiding_its_end = text.endswith(b"=")
    if is_hiding_its_end:
        text = text[:-1]
    if bad := _BAD_BYTE.search(text):
        raise BadUpload(f"quotedprintable: invalid unescaped byte 0x{bad[0][0]:02x} in body")
    if is_hiding_its_end:
        is_last = not blanks and bool(text)
        if not is_last and not blanks.startswith((b"\n", b"\r\n")):
            raise BadUpload(f"quotedprintable: invalid bytes after =: {quote(blanks.decode('latin-1'))}")
        end = b""
    else:
        end = b"\r\n" if blanks.endswith(b"\r\n") else b"\n" if blanks.endswith(b"\n") else b""
    return _ESCAPE.sub(lambda escape: bytes((int(escape[1], 16),)), text) + end
