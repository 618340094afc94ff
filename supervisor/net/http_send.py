"""Sends one response: bytes, pieces of files, or a stream, framed as the client understands it."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

import trio

from native_handlers.http.message import FileBody, FileSlice, Response, StreamBody
from supervisor.net.transport import CLEANUP_S
from supervisor.wire.http1_events import NO_HEADERS, Data, EndOfMessage, ResponseHead

if TYPE_CHECKING:
    from native_handlers.http.headers import Headers
    from supervisor.net.http_body import HttpChannel

_JOINED_BYTES = 64 * 1024
"""Up to here head and body go out in one call, at the price of one copy."""

_BODYLESS = frozenset({204, 304})
_END = EndOfMessage()


async def send_response(channel: HttpChannel, response: Response, *, method: str, keep_alive: bool) -> None:
    """Sends all of `response` and releases what it holds, whatever happens.

    Raises:
        PeerError: the client is gone or stuck.
        Exception: the body failed; the head may be out, the connection must be cut.

    Cancellation: poisons the connection.
    """
    try:
        has_body = method != "HEAD" and response.status not in _BODYLESS
        head = channel.codec.send(_head_of(response, method, keep_alive=keep_alive))
        if not has_body:
            await channel.transport.send_all(head + channel.codec.send(_END))
        elif isinstance(response.body, (bytes, memoryview)):
            await _send_bytes(channel, head, response.body)
        elif isinstance(response.body, FileBody):
            await _send_file_body(channel, head, response.body)
        else:
            await _send_stream(channel, head, response.body)
    finally:
        await release(response)


async def release(response: Response) -> None:
    """Gives back what `response` holds. Once for each response."""
    if isinstance(response.body, StreamBody):
        aclose = getattr(response.body.chunks, "aclose", None)
        if aclose is not None:
            with trio.move_on_after(CLEANUP_S, shield=True):
                await aclose()
    if response.close is not None:
        response.close()


def http_date() -> str:
    """The current time as a Date header has it; made once for each second."""
    return _formatted_date(int(time.time()))


@lru_cache(maxsize=1)
def _formatted_date(now_s: int) -> str:
    return formatdate(now_s, usegmt=True)


def _head_of(response: Response, method: str, *, keep_alive: bool) -> ResponseHead:
    headers = response.headers
    if "Date" not in headers:
        headers = headers.plus(("Date", http_date()))
    length = response.length_bytes
    if method == "HEAD" and not length:
        # As upstream: nothing is said of a length that no handler named.
        length = None
    return ResponseHead(response.status, headers, response.reason or "", length, keep_alive)


async def _send_bytes(channel: HttpChannel, head: bytes, body: bytes | memoryview) -> None:
    channel.codec.sent_out_of_band(len(body))
    channel.codec.send(_END)
    if len(body) <= _JOINED_BYTES:
        await channel.transport.send_all(head + body)
    else:
        await channel.transport.send_all(head, more=True)
        await channel.transport.send_all(body)


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
    codec, transport = channel.codec, channel.transport
    await transport.send_all(head)
    async for chunk in body.chunks:
        if chunk:
            await transport.send_all(codec.send(Data(chunk)))
    trailers: Headers = getattr(body.chunks, "trailers", NO_HEADERS)
    if end := codec.send(EndOfMessage(trailers) if trailers else _END):
        await transport.send_all(end)
