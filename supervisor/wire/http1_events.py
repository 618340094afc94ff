"""The events that an HTTP/1 connection object reports and accepts. All of them are immutable."""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING

from native_handlers.http_model.headers import HeaderFields, Headers
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_HEADERS = Headers()


class Signal(Enum):
    """Why there is no event."""

    NEED_DATA = "more bytes are needed"
    PAUSED = "this message is over and the next is not due yet"
    CLOSED = "the other end has closed its side between messages"


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request line with its fields. The target is in origin form (or `*`, or an authority for CONNECT).

    `body_length_bytes` is None for a chunked body. `keep_alive` is the client's wish.
    """

    method: str
    target: str
    headers: Headers
    http_version: str = "1.1"
    body_length_bytes: int | None = 0
    expects_continue: bool = False
    keep_alive: bool = True


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A status line with its fields.

    `body_length_bytes` is None where only the body shows its end: by the last chunk, or by the end of the connection.
    `keep_alive` says whether the connection can serve another request afterwards.
    """

    status: int
    headers: HeaderFields
    reason: str = ""
    body_length_bytes: int | None = None
    keep_alive: bool = True


@dataclass(frozen=True, slots=True)
class Data:
    """A piece of a body, never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfMessage:
    """The body is complete. Only a chunked body can have trailers."""

    trailers: Headers = field(default=NO_HEADERS)


Event = RequestHead | ResponseHead | Data | EndOfMessage

REASONS: Mapping[int, str] = {
    100: "Continue",
    101: "Switching Protocols",
    102: "Processing",
    103: "Early Hints",
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    205: "Reset Content",
    206: "Partial Content",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Found",
    303: "See Other",
    304: "Not Modified",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Request Entity Too Large",
    414: "Request URI Too Long",
    415: "Unsupported Media Type",
    416: "Requested Range Not Satisfiable",
    417: "Expectation Failed",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}
"""The reason phrases of upstream's server. Source: Go net/http (StatusText)."""


def reason_of(status: int) -> str:
    """The reason phrase for `status`; "status code 499" for an unnamed one. Source: Go net/http (writeStatusLine)."""
    return REASONS.get(status) or f"status code {status}"
