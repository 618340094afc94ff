"""Guesses the MIME type of content without a declared type.

Source: the WHATWG MIME Sniffing standard as Go's http.DetectContentType applies it. Upstream uses it for answers
without a Content-Type and to decide on compression.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SNIFF_BYTES = 512
"""The number of bytes that are examined."""
UNKNOWN = "application/octet-stream"

_HTML_TAGS = (
    b"!DOCTYPE HTML", b"HTML", b"HEAD", b"SCRIPT", b"IFRAME", b"H1", b"DIV", b"FONT", b"TABLE", b"A", b"STYLE",
    b"TITLE", b"B", b"BODY", b"BR", b"P", b"!--",
)  # fmt: skip
_MARKUP = (
    (rb"[\t\n\x0c\r ]*+(?i:<(?:" + b"|".join(_HTML_TAGS) + rb")[ >])", "text/html; charset=utf-8"),
    (rb"[\t\n\x0c\r ]*+<\?xml", "text/xml; charset=utf-8"),
    (rb"%PDF-", "application/pdf"),
    (rb"%!PS-Adobe-", "application/postscript"),
    (rb"\xfe\xff..", "text/plain; charset=utf-16be"),
    (rb"\xff\xfe..", "text/plain; charset=utf-16le"),
    (rb"\xef\xbb\xbf.", "text/plain; charset=utf-8"),
)
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_EARLY_MEDIA = (
    (rb"\x00\x00[\x01\x02]\x00", "image/x-icon"),
    (rb"BM", "image/bmp"),
    (rb"GIF8[79]a", "image/gif"),
    (rb"RIFF....WEBPVP", "image/webp"),
    (rb"\x89PNG\r\n\x1a\n", "image/png"),
    (rb"\xff\xd8\xff", "image/jpeg"),
    (rb"FORM....AIFF", "audio/aiff"),
    (rb"ID3", "audio/mpeg"),
    (rb"OggS\x00", "application/ogg"),
    (rb"MThd\x00\x00\x00\x06", "audio/midi"),
    (rb"RIFF....AVI ", "video/avi"),
    (rb"RIFF....WAVE", "audio/wave"),
)
_LATE_MEDIA = (
    (rb"\x1a\x45\xdf\xa3", "video/webm"),
    (rb".{34}LP", "application/vnd.ms-fontobject"),
    (rb"\x00\x01\x00\x00", "font/ttf"),
    (rb"OTTO", "font/otf"),
    (rb"ttcf", "font/collection"),
    (rb"wOFF", "font/woff"),
    (rb"wOF2", "font/woff2"),
    (rb"\x1f\x8b\x08", "application/x-gzip"),
    (rb"PK\x03\x04", "application/zip"),
    (rb"Rar!\x1a\x07(?:\x00|\x01\x00)", "application/x-rar-compressed"),
    (rb"\x00asm", "application/wasm"),
)


class _Signatures:
    """Patterns of the beginning of content, in the order of trying, as one expression."""

    def __init__(self, rows: Sequence[tuple[bytes, str]]) -> None:
        self._pattern = re.compile(b"|".join(b"(%b)" % pattern for pattern, _ in rows), re.DOTALL)
        self._mimes = ("", *(mime for _, mime in rows))

    def mime_of(self, head: bytes) -> str:
        """The type of the first pattern that matches, "" when none does."""
        match = self._pattern.match(head)
        return "" if match is None else self._mimes[match.lastindex or 0]


_BEFORE_MP4 = _Signatures(_MARKUP + _EARLY_MEDIA)
_AFTER_MP4 = _Signatures(_LATE_MEDIA)


def sniff(data: bytes | memoryview) -> str:
    """The MIME type that the beginning of `data` matches; `UNKNOWN` where none matches. Never empty."""
    head = bytes(data[:SNIFF_BYTES])
    found = _BEFORE_MP4.mime_of(head)
    if found or _is_mp4(head):
        return found or "video/mp4"
    return _AFTER_MP4.mime_of(head) or _sniff_text(head)


def _sniff_text(head: bytes) -> str:
    return UNKNOWN if _BINARY.search(head) else "text/plain; charset=utf-8"


def _is_mp4(head: bytes) -> bool:
    """Whether the first box is of type ftyp, lies within `head`, and names an mp4 brand anywhere but as the minor
    version.
    """
    if head[4:8] != b"ftyp" or len(head) < 12:
        return False
    box_bytes = int.from_bytes(head[:4], "big")
    if len(head) < box_bytes or box_bytes % 4:
        return False
    return any(head[at : at + 3] == b"mp4" for at in range(8, box_bytes, 4) if at != 12)
