"""The client pool on real sockets: dead kept connections are noticed, a gigabyte fits through, peers over TLS."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from byte_relay_certificates import Authority
from http_harness import echo, limits, read_head

from native_handlers.http.context import PeerFailed, PeerFailureKind
from native_handlers.http.headers import Headers
from native_handlers.http.message import Response, StreamBody
from supervisor.net import http_exchange
from supervisor.net.errors import BadCertificate
from supervisor.net.http_client import Address, HttpPool, TcpConnector
from supervisor.net.http_connect import source_address
from supervisor.net.http_exchange import Exchange
from supervisor.net.http_forward import Forwarder
from supervisor.net.http_peer import PeerClient
from supervisor.net.http_server import serve_http
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
        with trio.fail_after(10):
            yield Address("127.0.0.1", listener.socket.getsockname()[1]), connections
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving_on(handle, tls=None):
    listener = open_listener("127.0.0.1", 0, tls=tls)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_http([listener], handle, limits=limits()))
        with trio.fail_after(30):
            yield f"127.0.0.1:{listener.port}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("farewell", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_a_kept_connection_that_the_server_has_closed_or_spoken_on_is_not_used(farewell):
    async def script(stream):
        await read_head(stream)
        await stream.send_all(OK)
        if farewell:
            await trio.sleep(0.01)
            await stream.send_all(farewell)
            with suppress(trio.BrokenResourceError):
                await stream.receive_some()
        await stream.aclose()

    async with scripted(script) as (address, connections):
        pool = HttpPool()
        for count in (1, 2, 3):
            # A POST, which must not be sent twice, so only noticing beforehand helps.
            answer = await Exchange(pool, address).send_whole(RequestHead("POST", "/", GET.headers), b"")
            assert (answer.head.status, answer.body, len(connections)) == (200, b"ok", count)
            await until_not_quiet(pool, address)
        await pool.drop_idle()


async def until_not_quiet(pool, address):
    for link in pool._idle.get(address, ()):
        while link.is_quiet:
            await trio.lowlevel.checkpoint()


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


async def chunks(*pieces):
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_peer_is_asked(is_tls, tmp_path):
    authority = Authority(tmp_path)
    tls = None
    if is_tls:
        certificate, key = authority.issue("server")
        tls = TlsContextSource(TlsSettings(cert=certificate, key=key, ca=authority.ca), trio.current_time)
    context = client_context(*authority.issue("client"), authority.ca) if is_tls else None
    pool = HttpPool(connect=TcpConnector(tls=context))
    peers = PeerClient(pool)
    async with serving_on(echo, tls) as address:
        for body in (b"", b"hello", chunks(b"he", b"", b"llo"), b"x" * 300_000):
            response = await peers.request("POST", address, "/3,01?type=replicate", Headers([("A", "1")]), body)
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
        response = await PeerClient(pool).request("PUT", address, "/", fields, chunks(b"he", b"llo"))
        assert b"".join([chunk async for chunk in response.chunks]) == b"5"
        await response.chunks.aclose()
        await pool.drop_idle()


async def test_a_peer_that_is_not_there_is_said_to_refuse():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(PeerFailed, match="connection refused") as caught:
            await PeerClient(HttpPool()).request("GET", address, "/", Headers(), b"")
    assert caught.value.kind is PeerFailureKind.CONNECTION_REFUSED


@pytest.mark.parametrize("address", ["nowhere", "host:port", ""])
async def test_a_peer_address_that_is_none_fails_as_a_peer(address):
    with pytest.raises(PeerFailed, match="server address"):
        await PeerClient(HttpPool()).request("GET", address, "/", Headers(), b"")


async def test_a_peer_that_breaks_off_its_body_fails_the_reading():
    async def script(stream):
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await stream.aclose()

    async with scripted(script) as (address, _):
        response = await PeerClient(HttpPool()).request("GET", str(address), "/", Headers(), b"")
        assert await anext(response.chunks) == b"half"
        with pytest.raises(PeerFailed, match="broke off"):
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
        response = await PeerClient(HttpPool()).request("GET", address, "/", Headers(), b"")
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
        serving_on(Forwarder(HttpPool(), lambda: backend).forward) as address,
    ):
        host, port = address.split(":")
        client = await trio.open_tcp_stream(host, int(port))
        await client.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await client.aclose()
        await ended.wait()


async def test_a_server_that_speaks_no_tls_is_no_peer_over_tls():
    async def script(stream):
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    async with scripted(script) as (address, _):
        pool = HttpPool(connect=TcpConnector(tls=client_context(None, None, None)))
        with pytest.raises(PeerFailed, match="no TLS"):
            await PeerClient(pool).request("GET", str(address), "/", Headers(), b"")


async def test_a_certificate_need_not_be_verified_where_that_is_asked_for(tmp_path):
    certificate, key = Authority(tmp_path).issue("server")
    tls = TlsContextSource(TlsSettings(cert=certificate, key=key), trio.current_time)
    async with serving_on(echo, tls) as address:
        pool = HttpPool(connect=TcpConnector(tls=client_context(None, None, None, verifies=False)))
        response = await PeerClient(pool).request("GET", address, "/x", Headers(), b"")
        assert response.headers.get("X-Saw") == "GET /x"
        await pool.drop_idle()
        with pytest.raises(PeerFailed, match="no TLS"):
            await PeerClient(HttpPool(connect=TcpConnector(tls=client_context(None, None, None)))).request(
                "GET", address, "/x", Headers(), b""
            )


def test_a_certificate_to_show_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadCertificate, match=r"gone\.pem"):
        client_context(tmp_path / "gone.pem", tmp_path / "gone.key", None)
