"""The byte relay: bytes, half-closes and the names of clients, over real sockets on loopback."""

from __future__ import annotations

import socket
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from support.certificate_authority import Authority
from support.waiting import LIMIT_S as DEADLINE_S
from support.waiting import until

from supervisor.net import byte_relay
from supervisor.net.byte_relay import RelaySettings, serve_byte_relay
from supervisor.net.grpc_client_names import ClientNames
from supervisor.net.grpc_clients import ClientRegistry, GrpcClient
from supervisor.net.seats import Seats


@pytest.fixture(autouse=True)
async def deadline():
    with trio.fail_after(DEADLINE_S):
        yield


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


class Target:
    """The relay's target on a Unix socket. Each connection is handed to the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen()
        self.listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

    async def accept(self) -> trio.SocketStream:
        return await self.listener.accept()


@pytest.fixture
def socket_path():
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "s"


def name_of(server: trio.SocketStream) -> str:
    """grpcio's name for the relay's end of the connection whose other end is `server`."""
    return f"unix-abstract:{server.socket.getpeername()[1:].decode()}"


@asynccontextmanager
async def open_relay(**settings):
    """Returns (target, address of the relay, registry). All of them are closed afterwards."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    clients = ClientRegistry()
    with tempfile.TemporaryDirectory() as directory:
        target = Target(Path(directory) / "s")
        async with target.listener, trio.open_nursery() as nursery:
            relay = RelaySettings(target=target.path, clients=clients, **settings)
            await nursery.start(partial(serve_byte_relay, listeners, relay, handler_nursery=nursery))
            yield target, listeners[0].socket.getsockname(), clients
            nursery.cancel_scope.cancel()
    assert len(clients) == 0


async def speaking(address, data: bytes = b"x") -> trio.SocketStream:
    """A client that has sent `data`. The relay connects to the target only after a client has sent bytes."""
    client = await trio.open_tcp_stream(*address)
    await client.send_all(data)
    return client


async def is_ended(stream: trio.abc.ReceiveStream) -> bool:
    """Whether the other end closes the connection, in any way, without sending anything."""
    try:
        return await stream.receive_some() == b""
    except trio.BrokenResourceError:
        return True


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def test_bytes_go_both_ways_and_half_closes_go_through():
    async with open_relay() as (target, address, _):
        client = await speaking(address, b"question")
        async with client, await target.accept() as server:
            await client.send_eof()
            assert await read_all(server) == b"question"
            await server.send_all(b"answer")
            await server.aclose()
            assert await read_all(client) == b"answer"


async def test_the_client_is_known_before_the_first_byte_and_forgotten_after():
    async with open_relay() as (target, address, clients):
        client = await speaking(address)
        client_port = client.socket.getsockname()[1]
        server = await target.accept()
        assert await server.receive_some() == b"x"
        known = clients.find(name_of(server))
        assert known == GrpcClient("127.0.0.1", client_port)
        assert clients.find("unix-abstract:1") is None
        await until(lambda: known.traffic.received_bytes == 1)
        assert known.traffic.sent_bytes == 0
        await server.send_all(b"answer")
        assert await client.receive_some() == b"answer"
        await until(lambda: known.traffic.sent_bytes == 6)
        await client.aclose()
        assert await read_all(server) == b""
        await server.aclose()
        await until(lambda: len(clients) == 0)


async def test_every_connection_has_a_name_of_its_own():
    async with open_relay() as (target, address, clients), AsyncExitStack() as stack:
        names = set()
        for count in range(1, 5):
            await stack.enter_async_context(await speaking(address))
            names.add(name_of(await stack.enter_async_context(await target.accept())))
            await until(lambda: len(clients) == count)  # noqa: B023  it is waited for here
            assert len(names) == count
        assert {clients.find(name).host for name in names} == {"127.0.0.1"}


async def test_a_connection_waits_while_the_servers_queue_is_full(socket_path, monkeypatch):
    """A Unix socket refuses a connection when the queue is full; TCP would try again."""
    was_refused, sleep = trio.Event(), trio.sleep

    async def noted_sleep(seconds):
        if seconds == byte_relay.CONNECT_PAUSE_S:
            was_refused.set()
        await sleep(seconds)

    monkeypatch.setattr(trio, "sleep", noted_sleep)
    queue = socket.socket(socket.AF_UNIX)
    queue.bind(str(socket_path))
    queue.listen(0)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    relay = RelaySettings(target=socket_path, clients=ClientRegistry())
    with queue, socket.socket(socket.AF_UNIX) as first:
        first.connect(str(socket_path))
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_byte_relay, listeners, relay, handler_nursery=nursery))
            async with await speaking(listeners[0].socket.getsockname()) as client:
                await client.send_all(b"x")
                await was_refused.wait()
                queue.accept()[0].close()
                accepted, name = await trio.to_thread.run_sync(queue.accept)
                with accepted:
                    assert name[:1] == b"\0"
                    assert await trio.to_thread.run_sync(accepted.recv, 1) == b"x"
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_client_that_stops_reading_stops_the_server():
    """Slow: the server sends for half a second."""
    async with open_relay() as (target, address, _):
        client = await speaking(address)
        async with client, await target.accept() as server:
            sent = 0
            with trio.move_on_after(0.5):
                while True:
                    await server.send_all(bytes(64 * 1024))
                    sent += 64 * 1024
            # The socket buffers of two connections on this machine, and at most a chunk in between.
            assert sent < 32 << 20
            received = 0
            while received < sent:
                received += len(await client.receive_some(1 << 20))


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_on_one_side_closes_the_other(who):
    async with open_relay() as (target, address, clients):
        client = await speaking(address)
        server = await target.accept()
        await server.receive_some()
        here, there = (client, server) if who == "client" else (server, client)
        here.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        here.socket.close()
        assert await is_ended(there)
        await there.aclose()
        await until(lambda: len(clients) == 0)


async def test_without_a_target_the_connection_is_closed(caplog):
    async with open_relay() as (target, address, _):
        await target.listener.aclose()
        client = await speaking(address)
        assert await is_ended(client)
        await client.aclose()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_connections_past_the_bound_are_closed_at_once():
    seats = Seats("gRPC", lambda: 1)
    async with open_relay(seats=seats) as (target, address, _):
        first = await speaking(address)
        async with first, await target.accept() as server:
            await until(lambda: seats.open_count == 1)
            assert await server.receive_some() == b"x"
            async with await speaking(address) as second:
                assert await is_ended(second)
            await first.send_all(b"still here")
            assert await server.receive_some() == b"still here"
    assert (seats.open_count, seats.refused, seats.given_up) == (0, 1, 0)


async def test_a_connection_that_has_not_said_anything_makes_room_for_a_newcomer():
    seats = Seats("gRPC", lambda: 1)
    async with open_relay(seats=seats) as (target, address, _), await trio.open_tcp_stream(*address) as silent:
        await until(lambda: seats.open_count == 1)
        client = await speaking(address)
        async with client, await target.accept() as server:
            assert await server.receive_some() == b"x"
        assert await is_ended(silent)
    assert (seats.refused, seats.given_up) == (0, 1)


async def test_a_connection_that_stays_silent_is_let_go(monkeypatch):
    monkeypatch.setattr(byte_relay, "HANDSHAKE_TIMEOUT_S", 0.05)
    seats = Seats("gRPC", lambda: 9)
    async with open_relay(seats=seats) as (_, address, _), await trio.open_tcp_stream(*address) as silent:
        assert await is_ended(silent)
        await until(lambda: seats.open_count == 0)


async def test_open_connections_outlive_the_accept_loop(socket_path):
    target_listener = Target(socket_path).listener
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    relay = RelaySettings(target=socket_path, clients=ClientRegistry())
    async with target_listener, trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            await accepting.start(partial(serve_byte_relay, listeners, relay, handler_nursery=connections))
            client = await speaking(address)
            server = await target_listener.accept()
            assert await server.receive_some() == b"x"
            accepting.cancel_scope.cancel()
        with pytest.raises(OSError, match=r"all attempts to connect"):
            await trio.open_tcp_stream(*address)
        await client.send_all(b"late")
        assert await server.receive_some() == b"late"
        await server.aclose()
        assert await read_all(client) == b""
        await client.aclose()


async def test_a_cancelled_connection_closes_both_sockets():
    async with open_relay() as (target, address, _):
        client = await speaking(address)
        server = await target.accept()
        assert await server.receive_some() == b"x"
    for stream in (client, server):
        assert await is_ended(stream)
        await stream.aclose()


async def connect_tls(address, authority: Authority, name: str | None) -> trio.SSLStream[trio.SocketStream]:
    context = authority.client_context(name)
    plain = await trio.open_tcp_stream(*address)
    secured = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
    await secured.do_handshake()
    return secured


async def test_mutual_tls_ends_at_the_relay(authority):
    async with open_relay(tls_context=authority.server_context) as (target, address, clients):
        client = await connect_tls(address, authority, "filer.example.org")
        async with client:
            assert client.selected_alpn_protocol() == "h2"
            async with await target.accept() as server:
                await client.send_all(b"secret")
                assert await server.receive_some() == b"secret"
                known = clients.find(name_of(server))
                assert known is not None
                assert known.common_name == "filer.example.org"
                await server.send_all(b"answer")
                await server.aclose()
                assert await read_all(client) == b"answer"


@pytest.mark.parametrize(
    ("names", "common_name", "is_let_in"),
    [
        (ClientNames(), "anyone", True),
        (ClientNames(("volume01", "filer01")), "filer01", True),
        (ClientNames(("volume01",)), "filer01", False),
        (ClientNames((), ".example.org"), "filer.example.org", True),
        (ClientNames((), ".example.org"), "filer.example.com", False),
        (ClientNames(("filer01",), ".example.org"), "filer01", True),
        (ClientNames((), ".example.org"), "", False),
        (ClientNames(("",)), "", False),
    ],
)
async def test_client_certificate_names(authority, names, common_name, is_let_in):
    async with open_relay(tls_context=authority.server_context, client_names=names) as (target, address, _):
        client = await connect_tls(address, authority, common_name)
        async with client:
            if is_let_in:
                async with await target.accept() as server:
                    await client.send_all(b"x")
                    assert await server.receive_some() == b"x"
            else:
                assert await read_all(client) == b""


async def test_without_a_client_certificate_there_is_no_connection(authority):
    async with open_relay(tls_context=authority.server_context) as (_, address, clients):
        try:
            async with await connect_tls(address, authority, None) as client:
                assert await read_all(client) == b""  # TLS 1.3 clients hear of it when they read
        except trio.BrokenResourceError:
            pass  # TLS 1.2 clients hear of it in the handshake
        assert len(clients) == 0


async def test_plaintext_on_a_tls_port_is_closed(authority):
    async with open_relay(tls_context=authority.server_context) as (_, address, clients):
        async with await trio.open_tcp_stream(*address) as client:
            await client.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            await read_all(client)
        assert len(clients) == 0


async def test_the_context_is_asked_for_each_connection(authority):
    contexts = [None, authority.server_context()]
    async with open_relay(tls_context=lambda: contexts.pop(0)) as (target, address, _):
        async with await speaking(address), await target.accept() as server:
            assert await server.receive_some() == b"x"
        async with await connect_tls(address, authority, "a"), await target.accept():
            assert contexts == []


async def test_a_silent_tls_client_is_let_go(authority, monkeypatch):
    monkeypatch.setattr("supervisor.net.byte_relay.HANDSHAKE_TIMEOUT_S", 0.05)
    async with open_relay(tls_context=authority.server_context) as (_, address, _clients):
        client = await trio.open_tcp_stream(*address)
        assert await is_ended(client)
        await client.aclose()
