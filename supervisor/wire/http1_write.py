"""Heads of messages that we send. Order and case of the fields are the caller's; framing fields are ours.

What a value may not hold is taken out here as upstream's server does it, so that no stored name or pair can end a
header early. Source: Go net/http header.go, headerNewlineToSpace.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.wire.errors import LocalProtocolError
from supervisor.wire.http1_head import is_field_block

if TYPE_CHECKING:
    from native_handlers.http.headers import Headers

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r"[\x21-\x7e]+")
_CONNECTION_FIELDS = frozenset({"transfer-encoding", "connection", "keep-alive", "proxy-connection", "upgrade"})
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def encode_response_head(version: str, status: int, reason: str, headers: Headers, framing: str) -> bytes:
    """A complete response head. `framing` has whole lines, each with its end, that go behind `headers`.

    Fields that concern the connection alone are left out of `headers`; those are in `framing`.
    """
    return _encode(f"HTTP/{version} {status} {_UNSAFE.sub(' ', reason)}\r\n", headers, framing)


def encode_request_head(method: str, target: str, headers: Headers, framing: str) -> bytes:
    """A complete request head, always HTTP/1.1.

    Raises:
        LocalProtocolError: the method is no token, or the target has bytes that a request line cannot hold.
    """
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
        raise LocalProtocolError(f"{method!r} {target!r} makes no request line")
    return _encode(f"{method} {target} HTTP/1.1\r\n", headers, framing)


def _encode(start_line: str, headers: Headers, framing: str) -> bytes:
    if not _CONNECTION_FIELDS.isdisjoint([name.lower() for name, _ in headers]):
        headers = headers.without(_CONNECTION_FIELDS)
    block = "".join([f"{name}: {value}\r\n" for name, value in headers])
    try:
        # Whole lines in a value leave a good block, but one of more lines than there are fields.
        if block.count("\n") == len(headers) and is_field_block(f"{block}\r\n"):
            return f"{start_line}{block}{framing}\r\n".encode("latin-1")
    except UnicodeEncodeError:
        pass  # a start line with wide characters; the lines below encode it as they do the values
    return b"%b%b%b\r\n" % (_wire(start_line), _clean_block(headers), framing.encode("latin-1"))


def _clean_block(headers: Headers) -> bytes:
    lines = [
        b"%b: %b\r\n" % (name.encode("latin-1"), _wire(_UNSAFE.sub(" ", value)))
        for name, value in headers
        if _TOKEN.fullmatch(name)
    ]
    return b"".join(lines)


def _wire(text: str) -> bytes:
    """Latin-1 as everywhere; text with wider characters as UTF-8, which is what Go's strings would be."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
