"""Decodes the quoted-printable content of a part, with the leniency of upstream's library.

Bytes above 127 pass unescaped, and so does `=` where no hex digits follow. A line of more than 4096 bytes is refused,
because Go's decoder has a line buffer of that size.

C routines do all the work over blocks of whole lines, in a constant number of passes. So no content is slow, not even
line feeds alone or escapes alone. Source: RFC 2045, 6.7; Go's mime/quotedprintable.
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, NoReturn

from native_handlers.http_model.errors import BadUpload, quote

if TYPE_CHECKING:
    from native_handlers.runtime.content_threads import Job

MAX_LINE_BYTES = 4096
"""The greatest length of a line with its end."""
_BLOCK_BYTES = 1 << 15
"""Bytes decoded in one step: below a millisecond."""
_BLANKS = b" \t\r\n"
_GOOD = bytes(byte for byte in range(256) if byte in b"\t\r\n" or 0x20 <= byte <= 0x7E or byte >= 0x80)
# The look-behind starts a match only at the beginning of a run of blanks, which keeps the search linear.
_BLANKS_BEFORE_CRLF = re.compile(rb"(?<![ \t\r])[ \t\r]+\r\n")
_BLANKS_BEFORE_LF = re.compile(rb"(?<![ \t\r])[ \t\r]*[ \t]\n")
_BAD_SOFT_BREAK = re.compile(rb"=[ \t]*(\r(?!\n)[ \t\r]*\n)")
_BAD_ESCAPE = re.compile(rb"=(?:(=\r?\n)|\r(?!\n))")


class QuotedPrintableDecoder:
    """Decodes content that comes in pieces. Between pieces it holds the beginning of a line."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, piece: bytes) -> Job[bytes]:
        """Decodes the whole lines that have arrived.

        Raises:
            BadUpload: a byte lacks its escape, other bytes stand between a `=` and the line end that it hides, the data
                ends after a `=`, or a line is too long.
        """
        data = self._held + piece
        end = data.rfind(b"\n") + 1
        self._held = data[end:]
        decoded = []
        start = 0
        while start < end:
            # A block is whole lines, at least one.
            stop = min(end, data.find(b"\n", min(start + _BLOCK_BYTES, end) - 1) + 1)
            decoded.append(_decode_lines(data[start:stop]))
            start = stop
            yield
        if len(self._held) > MAX_LINE_BYTES:
            _too_long()
        return b"".join(decoded)

    def finish(self) -> bytes:
        """Decodes the last line, which has no line end. Raises BadUpload as `feed`."""
        line, self._held = self._held, b""
        text = line.rstrip(_BLANKS)
        _check_bytes(text)
        if text.endswith(b"="):
            blanks = line[len(text) :].lstrip(b" \t")
            if text == b"=" or blanks:
                raise _bad_soft_break(blanks)
            text = text[:-1]
            if text.endswith(b"="):
                raise BadUpload("unexpected EOF")
        return _unescape(text)


def _decode_lines(block: bytes) -> bytes:
    """Decodes whole lines."""
    _check_line_lengths(block)
    _check_bytes(block)
    if bad := _BAD_SOFT_BREAK.search(block):
        raise _bad_soft_break(bad[1])
    if b" \n" in block or b"\t\n" in block:
        block = _BLANKS_BEFORE_LF.sub(b"\n", block)
    if b" \r\n" in block or b"\t\r\n" in block or b"\r\r\n" in block:
        block = _BLANKS_BEFORE_CRLF.sub(b"\r\n", block)
    return _unescape(block)


def _unescape(block: bytes) -> bytes:
    """Decodes escapes and hidden line ends, in lines without blanks at their ends."""
    if bad := _BAD_ESCAPE.search(block):
        raise BadUpload("unexpected EOF" if bad[1] else "quotedprintable: invalid hex byte 0x0d")
    if b"==" in block:
        # The C routine decodes `==` to one `=`. The second pass replaces the pairs that the first has left side by
        # side.
        block = block.replace(b"==", b"=3D=").replace(b"==", b"=3D=")
    return binascii.a2b_qp(block)


def _check_bytes(block: bytes) -> None:
    if bad := block.translate(None, _GOOD):
        raise BadUpload(f"quotedprintable: invalid unescaped byte 0x{bad[0]:02x} in body")


def _check_line_lengths(block: bytes) -> None:
    start = 0
    while start + MAX_LINE_BYTES < len(block):
        start = block.rfind(b"\n", start, start + MAX_LINE_BYTES) + 1
        if not start:
            _too_long()


def _too_long() -> NoReturn:
    raise BadUpload("bufio: buffer full")


def _bad_soft_break(blanks: bytes) -> BadUpload:
    return BadUpload(f"quotedprintable: invalid bytes after =: {quote(blanks.decode('latin-1'))}")
