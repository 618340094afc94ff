"""The server on real sockets: files, TLS with changing files, draining, listening and accepting."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from contextlib import asynccontextmanager, suppress

import h11
import pytest
import trio
from byte_relay_certificates import Authority
from http_harness import PagedSource, Peer, echo, limits

from native_handlers.http.message import FileBody, FileSlice, Listener, Response, StreamBody
from supervisor.net.errors import BadCertificate, CannotListen
from supervisor.net.http_server import serve_http
from supervisor.net.listeners import BoundListener, accept, open_listener, peer_of
from supervisor.net.tls import CHECK_INTERVAL_S, TlsContextSource, TlsSettings, client_context, server_context

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
MIB = 1024 * 1024


@asynccontextmanager
async def serving_on(handle, *, tls=None, **changes):
    """A server on a free loopback port. Yields (port, accept scope)."""
    listener = open_listener("127.0.0.1", 0, tls=tls)
    async with trio.open_nursery() as nursery:
        scope = await nursery.start(_serve, listener, handle, limits(**changes))
        with trio.fail_after(10):
            yield listener.port, scope
        nursery.cancel_scope.cancel()


async def _serve(listener, handle, http_limits, *, task_status):
    await serve_http([listener], handle, limits=http_limits, task_status=task_status)


@asynccontextmanager
async def connected(port, context=None):
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    if context is not None:
        stream = trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)
    async with stream:
        yield Peer(stream)


async def test_peer_and_listener_are_told_to_the_handler():
    async def handle(request):
        return Response(200, body=f"{request.peer_host} {request.peer_port} {request.listener.value}".encode())

    async with serving_on(handle) as (port, _), connected(port) as client:
        mine = client.stream.socket.getsockname()[1]
        assert (await client.ask(GET)).body == f"127.0.0.1 {mine} admin".encode()


@pytest.mark.parametrize("is_tls", [False, True])
async def test_files_are_sent_between_bytes(is_tls, tmp_path):
    data = os.urandom(5 * MIB + 123)
    file = PagedSource(data)
    parts = [b"head", FileSlice(file, 0, 10), b"", FileSlice(file, 5, len(data) - 5), b"tail"]
    closed = []

    async def handle(request):
        return Response(200, body=FileBody(parts), close=lambda: closed.append(1))

    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tls = TlsContextSource(TlsSettings(cert=certificate, key=key), trio.current_time) if is_tls else None
    context = client_context(None, None, authority.ca) if is_tls else None
    async with serving_on(handle, tls=tls) as (port, _), connected(port, context) as client:
        for _ in range(2):
            assert (await client.ask(GET)).body == b"head" + data[:10] + data[5:] + b"tail"
    assert closed == [1, 1]


async def test_a_file_that_is_shorter_than_it_should_be_cuts_the_connection():
    file = PagedSource(b"x" * 100)

    async def handle(request):
        return Response(200, body=FileBody([FileSlice(file, 90, 20)]))

    async with serving_on(handle) as (port, _), connected(port) as client:
        await client.send(GET)
        with pytest.raises(trio.BrokenResourceError):
            await client.read_to_end()


async def test_draining_closes_the_listener_and_waits_for_what_runs():
    began, may_end = trio.Event(), trio.Event()

    async def handle(request):
        began.set()
        await may_end.wait()
        return Response(200)

    async with serving_on(handle) as (port, scope), connected(port) as busy, connected(port) as idle:
        await busy.send(GET)
        await began.wait()
        scope.cancel()
        assert await idle.is_closed()
        with pytest.raises(OSError):  # noqa: PT011
            await trio.open_tcp_stream("127.0.0.1", port)
        may_end.set()
        assert (await busy.answer()).headers["connection"] == "close"
        assert await busy.is_closed()


async def test_what_still_runs_at_the_end_of_the_drain_is_cut():
    began = trio.Event()

    async def handle(request):
        began.set()
        await trio.sleep_forever()

    listener = open_listener("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        scope = await nursery.start(_serve, listener, handle, limits(drain_s=0.05))
        async with connected(listener.port) as client:
            await client.send(GET)
            await began.wait()
            scope.cancel()
            with pytest.raises(trio.BrokenResourceError):
                await client.read_to_end()


async def test_one_connection_that_breaks_does_not_end_the_others():
    async def endless():
        while True:
            yield b"x" * 100_000

    async def handle(request):
        return Response(200, body=StreamBody(endless())) if request.target == "/endless" else await echo(request)

    async with serving_on(handle) as (port, _), connected(port) as steady:
        for _ in range(3):
            async with connected(port) as client:
                await client.send(GET.replace(b"/a", b"/endless"))
                await client.stream.receive_some()
                client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            assert (await steady.ask(GET)).status == 200


async def test_more_connections_than_allowed_wait_their_turn():
    async with serving_on(echo, max_connections=1) as (port, _):
        async with connected(port) as first:
            await first.ask(GET)
            second = await trio.open_tcp_stream("127.0.0.1", port)
            await second.send_all(GET)
            with trio.move_on_after(0.02) as scope:
                await second.receive_some()
            assert scope.cancelled_caught
        assert (await Peer(second).answer()).status == 200
        await second.aclose()


# --- TLS


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def settings_of(authority, name="server", **changes):
    certificate, key = authority.issue(name)
    return TlsSettings(cert=certificate, key=key, **changes)


async def test_tls_is_told_to_the_handler_and_survives_a_change_of_files(authority):
    async def handle(request):
        return Response(200, body=str(request.is_tls).encode())

    now_s = 0.0
    source = TlsContextSource(settings_of(authority), lambda: now_s)
    context = client_context(None, None, authority.ca)
    async with serving_on(handle, tls=source) as (port, _), connected(port, context) as old:
        assert (await old.ask(GET)).body == b"True"
        before = old.stream.getpeercert(binary_form=True)
        authority.issue("server")
        now_s += CHECK_INTERVAL_S
        async with connected(port, context) as new:
            assert (await new.ask(GET)).body == b"True"
            assert new.stream.getpeercert(binary_form=True) != before
        assert (await old.ask(GET)).body == b"True"


def test_bad_files_keep_the_old_context_until_good_ones_come(authority, caplog):
    settings = settings_of(authority)
    now_s = 0.0
    source = TlsContextSource(settings, lambda: now_s)
    first = source.current()
    good = settings.key.read_bytes()
    settings.key.write_bytes(b"garbage")
    now_s += CHECK_INTERVAL_S
    assert source.current() is first
    assert "the old ones stay in use" in caplog.text
    settings.key.write_bytes(good)
    assert source.current() is first, "not looked at again so soon"
    now_s += CHECK_INTERVAL_S
    assert source.current() is not first


@pytest.mark.parametrize("has_certificate", [True, False])
async def test_a_server_with_a_ca_asks_for_a_client_certificate(authority, has_certificate):
    source = TlsContextSource(settings_of(authority, ca=authority.ca), trio.current_time)
    mine = authority.issue("client") if has_certificate else (None, None)
    context = client_context(*mine, authority.ca)
    async with serving_on(echo, tls=source) as (port, _), connected(port, context) as client:
        if has_certificate:
            assert (await client.ask(GET)).status == 200
        else:
            with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):
                await client.ask(GET)


async def test_a_minimum_version_holds(authority):
    source = TlsContextSource(settings_of(authority, min_version="TLS 1.3"), trio.current_time)
    context = client_context(None, None, authority.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving_on(echo, tls=source) as (port, _), connected(port, context) as client:
        with pytest.raises(trio.BrokenResourceError):
            await client.ask(GET)


async def test_listed_ciphers_are_the_ones_in_use(authority):
    names = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256"
    source = TlsContextSource(settings_of(authority, max_version="TLS 1.2", cipher_suites=names), trio.current_time)
    context = client_context(None, None, authority.ca)
    async with serving_on(echo, tls=source) as (port, _), connected(port, context) as client:
        assert (await client.ask(GET)).status == 200
        assert client.stream.cipher()[:2] == ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLSv1.2")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"min_version": "TLS 9"}, "'TLS 9' is no TLS version; known are TLS 1.0"),
        ({"cipher_suites": "RC4"}, "tls.cipher_suites: 'RC4' is none of TLS_ECDHE"),
    ],
)
def test_settings_that_mean_nothing_are_named(authority, changes, why):
    with pytest.raises(BadCertificate, match=why):
        server_context(settings_of(authority, **changes))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadCertificate, match=r"gone\.pem"):
        server_context(TlsSettings(cert=tmp_path / "gone.pem", key=tmp_path / "gone.key"))


async def test_a_client_that_speaks_no_tls_disturbs_nobody(authority):
    source = TlsContextSource(settings_of(authority), trio.current_time)
    async with serving_on(echo, tls=source) as (port, _):
        async with connected(port) as plain:
            await plain.send(GET)
            with trio.fail_after(5), suppress(trio.BrokenResourceError):
                await plain.read_to_end()
        async with connected(port, client_context(None, None, authority.ca)) as client:
            assert (await client.ask(GET)).status == 200


# --- listening


def test_a_port_that_is_taken_is_said_so():
    with open_listener("127.0.0.1", 0).sock as held:
        port = held.getsockname()[1]
        with pytest.raises(CannotListen, match=f"cannot listen on 127.0.0.1:{port}: the port is in use"):
            open_listener("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "why"), [("192.0.2.1", "no such address"), ("no.such.name.invalid", "the name is not known")]
)
def test_a_host_that_is_not_ours_is_said_so(host, why):
    with pytest.raises(CannotListen, match=why):
        open_listener(host, 0)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "[::]"])
async def test_a_wildcard_takes_both_families_and_shows_ipv4_peers_as_such(host):
    listener = open_listener(host, 0)
    with listener.sock:
        for target, shown in [("127.0.0.1", "127.0.0.1"), ("::1", "::1")]:
            async with await trio.open_tcp_stream(target, listener.port):
                with await accept(listener) as sock:
                    assert peer_of(sock)[0] == shown


@pytest.mark.parametrize(("host", "family"), [("localhost", socket.AF_INET), ("[::1]", socket.AF_INET6)])
def test_a_name_means_its_ipv4_address_and_brackets_are_taken_off(host, family):
    with open_listener(host, 0, Listener.PUBLIC).sock as sock:
        assert sock.family is family


class Overloaded:
    """A listening socket whose first accepts fail."""

    def __init__(self, sock: socket.socket, *errnos: int) -> None:
        self._sock = sock
        self._errnos = list(errnos)
        self.fileno = sock.fileno
        self.getsockname = sock.getsockname

    def accept(self):
        if self._errnos:
            raise OSError(self._errnos.pop(0), "overloaded")
        return self._sock.accept()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED])
async def test_accepting_goes_on_after_an_overload(code):
    real = open_listener("127.0.0.1", 0)
    with real.sock:
        async with await trio.open_tcp_stream("127.0.0.1", real.port):
            with trio.fail_after(2):
                (await accept(BoundListener(Overloaded(real.sock, code, code)))).close()


async def test_an_error_of_the_listening_socket_itself_is_not_hidden():
    real = open_listener("127.0.0.1", 0)
    with real.sock, pytest.raises(OSError, match="overloaded"):
        await accept(BoundListener(Overloaded(real.sock, errno.EBADF)))
