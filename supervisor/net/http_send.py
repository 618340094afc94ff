"""Sends one response: bytes, pieces of files, or a stream, framed as the client's HTTP version allows."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import trio

from native_handlers.http_model.conditional import format_http_date
from native_handlers.http_model.headers import HeaderMap, Headers
from native_handlers.http_model.message import FileBody, FileSlice, Response, StreamBody
from supervisor.net.http_exchange import AnswerBody
from supervisor.net.transport import CLEANUP_S, SocketTransport
from supervisor.wire.http1_events import NO_HEADERS, Data, EndOfMessage, ResponseHead

if TYPE_CHECKING:
    from supervisor.net.http_body import HttpChannel

_JOINED_BYTES = 64 * 1024
"""Head and body up to this size go out in one system call, at the price of one copy."""

_BODYLESS = frozenset({204, 304})
_END = EndOfMessage()


async def send_response(channel: HttpChannel, response: Response, *, method: str, keep_alive: bool) -> None:
    """Sends all of `response`, and releases what `response` holds in any case.

    Raises:
        ConnectionFailed: the client is gone, or takes nothing.
        Exception: the body failed. The head may have been sent, so the connection must be cut.

    Cancellation: the connection is unusable afterwards.
    """
    try:
        codec, body = channel.codec, response.body
        head = _head_of(response, method, keep_alive=keep_alive)
        if method == "HEAD" or response.status in _BODYLESS:
            await channel.transport.send_all(codec.send_whole(head))
        elif isinstance(body, (bytes, memoryview)):
            raw = codec.send_whole(head)
            if len(body) <= _JOINED_BYTES:
                await channel.transport.send_all(raw + body)
            else:
                await channel.transport.send_all(raw, more=True)
                await channel.transport.send_all(body)
        elif isinstance(body, FileBody):
            await _send_file_body(channel, codec.send(head), body)
        else:
            await _send_stream(channel, codec.send(head), body)
    finally:
        if isinstance(response.body, StreamBody):
            await release(response)
        elif response.close is not None:
            response.close()


async def release(response: Response) -> None:
    """Closes the body and calls `close` of `response`. The caller does this once for each response."""
    if isinstance(response.body, StreamBody):
        aclose = getattr(response.body.chunks, "aclose", None)
        if aclose is not None:
            with trio.move_on_after(CLEANUP_S, shield=True):
                await aclose()
    if response.close is not None:
        response.close()


def http_date() -> str:
    """The current time in the form of a Date header. The text is made once a second."""
    return format_http_date(int(time.time()))


def new_request_id() -> str:
    """A fresh request id in upstream's form: the time in nanoseconds and four random bytes, in upper-case hex. The id
    is no secret.

    Source: weed/util/request_id/request_id.go.
    """
    return f"{time.time_ns():X}{random.getrandbits(32):08X}"


def _head_of(response: Response, method: str, *, keep_alive: bool) -> ResponseHead:
    headers, body = response.headers, response.body
    if isinstance(headers, HeaderMap):
        # No other code uses the map any more, so it may be changed here.
        headers.fields.setdefault("Date", http_date())
    elif isinstance(headers, Headers) and "date" not in headers.lower_names:
        headers = headers.plus(("Date", http_date()))
    length = body.length_bytes if isinstance(body, (FileBody, StreamBody)) else len(body)
    if method == "HEAD" and not length:
        # As upstream: a HEAD answer has no Content-Length where no handler named a length.
        length = None
    return ResponseHead(response.status, headers, response.reason or "", length, keep_alive)


async def _send_file_body(channel: HttpChannel, head: bytes, body: FileBody) -> None:
    await channel.transport.send_all(head, more=body.length_bytes > 0)
    last = len(body.parts) - 1
    for index, part in enumerate(body.parts):
        if isinstance(part, FileSlice):
            await channel.transport.send_file(part)
            channel.codec.sent_out_of_band(part.length_bytes)
        elif part:
            await channel.transport.send_all(channel.codec.send(Data(part)), more=index < last)
    channel.codec.send(_END)


async def _send_stream(channel: HttpChannel, head: bytes, body: StreamBody) -> None:
    codec, transport, chunks = channel.codec, channel.transport, body.chunks
    passing = chunks if isinstance(chunks, AnswerBody) and body.length_bytes is not None else None
    await transport.send_all(head)
    async for chunk in chunks:
        if chunk:
            await transport.send_all(codec.send(Data(chunk)))
            if passing is None or not isinstance(transport, SocketTransport):
                continue
            if moved := await passing.pass_rest_to(transport):
                codec.sent_out_of_band(moved)
    trailers: Headers = getattr(body.chunks, "trailers", NO_HEADERS)
    if end := codec.send(EndOfMessage(trailers) if trailers else _END):
        await transport.send_all(end)
