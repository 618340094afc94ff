"""The loop of one client connection: read a head, have it answered, send the answer, go on or close.

Closing is described in docs/policy/closing.md. This is the fault wall: whatever a handler or a body raises ends in the
log and, as long as no head is out, in a 500; the connection closes and the others never notice.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import trio

from native_handlers.http.headers import Headers
from native_handlers.http.message import Answer, BodyError, Listener, Request, Response
from native_handlers.http.request_id import new_request_id
from supervisor.net.errors import Interrupted, PeerError, PeerSilent, PeerTooSlow
from supervisor.net.http_body import HttpChannel, ServerBody
from supervisor.net.http_send import send_response
from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1 import ServerConnection
from supervisor.wire.http1_events import RequestHead, Signal, reason_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from supervisor.net.http_limits import HttpLimits
    from supervisor.net.transport import Transport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Client:
    """Who is on the other end, and which listener it came to."""

    host: str
    port: int
    listener: Listener
    is_tls: bool = False


class HttpConnection:
    """One client's connection, owned by the task that runs `serve`. `drain` may be called from any task."""

    __slots__ = ("_channel", "_client", "_handle", "_is_draining", "_is_idle", "_limits", "_quick", "_transport")

    def __init__(
        self,
        transport: Transport,
        client: Client,
        handle: Callable[[Request], Awaitable[Response]],
        limits: HttpLimits,
        quick: Callable[[Listener, bytes], Answer | None] | None = None,
    ) -> None:
        self._transport = transport
        self._channel = HttpChannel(ServerConnection(limits.wire), transport)
        self._client = client
        self._handle = handle
        self._limits = limits
        self._quick = quick
        self._is_draining = False
        self._is_idle = True

    def drain(self) -> None:
        """No further request is taken: at once when none is running, else after the running one."""
        self._is_draining = True
        if self._is_idle:
            self._transport.pace.interrupt()

    async def serve(self) -> None:
        """Serves requests until either side has enough, then closes the connection.

        Cancellation: closes it at once.
        """
        try:
            while not self._is_draining and await self._serve_one():
                pass
            await self._transport.aclose()
        except PeerError as error:
            log.debug("%s:%d: %s", self._client.host, self._client.port, error)
        finally:
            await self._transport.abort()

    async def _serve_one(self) -> bool:
        """Whether the connection can take another request."""
        try:
            head = await self._next_head()
        except RemoteProtocolError as error:
            log.info("refused a request of %s:%d: %s", self._client.host, self._client.port, error.why)
            await self._refuse(error.status, error.why)
            return False
        except (Interrupted, PeerSilent):
            return False
        if head is None:
            return False
        body = ServerBody(self._channel, head)
        await self._answer(head, body)
        if self._is_draining or not await self._finish(body):
            await self._linger(body)
            return False
        self._channel.codec.start_next_cycle()
        return True

    async def _next_head(self) -> RequestHead | None:
        """The next request head, None when the client closed instead."""
        channel, pace = self._channel, self._transport.pace
        codec = channel.codec
        if self._quick is not None and not codec.buffered_bytes and not codec.is_eof:
            await self._serve_quick(self._quick)
        self._is_idle = codec.buffered_bytes == 0
        pace.receiving.start_message(inf if self._is_idle else self._head_deadline())
        event = codec.next_event()
        while event is Signal.NEED_DATA:
            data = await self._receive_head_data()
            if self._is_idle and data:
                self._is_idle = False
                pace.resume()
                pace.receiving.deadline = self._head_deadline()
            codec.receive_data(data)
            event = codec.next_event()
        pace.receiving.start_message()
        pace.sending.start_message()
        return event if isinstance(event, RequestHead) else None

    async def _serve_quick(self, quick: Callable[[Listener, bytes], Answer | None]) -> None:
        """Answers requests as long as `quick` knows the answer; what came instead of one is in the codec then."""
        self._is_idle = True
        data = await self._transport.receive_unanswered(partial(quick, self._client.listener))
        if data:
            self._is_idle = False
            self._transport.pace.resume()
        self._channel.codec.receive_data(data)

    def _head_deadline(self) -> float:
        return trio.current_time() + self._limits.head_timeout_s

    async def _receive_head_data(self) -> bytes:
        try:
            return await self._transport.receive_some()
        except PeerTooSlow as error:
            raise RemoteProtocolError(408, "the head took too long") from error

    async def _answer(self, head: RequestHead, body: ServerBody) -> None:
        response = await self._response_to(head, body)
        keep_alive = head.keep_alive and not response.close_connection and not self._must_close(body)
        sent_before = self._transport.sent_bytes
        try:
            await send_response(self._channel, response, method=head.method, keep_alive=keep_alive)
        except PeerError:
            raise
        except Exception as error:
            if self._transport.sent_bytes > sent_before:
                log.warning("%s %s: the answer broke off: %r", head.method, head.target, error)
                raise PeerError("cut, for its answer cannot be completed") from error
            log.exception("%s %s: the answer makes no message", head.method, head.target)
            await self._refuse(500, "see the server's log")

    async def _response_to(self, head: RequestHead, body: ServerBody) -> Response:
        try:
            return await self._handle(self._request(head, body))
        except BodyError as error:
            cause = error.__cause__
            status = cause.status if isinstance(cause, RemoteProtocolError) else 400
            return plain_response(status, str(error))
        except PeerError:
            raise
        except Exception:
            log.exception("%s %s: a bug of ours", head.method, head.target)
            return plain_response(500, "see the server's log")

    def _request(self, head: RequestHead, body: ServerBody) -> Request:
        client = self._client
        return Request(
            head.method,
            head.target,
            head.headers,
            body,
            client.listener,
            client.host,
            client.port,
            new_request_id(),
            client.is_tls,
            head.http_version,
        )

    def _must_close(self, body: ServerBody) -> bool:
        """Whether what is left of the request body is too much, or too uncertain, to keep the connection for."""
        if self._is_draining or body.awaits_continue:
            return True
        return (
            body.length_bytes is not None and body.length_bytes - body.received_bytes > self._limits.unread_body_bytes
        )

    async def _finish(self, body: ServerBody) -> bool:
        """Reads what is left of a short body; whether the connection can go on."""
        unread_bytes = self._limits.unread_body_bytes
        if not body.is_over and not body.awaits_continue and not self._must_close(body):
            with trio.move_on_after(self._limits.linger_s):
                try:
                    while unread_bytes > 0 and (data := await body.receive_some()):
                        unread_bytes -= len(data)
                except BodyError:
                    return False
        return self._channel.codec.can_continue

    async def _linger(self, body: ServerBody | None) -> None:
        """Waits for the client to see the answer before the connection closes under what it is still sending.

        Closing with unread input makes the kernel send a reset, which can overtake the answer.
        """
        if body is not None and body.is_over and self._channel.codec.buffered_bytes == 0:
            return
        left_bytes = self._limits.linger_bytes
        with trio.move_on_after(self._limits.linger_s):
            await self._transport.send_eof()
            while left_bytes > 0 and (data := await self._transport.receive_some()):
                left_bytes -= len(data)

    async def _refuse(self, status: int, why: str) -> None:
        codec = ServerConnection()
        channel = HttpChannel(codec, self._transport)
        await send_response(channel, plain_response(status, why), method="GET", keep_alive=False)
        await self._linger(None)


def plain_response(status: int, why: str) -> Response:
    """An answer of the server itself, before or instead of a handler's. The connection closes after it."""
    text = f"{status} {reason_of(status)}: {why}"
    headers = Headers([("Content-Type", "text/plain; charset=utf-8")])
    return Response(status, headers, text.encode("utf-8", "replace"), close_connection=True)
