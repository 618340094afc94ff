"""Heads of HTTP/1 messages: found in a buffer, checked byte for byte, split into start line and fields; and encoded.

h11 tolerates line ends of a bare LF, folded lines, control characters in values, and a Transfer-Encoding beside a
Content-Length. Two servers that read such a message differently make request smuggling possible. So this module refuses
such a head before h11 gets it. Rules: RFC 9112 sections 2 to 6. Here a head is latin-1 text: one character for each
byte.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from native_handlers.http_model.percent import escape, escapes_but
from native_handlers.records import dataclass
from supervisor.wire.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.http_model.headers import FieldLines, HeaderFields, Headers

Fields = list[tuple[str, str]]

_TOKEN_TEXT = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_REQUEST_LINE = re.compile(rf"({_TOKEN_TEXT}) ([\x21-\x7e\x80-\xff]++) HTTP/(\d\.\d)\r\n")
_STATUS_LINE = re.compile(r"HTTP/(\d\.\d) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*+))?\r\n")
_FIELD = re.compile(rf"{_TOKEN_TEXT}:[\t\x20-\x7e\x80-\xff]*+\r\n")
_FIELD_BLOCK = re.compile(rf"(?:{_TOKEN_TEXT}:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n")
_FIELD_PAIR = re.compile(r"([^:\r\n]++):[ \t]*+([^\r\n]*+)\r\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_DIGITS = re.compile(r"[0-9]{1,18}")
_SHOWN_CHARS = 60
"""How much of a bad line an error message repeats."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds on one head. Go's server takes 1 MiB. No client of a volume server comes near these bounds."""

    max_bytes: int = 64 * 1024
    max_fields: int = 256


def find_head(buffer: bytes, searched_bytes: int, limits: HeadLimits) -> int:
    """The length of the head at the start of `buffer`, its empty line included; -1 while the head is incomplete.

    Args:
        searched_bytes: how much of the buffer an earlier call has searched.

    Raises:
        RemoteProtocolError: 431 for a head that is too long. 400 for a line end without CR: such a head would never be
            found complete.
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
        RemoteProtocolError: 400 for malformed lines, 505 for another version, 431 for too many fields.
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
        RemoteProtocolError: the head is malformed or beyond the limits.
    """
    match = _STATUS_LINE.match(head)
    if match is None or match[1] not in {"1.1", "1.0"}:
        raise RemoteProtocolError(502, f"malformed status line {_shown(head)}")
    return int(match[2]), match[3] or "", match[1], _split_fields(head, match.end(), limits)


def split_trailers(block: str, limits: HeadLimits) -> Fields:
    """The fields of a trailer section. `block` is the whole section, its empty line included.

    Raises:
        RemoteProtocolError: the section is malformed, has too many fields, or fields that may not follow a body.
    """
    fields = _split_fields(block, 0, limits)
    for name, _ in fields:
        if name.lower() in {"content-length", "transfer-encoding", "host", "connection"}:
            raise RemoteProtocolError(400, f"{name} in the trailers")
    return fields


def keeps_alive(version: str, headers: Headers) -> bool:
    """Whether the connection stays open after a message of `version` with these headers."""
    if "connection" not in headers.lower_names:
        return version == "1.1"
    tokens = listed(headers.get_all("Connection"))
    return "close" not in tokens and (version == "1.1" or "keep-alive" in tokens)


def listed(values: Sequence[str]) -> set[str]:
    """The texts of comma-separated lists, in lower case and without spaces around them."""
    # In C: a head has room for 30,000 texts, most of them equal.
    return set(map(str.strip, set(",".join(values).lower().split(","))))


def declared_length(values: Sequence[str]) -> int | None:
    """The length that Content-Length headers with these `values` declare; None without such headers.

    Equal repetitions count once, as in RFC 9110 section 8.6.

    Raises:
        RemoteProtocolError: 400 for a value that is no number, or for values that differ.
    """
    if len(values) == 1 and _DIGITS.fullmatch(values[0]):
        return int(values[0])
    if not values:
        return None
    lengths = {part.strip(" \t") for part in set(",".join(values).split(","))}
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
    if head.count("\n", start) - 1 > limits.max_fields:
        raise RemoteProtocolError(431, f"there are more than {limits.max_fields} header fields")
    fields = _FIELD_PAIR.findall(head, start)
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


# ---- Request targets, in one form that all later code reads. Source: RFC 9112 section 3.2.

_ABSOLUTE = re.compile(r"https?://([A-Za-z0-9.\-_~:\[\]]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_WRITTEN = escapes_but([chr(code) for code in range(0x21, 0x7F)])


def normalised_target(method: str, target: str) -> tuple[str, str | None]:
    """The target in origin form, and the authority of an absolute target, which replaces the Host header; else None.

    Bytes outside ASCII are percent-encoded; upstream's server takes that for the same path. `*` stays for OPTIONS, and
    the authority of a CONNECT stays.

    Raises:
        RemoteProtocolError: 400, the target has none of the forms that the method allows.
    """
    if target.startswith("/"):
        return (target if target.isascii() else _escaped(target)), None
    if (method == "OPTIONS" and target == "*") or (method == "CONNECT" and target.isascii()):
        return target, None
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise RemoteProtocolError(400, f"{target[:60]!r} is not a request target, which starts with a slash")
    rest = match[2] or "/"
    return _escaped(rest if rest.startswith("/") else f"/{rest}"), match[1]


def _escaped(text: str) -> str:
    return escape(text, _WRITTEN)


# ---- Heads that this program sends. The caller chooses order and case of the fields; framing fields are added here.
#
# Forbidden characters in a value are replaced as upstream's server does it, so that no stored name or pair can end a
# header early. Source: Go net/http header.go (headerNewlineToSpace).

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r"[\x21-\x7e]+")
_CONNECTION_FIELDS = frozenset({"transfer-encoding", "connection", "keep-alive", "proxy-connection", "upgrade"})
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_UNSAFE_IN_LINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""The same, but for the ends of lines."""


def encode_response_head(
    version: str, status: int, reason: str, headers: HeaderFields, lines: FieldLines, framing: str
) -> bytes:
    """A complete response head. `framing` has whole lines with their line ends, which follow `headers`.

    Fields that concern the connection alone are dropped from `headers`; `framing` has them.

    Args:
        lines: the result of `headers.encoded()`.
    """
    return _encode(f"HTTP/{version} {status} {_UNSAFE.sub(' ', reason)}\r\n", headers, lines, framing)


def encode_request_head(method: str, target: str, headers: HeaderFields, lines: FieldLines, framing: str) -> bytes:
    """A complete request head, always HTTP/1.1. The arguments are as for `encode_response_head`.

    Raises:
        LocalProtocolError: the method is no token, or the target has characters that a request line cannot hold.
    """
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
        raise LocalProtocolError(f"{method!r} {target!r} makes no request line")
    return _encode(f"{method} {target} HTTP/1.1\r\n", headers, lines, framing)


def _encode(start_line: str, headers: HeaderFields, lines: FieldLines, framing: str) -> bytes:
    if not _CONNECTION_FIELDS.isdisjoint(lines.names):
        headers = headers.without(_CONNECTION_FIELDS)
        lines = headers.encoded()
    block = lines.block
    try:
        # A value with whole lines in it gives a well-formed block, but with more lines than there are fields.
        if block.count("\n") == len(lines.names):
            is_whole = _FIELD_BLOCK.fullmatch(f"{block}\r\n")
            if not is_whole:
                # Cleaned in one step: there may be thousands of fields. A CR within a value stays, and is found here.
                block = _UNSAFE_IN_LINES.sub(" ", block)
                is_whole = _FIELD_BLOCK.fullmatch(f"{block}\r\n")
            if is_whole:
                return f"{start_line}{block}{framing}\r\n".encode("latin-1")
    except UnicodeEncodeError:
        pass  # a start line with wide characters: the code below encodes it as it encodes values
    return b"%b%b%b\r\n" % (_wire(start_line), _clean_block(headers), framing.encode("latin-1"))


def _clean_block(headers: HeaderFields) -> bytes:
    lines = [
        b"%b: %b\r\n" % (name.encode("latin-1"), _wire(_UNSAFE.sub(" ", value)))
        for name, value in headers
        if _TOKEN.fullmatch(name)
    ]
    return b"".join(lines)


def _wire(text: str) -> bytes:
    """Latin-1 as everywhere. Text with wider characters as UTF-8, as Go's strings would be."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
