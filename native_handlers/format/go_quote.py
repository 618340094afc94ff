"""Quoting as Go's strconv.Quote does it. Error texts that clients know contain such quotes.

Texts here are wire text: one character for each byte.
"""

from __future__ import annotations

_NAMED = {
    "\n": "\\n", "\r": "\\r", "\t": "\\t", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v",
}  # fmt: skip


def quote_wire(text: str) -> str:
    """`text` in double quotes, with unprintable characters escaped."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    decoded = text.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
    # In C, because a text of a client may have 60,000 odd bytes. In `data`, a backslash begins `\\udc..`, which is
    # a byte that is no UTF-8, or `\\ud800`, which is a backslash of the text.
    data = decoded.replace("\\", "\ud800").encode("utf-8", "backslashreplace")
    data = data.replace(b"\\udc", b"\\x").replace(b"\\ud800", b"\\\\").replace(b'"', b'\\"')
    shown = data.decode()
    if not shown.isprintable():
        escapes = {char: _escape(char) for char in set(shown) if not char.isprintable()}
        shown = "".join([escapes.get(char, char) for char in shown])
    return f'"{shown.encode().decode("latin-1")}"'


def _escape(char: str) -> str:
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
