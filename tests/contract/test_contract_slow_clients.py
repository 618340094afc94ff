"""Clients that are slow: what moves lives, what stands still is let go, and what was sent is delivered all the same.

Upstream gives each write of a body the idle timeout, whatever the client takes meanwhile, and so cuts a slow reader:
what lives here and not there is asked of our own servers alone.

Each client does nothing for most of its time. So the clients of all tests run at the same time, on one server, and a
test waits for its own.
"""

import hashlib
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import pytest
from harness.certificates import Authority, ClientTls
from harness.http1 import Connection, Disconnected, connect_tls, fetch, request_bytes

IDLE_S = 3
IDLE_FLAG = f"-idleTimeout={IDLE_S}"
SLOW_FOR_S = 7.5
"""Longer than a client may be idle, and long enough for a check of the server in between."""
SLOW_BYTES = 4096
SMALL_BUFFER = 16 * 1024
LARGE = 12 << 20
"""More than the kernel buffers of an answer, so that the server has to wait for its reader."""

CLIENTS = {}
"""The client of each test, and the implementations for which it is meant."""


def is_ours(implementation):
    return implementation.mode in {"native", "proxy", "mixed"}


def slow_client(is_meant=lambda _implementation: True):
    """Makes a test of what its client does with the server: `outcomes` runs that beside the clients of other tests."""

    def make_test(act):
        CLIENTS[act.__name__] = is_meant, act

        @pytest.mark.only.with_args(is_meant)
        def wait_for_it(outcomes):
            outcomes[act.__name__].result()

        wait_for_it.__name__, wait_for_it.__doc__ = act.__name__, act.__doc__
        return wait_for_it

    return make_test


class HttpsOnly(ClientTls):
    """A client with TLS to the HTTP port and without TLS to the gRPC port."""

    def open_channel(self, target, options):
        return grpc.insecure_channel(target, options=options)


@pytest.fixture(scope="module", params=["plain", "tls"])
def outcomes(request, implementation, fresh_server_of_module, tmp_path_factory):
    """The outcome of each client, by the name of its test. The server has a short idle timeout, with or without TLS."""
    server = start_server(fresh_server_of_module, tmp_path_factory.mktemp("ca"), is_tls=request.param == "tls")
    assert server.volume_id, "the clients share a volume"
    acts = {name: act for name, (is_meant, act) in CLIENTS.items() if is_meant(implementation)}
    with ThreadPoolExecutor(len(acts)) as threads:
        yield {name: threads.submit(act, server) for name, act in acts.items()}
    server.end()


def start_server(start, directory, *, is_tls):
    flags = (IDLE_FLAG, "-fileSizeLimitMB=64")
    if not is_tls:
        return start(*flags)
    authority = Authority(directory / "ca")
    pair = authority.issue("volume.test")
    security = f'[https.volume]\ncert = "{pair.cert}"\nkey = "{pair.key}"\n'
    return start(*flags, security=security, tls=HttpsOnly(authority.ca, authority.issue("client.test")))


def pause(duration_s):
    """Slowness is the subject of these tests: this pause waits for no state."""
    time.sleep(duration_s)  # noqa: TID251


def connect(server, receive_buffer=SMALL_BUFFER):
    """A connection whose kernel buffers little before its reader, in segments of a network's size."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
    plain.settimeout(60)
    if server.tls:
        return Connection.over(connect_tls(plain, server.admin, server.tls.context, "localhost"))
    plain.connect(server.admin)
    return Connection.over(plain)


def read_slowly(connection, duration_s, pause_s=0.1):
    """Reads a little at a time. Returns the received bytes."""
    received, until = bytearray(), time.monotonic() + duration_s
    while time.monotonic() < until:
        piece = connection.socket.recv(SLOW_BYTES)
        if not piece:
            raise Disconnected(f"closed after {len(received)} bytes")
        received += piece
        pause(pause_s)
    return bytes(received)


def stored(server, size=LARGE):
    data = os.urandom(size)
    return server.store(data, [("Content-Type", "application/x-noise")]), hashlib.sha256(data).digest()


@slow_client(is_ours)
def test_a_steady_slow_reader_gets_all_of_its_answer(server):
    fid, digest = stored(server)
    with connect(server) as connection:
        connection.send(request_bytes("GET", f"/{fid}"))
        _, headers = connection.read_head()
        assert dict(headers)["Content-Length"] == str(LARGE)
        begun = connection.take_received()
        begun += read_slowly(connection, SLOW_FOR_S)
        assert len(begun) < LARGE // 2
        body = begun + connection.read_exactly(LARGE - len(begun))
        assert hashlib.sha256(body).digest() == digest


@slow_client(is_ours)
def test_a_steady_slow_reader_gets_all_of_a_piece_that_was_cut_out(server):
    """As in the test above, for an answer from memory instead of a file."""
    fid, _ = stored(server)
    with connect(server) as connection:
        connection.send(request_bytes("GET", f"/{fid}", [("Range", f"bytes=0-9,100-{LARGE - 1}")]))
        _, headers = connection.read_head()
        length = int(dict(headers)["Content-Length"])
        got = len(connection.take_received()) + len(read_slowly(connection, SLOW_FOR_S))
        connection.read_exactly(length - got)


@slow_client()
def test_a_reader_that_stands_still_is_let_go_and_finds_what_was_sent_before(server):
    """As in upstream: the connection ends without a reset, and everything in transit arrives."""
    fid, _ = stored(server)
    with connect(server) as connection:
        connection.send(request_bytes("GET", f"/{fid}"))
        connection.read_head()
        pause(2 * SLOW_FOR_S)
        received = 0
        while piece := _received(connection):
            received += len(piece)
        assert SMALL_BUFFER < received < LARGE


def _received(connection):
    """The received bytes; a reset raises. TLS ends without a close message."""
    try:
        return connection.socket.recv(65536)
    except ConnectionResetError:
        raise
    except OSError as error:
        assert "EOF" in str(error), error  # noqa: PT017
        return b""


@slow_client()
def test_a_slow_upload_that_moves_is_taken_whole(server):
    fid, data = server.new_fid(), os.urandom(int(SLOW_FOR_S * 10) * 1000)
    with connect(server) as connection:
        connection.send(request_bytes("PUT", f"/{fid}", [("Content-Length", str(len(data)))]))
        for at in range(0, len(data), 1000):
            connection.send(data[at : at + 1000])
            pause(0.1)
        assert connection.read_reply("PUT").status == 201
    assert server.read(fid).body == data


@slow_client()
def test_an_upload_that_stands_still_is_let_go(server):
    fid = server.new_fid()
    with connect(server) as connection:
        connection.send(request_bytes("PUT", f"/{fid}", [("Content-Length", "100000")]) + b"x" * 1000)
        with suppress(Disconnected, OSError):  # or nobody says a word
            assert connection.read_reply("PUT").status >= 400
    assert server.read(fid).status == 404


@slow_client(is_ours)
def test_the_answer_to_a_reader_that_is_slow_after_its_end_arrives_whole(server):
    """The kernel has the whole answer. The connection waits for a next request, and is closed as idle meanwhile."""
    fid, digest = stored(server, 1 << 20)
    with connect(server) as connection:
        connection.send(request_bytes("GET", f"/{fid}"))
        connection.read_head()
        begun = connection.take_received()
        begun += read_slowly(connection, SLOW_FOR_S)
        body = begun + connection.read_exactly((1 << 20) - len(begun))
        assert hashlib.sha256(body).digest() == digest


@slow_client()
def test_an_idle_connection_is_closed_in_good_order(server):
    with connect(server) as connection:
        assert connection.request("GET", "/healthz").status == 200
        assert _received(connection) == b""
    assert fetch(server.admin, "GET", "/healthz", tls=server.tls and server.tls.context).status == 200
