"""The server on real sockets: files, TLS with changing files, draining, listening and accepting."""

from __future__ import annotations

import errno
import os
import resource
import socket
import ssl
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial

import h11
import pytest
import trio
from support.certificate_authority import Authority
from support.http_serving import PagedSource, RawClient, connected, echo, limits, serving, serving_on
from support.waiting import LIMIT_S, until

from native_handlers.http_model.message import FileBody, FileSlice, Listener, Response, StreamBody
from supervisor.net.errors import BadCertificate, CannotListen
from supervisor.net.http_server import answer_that_all_is_taken, serve_http
from supervisor.net.listeners import BoundListener, accept, client_address, open_listener
from supervisor.net.seats import Seats
from supervisor.net.tls import CHECK_INTERVAL_S, TlsContextSource, TlsSettings, client_context, server_context

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
MIB = 1024 * 1024


async def test_client_and_listener_are_told_to_the_handler():
    async def handle(request):
        return Response(200, body=f"{request.client_host} {request.client_port} {request.listener.value}".encode())

    async with serving_on(handle) as (port, _), connected(port) as client:
        mine = client.stream.socket.getsockname()[1]
        assert (await client.ask(GET)).body == f"127.0.0.1 {mine} admin".encode()


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.slow
async def test_files_are_sent_between_bytes(is_tls, tmp_path):
    """Slow: sends 20 MiB."""
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
        scope = await nursery.start(partial(serve_http, limits=limits(drain_s=0.05)), [listener], handle)
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


async def hold(request):
    """Answers at once, except /hold, which is never answered."""
    if request.target == "/hold":
        await trio.sleep_forever()
    return await echo(request)


HOLD = GET.replace(b"/a", b"/hold")


async def test_beyond_the_bound_a_newcomer_takes_the_place_of_an_idle_connection():
    seats = Seats("HTTP", lambda: 4)
    async with serving_on(hold, seats=seats) as (port, _), connected(port) as busy, connected(port) as silent:
        await busy.send(HOLD)
        await silent.send(GET[:10])
        async with connected(port) as idle:
            await idle.ask(GET)
            await until(lambda: seats.open_count == 3)
            async with connected(port) as newcomer:
                # One client has three connections of four. A connection without a request is closed first, even a
                # younger one.
                assert (await newcomer.ask(GET)).status == 200
                assert await silent.is_closed()
                async with connected(port) as another:
                    assert (await another.ask(GET)).status == 200
                    assert await idle.is_closed()
                    assert (await newcomer.ask(GET)).status == 200
    assert (seats.given_up, seats.refused) == (2, 0)
    assert (seats.open_count, seats.waiting_count, seats.taken_by_client) == (0, 0, {})


@pytest.mark.parametrize("is_tls", [False, True])
async def test_where_all_are_busy_a_newcomer_is_answered_and_sent_away(is_tls, tmp_path, caplog):
    may_end = trio.Event()

    async def handle(request):
        if request.target == "/hold":
            await may_end.wait()
        return await echo(request)

    async def turn_away(request):
        if request.target == "/healthz":
            return Response(200, body=b"well", close_connection=True)
        return await answer_that_all_is_taken(request)

    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tls = TlsContextSource(TlsSettings(cert=certificate, key=key), trio.current_time) if is_tls else None
    context = client_context(None, None, authority.ca) if is_tls else None
    seats = Seats("HTTP", lambda: 1)
    async with serving_on(handle, tls=tls, seats=seats, turn_away=turn_away) as (port, _):
        async with connected(port, context) as busy:
            await busy.send(HOLD)
            await until(lambda: seats.open_count == 1 and not seats.waiting_count)
            for target, status in ((b"/healthz", 200), (b"/a", 503), (b"/healthz", 200)):
                async with connected(port, context) as newcomer:
                    answer = await newcomer.ask(GET.replace(b"/a", target))
                    assert (answer.status, answer.headers["connection"]) == (status, "close")
                    assert await newcomer.is_closed()
            may_end.set()
            assert (await busy.answer()).status == 200
        await until(lambda: seats.open_count == 0)
        async with connected(port, context) as later:
            assert (await later.ask(GET)).status == 200
    assert seats.refused == 3
    assert "a bug of ours" not in caplog.text


async def test_those_who_are_sent_away_and_say_nothing_push_each_other_out():
    seats = Seats("HTTP", lambda: 1)
    async with (
        serving_on(hold, seats=seats, turn_away_s=1000, max_turned_away=4) as (port, _),
        AsyncExitStack() as held,
    ):
        busy = await held.enter_async_context(connected(port))
        await busy.send(HOLD)
        await until(lambda: seats.open_count == 1 and not seats.waiting_count)
        silent = [await held.enter_async_context(connected(port)) for _ in range(6)]
        assert (await (await held.enter_async_context(connected(port))).ask(GET)).status == 503
        for client in silent[:3]:
            assert await client.is_closed()


async def test_a_head_that_becomes_whole_in_the_moment_of_giving_up_is_answered():
    async with serving(echo) as (client, connection):
        await client.send(GET[:10])
        await trio.testing.wait_all_tasks_blocked()
        await client.send(GET[10:])
        connection.give_up()
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.is_closed()


@pytest.mark.parametrize("before", [b"", GET[:5]])
async def test_one_of_whose_head_some_comes_in_the_moment_of_giving_up_is_closed(before):
    """The connection is no longer counted, so it must not wait for the rest of the head."""
    async with serving(echo) as (client, connection):
        if before:
            await client.send(before)
        await trio.testing.wait_all_tasks_blocked()
        await client.send(GET[len(before) : 10])
        connection.give_up()
        await trio.testing.wait_all_tasks_blocked()
        assert await client.is_closed()


@pytest.mark.slow
async def test_many_who_begin_a_head_and_are_given_up_leave_no_connection_open():
    """Slow: two hundred connections."""
    seats, clients = Seats("HTTP", lambda: 8), []
    async with (
        serving_on(echo, seats=seats, fast_path=lambda _client, _data: None) as (port, _),
        AsyncExitStack() as held,
    ):
        for _ in range(200):
            client = await held.enter_async_context(connected(port))
            await client.send(GET[:10])
            clients.append(client)
        for client in clients[:-6]:
            assert await client.is_closed()
    assert seats.given_up == 194


async def test_a_connection_that_is_served_while_it_sleeps_is_not_idle():
    seats = Seats("HTTP", lambda: 4)

    def fast_path(_client, data):
        return b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1" if data == GET else None

    async with serving_on(echo, seats=seats, fast_path=fast_path) as (port, _), AsyncExitStack() as held:
        first, second, third = [await held.enter_async_context(connected(port)) for _ in range(3)]
        for client in (first, second, third, first):
            assert (await client.ask(GET)).body == b"1"
        newcomer = await held.enter_async_context(connected(port))
        assert (await newcomer.ask(GET)).body == b"1"
        assert await second.is_closed()
        assert (await first.ask(GET)).body == b"1"


@contextmanager
def no_descriptors_left():
    """Inside, no further descriptor can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


@asynccontextmanager
async def unconnected():
    """A client that has its descriptor and is not connected yet."""
    sock = trio.socket.socket()
    with sock:
        yield RawClient(trio.SocketStream(sock))


async def test_without_descriptors_an_idle_connection_makes_room_for_each_newcomer():
    seats = Seats("HTTP", lambda: 1000)
    async with serving_on(hold, seats=seats) as (port, _), connected(port) as idle:
        await idle.ask(GET)
        async with unconnected() as first, unconnected() as second, unconnected() as third:
            with no_descriptors_left():
                await first.stream.socket.connect(("127.0.0.1", port))
                assert (await first.ask(GET)).status == 200
                assert await idle.is_closed()
                await second.stream.socket.connect(("127.0.0.1", port))
                assert (await second.ask(GET)).status == 200
                assert await first.is_closed()
            await third.stream.socket.connect(("127.0.0.1", port))
            assert (await third.ask(GET)).status == 200
            assert (await third.ask(GET)).status == 200


async def test_without_descriptors_and_without_idle_connections_each_newcomer_is_answered(caplog):
    async with serving_on(hold, seats=Seats("HTTP", lambda: 1000)) as (port, _), connected(port) as busy:
        await busy.send(HOLD)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            async with unconnected() as client:
                with no_descriptors_left():
                    await client.stream.socket.connect(("127.0.0.1", port))
                    answer = await client.ask(GET)
                assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert "trying again" not in caplog.text


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
        ({"cipher_suites": ","}, "tls.cipher_suites: '' is none of TLS_ECDHE"),
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
            with trio.fail_after(LIMIT_S), suppress(trio.BrokenResourceError):
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
async def test_a_wildcard_takes_both_families_and_shows_ipv4_clients_as_such(host):
    listener = open_listener(host, 0)
    with listener.sock:
        for target, shown in [("127.0.0.1", "127.0.0.1"), ("::1", "::1")]:
            async with await trio.open_tcp_stream(target, listener.port):
                with await accept(listener) as sock:
                    assert client_address(sock)[0] == shown


class Named:
    """A socket whose client has a given name."""

    def __init__(self, *name):
        self._name = name

    def getpeername(self):
        return self._name


def test_a_link_local_client_has_its_zone_for_it_is_another_host_on_another_interface():
    index, name = socket.if_nameindex()[0]
    assert client_address(Named("fe80::1", 80, 0, index)) == (f"fe80::1%{name}", 80)
    assert client_address(Named("fe80::1", 80, 0, 2**31 - 1)) == (f"fe80::1%{2**31 - 1}", 80)
    assert client_address(Named("::ffff:10.0.0.1", 80, 0, 0)) == ("10.0.0.1", 80)


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
            with trio.fail_after(LIMIT_S):
                (await accept(BoundListener(Overloaded(real.sock, code, code)))).close()


async def test_an_error_of_the_listening_socket_itself_is_not_hidden():
    real = open_listener("127.0.0.1", 0)
    with real.sock, pytest.raises(OSError, match="overloaded"):
        await accept(BoundListener(Overloaded(real.sock, errno.EBADF)))
