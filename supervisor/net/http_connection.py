"""The loop of one client connection: read a head, get the answer, send the answer, then go on or close.

docs/policy/closing.md describes when a connection closes. This module catches every exception of a handler or
of a body. The exception is logged, and answered with 500 as long as no head has been sent. Then this connection closes;
others go on.
"""

from __future__ import annotations

import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import trio

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import BodyError, Request, Response
from native_handlers.records import dataclass
from native_handlers.runtime.content_threads import CLIENT
from supervisor.net.errors import ConnectionFailed, ConnectionSilent, ConnectionTooSlow, Interrupted
from supervisor.net.http_body import HttpChannel, ServerBody
from supervisor.net.http_send import new_request_id, send_response
from supervisor.net.idle_poller import leave_unanswered
from supervisor.net.seats import client_of
from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1 import ServerConnection
from supervisor.wire.http1_events import RequestHead, Signal, reason_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from native_handlers.http_model.message import FastAnswer, Listener
    from supervisor.net.http_limits import HttpLimits
    from supervisor.net.polled_exchange import Continuation, Forwarding
    from supervisor.net.seats import Seat
    from supervisor.net.transport import Transport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Client:
    """The client of a connection, and the listener that accepted the client."""

    host: str
    port: int
    listener: Listener
    is_tls: bool = False


class HttpConnection:
    """One client's connection. The task that runs `serve` owns it. Any task may call `drain`."""

    __slots__ = (
        "_begin_exchange",
        "_begun",
        "_channel",
        "_client",
        "_fast_path",
        "_handle",
        "_has_more",
        "_head_due",
        "_is_draining",
        "_is_given_up",
        "_is_idle",
        "_limits",
        "_seat",
        "_transport",
    )

    def __init__(  # noqa: PLR0913, PLR0917  made by http_server alone
        self,
        transport: Transport,
        client: Client,
        handle: Callable[[Request], Awaitable[Response]],
        limits: HttpLimits,
        fast_path: Callable[[Client, bytes], FastAnswer] | None = None,
        seat: Seat | None = None,
        begin_exchange: Callable[[Client, bytes], Forwarding | None] | None = None,
    ) -> None:
        self._transport = transport
        self._channel = HttpChannel(ServerConnection(limits.wire), transport)
        self._client = client
        self._handle = handle
        self._limits = limits
        self._fast_path = fast_path
        self._begin_exchange = begin_exchange
        self._begun: Continuation | None = None  # what goes on with the next request, where it was sent on already
        self._seat = seat
        self._is_draining = False
        self._is_given_up = False
        self._is_idle = True
        self._has_more = False  # whether bytes of the next request have arrived already
        self._head_due: float | None = None
        if seat is not None:
            seat.give_up = self.give_up
            seat.served_at = transport.answered_at

    def drain(self) -> None:
        """Takes no further request. Closes at once when no request runs, else after the running one."""
        self._is_draining = True
        if self._is_idle:
            self._transport.timeouts.interrupt()

    def give_up(self) -> None:
        """Ends the wait for a request, or for the rest of a head, and closes the connection.

        A request whose head becomes complete in the same moment is answered first.
        """
        self._is_draining = self._is_given_up = True
        self._transport.timeouts.interrupt()

    def begin(self, data: bytes, head_due: float, begun: Continuation | None = None) -> None:
        """Call this before `serve`:

        `data` has arrived, and the head in it must be complete by `head_due` (trio's clock). `begun` is as in
        `Arrival`.
        """
        self._begun = begun
        self._channel.codec.receive_data(data)
        self._has_more = bool(data)
        self._head_due = head_due

    async def serve(self) -> None:
        """Serves requests until the client or the server ends the connection, then closes it.

        Cancellation: closes the connection at once.
        """
        CLIENT.set(client_of(self._client.host))
        try:
            # Bytes that had arrived before `drain` are answered, even where `drain` came before this loop.
            while (not self._is_draining or self._head_due is not None) and await self._serve_one():
                pass
            await self._transport.aclose()
        except ConnectionFailed as error:
            log.debug("%s:%d: %s", self._client.host, self._client.port, error)
            if isinstance(error, ConnectionSilent) and not self._channel.codec.ends_by_closing:
                # A close without reset: a slow client still reads what was sent, and sees that the answer is
                # incomplete.
                await self._transport.aclose()
        finally:
            self._abandon_begun()
            await self._transport.abort()

    def _abandon_begun(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.abandon()

    async def _serve_one(self) -> bool:
        """Serves one request. Returns whether the connection can take another one."""
        try:
            head = await self._next_head()
        except RemoteProtocolError as error:
            log.info("refused a request of %s:%d: %s", self._client.host, self._client.port, error.why)
            await self._refuse(error.status, error.why)
            return False
        except (Interrupted, ConnectionSilent):
            return False
        if head is None:
            return False
        if self._seat is not None:
            self._seat.work()
        body = ServerBody(self._channel, head)
        await self._answer(head, body)
        if self._is_draining or not await self._finish(body):
            await self._linger(body)
            return False
        self._has_more = self._channel.codec.start_next_cycle()
        if self._seat is not None:
            self._seat.wait()
        return True

    async def _next_head(self) -> RequestHead | None:
        """The next request head; None when the client closed the connection instead."""
        codec, timeouts = self._channel.codec, self._transport.timeouts
        self._is_idle = not self._has_more
        if self._has_more:
            # A pipelining client never makes this task wait. So the task gives other tasks a turn here.
            await trio.lowlevel.checkpoint()
        elif (self._fast_path is not None or self._begin_exchange is not None) and not codec.is_eof:
            await self._serve_fast_path()
        event = codec.next_event()
        if event is Signal.NEED_DATA:
            if not self._is_idle and not self._has_more:
                self._begin_head()
            timeouts.receiving.start_message(inf if self._is_idle else self._head_deadline())
        self._head_due = None
        while event is Signal.NEED_DATA:
            data = await self._receive_head_data()
            if self._is_idle and data:
                timeouts.receiving.deadline = self._head_deadline()
                self._begin_head()
            codec.receive_data(data)
            event = codec.next_event()
        timeouts.begin_exchange()
        return event if isinstance(event, RequestHead) else None

    async def _serve_fast_path(self) -> None:
        """Answers requests as long as the fast path has the answer, or begins the exchange that gives the answer. The
        first other bytes are given to the codec.
        """
        answer = leave_unanswered if self._fast_path is None else partial(self._fast_path, self._client)
        begin = None if self._begin_exchange is None else partial(self._begin_exchange, self._client)
        arrival = await self._transport.receive_unanswered(answer, begin)
        assert arrival.data is not None, "only what is left unanswered wakes this task"
        self._begun = arrival.begun
        self._is_idle = not arrival.data
        self._channel.codec.receive_data(arrival.data)

    def _begin_head(self) -> None:
        """Notes that a part of a head has arrived, and allows waiting for the rest.

        After `give_up` the wait stays interrupted, because the seat of the connection is no longer counted.
        """
        self._is_idle = False
        if not self._is_given_up:
            self._transport.timeouts.resume()

    def _head_deadline(self) -> float:
        due = trio.current_time() + self._limits.head_timeout_s
        return due if self._head_due is None else min(due, self._head_due)

    async def _receive_head_data(self) -> bytes:
        try:
            if self._is_idle:
                return await self._transport.receive_some()
            # When many connections end at once, or send at once, few of them are woken in one turn: see `idle_poller`.
            return await self._transport.receive_in_turn()
        except ConnectionTooSlow as error:
            raise RemoteProtocolError(408, "the head took too long") from error

    async def _answer(self, head: RequestHead, body: ServerBody) -> None:
        response = await self._response_to(head, body)
        keep_alive = head.keep_alive and not response.close_connection and not self._must_close(body)
        sent_before = self._transport.sent_bytes
        try:
            await send_response(self._channel, response, method=head.method, keep_alive=keep_alive)
        except ConnectionFailed:
            raise
        except Exception as error:
            if self._transport.sent_bytes > sent_before:
                log.warning("%s %s: the answer broke off: %r", head.method, head.target, error)
                raise ConnectionFailed("cut, for its answer cannot be completed") from error
            log.exception("%s %s: the answer makes no message", head.method, head.target)
            await self._refuse(500, "see the server's log")

    async def _response_to(self, head: RequestHead, body: ServerBody) -> Response:
        begun, self._begun = self._begun, None
        try:
            request = self._request(head, body)
            return await (self._handle(request) if begun is None else begun.answer(request))
        except BodyError as error:
            cause = error.__cause__
            status = cause.status if isinstance(cause, RemoteProtocolError) else 400
            return plain_response(status, str(error))
        except ConnectionFailed:
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
        """Whether the unread rest of the request body is too long, or of unknown length, to keep the connection."""
        if self._is_draining or body.awaits_continue:
            return True
        return (
            body.length_bytes is not None and body.length_bytes - body.received_bytes > self._limits.unread_body_bytes
        )

    async def _finish(self, body: ServerBody) -> bool:
        """Reads the rest of a short body. Returns whether the connection can go on."""
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
        """Lets the client read the answer before the connection closes, while the client may still be sending.

        A close with unread input makes the kernel send a reset, and the reset can overtake the answer.
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
    """An answer of the server itself, without a handler. The connection closes after it."""
    text = f"{status} {reason_of(status)}: {why}"
    headers = Headers([("Content-Type", "text/plain; charset=utf-8")])
    return Response(status, headers, text.encode("utf-8", "replace"), close_connection=True)
