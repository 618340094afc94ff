"""Range headers, parsed with upstream's answers to unusual cases.

The answer is 200 with an empty body where no range is usable, where the ranges together exceed the content, and where
there are more than `MAX_RANGES`. Clients know this behaviour. Source: weed/server/common.go ProcessRangeRequest,
volume_server_handlers_helper.go.
"""

from __future__ import annotations

import re

from native_handlers.http_model.errors import BadNumber, BadRange
from native_handlers.http_model.go_numbers import parse_int
from native_handlers.records import dataclass

MAX_RANGES = 1000
"""Ranges of one request. Each range is work on the event loop and adds bytes to the answer. Upstream has no bound."""
_UNIT = "bytes="
_MESSAGE = "invalid range"
_ONE_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?")
"""The form that most clients send."""
_USUAL_SPEC = re.compile(r"[ \t]*+([0-9]{1,18})[ \t]*+-[ \t]*+([0-9]{1,18})?[ \t]*+")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `start`. At the end of the content `length` may be 0."""

    start: int
    length: int

    def content_range(self, size_bytes: int) -> str:
        return f"bytes {self.start}-{self.start + self.length - 1}/{size_bytes}"


def parse_ranges(header: str, size_bytes: int) -> list[ByteRange] | None:
    """The ranges in `header`, in order, cut to a content of `size_bytes`; None where nothing is to be sent.

    Raises:
        BadRange: another unit, a malformed range, or a range that begins beyond the end.
    """
    plain = _ONE_RANGE.fullmatch(header)
    if plain is not None:
        one = _between(int(plain[1]), int(plain[2]) if plain[2] else None, size_bytes)
        return [one] if one.length <= size_bytes else None
    if not header.startswith(_UNIT):
        raise BadRange(_MESSAGE)
    if header.count(",") >= MAX_RANGES:
        return None
    parsed = [_parse_spec(spec, size_bytes) for spec in header[len(_UNIT) :].split(",")]
    ranges = [one for one in parsed if one is not None]
    if not ranges or sum([one.length for one in ranges]) > size_bytes:
        return None
    return ranges


def _parse_spec(spec: str, size_bytes: int) -> ByteRange | None:
    """The range that `spec` names; None where it is blank."""
    usual = _USUAL_SPEC.fullmatch(spec)
    if usual is not None:
        return _between(int(usual[1]), int(usual[2]) if usual[2] else None, size_bytes)
    first, dash, last = (part.strip(" \t") for part in spec.partition("-"))
    if not dash:
        if not first:
            return None
        raise BadRange(_MESSAGE)
    try:
        if not first:
            return _suffix(parse_int(last), size_bytes)
        start = parse_int(first)
        end = parse_int(last) if last else None
    except BadNumber as failure:
        raise BadRange(_MESSAGE) from failure
    return _between(start, end, size_bytes)


def _between(start: int, end: int | None, size_bytes: int) -> ByteRange:
    """The range from `start` to `end` inclusive in a content of `size_bytes`. `end` None means: to the end."""
    if not 0 <= start <= size_bytes or (end is not None and start > end):
        raise BadRange(_MESSAGE)
    last = size_bytes - 1 if end is None else min(end, size_bytes - 1)
    return ByteRange(start, max(last - start + 1, 0))


def _suffix(length: int, size_bytes: int) -> ByteRange:
    # Wilful difference: upstream accepts a negative length and answers with a negative Content-Length, which HTTP does
    # not allow.
    if length < 0:
        raise BadRange(_MESSAGE)
    return ByteRange(max(size_bytes - length, 0), min(length, size_bytes))
