"""Which headers are handed on by a proxy, and which end at the next hop. The one table for HTTP and for gRPC.

Order and case stay as sent. Host stays as the client sent it. Source: RFC 9110 section 7.6.1, RFC 9112 section 3.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http.headers import Headers
from supervisor.wire.http1_events import RequestHead

if TYPE_CHECKING:
    from native_handlers.http.message import Request

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NEVER_NAMED = frozenset({"host", "content-length", "authorization", "cookie", "expect"})
"""What a Connection header cannot make us drop: framing is not the client's to remove here, nor is what the next
server decides access on."""


def end_to_end(headers: Headers) -> Headers:
    """`headers` without those that concern one connection only: the table's, and those that Connection names."""
    names = [name.lower() for name, _ in headers]
    if HOP_BY_HOP.isdisjoint(names):
        return headers
    dropped = HOP_BY_HOP | (_named_by_connection(headers) - _NEVER_NAMED)
    return Headers([pair for pair, name in zip(headers, names, strict=True) if name not in dropped])


def _named_by_connection(headers: Headers) -> set[str]:
    return {token.strip().lower() for value in headers.get_all("Connection") for token in value.split(",")}


def forwarded_request(request: Request, *, keeps_expect: bool) -> RequestHead:
    """The head that a forwarded request is sent on with.

    Args:
        keeps_expect: whether `Expect: 100-continue` goes along; without it the body is sent at once.
    """
    headers = end_to_end(request.headers)
    if not keeps_expect and "Expect" in headers:
        headers = headers.without(["Expect"])
    if "Host" not in headers:
        headers = headers.plus(("Host", ""))
    length = request.body.length_bytes
    return RequestHead(request.method, request.target, headers, body_length_bytes=length, expects_continue=keeps_expect)
