"""Which headers a proxy passes on, and which end at the next hop.

The order and the case of the headers stay as sent. Host stays as the client sent it. Source: RFC 9110 section 7.6.1,
RFC 9112 section 3.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http_model.headers import HeaderFields, Headers
from supervisor.wire.http1_events import RequestHead
from supervisor.wire.http1_head import listed

if TYPE_CHECKING:
    from collections.abc import Container

    from native_handlers.http_model.message import Request

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
"""Headers that a Connection header cannot remove. Framing is not the client's to remove here. The others decide about
access at the next server."""


def end_to_end(headers: HeaderFields) -> Headers:
    """`headers` without those that concern one connection: the table's, and those that Connection names."""
    sent = headers if isinstance(headers, Headers) else Headers(headers)
    if HOP_BY_HOP.isdisjoint(sent.lower_names):
        return sent
    named = listed(sent.get_all("Connection"))
    return sent.without([name for name in sent.lower_names if name in HOP_BY_HOP or _is_dropped(name, named)])


def _is_dropped(name: str, named: Container[str]) -> bool:
    return name in named and name not in _NEVER_NAMED


def forwarded_request(request: Request, *, keeps_expect: bool) -> RequestHead:
    """The head with which a forwarded request is sent on.

    Args:
        keeps_expect: whether `Expect: 100-continue` is passed on. Without it the body is sent at once.
    """
    headers = end_to_end(request.headers)
    if not keeps_expect and "expect" in headers.lower_names:
        headers = headers.without(["Expect"])
    if "host" not in headers.lower_names:
        headers = headers.plus(("Host", ""))
    length = request.body.length_bytes
    return RequestHead(request.method, request.target, headers, body_length_bytes=length, expects_continue=keeps_expect)
