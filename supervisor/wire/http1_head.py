"""Heads of HTTP/1 messages: found in a buffer, checked byte for byte, split into start line and fields.

This is the gate in front of h11, which tolerates line ends of a bare LF, folded lines, control characters in values
and a Transfer-Encoding beside a Content-Length. Two servers that read such a message differently are how requests
get smuggled, so nothing of the kind passes here. Rules: RFC 9112 sections 2 to 6. Heads are latin-1 text in here:
one character for each byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.wire.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

Fields = list[tuple[str, str]]

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([\x21-\x7e\x80-\xff]++) HTTP/(\d\.\d)\r\n")
_STATUS_LINE = re.compile(r"HTTP/(\d\.\d) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*+))?\r\n")
_FIELD = re.compile(rf"{_TOKEN}:[\t\x20-\x7e\x80-\xff]*+\r\n")
_FIELD_BLOCK = re.compile(rf"(?:{_TOKEN}:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n")
_FIELD_PAIR = re.compile(r"([^:\r\n]++):[ \t]*+([^\r\n]*+)\r\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_DIGITS = re.compile(r"[0-9]{1,18}")
_SHOWN_CHARS = 60
"""As much of a bad line as an error message repeats."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds on one head. Go's server takes 1 MiB; no client of a volume server comes near these."""

    max_bytes: int = 64 * 1024
    max_fields: int = 256


def find_head(buffer: bytes, searched_bytes: int, limits: HeadLimits) -> int:
    """The length of the head at the start of `buffer`, its empty line included; -1 while that is still to come.

    Args:
        searched_bytes: how much of the buffer an earlier call has seen.

    Raises:
        RemoteProtocolError: 431 for a head that is too long, 400 for a line end without CR, which would otherwise
            never be seen to end.
    """
    end = buffer.find(b"\r\n\r\n", max(0, searched_bytes - 3))
    length = len(buffer) if end < 0 else end + 4
    if length > limits.max_bytes:
        raise RemoteProtocolError(431, f"the head is longer than {limits.max_bytes} bytes")
    if end >= 0:
        return length
    if buffer[0] <= 0x20:
        raise RemoteProtocolError(400, "that is no HTTP/1 message; TLS on a port without TLS looks like this")
    if _BARE_LF.search(buffer, max(0, searched_bytes - 1)):
        raise RemoteProtocolError(400, "a line of the head ends in LF without CR")
    return -1


def split_request_head(head: str, limits: HeadLimits) -> tuple[str, str, str, Fields]:
    """Method, target, version ("1.1") and fields of a complete request head.

    Raises:
        RemoteProtocolError: 400 for malformed lines, 505 for another major version, 431 for too many fields.
    """
    match = _REQUEST_LINE.match(head)
    if match is None:
        raise RemoteProtocolError(400, f"malformed request line {_shown(head)}")
    method, target, version = match.groups()
    if version not in {"1.1", "1.0"}:
        raise RemoteProtocolError(505, f"HTTP/{version} is not served here, HTTP/1.1 is")
    return method, target, version, _split_fields(head, match.end(), limits)


def split_response_head(head: str, limits: HeadLimits) -> tuple[int, str, str, Fields]:
    """Status, reason, version and fields of a complete response head.

    Raises:
        RemoteProtocolError: malformed, or beyond the limits.
    """
    match = _STATUS_LINE.match(head)
    if match is None or match[1] not in {"1.1", "1.0"}:
        raise RemoteProtocolError(502, f"malformed status line {_shown(head)}")
    return int(match[2]), match[3] or "", match[1], _split_fields(head, match.end(), limits)


def split_trailers(block: str, limits: HeadLimits) -> Fields:
    """The fields of a trailer section, which `block` is whole, its empty line included.

    Raises:
        RemoteProtocolError: malformed, too many, or fields that must not come after the body.
    """
    fields = _split_fields(block, 0, limits)
    for name, _ in fields:
        if name.lower() in {"content-length", "transfer-encoding", "host", "connection"}:
            raise RemoteProtocolError(400, f"{name} in the trailers")
    return fields


def is_field_block(block: str) -> bool:
    """Whether `block` is a well-formed run of field lines with the empty line that ends it, and nothing else."""
    match = _FIELD_BLOCK.match(block)
    return match is not None and match.end() == len(block)


def declared_length(values: Sequence[str]) -> int | None:
    """The length that Content-Length headers of these `values` declare, None without any.

    Equal repetitions count once, as in RFC 9110 section 8.6.

    Raises:
        RemoteProtocolError: 400 for one that is no number, or for several that differ.
    """
    if len(values) == 1 and _DIGITS.fullmatch(values[0]):
        return int(values[0])
    lengths = {part.strip(" \t") for value in values for part in value.split(",")}
    if not lengths:
        return None
    if len(lengths) > 1:
        raise RemoteProtocolError(400, "Content-Length is given with different values")
    (text,) = lengths
    if not _DIGITS.fullmatch(text):
        raise RemoteProtocolError(400, f"Content-Length {text[:_SHOWN_CHARS]!r} is not a length")
    return int(text)


def _split_fields(head: str, start: int, limits: HeadLimits) -> Fields:
    match = _FIELD_BLOCK.match(head, start)
    if match is None or match.end() != len(head):
        raise RemoteProtocolError(400, _what_is_wrong(head, start))
    fields = _FIELD_PAIR.findall(head, start)
    if len(fields) > limits.max_fields:
        raise RemoteProtocolError(431, f"there are more than {limits.max_fields} header fields")
    if " \r\n" in head or "\t\r\n" in head:
        return [(name, value.rstrip(" \t")) for name, value in fields]
    return fields


def _what_is_wrong(head: str, start: int) -> str:
    while match := _FIELD.match(head, start):
        start = match.end()
    line = head[start:].partition("\r\n")[0]
    name, colon, _ = line.partition(":")
    if line[:1] in {" ", "\t"}:
        return "a header line is folded or starts with a space"
    if "\n" in line:
        return "a line of the head ends in LF without CR"
    if colon and name != name.rstrip(" \t"):
        return f"there is a space between the header name {_shown(name.rstrip())} and its colon"
    return f"malformed header line {_shown(line)}"


def _shown(text: str) -> str:
    return repr(text.partition("\r\n")[0][:_SHOWN_CHARS])
