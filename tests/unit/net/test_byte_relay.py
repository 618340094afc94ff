"""The byte relay: bytes, ends and peers, over real sockets on loopback."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from byte_relay_certificates import Authority

from supervisor.net.byte_relay import RelaySettings, serve_byte_relay
from supervisor.net.grpc_client_names import ClientNames
from supervisor.net.grpc_peers import Peer, PeerRegistry

DEADLINE_S = 20.0


@pytest.fixture(autouse=True)
async def deadline():
    with trio.fail_after(DEADLINE_S):
        yield


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


class Target:
    """What the relay connects to: hands each connection to the test."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self.listener = listener
        self.port = listener.socket.getsockname()[1]

    async def accept(self) -> trio.SocketStream:
        return await self.listener.accept()


@asynccontextmanager
async def open_relay(**settings):
    """(target, address of the relay, registry); all of it is gone afterwards."""
    [target_listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    peers = PeerRegistry()
    async with target_listener, trio.open_nursery() as nursery:
        target = Target(target_listener)
        relay = RelaySettings(target_port=target.port, peers=peers, **settings)
        await nursery.start(partial(serve_byte_relay, listeners, relay, handler_nursery=nursery))
        yield target, listeners[0].socket.getsockname(), peers
        nursery.cancel_scope.cancel()
    assert len(peers) == 0


async def wait_until(condition) -> None:
    while not condition():  # noqa: ASYNC110  what is waited for has no event
        await trio.sleep(0.001)


async def is_ended(stream: trio.abc.ReceiveStream) -> bool:
    """Whether the other end closes the connection, in whatever way, without sending anything."""
    try:
        return await stream.receive_some() == b""
    except trio.BrokenResourceError:
        return True


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def test_bytes_go_both_ways_and_half_closes_go_through():
    async with open_relay() as (target, address, _):
        client = await trio.open_tcp_stream(*address)
        async with client, await target.accept() as server:
            await client.send_all(b"question")
            await client.send_eof()
            assert await read_all(server) == b"question"
            await server.send_all(b"answer")
            await server.aclose()
            assert await read_all(client) == b"answer"


async def test_the_peer_is_known_before_the_first_byte_and_forgotten_after():
    async with open_relay() as (target, address, peers):
        client = await trio.open_tcp_stream(*address)
        client_port = client.socket.getsockname()[1]
        server = await target.accept()
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"
        relay_port = server.socket.getpeername()[1]
        assert peers.find(f"ipv4:127.0.0.1:{relay_port}") == Peer("127.0.0.1", client_port)
        assert peers.find("ipv4:127.0.0.1:1") is None
        await client.aclose()
        assert await read_all(server) == b""
        await server.aclose()
        await wait_until(lambda: len(peers) == 0)


async def test_a_client_that_stops_reading_stops_the_server():
    async with open_relay() as (target, address, _):
        client = await trio.open_tcp_stream(*address)
        async with client, await target.accept() as server:
            sent = 0
            with trio.move_on_after(0.5):
                while True:
                    await server.send_all(bytes(64 * 1024))
                    sent += 64 * 1024
            # The socket buffers of two connections on this machine, and no more than a chunk in between.
            assert sent < 32 << 20
            received = 0
            with trio.move_on_after(0.2):
                while True:
                    received += len(await client.receive_some(1 << 20))
            assert received >= sent


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_on_one_side_closes_the_other(who):
    async with open_relay() as (target, address, peers):
        client = await trio.open_tcp_stream(*address)
        server = await target.accept()
        await client.send_all(b"x")
        await server.receive_some()
        here, there = (client, server) if who == "client" else (server, client)
        here.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        here.socket.close()
        assert await is_ended(there)
        await there.aclose()
        await wait_until(lambda: len(peers) == 0)


async def test_without_a_target_the_connection_is_closed(caplog):
    async with open_relay() as (target, address, _):
        await target.listener.aclose()
        client = await trio.open_tcp_stream(*address)
        assert await is_ended(client)
        await client.aclose()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_connections_past_the_bound_are_closed_at_once():
    async with open_relay(max_connections=1) as (target, address, _):
        first = await trio.open_tcp_stream(*address)
        async with first, await target.accept() as server:
            async with await trio.open_tcp_stream(*address) as second:
                assert await is_ended(second)
            await first.send_all(b"still here")
            assert await server.receive_some() == b"still here"


async def test_open_connections_outlive_the_accept_loop():
    [target_listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    relay = RelaySettings(target_port=target_listener.socket.getsockname()[1], peers=PeerRegistry())
    async with target_listener, trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            await accepting.start(partial(serve_byte_relay, listeners, relay, handler_nursery=connections))
            client = await trio.open_tcp_stream(*address)
            server = await target_listener.accept()
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
        client = await trio.open_tcp_stream(*address)
        server = await target.accept()
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
    async with open_relay(tls_context=authority.server_context) as (target, address, peers):
        client = await connect_tls(address, authority, "filer.example.org")
        async with client:
            assert client.selected_alpn_protocol() == "h2"
            async with await target.accept() as server:
                await client.send_all(b"secret")
                assert await server.receive_some() == b"secret"
                peer = peers.find(f"ipv4:127.0.0.1:{server.socket.getpeername()[1]}")
                assert peer is not None
                assert peer.common_name == "filer.example.org"
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
    async with open_relay(tls_context=authority.server_context) as (_, address, peers):
        try:
            async with await connect_tls(address, authority, None) as client:
                assert await read_all(client) == b""  # TLS 1.3 clients hear of it when they read
        except trio.BrokenResourceError:
            pass  # TLS 1.2 clients hear of it in the handshake
        assert len(peers) == 0


async def test_plaintext_on_a_tls_port_is_closed(authority):
    async with open_relay(tls_context=authority.server_context) as (_, address, peers):
        async with await trio.open_tcp_stream(*address) as client:
            await client.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            await read_all(client)
        assert len(peers) == 0


async def test_the_context_is_asked_for_each_connection(authority):
    contexts = [None, authority.server_context()]
    async with open_relay(tls_context=lambda: contexts.pop(0)) as (target, address, _):
        async with await trio.open_tcp_stream(*address) as plain, await target.accept() as server:
            await plain.send_all(b"x")
            assert await server.receive_some() == b"x"
        async with await connect_tls(address, authority, "a"), await target.accept():
            assert contexts == []


async def test_a_silent_tls_client_is_let_go(authority, monkeypatch):
    monkeypatch.setattr("supervisor.net.byte_relay.HANDSHAKE_TIMEOUT_S", 0.05)
    async with open_relay(tls_context=authority.server_context) as (_, address, _peers):
        client = await trio.open_tcp_stream(*address)
        assert await is_ended(client)
        await client.aclose()
