"""The MIME type of content that says nothing about itself.

Source: the WHATWG MIME Sniffing standard as Go's http.DetectContentType applies it, which upstream uses for answers
without a Content-Type and to decide on compression.
"""

from __future__ import annotations

import re

SNIFF_BYTES = 512
"""No more than this is looked at."""
UNKNOWN = "application/octet-stream"

_WHITESPACE = b"\t\n\x0c\r "
_HTML_TAGS = (
    b"!DOCTYPE HTML", b"HTML", b"HEAD", b"SCRIPT", b"IFRAME", b"H1", b"DIV", b"FONT", b"TABLE", b"A", b"STYLE",
    b"TITLE", b"B", b"BODY", b"BR", b"P", b"!--",
)  # fmt: skip
_HTML = re.compile(rb"<(?:" + b"|".join(_HTML_TAGS) + rb")[ >]", re.IGNORECASE)
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_SIGNATURES = (
    (b"%PDF-", "application/pdf"),
    (b"%!PS-Adobe-", "application/postscript"),
)
_BYTE_ORDER_MARKS = (
    (b"\xfe\xff", 4, "text/plain; charset=utf-16be"),
    (b"\xff\xfe", 4, "text/plain; charset=utf-16le"),
    (b"\xef\xbb\xbf", 4, "text/plain; charset=utf-8"),
)
_PATTERNS = tuple(
    (re.compile(pattern, re.DOTALL), mime)
    for pattern, mime in (
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
)
_LATE_PATTERNS = tuple(
    (re.compile(pattern, re.DOTALL), mime)
    for pattern, mime in (
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
)


def sniff(data: bytes | memoryview) -> str:
    """The MIME type that the beginning of `data` looks like; `UNKNOWN` for what looks like nothing. Never empty."""
    head = bytes(data[:SNIFF_BYTES])
    return _sniff_markup(head) or _sniff_media(head) or _sniff_text(head)


def _sniff_markup(head: bytes) -> str:
    text = head.lstrip(_WHITESPACE)
    if _HTML.match(text):
        return "text/html; charset=utf-8"
    if text.startswith(b"<?xml"):
        return "text/xml; charset=utf-8"
    return next((mime for start, mime in _SIGNATURES if head.startswith(start)), "")


def _sniff_media(head: bytes) -> str:
    for mark, needed, mime in _BYTE_ORDER_MARKS:
        if head.startswith(mark) and len(head) >= needed:
            return mime
    found = next((mime for pattern, mime in _PATTERNS if pattern.match(head)), "")
    if found or _is_mp4(head):
        return found or "video/mp4"
    return next((mime for pattern, mime in _LATE_PATTERNS if pattern.match(head)), "")


def _sniff_text(head: bytes) -> str:
    return UNKNOWN if _BINARY.search(head.lstrip(_WHITESPACE)) else "text/plain; charset=utf-8"


def _is_mp4(head: bytes) -> bool:
    """A first box of type ftyp that lies within `head` and names an mp4 brand anywhere but as the minor version."""
    box_bytes = int.from_bytes(head[:4], "big")
    if len(head) < 12 or len(head) < box_bytes or box_bytes % 4 or head[4:8] != b"ftyp":
        return False
    return any(head[at : at + 3] == b"mp4" for at in range(8, box_bytes, 4) if at != 12)
