"""One connection of the server over memory streams, with h11 as the client."""

from __future__ import annotations

import re

import pytest
import trio
from support.http_serving import echo, limits, serving

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import BodyError, FileBody, Response, StreamBody
from supervisor.net.http_send import new_request_id

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes, *fields: bytes) -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), lines, body)


async def chunks(*pieces):
    for piece in pieces:
        yield piece


class Released:
    """Counts how often a response was given back."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


async def test_keep_alive_serves_one_request_after_the_other():
    async with serving(echo) as (client, _):
        for body in (b"", b"one", b"two" * 50_000):
            answer = await client.ask(post(body))
            assert (answer.status, answer.body) == (200, body)
            assert "connection" not in answer.headers


async def test_pipelined_requests_are_answered_in_order():
    async with serving(echo) as (client, _):
        await client.send(GET + post(b"12345") + GET.replace(b"/a", b"/last"))
        seen = [(await client.answer()).headers["x-saw"] for _ in range(3)]
        assert seen == ["GET /a", "POST /p", "GET /last"]


@pytest.mark.parametrize("method", [b"PATCH", b"PROPFIND", b"TRACE", b"get", b"M-SEARCH"])
async def test_any_method_reaches_the_handler(method):
    async with serving(echo) as (client, _):
        answer = await client.ask(GET.replace(b"GET", method))
        assert answer.headers["x-saw"] == f"{method.decode()} /a"


async def test_a_head_is_answered_without_its_body():
    async def handle(request):
        return Response(200, Headers([("Content-Length", "5")]))

    async with serving(handle) as (client, _):
        for _ in range(2):
            answer = await client.ask(GET.replace(b"GET", b"HEAD"))
            assert (answer.headers["content-length"], answer.body) == ("5", b"")


async def test_chunks_both_ways_with_trailers():
    async def handle(request):
        body = [piece async for piece in read(request)]
        return Response(200, body=StreamBody(chunks(*body, b"", b"end")))

    async def read(request):
        while data := await request.body.receive_some():
            yield data

    async with serving(handle) as (client, _):
        answer = await client.ask(
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nSum: 1\r\n\r\n"
        )
        assert answer.body == b"abcdeend"
        assert (await client.ask(GET)).status == 200


async def test_http_1_0_is_answered_and_closed():
    async with serving(echo) as (client, _):
        await client.send(b"GET /a HTTP/1.0\r\n\r\n")
        raw = await client.read_to_end()
        assert raw.startswith(b"HTTP/1.0 200 OK\r\n")
        assert b"Connection: close" in raw


async def test_a_client_that_asks_to_close_is_closed():
    async with serving(echo) as (client, _):
        answer = await client.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert answer.headers["connection"] == "close"
        assert await client.is_closed()


async def test_a_client_that_closes_its_side_still_gets_the_answer():
    async with serving(echo) as (client, _):
        await client.send(post(b"hello"))
        await client.stream.send_eof()
        assert (await client.answer()).body == b"hello"
        assert await client.is_closed()


async def test_a_body_is_asked_for_when_the_handler_reads_it():
    began = trio.Event()

    async def handle(request):
        assert request.body.awaits_continue
        began.set()
        return await echo(request)

    async with serving(handle) as (client, _):
        await client.send(post(b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 2"))
        await began.wait()
        await trio.testing.wait_all_tasks_blocked()
        await client.send(b"hi")
        answer = await client.answer()
        assert (answer.interim, answer.body) == ([100], b"hi")


async def test_a_body_that_came_unasked_gets_no_interim_answer():
    async with serving(echo) as (client, _):
        answer = await client.ask(post(b"hi", b"Expect: 100-continue"))
        assert (answer.interim, answer.body) == ([], b"hi")


async def test_a_body_that_nobody_wants_is_not_asked_for_and_the_connection_closes():
    async def handle(request):
        return Response(401)

    async with serving(handle) as (client, _):
        answer = await client.ask(post(b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 2"))
        assert (answer.status, answer.interim, answer.headers["connection"]) == (401, [], "close")
        await client.stream.send_eof()
        assert await client.is_closed()


async def test_a_short_body_that_was_not_read_does_not_cost_the_connection():
    async def handle(request):
        return Response(200, body=request.target.encode())

    async with serving(handle) as (client, _):
        assert (await client.ask(post(b"x" * 1000))).body == b"/p"
        assert (await client.ask(GET)).body == b"/a"


async def test_the_answer_to_a_long_unread_body_reaches_a_client_that_goes_on_sending(autojump_clock):
    async def handle(request):
        return Response(413, body=b"too much")

    async with serving(handle, limits(linger_s=2)) as (client, _):
        started_at = trio.current_time()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (413, b"too much", "close")
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            while True:
                await client.send(b"x" * 1000)
                await trio.sleep(0.1)
        assert trio.current_time() - started_at == pytest.approx(2, abs=0.2)


async def test_lingering_ends_when_enough_was_thrown_away():
    async def handle(request):
        return Response(413)

    async with serving(handle, limits(linger_bytes=10_000)) as (client, _):
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            while True:
                await client.send(b"x" * 1000)
                await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("body", [b"x" * 300_000, FileBody([b"x" * 100_000, b"", b"x" * 200_000])])
async def test_large_bodies_arrive_whole(body):
    released = Released()

    async def handle(request):
        return Response(200, body=body, close=released)

    async with serving(handle) as (client, _):
        assert (await client.ask(GET)).body == b"x" * 300_000
        assert released.count == 1


async def test_a_bug_in_a_handler_is_a_500_and_the_end_of_the_connection(caplog):
    async def handle(request):
        raise KeyError("oops")

    async with serving(handle) as (client, _):
        answer = await client.ask(GET)
        assert (answer.status, answer.headers["connection"]) == (500, "close")
        assert b"oops" not in answer.body
        assert await client.is_closed()
    assert "oops" in caplog.text


async def test_a_body_that_does_not_fit_its_head_is_a_500(caplog):
    released = Released()

    async def handle(request):
        return Response(200, Headers([("Content-Length", "3")]), b"four", close=released)

    async with serving(handle) as (client, _):
        assert (await client.ask(GET)).status == 500
        assert await client.is_closed()
    assert released.count == 1
    assert "Content-Length 3" in caplog.text


@pytest.mark.parametrize("length", [None, 100])
async def test_a_body_that_breaks_off_cannot_be_taken_for_whole(length):
    async def broken():
        yield b"begin"
        raise OSError("disk")

    released = Released()

    async def handle(request):
        return Response(200, body=StreamBody(broken(), length), close=released)

    async with serving(handle) as (client, _):
        await client.send(GET)
        raw = await client.read_to_end()
        assert raw.endswith(b"begin" if length else b"5\r\nbegin\r\n")
    assert released.count == 1


async def test_a_stream_is_closed_when_the_client_goes():
    closed = trio.Event()

    async def endless():
        try:
            while True:
                yield b"x" * 100_000
                await trio.lowlevel.checkpoint()
        finally:
            closed.set()

    async def handle(request):
        return Response(200, body=StreamBody(endless()))

    async with serving(handle) as (client, _):
        await client.send(GET)
        await client.stream.receive_some()
        await client.stream.aclose()
        await closed.wait()


@pytest.mark.parametrize("rest", [b"Transfer-Encoding: chunked\r\n\r\nz\r\n", b"Content-Length: 9\r\n\r\nhalf"])
async def test_a_body_that_cannot_be_read_is_the_clients_fault(rest):
    seen = []

    async def handle(request):
        try:
            return await echo(request)
        except BodyError as error:
            seen.append(str(error))
            raise

    async with serving(handle) as (client, _):
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + rest)
        await client.stream.send_eof()
        assert (await client.answer()).status == 400
        assert await client.is_closed()
    assert "broke off" in seen[0]


async def test_what_the_client_pipelines_behind_its_request_is_not_lost_while_it_is_watched():
    async def handle(request):
        with trio.move_on_after(0.01):
            await request.body.wait_end()
        return await echo(request)

    async with serving(handle) as (client, _):
        await client.send(GET + GET.replace(b"/a", b"/b"))
        assert [(await client.answer()).headers["x-saw"] for _ in range(2)] == ["GET /a", "GET /b"]


async def test_the_handler_learns_that_the_client_closed_its_side():
    async def handle(request):
        await request.body.wait_end()
        return Response(200, body=b"closed")

    async with serving(handle) as (client, _):
        await client.send(GET)
        await client.stream.send_eof()
        assert (await client.answer()).body == b"closed"


async def test_every_answer_has_a_date():
    async with serving(echo) as (client, _):
        assert (await client.ask(GET)).headers["date"].endswith(" GMT")


def test_request_ids_are_hex_and_differ():
    first, second = new_request_id(), new_request_id()
    assert re.fullmatch("[0-9A-F]{24,}", first)
    assert first != second
