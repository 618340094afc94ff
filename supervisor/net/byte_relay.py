"""The public gRPC port. trio accepts and ends TLS; the relay passes the bytes to grpcio's server on a Unix socket.

The relay does not read HTTP/2. The relay adds three things that grpcio does not have: certificates are read again when
their files change, the name in the client's certificate is checked as upstream checks it, and the true client of each
connection is known.
"""

from __future__ import annotations

import logging
import socket
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.records import dataclass
from supervisor.net.grpc_client_names import ClientNames, common_name_of
from supervisor.net.grpc_clients import ClientRegistry, GrpcClient, Traffic, normal_host
from supervisor.net.relay_streams import RelayStreams
from supervisor.net.seats import Seat, Seats

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 10.0
"""The time for a TLS handshake. Without TLS, the time for the first byte: every HTTP/2 client sends first, at once."""
CONNECT_TIMEOUT_S = 5.0
CONNECT_PAUSE_S = 0.01
CLOSE_TIMEOUT_S = 1.0
MAX_CONNECTIONS = 4096
"""A cluster holds a few connections a server. Beyond the bound `seats` decides; a client without a seat is closed."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """The settings of one relay.

    Attributes:
        target: the Unix socket of grpcio's server. Only the user of this process may be able to reach the socket.
        clients: where the relay enters the true client of each connection.
        tls_context: called for each connection. None means plaintext, as upstream serves without certificates.
        client_names: which names in client certificates may connect.
        seats: the bound on connections.
    """

    target: Path
    clients: ClientRegistry
    tls_context: Callable[[], ssl.SSLContext | None] = field(default=lambda: None)
    client_names: ClientNames = field(default_factory=ClientNames)
    seats: Seats = field(default_factory=lambda: Seats("gRPC", lambda: MAX_CONNECTIONS))


async def serve_byte_relay(
    listeners: Sequence[trio.SocketListener],
    settings: RelaySettings,
    *,
    handler_nursery: trio.Nursery,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accepts on `listeners` until cancelled, and relays each connection in `handler_nursery`.

    Cancellation: stops accepting and closes `listeners`. Open connections go on, because they run in `handler_nursery`.
    To drain, cancel this call, then stop the grpcio server (the server sends GOAWAY), then put a deadline on the
    nursery.
    """
    streams = RelayStreams()
    async with trio.open_nursery() as accepting:
        await accepting.start(streams.run)
        await accepting.start(
            partial(
                trio.serve_listeners,
                partial(_serve_connection, settings, streams),
                list(listeners),
                handler_nursery=handler_nursery,
            )
        )
        task_status.started()


async def _serve_connection(settings: RelaySettings, streams: RelayStreams, stream: trio.SocketStream) -> None:
    """Catches every exception of one connection: an error ends this connection and no other."""
    with trio.CancelScope() as scope:
        seat = settings.seats.take(_host_of(stream), scope.cancel)
        try:
            if seat is not None:
                await _secure_and_relay(settings, streams, stream, seat)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            log.info("gRPC connection ended: %s", error.__cause__ or error)
        except Exception:
            log.exception("gRPC connection failed")
        finally:
            if seat is not None:
                seat.leave()
            await trio.aclose_forcefully(stream)


def _host_of(stream: trio.SocketStream) -> str:
    """The client's address; "" where the client has already disconnected."""
    try:
        return normal_host(stream.socket.getpeername()[0])
    except OSError:
        return ""


async def _secure_and_relay(
    settings: RelaySettings, streams: RelayStreams, stream: trio.SocketStream, seat: Seat
) -> None:
    """Relays after the client has completed a TLS handshake, or has sent a first byte where there is no TLS.

    Until then the connection costs one descriptor, and `seats` may close it to make room for a newcomer.
    """
    address = stream.socket.getpeername()
    client = GrpcClient(normal_host(address[0]), address[1])
    context = settings.tls_context()
    if context is None:
        with trio.move_on_after(HANDSHAKE_TIMEOUT_S) as first_byte:
            await trio.lowlevel.wait_readable(stream.socket)
        if first_byte.cancelled_caught:
            log.info("gRPC connection from %s: not a byte within %g s", client, HANDSHAKE_TIMEOUT_S)
            return
        seat.work()
        await _relay(settings, streams, stream, client)
        return
    secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    with trio.move_on_after(HANDSHAKE_TIMEOUT_S) as handshake:
        await secured.do_handshake()
    if handshake.cancelled_caught:
        log.info("gRPC connection from %s: no TLS handshake within %g s", client, HANDSHAKE_TIMEOUT_S)
        return
    name = common_name_of(secured.getpeercert())
    if not settings.client_names.allows(name):
        log.warning("gRPC connection from %s: invalid subject client common name: %s", client, name or "")
        return
    seat.work()
    await _relay(settings, streams, secured, GrpcClient(client.host, client.port, name))


async def _relay(settings: RelaySettings, streams: RelayStreams, stream: trio.abc.Stream, client: GrpcClient) -> None:
    server = await _connect(settings.target)
    name = server.socket.getsockname()
    settings.clients.add(name, client)
    try:
        await _pass_both_ways(stream, server, streams, client.traffic)
    finally:
        settings.clients.remove(name)
        await trio.aclose_forcefully(server)


async def _connect(target: Path) -> trio.SocketStream:
    """A connection to the server.

    The kernel chooses an abstract name for the socket, so each connection has its own.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(b"")
        with trio.fail_after(CONNECT_TIMEOUT_S):
            # A connect to a Unix socket succeeds at once, or fails with EAGAIN while the server's queue is full.
            while not _is_connected(sock, target):  # noqa: ASYNC110  no event says that the queue has room
                await trio.sleep(CONNECT_PAUSE_S)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def _is_connected(sock: socket.socket, target: Path) -> bool:
    try:
        sock.connect(str(target))
    except BlockingIOError:
        return False
    return True


async def _pass_both_ways(
    stream: trio.abc.Stream, server: trio.SocketStream, streams: RelayStreams, traffic: Traffic
) -> None:
    """Passes bytes until the server ends, or until either side breaks.

    A client's end only half-closes the connection.
    """
    async with trio.open_nursery() as nursery:

        async def pass_requests() -> None:
            if await streams.pass_one_way(stream, server, traffic.add_received, nursery.cancel_scope):
                await _end_requests(server, nursery.cancel_scope)

        nursery.start_soon(pass_requests)
        if await streams.pass_one_way(server, stream, traffic.add_sent, nursery.cancel_scope):
            with trio.move_on_after(CLOSE_TIMEOUT_S):
                await stream.aclose()
        nursery.cancel_scope.cancel()


async def _end_requests(server: trio.SocketStream, connection: trio.CancelScope) -> None:
    try:
        await server.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        connection.cancel()
