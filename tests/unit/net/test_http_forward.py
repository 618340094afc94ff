"""Forwarding, against a scripted backend over memory streams: what passes, and how each failure is answered."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from support.http_serving import Backend, limits, read_exactly, read_head, serving

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Listener, Request, RequestBody
from supervisor.net.http_client import Address, HttpPool, PoolLimits
from supervisor.net.http_forward import NOTE_INTERVAL_S, Forwarder

GET = b"GET /3,01?a=%20 HTTP/1.1\r\nhOST: front:1\r\nB-b: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\nA: 2\r\n\r\n"
FORWARDED = b"GET /3,01?a=%20 HTTP/1.1\r\nhOST: front:1\r\nB-b: 1\r\nA: 2\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nok"
ADDRESS = Address("127.0.0.1", 1)


def post(length: int, *fields: bytes) -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"POST /p HTTP/1.1\r\nHost: f\r\n%bContent-Length: %d\r\n\r\n" % (lines, length)


@asynccontextmanager
async def forwarding(script, **pool_limits):
    """A client of a forwarder. The backend runs `script` for each connection. Yields (client, backend)."""
    async with trio.open_nursery() as nursery:
        backend = Backend(nursery, script)
        forwarder = Forwarder(backend.pool(**pool_limits), lambda _: ADDRESS)
        async with serving(forwarder.forward, limits()) as (client, _):
            yield client, backend
        nursery.cancel_scope.cancel()


def answering(*answers: bytes, seen: list | None = None):
    """A script that reads a request head and its declared body for each answer, then waits for the close."""

    async def script(stream):
        for answer in answers:
            head, body = await read_head(stream)
            if not head:
                return
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            body = await read_exactly(stream, length, body)
            if seen is not None:
                seen.append(head + body)
            await stream.send_all(answer)
        await stream.receive_some()
        await stream.aclose()

    return script


async def test_a_request_goes_through_with_order_and_case_and_without_hop_by_hop():
    seen = []
    async with forwarding(answering(OK, seen=seen)) as (client, _):
        await client.send(GET)
        assert await read_exactly(client.stream, len(OK)) == OK
    assert seen == [FORWARDED]


async def test_the_answers_hop_by_hop_headers_end_here():
    hop_by_hop = b"Connection: keep-alive, x-own\r\nX-Own: 1\r\nKeep-Alive: 5\r\n"
    raw = OK.replace(b"Date: D", b"X-B: 1\r\n" + hop_by_hop + b"a: 2\r\nDate: D")
    async with forwarding(answering(raw)) as (client, _):
        await client.send(GET)
        expected = OK.replace(b"Date: D", b"X-B: 1\r\na: 2\r\nDate: D")
        assert await read_exactly(client.stream, len(expected)) == expected


async def test_one_backend_connection_serves_many_requests():
    async with forwarding(answering(OK, OK, OK)) as (client, backend):
        for _ in range(3):
            assert (await client.ask(GET)).body == b"ok"
        assert backend.connections == 1


@pytest.mark.parametrize("method", [b"PROPFIND", b"TRACE", b"DELETE", b"CONNECT"])
async def test_any_method_goes_through(method):
    seen = []
    target = b"a:1" if method == b"CONNECT" else b"/3,01?a=%20"
    async with forwarding(answering(OK.replace(b"200 OK", b"400 Bad Request"), seen=seen)) as (client, _):
        raw = GET.replace(b"GET", method).replace(b"/3,01?a=%20", target)
        assert (await client.ask(raw)).status == 400
        assert seen[0].startswith(method + b" " + target)


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_000_000])
async def test_a_body_of_declared_length_goes_through(size):
    seen = []
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with forwarding(answering(OK, OK, seen=seen)) as (client, _):
        assert (await client.ask(post(size) + body)).body == b"ok"
        assert (await client.ask(GET)).body == b"ok"
    head, _, got = seen[0].partition(b"\r\n\r\n")
    assert head.endswith(b"Content-Length: %d" % size)
    assert got == body


async def test_a_chunked_body_goes_through_with_its_trailers():
    """Chunks that arrive apart are sent apart; chunks that arrive together would become one."""
    has_first = trio.Event()

    async def script(stream):
        raw = b""
        while not raw.endswith(b"abc\r\n"):
            raw += await stream.receive_some()
        has_first.set()
        while not raw.endswith(b"Sum: 1\r\n\r\n"):
            raw += await stream.receive_some()
        assert raw == (
            b"PUT / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nSum: 1\r\n\r\n"
        )
        await stream.send_all(OK)

    async with forwarding(script) as (client, _):
        await client.send(b"PUT / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await has_first.wait()
        await client.send(b"2;ext=1\r\nde\r\n0\r\nSum: 1\r\n\r\n")
        assert (await client.answer()).body == b"ok"


async def test_a_chunked_answer_goes_through_with_its_trailers():
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\nSum: 1\r\n\r\n"
    async with forwarding(answering(raw, OK)) as (client, backend):
        answer = await client.ask(GET)
        assert (answer.body, answer.trailers) == (b"abcd", {"sum": "1"})
        assert (await client.ask(GET)).body == b"ok"
        assert backend.connections == 1


@pytest.mark.parametrize(
    ("method", "raw", "status"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", 200),
        (b"HEAD", b"HTTP/1.1 404 Not Found\r\n\r\n", 404),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nEtag: x\r\n\r\n", 304),
        (b"DELETE", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
    ],
)
async def test_answers_without_a_body(method, raw, status):
    async with forwarding(answering(raw, OK)) as (client, backend):
        answer = await client.ask(GET.replace(b"GET", method))
        assert (answer.status, answer.body) == (status, b"")
        assert answer.headers.get("content-length") == ("500" if b"500" in raw else None)
        assert (await client.ask(GET)).body == b"ok"
        assert backend.connections == 1


async def test_an_answer_that_ends_with_the_connection_is_passed_on_in_chunks():
    async def script(stream):
        await read_head(stream)
        await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nhello")
        await stream.aclose()

    async with forwarding(script) as (client, backend):
        assert (await client.ask(GET)).body == b"hello"
        assert (await client.ask(GET)).body == b"hello"
        assert backend.connections == 2


async def test_100_continue_is_asked_for_by_the_backend_and_passed_on():
    async def script(stream):
        head, rest = await read_head(stream)
        assert b"Expect: 100-continue" in head
        assert rest == b""
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await read_exactly(stream, 5) == b"hello"
        await stream.send_all(OK)

    async with forwarding(script) as (client, _):
        await client.send(post(5, b"Expect: 100-continue"))
        assert await read_exactly(client.stream, 25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert (await client.answer()).body == b"ok"


async def test_a_refusal_instead_of_100_continue_is_passed_on_and_no_body_is_asked_for():
    async with forwarding(answering(OK.replace(b"200 OK", b"401 Unauthorized"))) as (client, _):
        await client.send(post(5, b"Expect: 100-continue").replace(b"Length: 5", b"Length: 0"))
        assert (await client.answer()).status == 401

    async def refuse(stream):
        await read_head(stream)
        await stream.send_all(OK.replace(b"200 OK", b"401 Unauthorized"))
        assert await stream.receive_some() == b""

    async with forwarding(refuse) as (client, _):
        await client.send(post(5, b"Expect: 100-continue"))
        answer = await client.answer()
        assert (answer.status, answer.interim, answer.headers["connection"]) == (401, [], "close")


async def test_other_interim_answers_are_passed_on():
    async with forwarding(answering(b"HTTP/1.1 103 Early Hints\r\nL: 1\r\n\r\n" + OK)) as (client, _):
        answer = await client.ask(GET)
        assert (answer.interim, answer.body) == ([103], b"ok")


async def test_an_early_answer_stops_the_upload_and_reaches_the_client(autojump_clock):
    closed = trio.Event()

    async def script(stream):
        await read_head(stream)
        await stream.send_all(OK.replace(b"200 OK", b"413 Too Large"))
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        closed.set()

    async with forwarding(script) as (client, _):
        await client.send(post(1_000_000_000) + b"x" * 100_000)
        answer = await client.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (413, b"ok", "close")
        await closed.wait()


async def test_a_client_that_breaks_off_its_upload_ends_the_backends_request():
    ended = trio.Event()

    async def script(stream):
        await read_head(stream)
        while await stream.receive_some():
            pass
        ended.set()

    async with forwarding(script) as (client, _):
        await client.send(post(1_000_000) + b"x" * 1000)
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        await ended.wait()


async def test_a_client_that_breaks_off_its_download_ends_the_backends_request():
    ended = trio.Event()

    async def script(stream):
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                await stream.send_all(b"x" * 100_000)
                await trio.lowlevel.checkpoint()
        except trio.BrokenResourceError:
            ended.set()

    async with forwarding(script) as (client, _):
        await client.send(GET)
        await client.stream.receive_some()
        await client.stream.aclose()
        await ended.wait()


async def test_a_client_that_stops_sending_while_it_waits_has_that_passed_on(autojump_clock):
    async def script(stream):
        await read_head(stream)
        assert await stream.receive_some() == b""
        await stream.send_all(OK)

    async with forwarding(script) as (client, _):
        await client.send(GET)
        await trio.sleep(1)
        await client.stream.send_eof()
        assert (await client.answer()).body == b"ok"


async def test_a_slow_answer_is_waited_for(autojump_clock):
    async def script(stream):
        await read_head(stream)
        await trio.sleep(1000)
        await stream.send_all(OK)

    async with forwarding(script) as (client, _):
        assert (await client.ask(GET)).body == b"ok"


@pytest.mark.parametrize("raw", [GET, post(3) + b"abc", post(100_000) + b"x" * 100_000])
async def test_no_backend_connection_is_a_502_that_says_so(raw):
    async with forwarding(answering()) as (client, backend):
        backend.is_refusing = True
        answer = await client.ask(raw)
        assert answer.status == 502
        assert "connection refused" in json.loads(answer.body)["error"]


async def test_a_dead_backend_is_logged_now_and_then_not_for_every_request(autojump_clock, caplog):
    async with forwarding(answering()) as (client, backend):
        backend.is_refusing = True
        for _ in range(10):
            await client.ask(GET)
        await trio.sleep(NOTE_INTERVAL_S)
        await client.ask(GET)
    first, second = [record.getMessage() for record in caplog.records if "backend" in record.getMessage()]
    assert first == "GET /3,01?a=%20: the backend at 127.0.0.1:1 failed: connection refused"
    assert second == first + " (9 failures since the last such line)"


async def test_a_backend_that_is_not_there_is_a_502_that_says_so():
    forwarder = Forwarder(Backend(None, None).pool(), lambda _: None)
    async with serving(forwarder.forward) as (client, _):
        assert json.loads((await client.ask(GET)).body) == {"error": "the backend is not running"}


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\nA: b\n\n", b"nonsense\r\n\r\n"])
async def test_a_backend_that_breaks_off_or_talks_nonsense_is_a_502(raw):
    async def script(stream):
        await read_head(stream)
        if raw:
            await stream.send_all(raw)
        await stream.aclose()

    async with forwarding(script) as (client, backend):
        assert (await client.ask(GET)).status == 502
        assert backend.connections == 1


async def test_a_backend_that_breaks_off_its_body_has_the_client_cut_off():
    async def script(stream):
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")
        await stream.aclose()

    async with forwarding(script) as (client, _):
        await client.send(GET)
        assert (await client.read_to_end()).endswith(b"\r\n\r\nbegin")


async def test_no_more_connections_than_allowed_and_the_rest_waits(autojump_clock):
    running = most = 0

    async def script(stream):
        nonlocal running, most
        await read_head(stream)
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        await stream.send_all(OK)

    async with trio.open_nursery() as nursery:
        backend = Backend(nursery, script)
        forwarder = Forwarder(backend.pool(max_connections=2, max_idle=0), lambda _: ADDRESS)

        async def ask():
            async with serving(forwarder.forward) as (client, _):
                assert (await client.ask(GET)).body == b"ok"

        async with trio.open_nursery() as clients:
            for _ in range(6):
                clients.start_soon(ask)
        nursery.cancel_scope.cancel()
    assert (most, backend.connections) == (2, 6)


async def test_a_connection_that_was_kept_too_long_is_not_used_again(autojump_clock):
    async with forwarding(answering(OK, OK), max_idle_s=5) as (client, backend):
        await client.ask(GET)
        await trio.sleep(6)
        await client.ask(GET)
        assert backend.connections == 2


async def test_kept_connections_of_a_backend_that_moved_are_closed(autojump_clock):
    closed = []

    async def script(stream):
        await answering(OK)(stream)
        closed.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        backend = Backend(nursery, script)
        address = Address("127.0.0.1", 1)
        forwarder = Forwarder(backend.pool(max_idle_s=5), lambda _: address)
        async with serving(forwarder.forward) as (client, _):
            await client.ask(GET)
            address = Address("127.0.0.1", 2)
            await trio.sleep(6)
            await client.ask(GET)
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(closed) == 1


@pytest.mark.parametrize("is_upload", [False, True])
async def test_cancelling_a_forward_closes_the_backends_connection(is_upload):
    began, ended = trio.Event(), trio.Event()

    async def script(stream):
        await read_head(stream)
        began.set()
        while await stream.receive_some():
            pass
        ended.set()

    async with trio.open_nursery() as nursery:
        backend = Backend(nursery, script)
        forwarder = Forwarder(backend.pool(), lambda _: ADDRESS)
        async with serving(forwarder.forward) as (client, _):
            await client.send(post(1_000_000) + b"x" if is_upload else GET)
            await began.wait()
        await ended.wait()


@pytest.mark.slow
async def test_backpressure_holds_a_download_back():
    """Slow: fills the buffers of sockets."""
    sent = 0

    async def script(stream):
        nonlocal sent
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while sent < 100_000_000:
            await stream.send_all(b"x" * 100_000)
            sent += 100_000

    async with trio.open_nursery() as nursery:
        backend = Backend(nursery, script)
        response = await Forwarder(backend.pool(), lambda _: ADDRESS).forward(_plain_get())
        await anext(response.body.chunks)
        await trio.testing.wait_all_tasks_blocked()
        at_rest = sent
        await trio.testing.wait_all_tasks_blocked()
        assert sent == at_rest
        await response.body.chunks.aclose()
        nursery.cancel_scope.cancel()


def _plain_get():
    class Empty(RequestBody):
        length_bytes = 0

        async def receive_some(self):
            return b""

        async def wait_end(self):
            await trio.sleep_forever()

    return Request("GET", "/", Headers([("Host", "x")]), Empty(), Listener.ADMIN, "10.0.0.1", 1, "ID")


async def test_a_backend_that_dies_while_it_is_waited_for_is_a_502(autojump_clock):
    async def script(stream):
        await read_head(stream)
        await trio.sleep(10)
        await stream.aclose()

    async with forwarding(script) as (client, _):
        assert (await client.ask(GET)).status == 502


async def test_a_backend_that_dies_in_the_middle_of_an_upload_is_a_502(autojump_clock):
    async def script(stream):
        await read_head(stream)
        await stream.aclose()

    async with forwarding(script) as (client, _):
        await client.send(post(10_000_000) + b"x" * 100_000)
        assert (await client.answer()).status == 502


async def test_interim_answers_during_an_upload_are_passed_on():
    async def script(stream):
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nL: 1\r\n\r\n")
        await read_exactly(stream, 100_000)
        await stream.send_all(OK)

    async with forwarding(script) as (client, _):
        await client.send(post(100_000))
        assert await read_exactly(client.stream, 34) == b"HTTP/1.1 103 Early Hints\r\nL: 1\r\n\r\n"
        await client.send(b"x" * 100_000)
        assert (await client.answer()).body == b"ok"


async def test_a_server_that_sends_interim_answers_without_end_is_a_502():
    async def script(stream):
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)

    async with forwarding(script) as (client, _):
        answer = await client.ask(GET)
        assert (answer.status, len(answer.interim)) == (502, 32)


async def test_a_half_close_behind_an_upload_is_passed_on(autojump_clock):
    async def script(stream):
        await read_head(stream)
        await read_exactly(stream, 100_000)
        assert await stream.receive_some() == b""
        await stream.send_all(OK)

    async with forwarding(script) as (client, _):
        await client.send(post(100_000) + b"x" * 100_000)
        await trio.sleep(1)
        await client.stream.send_eof()
        assert (await client.answer()).body == b"ok"


async def test_a_body_that_is_no_client_connections_is_sent_in_chunks_too():
    async def script(stream):
        raw = b""
        while not raw.endswith(b"0\r\n\r\n"):
            raw += await stream.receive_some()
        assert raw.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        await stream.send_all(OK)

    class Body(RequestBody):
        length_bytes = None

        def __init__(self):
            self.pieces = [b"abc"]

        async def receive_some(self):
            return self.pieces.pop() if self.pieces else b""

        async def wait_end(self):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        forwarder = Forwarder(Backend(nursery, script).pool(), lambda _: ADDRESS)
        response = await forwarder.forward(replace(_plain_get(), method="POST", body=Body()))
        assert response.body == b"ok"
        nursery.cancel_scope.cancel()


async def test_a_connection_that_takes_too_long_to_make_is_a_502(autojump_clock):
    async def never(address):
        await trio.sleep_forever()

    forwarder = Forwarder(HttpPool(PoolLimits(connect_timeout_s=3), connect=never), lambda _: ADDRESS)
    response = await forwarder.forward(_plain_get())
    assert response.status == 502
    assert b"no connection within 3 s" in response.body
