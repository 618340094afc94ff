"""File ids: ``3,01637037d6`` is volume 3, needle 0x01, cookie 0x637037d6.

Needle id in hex without leading zero bytes, then exactly 8 hex digits of cookie. Source: weed/storage/needle
(file_id.go, needle.go ParsePath, volume_id.go).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from native_handlers.format.errors import BadFileId
from native_handlers.format.go_quote import quote_wire
from native_handlers.format.types import MAX_NEEDLE_ID, UINT32_MASK, Cookie, NeedleId, VolumeId

_COOKIE_DIGITS = 8
_MAX_DIGITS = 24
_UINT64_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class FileId:
    """One needle's address."""

    volume_id: int
    needle_id: int
    cookie: int

    def __str__(self) -> str:
        return f"{self.volume_id},{format_needle_id_cookie(self.needle_id, self.cookie)}"


def format_needle_id_cookie(needle_id: int, cookie: int) -> str:
    """The part of a file id after the comma: whole bytes, so an even number of digits."""
    length = (needle_id.bit_length() + 7) // 8
    return needle_id.to_bytes(length, "big").hex() + f"{cookie:08x}"


def parse_file_id(text: str) -> FileId:
    """The file id in `text`: ``<volume id>,<needle id and cookie>[_<delta>]``.

    Raises:
        BadFileId: with upstream's text.
    """
    volume_text, comma, rest = text.partition(",")
    if not comma or not volume_text:
        raise BadFileId(text, "wrong fid format")
    volume_id = parse_volume_id(volume_text)
    needle_id, cookie = parse_needle_id_cookie(rest)
    return FileId(volume_id, needle_id, cookie)


def parse_volume_id(text: str) -> VolumeId:
    """The volume id in `text`, decimal; what is beyond 32 bits is dropped, as upstream does.

    Raises:
        BadFileId: not decimal digits, or beyond 64 bits.
    """
    return VolumeId(_parse_decimal(text) & UINT32_MASK)


def parse_needle_id_cookie(text: str) -> tuple[NeedleId, Cookie]:
    """Needle id and cookie of ``01637037d6`` or ``01637037d6_2``, where the number after ``_`` is added to the id.

    Raises:
        BadFileId: with upstream's text.
    """
    if len(text) <= _COOKIE_DIGITS:
        raise BadFileId(text, f"Invalid fid: {text}")
    underscore = text.rfind("_")
    digits, delta = (text[:underscore], text[underscore + 1 :]) if underscore > 0 else (text, "")
    needle_id, cookie = _parse_digits(digits)
    if not delta:
        return needle_id, cookie
    step = _parse_decimal(delta)
    if step > MAX_NEEDLE_ID - needle_id:
        # Upstream's text: the hex digits of the hex digits.
        shown = f"{needle_id:x}".encode().hex()
        raise BadFileId(text, f"delta {step} overflows needle id {shown}")
    return NeedleId(needle_id + step), cookie


def _parse_digits(text: str) -> tuple[NeedleId, Cookie]:
    if len(text) <= _COOKIE_DIGITS:
        raise BadFileId(text, "KeyHash is too short.")
    if len(text) > _MAX_DIGITS:
        raise BadFileId(text, "KeyHash is too long.")
    id_text, cookie_text = text[:-_COOKIE_DIGITS], text[-_COOKIE_DIGITS:]
    return NeedleId(_parse_hex("needle id", "needleId", id_text)), Cookie(
        _parse_hex("needle cookie", "cookie", cookie_text)
    )


def _parse_hex(what: str, step: str, text: str) -> int:
    if not re.fullmatch(r"[0-9a-fA-F]+", text, re.ASCII):
        why = f"strconv.ParseUint: parsing {quote_wire(text)}: invalid syntax"
        raise BadFileId(text, f"Parse {step} error: {what} {text} format error: {why}")
    return int(text, 16)


def _parse_decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise BadFileId(text, f"strconv.ParseUint: parsing {quote_wire(text)}: invalid syntax")
    # 20 digits hold 2^64 - 1; int() on hostile lengths is slow, so they are refused by length first.
    if len(text.lstrip("0")) > 20 or int(text) > _UINT64_MAX:
        raise BadFileId(text, f"strconv.ParseUint: parsing {quote_wire(text)}: value out of range")
    return int(text)
