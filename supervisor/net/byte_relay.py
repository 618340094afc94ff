"""The public gRPC port: trio accepts, ends TLS, and passes the bytes on to grpcio's server on a loopback port.

HTTP/2 is not looked into. What the relay adds is what grpcio has not: certificates that are read again when their
files change, upstream's check of the client's certificate name, and the true peer of each connection.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from supervisor.net.bulk_pass import Pipes, pass_in_bulk
from supervisor.net.grpc_client_names import ClientNames, common_name_of
from supervisor.net.grpc_peers import Peer, PeerRegistry, normal_host

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
"""What one direction of one connection holds: HTTP/2 frames are 16 KiB by default, sockets give about this much."""
BULK_AFTER_CHUNKS = 8
"""So many full ones on end, and a stream is taken for a large one."""
HANDSHAKE_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 1.0
MAX_CONNECTIONS = 4096
"""Each takes two descriptors. A cluster holds a few per server; what comes past the bound is closed at once."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What a relay needs to know.

    `tls_context` is asked for each connection: None means plaintext, as upstream serves it without certificates.
    """

    target_port: int
    peers: PeerRegistry
    tls_context: Callable[[], ssl.SSLContext | None] = field(default=lambda: None)
    client_names: ClientNames = field(default_factory=ClientNames)
    max_connections: int = MAX_CONNECTIONS


async def serve_byte_relay(
    listeners: Sequence[trio.SocketListener],
    settings: RelaySettings,
    *,
    handler_nursery: trio.Nursery,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accepts on `listeners` until cancelled and relays each connection in `handler_nursery`.

    Cancellation: stops accepting and closes `listeners`; open connections go on, for they are the nursery's. To drain,
    cancel this, stop the grpcio server (which says goodbye to its clients), and then put a deadline on the nursery.
    """
    slots = trio.CapacityLimiter(settings.max_connections)
    pipes = Pipes()
    async with trio.open_nursery() as accepting:
        await accepting.start(
            partial(
                trio.serve_listeners,
                partial(_serve_connection, settings, slots, pipes),
                list(listeners),
                handler_nursery=handler_nursery,
            )
        )
        task_status.started()


async def _serve_connection(
    settings: RelaySettings, slots: trio.CapacityLimiter, pipes: Pipes, client: trio.SocketStream
) -> None:
    """The fault wall of one connection: whatever goes wrong with it ends it, and only it."""
    try:
        slots.acquire_on_behalf_of_nowait(client)
    except trio.WouldBlock:
        log.warning("gRPC connection closed at once: %d are open already", settings.max_connections)
        await trio.aclose_forcefully(client)
        return
    try:
        await _secure_and_relay(settings, pipes, client)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
        log.info("gRPC connection ended: %s", error.__cause__ or error)
    except Exception:
        log.exception("gRPC connection failed")
    finally:
        slots.release_on_behalf_of(client)
        await trio.aclose_forcefully(client)


async def _secure_and_relay(settings: RelaySettings, pipes: Pipes, client: trio.SocketStream) -> None:
    address = client.socket.getpeername()
    peer = Peer(normal_host(address[0]), address[1])
    context = settings.tls_context()
    if context is None:
        await _relay(settings, pipes, client, peer)
        return
    secured = trio.SSLStream(client, context, server_side=True, https_compatible=True)
    with trio.move_on_after(HANDSHAKE_TIMEOUT_S) as handshake:
        await secured.do_handshake()
    if handshake.cancelled_caught:
        log.info("gRPC connection from %s: no TLS handshake within %g s", peer, HANDSHAKE_TIMEOUT_S)
        return
    name = common_name_of(secured.getpeercert())
    if not settings.client_names.allows(name):
        log.warning("gRPC connection from %s: invalid subject client common name: %s", peer, name or "")
        return
    await _relay(settings, pipes, secured, Peer(peer.host, peer.port, name))


async def _relay(settings: RelaySettings, pipes: Pipes, client: trio.abc.Stream, peer: Peer) -> None:
    with trio.fail_after(CONNECT_TIMEOUT_S):
        server = await trio.open_tcp_stream(LOOPBACK, settings.target_port)
    local_port = server.socket.getsockname()[1]
    settings.peers.add(local_port, peer)
    try:
        await _pass_both_ways(client, server, pipes)
    finally:
        settings.peers.remove(local_port)
        await trio.aclose_forcefully(server)


async def _pass_both_ways(client: trio.abc.Stream, server: trio.SocketStream, pipes: Pipes) -> None:
    """Passes bytes until the server is done, or until either side breaks. A client that is done is only half closed."""
    async with trio.open_nursery() as nursery:

        async def pass_requests() -> None:
            if await _pass(client, server, pipes, nursery.cancel_scope):
                await _end_requests(server, nursery.cancel_scope)

        nursery.start_soon(pass_requests)
        if await _pass(server, client, pipes, nursery.cancel_scope):
            with trio.move_on_after(CLOSE_TIMEOUT_S):
                await client.aclose()
        nursery.cancel_scope.cancel()


async def _pass(
    source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, pipes: Pipes, connection: trio.CancelScope
) -> bool:
    """Copies until `source` ends (True) or either breaks (False, and `connection` is cancelled).

    The next piece is read only when the last one is written, so a slow reader slows its writer and nothing piles up.
    """
    full_chunks = 0
    try:
        while chunk := await source.receive_some(CHUNK_BYTES):
            await sink.send_all(chunk)
            full_chunks = full_chunks + 1 if len(chunk) == CHUNK_BYTES else 0
            if full_chunks < BULK_AFTER_CHUNKS:
                continue
            full_chunks = 0
            # Not over TLS: there every byte has to come by here.
            if (
                isinstance(source, trio.SocketStream)
                and isinstance(sink, trio.SocketStream)
                and await pass_in_bulk(source, sink, pipes)
            ):
                break
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        connection.cancel()
        return False
    return True


async def _end_requests(server: trio.SocketStream, connection: trio.CancelScope) -> None:
    try:
        await server.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        connection.cancel()
