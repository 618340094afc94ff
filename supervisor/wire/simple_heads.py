"""Simple heads, which a proxy passes on as they are: matched in one step, neither split nor rebuilt.

A head that matches here is sent on by the ordinary way (`http1_server`, `forwarding`, `http1_client`) with the same
bytes: it has no field that concerns one connection, and each line has the form in which this program sends lines. A
head that does not match says nothing: the ordinary way decides. A property test holds both ways to the same bytes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from native_handlers.http_model.target import SIMPLE_PATH
from supervisor.wire.forwarding import HOP_BY_HOP

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb"(?:[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*+(?<![\t ]))?"
"""A value without spaces around it, which would be dropped. Upstream sends an empty Content-Md5."""
_TARGET = SIMPLE_PATH.encode() + rb"(?:_[0-9]{1,9})?(?:\.[0-9A-Za-z]{1,16})?(?:\?[\x21-\x7e]*+)?"
"""The form of target that nearly every client sends: the simple path, perhaps with a delta, an extension and a query.
Reads, deletes and uploads find the same file id in it; see `RequestTarget.uploaded`."""


def _line_but(names: frozenset[str]) -> bytes:
    """The pattern of a line whose field has none of `names`. Most lines differ from all of them in the first letter.

    A line matches in one way alone: a pattern of many lines tries all ways before it fails.
    """
    letters = {name[0] for name in names}
    first = "".join(sorted(letters | {letter.upper() for letter in letters})).encode()
    named = "|".join(sorted(names)).encode()
    return rb"(?:(?![%b])|(?=[%b])(?!(?i:%b):))%b: %b" % (first, first, named, _TOKEN, _VALUE)


_LENGTH = rb"(?:Content-Length|content-length): (0|[1-9][0-9]{0,17})"
_KEEP_ALIVE = rb"([Cc]onnection: [Kk]eep-[Aa]live)"
_MAX_LINES = 256
"""As `HeadLimits.max_fields`."""
# The repetition of lines is not possessive: `re` of Python 3.11 to 3.13 mixes up groups within a possessive one.
_REQUEST = re.compile(
    rb"(GET|HEAD|POST|PUT|DELETE) %b HTTP/1\.1\r\n(?:(?:[Hh]ost: %b|%b|%b|%b)\r\n){0,%d}\r\n"
    % (_TARGET, _VALUE, _LENGTH, _KEEP_ALIVE, _line_but(HOP_BY_HOP | {"host", "content-length", "expect"}), _MAX_LINES)
)
_RESPONSE = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9][0-9]) [\t\x20-\x7e\x80-\xff]++\r\n"
    rb"(?:(?:Content-Length: (0|[1-9][0-9]{0,17})|(Date): %b|%b)\r\n){0,%d}\r\n"
    % (_VALUE, _line_but(HOP_BY_HOP | {"content-length", "date"}), _MAX_LINES)
)
_KEEP_ALIVE_LINE = re.compile(rb"(?<=\n)[Cc]onnection: [Kk]eep-[Aa]live\r\n")
_BODYLESS = frozenset({b"204", b"304"})
_UPLOADS = frozenset({b"POST", b"PUT"})


class SimpleRequest(NamedTuple):
    """A whole request. `raw` is what is sent on, body included."""

    method: str
    volume_id: int
    raw: bytes


def match_request(data: bytes) -> SimpleRequest | None:
    """The request in `data`, if `data` is exactly one simple request. Else None.

    Uploads declare the length of their body, and all other requests have none. The client wants to keep the connection.
    """
    match = _REQUEST.match(data)
    if match is None:
        return None
    method, volume_id, _, _, length, keep_alive = match.groups()
    end = match.end()
    if method in _UPLOADS:
        if length is None or end + int(length) != len(data):
            return None
        if data.count(b"\nContent-Length:", 0, end) + data.count(b"\ncontent-length:", 0, end) != 1:
            return None
    elif length is not None or end != len(data):
        return None
    if data.count(b"\nHost:", 0, end) + data.count(b"\nhost:", 0, end) != 1:
        return None
    if keep_alive is not None:
        data = _KEEP_ALIVE_LINE.sub(b"", data[:end]) + data[end:]
    return SimpleRequest(method.decode(), int(volume_id), data)


class SimpleResponse(NamedTuple):
    """The head of a final answer, and the lengths of head and body."""

    status: int
    head_bytes: int
    body_bytes: int


def match_response(data: bytes | bytearray, count: int, *, is_head: bool) -> SimpleResponse | None:
    """The head at the start of the first `count` bytes of `data`, if it is simple. Else None.

    The length of the body is declared, and the server keeps the connection.

    Args:
        is_head: whether the request was a HEAD, whose answer has no body.
    """
    match = _RESPONSE.match(data, 0, count)
    if match is None:
        return None
    status, length, date = match.groups()
    end = match.end()
    if date is None:
        return None
    if length is not None and data.count(b"\nContent-Length:", 0, end) != 1:
        return None
    if is_head or status in _BODYLESS:
        return SimpleResponse(int(status), end, 0)
    return None if length is None else SimpleResponse(int(status), end, int(length))
