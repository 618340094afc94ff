"""Serves HTTP on listening sockets, and drains at the end. docs/policy/closing.md has the rules."""

from __future__ import annotations

import logging
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import trio

from native_handlers.http_model.message import PendingAnswer
from native_handlers.records import dataclass
from supervisor.net.errors import ConnectionFailed
from supervisor.net.http_connection import Client, HttpConnection, plain_response
from supervisor.net.idle_poller import NO_LONG_REQUESTS, IdlePoller, leave_unanswered
from supervisor.net.listeners import BoundListener, SharedAccept, SpareDescriptors, accept, accept_ready, client_address
from supervisor.net.newcomers import Newcomer, Newcomers
from supervisor.net.seats import Seat, Seats
from supervisor.net.timeouts import ConnectionTimeouts
from supervisor.net.tls_transport import TlsTransport
from supervisor.net.transport import SocketTransport, Transport, send_answer

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from native_handlers.http_model.message import FastAnswer, Request, Response
    from supervisor.net.awaiting_connection import Arrival
    from supervisor.net.http_limits import HttpLimits
    from supervisor.net.idle_poller import LongRequests
    from supervisor.net.polled_exchange import Forwarding

    Handle = Callable[[Request], Awaitable[Response]]
    TryAnswer = Callable[[Client, bytes], FastAnswer]
    TryForward = Callable[[Client, bytes], Forwarding | None]

log = logging.getLogger(__name__)

SPARE_DESCRIPTORS = 8
"""Descriptors that are held in reserve. When the process runs out, they let a health check be answered."""

ACCEPTED_IN_A_ROW = 32
"""The most newcomers that one listener admits in one turn of the event loop: some milliseconds of work. Many clients
may wait in the backlog, a health check among them. One newcomer a turn would keep the health check waiting for
seconds."""


async def serve_http(  # noqa: PLR0913  every seam has its name
    listeners: Sequence[BoundListener],
    handle: Handle,
    *,
    limits: HttpLimits,
    fast_path: TryAnswer | None = None,
    forward: TryForward | None = None,
    seats: Seats | None = None,
    turn_away: Handle | None = None,
    urgent: tuple[bytes, ...] = (),
    long_requests: LongRequests = NO_LONG_REQUESTS,
    shared: SharedAccept | None = None,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until the reported scope is cancelled, then drains and returns.

    `task_status.started` gives the accept scope. Cancelling that scope closes the listeners and the idle connections at
    once. Running requests have `limits.drain_s` to finish; requests that run longer are cut.

    `fast_path` gets the bytes that arrive on an idle connection, before they are parsed. Where it returns bytes, the
    bytes are sent as the whole answer, and the connection stays open; a pending answer is sent as soon as it is there.
    Where it returns None, `forward` may prepare an exchange with another server, see `polled_exchange`. Where that
    returns None too, `handle` gets the request.

    Among many requests that arrive at once on idle connections, those that begin with one of `urgent` go first.
    `long_requests` says how much of a request is received before `fast_path` gets it, and which half requests are kept.

    `seats` bounds the connections; without `seats` the bound is `limits.max_connections`. A client without a seat may
    send one request, which `turn_away` answers; without `turn_away` the answer is 503.

    `shared` is given where other processes accept from the same listeners.

    Cancellation: cuts all connections at once.
    """
    with (
        closing(IdlePoller(urgent, long_requests)) as idle_poller,
        closing(SpareDescriptors(SPARE_DESCRIPTORS)) as spare,
    ):
        regular = _Service(handle, limits, seats or Seats("HTTP", lambda: limits.max_connections), fast_path, forward)
        server = _Server(regular, _service_for_turning_away(limits, turn_away), idle_poller, spare, shared)
        async with trio.open_nursery() as background:
            background.start_soon(idle_poller.run)
            background.start_soon(server.newcomers.run)
            with closing(server.newcomers):
                async with trio.open_nursery() as connections:
                    server.nursery = connections
                    try:
                        with trio.CancelScope() as accept_scope:
                            async with trio.open_nursery() as acceptors:
                                for listener in listeners:
                                    acceptors.start_soon(server.accept_from, listener)
                                task_status.started(accept_scope)
                    finally:
                        for listener in listeners:
                            listener.close()
                    connections.cancel_scope.deadline = trio.current_time() + limits.drain_s
                    server.drain()
            background.cancel_scope.cancel()
    if connections.cancel_scope.cancelled_caught:
        log.warning("requests were still running after %g s and have been cut", limits.drain_s)


@dataclass(frozen=True, slots=True)
class _Service:
    """How some of the connections are served, and how many there may be."""

    handle: Handle
    limits: HttpLimits
    seats: Seats
    fast_path: TryAnswer | None = None
    forward: TryForward | None = None


def _service_for_turning_away(limits: HttpLimits, turn_away: Handle | None) -> _Service:
    handle = turn_away or answer_that_all_is_taken
    seats = Seats("HTTP, to be turned away,", lambda: limits.max_turned_away)
    return _Service(handle, limits.for_turning_away, seats)


async def answer_that_all_is_taken(_request: Request) -> Response:
    """503. The connection closes after it."""
    response = plain_response(503, "as many clients as there may be are connected")
    return replace(response, headers=response.headers.plus(("Retry-After", "1")))


class _Server:
    """The state that the listeners of one server share. Only the tasks of one `serve_http` use it.

    Attributes:
        nursery: where the tasks of connections run. It must be set before the first accept.
    """

    nursery: trio.Nursery

    def __init__(
        self,
        regular: _Service,
        turning_away: _Service,
        idle_poller: IdlePoller,
        spare: SpareDescriptors,
        shared: SharedAccept | None,
    ) -> None:
        self._shared = shared
        self._regular = regular
        self._turning_away = turning_away
        self._idle_poller = idle_poller
        self._spare = spare
        self._connections: set[HttpConnection] = set()
        self._is_draining = False
        self.newcomers = Newcomers(idle_poller, regular.limits, self._begin)

    async def accept_from(self, listener: BoundListener) -> None:
        port, crowded = listener.port, self._idle_poller.crowded_ports
        try:
            while True:
                first = await accept(listener, self._make_room, self._shared)
                most = ACCEPTED_IN_A_ROW if self._shared is None else self._shared.most_in_a_row()
                newcomers = [first, *accept_ready(listener, most - 1)]
                for sock in newcomers:
                    self._admit(sock, listener)
                if len(newcomers) == ACCEPTED_IN_A_ROW:
                    crowded.add(port)
                else:
                    crowded.discard(port)
                # A turn for the tasks that were told to give up their seats: their sockets must close.
                await trio.lowlevel.checkpoint()
        finally:
            crowded.discard(port)

    def _admit(self, sock: socket.socket, listener: BoundListener) -> None:
        """Gives a newcomer a seat.

        A newcomer has a task from the start only for TLS, or to be turned away. While descriptors are short, every
        newcomer is turned away.
        """
        self._spare.refill()
        host, port = client_address(sock)
        client = Client(host, port, listener.kind, listener.tls is not None)
        if listener.tls is None and not self._spare.is_short:
            fast_path = self._regular.fast_path
            answer = leave_unanswered if fast_path is None else partial(fast_path, client)
            forward = self._regular.forward
            begin = None if forward is None else partial(forward, client)
            newcomer = Newcomer(self.newcomers, self._idle_poller, sock, client, answer, begin)
            newcomer.seat = self._regular.seats.take(host, newcomer.give_up)
            if newcomer.seat is not None:
                newcomer.seat.served_at = newcomer.served_at
                self.newcomers.add(newcomer)
                return
            self.nursery.start_soon(self._serve_with_task, sock, listener, client, self._turning_away)
            return
        service = self._turning_away if self._spare.is_short else self._regular
        self.nursery.start_soon(self._serve_with_task, sock, listener, client, service)

    def _begin(self, newcomer: Newcomer, arrival: Arrival) -> None:
        self.nursery.start_soon(self._serve_newcomer, newcomer, arrival)

    def _make_room(self) -> bool:
        """Frees a descriptor for the next connection: closes a waiting connection, or releases a spare descriptor."""
        return self._regular.seats.give_up_one() or self._spare.give()

    def drain(self) -> None:
        self._is_draining = True
        for connection in self._connections:
            connection.drain()
        self.nursery.start_soon(self.newcomers.drain)

    async def _serve_newcomer(self, newcomer: Newcomer, arrival: Arrival) -> None:
        """Serves a newcomer that was admitted without a task and now needs one."""
        service, seat = self._regular, newcomer.seat
        assert seat is not None
        with self._fault_wall(newcomer.sock, seat):
            transport = SocketTransport(newcomer.sock, ConnectionTimeouts(service.limits.timeouts), self._idle_poller)
            connection = HttpConnection(
                transport, newcomer.client, service.handle, service.limits, service.fast_path, seat, service.forward
            )
            if arrival.data is None:
                answer = arrival.unsent
                if isinstance(answer, PendingAnswer):
                    await answer.wait()
                    outcome = answer.outcome()
                    if outcome is None:
                        connection.begin(answer.data, inf)
                    answer = outcome or b""
                transport.timeouts.sending.start_message()
                await send_answer(transport, answer)
            else:
                connection.begin(arrival.data, newcomer.head_due, arrival.begun)
            if newcomer.is_given_up:
                connection.give_up()
            await self._serve_connection(connection)

    async def _serve_with_task(
        self, sock: socket.socket, listener: BoundListener, client: Client, service: _Service
    ) -> None:
        with trio.CancelScope() as scope:
            seat = service.seats.take(client.host, scope.cancel)
            if seat is None and service is self._regular:
                service, seat = self._turning_away, self._turning_away.seats.take(client.host, scope.cancel)
            with self._fault_wall(sock, seat):
                if seat is not None:
                    transport = await self._transport_for(sock, listener, service.limits)
                    connection = HttpConnection(
                        transport, client, service.handle, service.limits, service.fast_path, seat, service.forward
                    )
                    await self._serve_connection(connection)

    @contextmanager
    def _fault_wall(self, sock: socket.socket, seat: Seat | None) -> Iterator[None]:
        """An error ends this connection and no other. In any case its seat is given up and its socket closed."""
        self._idle_poller.connections += 1
        try:
            yield
        except (ConnectionFailed, trio.BrokenResourceError, trio.TooSlowError) as error:
            log.debug("a connection failed before its first request: %s", error)
        except Exception:
            log.exception("a connection broke by a bug of ours")
        finally:
            self._idle_poller.connections -= 1
            if seat is not None:
                seat.leave()
            sock.close()

    async def _serve_connection(self, connection: HttpConnection) -> None:
        self._connections.add(connection)
        if self._is_draining:
            connection.drain()
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)

    async def _transport_for(self, sock: socket.socket, listener: BoundListener, limits: HttpLimits) -> Transport:
        plain = SocketTransport(sock, ConnectionTimeouts(limits.timeouts), self._idle_poller)
        if listener.tls is None:
            return plain
        secured = TlsTransport(plain, listener.tls.current(), server_side=True)
        with trio.fail_after(limits.head_timeout_s):
            await secured.handshake()
        return secured
