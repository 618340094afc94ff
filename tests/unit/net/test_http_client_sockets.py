"""The client pool on real sockets: dead idle connections are noticed, a gigabyte passes, volume servers over TLS."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from support.certificate_authority import Authority
from support.descriptors import open_descriptors
from support.http_serving import echo, limits, read_head
from support.waiting import LIMIT_S, until

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Response, StreamBody
from native_handlers.http_model.volume_servers import VolumeServerFailed, VolumeServerFailureKind
from supervisor.net import http_exchange
from supervisor.net.errors import BadCertificate
from supervisor.net.http_client import Address, HttpPool, PoolLimits, TcpConnector
from supervisor.net.http_connect import source_address
from supervisor.net.http_exchange import Exchange
from supervisor.net.http_forward import Forwarder
from supervisor.net.http_server import serve_http
from supervisor.net.http_volume_servers import VolumeServerClient
from supervisor.net.listeners import open_listener
from supervisor.net.tls import TlsContextSource, TlsSettings, client_context
from supervisor.wire.http1_events import RequestHead

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = RequestHead("GET", "/", Headers([("Host", "x")]))


@asynccontextmanager
async def scripted(script):
    """A TCP server that runs `script(stream)` for each connection. Yields its address and the list of connections."""
    connections = []

    async def handle(stream):
        connections.append(stream)
        await script(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        with trio.fail_after(LIMIT_S):
            yield Address("127.0.0.1", listener.socket.getsockname()[1]), connections
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving_on(handle, tls=None):
    listener = open_listener("127.0.0.1", 0, tls=tls)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_http([listener], handle, limits=limits()))
        with trio.fail_after(LIMIT_S):
            yield f"127.0.0.1:{listener.port}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("farewell", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_a_kept_connection_that_the_server_has_closed_or_spoken_on_is_not_used(farewell):
    async def script(stream):
        await read_head(stream)
        await stream.send_all(OK)
        if farewell:
            await until(lambda: pool.idle_count, "the client to keep the connection")
            await stream.send_all(farewell)
            with suppress(trio.BrokenResourceError):
                await stream.receive_some()
        await stream.aclose()

    pool = HttpPool()
    async with scripted(script) as (address, connections):
        for count in (1, 2, 3):
            # A POST must not be sent twice, so the client must notice before it sends.
            answer = await Exchange(pool, address).send_whole(RequestHead("POST", "/", GET.headers), b"")
            assert (answer.head.status, answer.body, len(connections)) == (200, b"ok", count)
            await until_not_idle(pool, address)
        await pool.drop_idle()


async def until_not_idle(pool, address):
    kept = list(pool.idle_connections(address))
    await until(lambda: not any(one.is_idle for one in kept), "the client to see that the server has closed or spoken")


async def test_a_kept_connection_is_used_again_and_dropped_when_asked():
    async def script(stream):
        while (await read_head(stream))[0]:
            await stream.send_all(OK)

    async with scripted(script) as (address, connections):
        pool = HttpPool()
        for _ in range(3):
            await Exchange(pool, address).send_whole(GET, b"")
        assert len(connections) == 1
        await pool.drop_idle()
        await Exchange(pool, address).send_whole(GET, b"")
        assert len(connections) == 2
        await pool.drop_idle()


async def test_kept_connections_count_towards_the_bound_of_the_pool():
    """Descriptors are bounded with any number of servers."""

    async def script(stream):
        with suppress(trio.BrokenResourceError):
            while (await read_head(stream))[0]:
                await stream.send_all(OK)

    async with AsyncExitStack() as servers:
        addresses = [(await servers.enter_async_context(scripted(script)))[0] for _ in range(5)]
        pool = HttpPool(PoolLimits(max_connections=3))
        before = open_descriptors()
        for address in addresses:
            await Exchange(pool, address).send_whole(GET, b"")
            kept = sum(len(pool.idle_connections(one)) for one in addresses)
            assert kept == pool.idle_count <= 3
        kept = [await pool.acquire(address, is_fresh=True) for address in addresses[:3]]
        assert pool.idle_count == 0
        await trio.testing.wait_all_tasks_blocked()
        # Each connection has two ends here.
        assert len(open_descriptors() - before) <= 2 * 3
        for address, one in zip(addresses, kept, strict=False):
            await pool.release(address, one)
        await pool.drop_idle()
        assert pool.idle_count == 0


async def chunks(*pieces):
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_volume_server_is_asked(is_tls, tmp_path):
    authority = Authority(tmp_path)
    tls = None
    if is_tls:
        certificate, key = authority.issue("server")
        tls = TlsContextSource(TlsSettings(cert=certificate, key=key, ca=authority.ca), trio.current_time)
    context = client_context(*authority.issue("client"), authority.ca) if is_tls else None
    pool = HttpPool(connect=TcpConnector(tls=context))
    volume_servers = VolumeServerClient(pool)
    async with serving_on(echo, tls) as address:
        for body in (b"", b"hello", chunks(b"he", b"", b"llo"), b"x" * 300_000):
            response = await volume_servers.request(
                "POST", address, "/3,01?type=replicate", Headers([("A", "1")]), body
            )
            got = b"".join([chunk async for chunk in response.chunks])
            assert response.headers.get("X-Saw") == "POST /3,01?type=replicate"
            assert got == (body if isinstance(body, bytes) else b"hello")
    await pool.drop_idle()


async def test_a_stream_of_declared_length_is_sent_with_it():
    async def handle(request):
        return Response(200, body=str(request.body.length_bytes).encode())

    async with serving_on(handle) as address:
        pool = HttpPool()
        fields = Headers([("Content-Length", "5")])
        response = await VolumeServerClient(pool).request("PUT", address, "/", fields, chunks(b"he", b"llo"))
        assert b"".join([chunk async for chunk in response.chunks]) == b"5"
        await response.chunks.aclose()
        await pool.drop_idle()


async def test_a_volume_server_that_is_not_there_is_said_to_refuse():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(VolumeServerFailed, match="connection refused") as caught:
            await VolumeServerClient(HttpPool()).request("GET", address, "/", Headers(), b"")
    assert caught.value.kind is VolumeServerFailureKind.CONNECTION_REFUSED


@pytest.mark.parametrize("address", ["nowhere", "host:port", ""])
async def test_an_address_that_is_none_fails_as_a_volume_server(address):
    with pytest.raises(VolumeServerFailed, match="server address"):
        await VolumeServerClient(HttpPool()).request("GET", address, "/", Headers(), b"")


async def test_a_volume_server_that_breaks_off_its_body_fails_the_reading():
    async def script(stream):
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await stream.aclose()

    async with scripted(script) as (address, _):
        response = await VolumeServerClient(HttpPool()).request("GET", str(address), "/", Headers(), b"")
        assert await anext(response.chunks) == b"half"
        with pytest.raises(VolumeServerFailed, match="broke off"):
            await anext(response.chunks)
        await response.chunks.aclose()


async def test_an_answer_that_is_given_up_closes_its_connection():
    ended = trio.Event()

    async def endless():
        try:
            while True:
                yield b"x" * 100_000
        finally:
            ended.set()

    async def handle(request):
        return Response(200, body=StreamBody(endless()))

    async with serving_on(handle) as address:
        response = await VolumeServerClient(HttpPool()).request("GET", address, "/", Headers(), b"")
        await anext(response.chunks)
        await response.chunks.aclose()
        await ended.wait()


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("10.0.0.5", "10.0.0.9", "10.0.0.5"),
        ("", "10.0.0.9", None),
        ("0.0.0.0", "10.0.0.9", None),
        ("10.0.0.5", "127.0.0.1", None),
        ("10.0.0.5", "fd00::1", None),
        ("fd00::2", "fd00::1", "fd00::2"),
        ("some.name", "10.0.0.9", None),
        ("10.0.0.5", "some.name", None),
    ],
)
def test_the_address_to_connect_from(source, target, expected):
    assert source_address(source, target) == expected


async def test_a_client_that_resets_while_it_waits_ends_the_backends_request(monkeypatch):
    monkeypatch.setattr(http_exchange, "WATCH_AFTER_S", 0.01)
    asked, ended = trio.Event(), trio.Event()

    async def script(stream):
        await read_head(stream)
        asked.set()
        with suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
        ended.set()

    async with (
        scripted(script) as (backend, _),
        serving_on(Forwarder(HttpPool(), lambda _: backend).forward) as address,
    ):
        host, port = address.split(":")
        client = await trio.open_tcp_stream(host, int(port))
        await client.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await client.aclose()
        await ended.wait()


async def test_a_server_that_speaks_no_tls_fails_over_tls():
    async def script(stream):
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    async with scripted(script) as (address, _):
        pool = HttpPool(connect=TcpConnector(tls=client_context(None, None, None)))
        with pytest.raises(VolumeServerFailed, match="no TLS"):
            await VolumeServerClient(pool).request("GET", str(address), "/", Headers(), b"")


@pytest.mark.parametrize("host", ["a..b", ".x", "x" * 64])
async def test_a_host_that_no_resolver_takes_is_one_that_cannot_be_reached(host):
    """A volume server tells its master any name that it likes, and others are told that name."""
    with pytest.raises(VolumeServerFailed) as caught:
        await VolumeServerClient(HttpPool()).request("GET", f"{host}:8080", "/", Headers(), b"")
    assert caught.value.kind is not VolumeServerFailureKind.CONNECTION_REFUSED


async def test_a_certificate_need_not_be_verified_where_that_is_asked_for(tmp_path):
    certificate, key = Authority(tmp_path).issue("server")
    tls = TlsContextSource(TlsSettings(cert=certificate, key=key), trio.current_time)
    async with serving_on(echo, tls) as address:
        pool = HttpPool(connect=TcpConnector(tls=client_context(None, None, None, verifies=False)))
        response = await VolumeServerClient(pool).request("GET", address, "/x", Headers(), b"")
        assert response.headers.get("X-Saw") == "GET /x"
        await pool.drop_idle()
        with pytest.raises(VolumeServerFailed, match="no TLS"):
            await VolumeServerClient(HttpPool(connect=TcpConnector(tls=client_context(None, None, None)))).request(
                "GET", address, "/x", Headers(), b""
            )


def test_a_certificate_to_show_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadCertificate, match=r"gone\.pem"):
        client_context(tmp_path / "gone.pem", tmp_path / "gone.key", None)
