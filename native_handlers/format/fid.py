"""File ids: ``3,01637037d6`` is volume 3, needle 0x01, cookie 0x637037d6.

The part after the comma is the needle id in hex without leading zero bytes, then exactly 8 hex digits of cookie.
Source: weed/storage/needle (file_id.go, needle.go ParsePath, volume_id.go).
"""

from __future__ import annotations

import re

from native_handlers.format.errors import BadFileId
from native_handlers.format.go_quote import quote_wire
from native_handlers.format.types import MAX_NEEDLE_ID, UINT32_MASK, Cookie, NeedleId, VolumeId
from native_handlers.records import dataclass

_COOKIE_DIGITS = 8
_MAX_DIGITS = 24
_UINT64_MAX = 2**64 - 1
_ANY_UINT64_DIGITS = 19
"""A number of at most so many decimal digits always fits 64 bits."""
_USUAL = re.compile(r"([0-9a-fA-F]{1,16})([0-9a-fA-F]{8})")
_HEX = re.compile(r"[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class FileId:
    """One needle's address."""

    volume_id: int
    needle_id: int
    cookie: int

    def __str__(self) -> str:
        return f"{self.volume_id},{format_needle_id_cookie(self.needle_id, self.cookie)}"


def format_needle_id_cookie(needle_id: int, cookie: int) -> str:
    """The part of a file id after the comma. The needle id is written in whole bytes, so the number of digits is
    even.
    """
    length = (needle_id.bit_length() + 7) // 8
    return needle_id.to_bytes(length, "big").hex() + f"{cookie:08x}"


def parse_file_id(text: str) -> FileId:
    """Parses a file id: ``<volume id>,<needle id and cookie>[_<delta>]``.

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
    """Parses a decimal volume id. Bits beyond the lower 32 are dropped, as upstream does.

    Raises:
        BadFileId: the text is not decimal digits, or the number does not fit 64 bits.
    """
    return VolumeId(_parse_decimal(text) & UINT32_MASK)


def split_rpc_file_id(text: str) -> tuple[VolumeId, str]:
    """Splits a file id in an RPC into the volume id and the text of needle id and cookie. A volume id that is no number
    is volume 0, as in upstream.

    Raises:
        BadFileId: with upstream's text. There is no comma, or nothing before it: the file id is of no volume.
    """
    volume_text, comma, rest = text.partition(",")
    if not comma or not volume_text:
        raise BadFileId(text, "Wrong fid format.")
    try:
        return parse_volume_id(volume_text), rest
    except BadFileId:
        return VolumeId(0), rest


def parse_needle_id_cookie(text: str) -> tuple[NeedleId, Cookie]:
    """Needle id and cookie of ``01637037d6`` or ``01637037d6_2``, where the number after ``_`` is added to the id.

    Raises:
        BadFileId: with upstream's text.
    """
    usual = _USUAL.fullmatch(text)
    if usual is not None:
        # Nearly all file ids have this form, and a batch may name a million. So this form is tried first.
        return NeedleId(int(usual[1], 16)), Cookie(int(usual[2], 16))
    if len(text) <= _COOKIE_DIGITS:
        raise BadFileId(text, f"Invalid fid: {text}")
    underscore = text.rfind("_")
    digits, delta = (text[:underscore], text[underscore + 1 :]) if underscore > 0 else (text, "")
    needle_id, cookie = _parse_digits(digits)
    if not delta:
        return needle_id, cookie
    step = _parse_decimal(delta)
    if step > MAX_NEEDLE_ID - needle_id:
        # Upstream's text shows the hex digits of the hex digits.
        shown = f"{needle_id:x}".encode().hex()
        raise BadFileId(text, f"delta {step} overflows needle id {shown}")
    return NeedleId(needle_id + step), cookie


def without_delta(text: str) -> str:
    """The part of `text` that a token is made for: ``01637037d6`` of ``01637037d6_2``. One token covers every delta."""
    underscore = text.rfind("_")
    return text[:underscore] if underscore > 0 else text


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
    if not _HEX.fullmatch(text):
        why = f"strconv.ParseUint: parsing {quote_wire(text)}: invalid syntax"
        raise BadFileId(text, f"Parse {step} error: {what} {text} format error: {why}")
    return int(text, 16)


def _parse_decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise BadFileId(text, f"strconv.ParseUint: parsing {quote_wire(text)}: invalid syntax")
    if len(text) <= _ANY_UINT64_DIGITS:
        return int(text)
    # 2^64 - 1 has 20 digits. int() is slow on long texts, so the length is checked first.
    digits = text.lstrip("0") or "0"
    if len(digits) > 20 or int(digits) > _UINT64_MAX:
        raise BadFileId(text, f"strconv.ParseUint: parsing {quote_wire(text)}: value out of range")
    return int(digits)
