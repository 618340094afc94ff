"""What a Range header asks for, with upstream's answers to the odd cases.

No usable range at all, and ranges that together exceed the content, get 200 with an empty body; clients know it.
Source: weed/server/common.go ProcessRangeRequest, volume_server_handlers_helper.go.
"""

from __future__ import annotations

from dataclasses import dataclass

from native_handlers.http.errors import BadNumber, BadRange
from native_handlers.http.go_numbers import parse_int

_UNIT = "bytes="
_MESSAGE = "invalid range"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `start`; length 0 is possible, at the end of the content."""

    start: int
    length: int

    def content_range(self, size_bytes: int) -> str:
        return f"bytes {self.start}-{self.start + self.length - 1}/{size_bytes}"


def parse_ranges(header: str, size_bytes: int) -> list[ByteRange] | None:
    """The ranges in `header`, in order, clamped to a content of `size_bytes`; None when it says to send nothing.

    Raises:
        BadRange: another unit, a malformed range, or one that begins beyond the end.
    """
    if not header.startswith(_UNIT):
        raise BadRange(_MESSAGE)
    specs = (spec.strip(" \t") for spec in header[len(_UNIT) :].split(","))
    ranges = [_parse_spec(spec, size_bytes) for spec in specs if spec]
    if not ranges or sum(one.length for one in ranges) > size_bytes:
        return None
    return ranges


def _parse_spec(spec: str, size_bytes: int) -> ByteRange:
    first, dash, last = (part.strip(" \t") for part in spec.partition("-"))
    if not dash:
        raise BadRange(_MESSAGE)
    try:
        if not first:
            return _suffix(parse_int(last), size_bytes)
        start = parse_int(first)
        end = parse_int(last) if last else size_bytes - 1
    except BadNumber as failure:
        raise BadRange(_MESSAGE) from failure
    if not 0 <= start <= size_bytes or (last and start > end):
        raise BadRange(_MESSAGE)
    return ByteRange(start, max(min(end, size_bytes - 1) - start + 1, 0))


def _suffix(length: int, size_bytes: int) -> ByteRange:
    # Upstream takes a negative length and answers with a Content-Length that HTTP does not have.
    if length < 0:
        raise BadRange(_MESSAGE)
    return ByteRange(max(size_bytes - length, 0), min(length, size_bytes))
