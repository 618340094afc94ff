"""Small uploads that arrive in pieces: they are answered at once when whole, and late ones are left to tasks."""

from __future__ import annotations

import socket
from functools import partial

import pytest
import trio
from support.descriptors import open_descriptors
from support.http_serving import connected, echo, serving_on
from support.waiting import until

from supervisor.net.delivery import RESET_ON_CLOSE
from supervisor.net.idle_poller import NO_LONG_REQUESTS, LongRequests

MAX_KEPT_BYTES = 68 * 1024
UPLOADS = LongRequests((b"POST ", b"PUT "), 36 * 1024, MAX_KEPT_BYTES)
serving_uploads = partial(serving_on, long_requests=UPLOADS)
HEAD = b"POST /3,01637037d6 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
WHOLE = HEAD + b"0123456789"
ANSWER = b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nfast"


class Answering:
    """A fast path that answers WHOLE, and what it has seen."""

    def __init__(self):
        self.seen = []

    def __call__(self, _client, data):
        self.seen.append(data)
        return ANSWER if data == WHOLE else None


@pytest.fixture
def fast_path():
    return Answering()


async def send_in_pieces(client, fast_path, *ends):
    """Sends WHOLE so that the server has taken each piece before the next one comes."""
    start = 0
    for end in (*ends, len(WHOLE)):
        await client.send(WHOLE[start:end])
        if not start:
            await until(lambda: fast_path.seen and fast_path.seen[-1] == WHOLE[: ends[0]])
        else:
            await trio.testing.wait_all_tasks_blocked()
        start = end


@pytest.mark.parametrize("ends", [(len(HEAD),), (len(HEAD) + 3,), (len(HEAD), len(HEAD) + 1, len(HEAD) + 9)])
async def test_an_upload_in_pieces_is_answered_at_once(fast_path, ends):
    async with serving_uploads(echo, fast_path=fast_path) as (port, _), connected(port) as client:
        for _ in range(3):
            fast_path.seen.clear()
            await send_in_pieces(client, fast_path, *ends)
            assert (await client.answer(b"POST")).body == b"fast"
            assert fast_path.seen == [WHOLE[: ends[0]], WHOLE]


async def test_a_connection_with_a_task_keeps_pieces_too(fast_path):
    async with serving_uploads(echo, fast_path=fast_path) as (port, _), connected(port) as client:
        assert (await client.ask(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")).headers["x-saw"] == "GET /other"
        fast_path.seen.clear()
        await send_in_pieces(client, fast_path, len(HEAD))
        assert (await client.answer(b"POST")).body == b"fast"


async def test_a_request_behind_the_last_piece_is_answered_next(fast_path):
    async with serving_uploads(echo, fast_path=fast_path) as (port, _), connected(port) as client:
        await client.send(HEAD)
        await until(lambda: fast_path.seen)
        await client.send(WHOLE[len(HEAD) :] + WHOLE)
        for _ in range(2):
            assert (await client.answer(b"POST")).body == b"fast"


async def test_an_upload_that_the_fast_path_declines_when_it_is_whole_goes_the_ordinary_way(fast_path):
    async with serving_uploads(echo, fast_path=fast_path) as (port, _), connected(port) as client:
        await client.send(HEAD)
        await until(lambda: fast_path.seen)
        await client.send(b"abcdefghij")
        answer = await client.answer(b"POST")
        assert (answer.headers["x-saw"], answer.body) == ("POST /3,01637037d6", b"abcdefghij")
        assert fast_path.seen == [HEAD, HEAD + b"abcdefghij"]


@pytest.mark.slow
@pytest.mark.parametrize("is_newcomer", [True, False])
async def test_a_late_piece_is_waited_for_by_a_task(fast_path, is_newcomer):
    """Slow: waits as long as the poller waits for the rest."""
    handled = []

    async def handle(request):
        handled.append(request.target)
        return await echo(request)

    async with serving_uploads(handle, fast_path=fast_path) as (port, _), connected(port) as client:
        if not is_newcomer:
            assert (await client.ask(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200
        await client.send(HEAD + b"01234")
        await until(lambda: handled[-1:] == ["/3,01637037d6"])
        await client.send(b"56789")
        assert (await client.answer(b"POST")).body == b"0123456789"
        assert WHOLE not in fast_path.seen
        assert (await client.ask(WHOLE)).body == b"fast"


async def test_a_client_that_waits_for_an_interim_answer_gets_it_at_once(fast_path):
    async with serving_uploads(echo, fast_path=fast_path) as (port, _), connected(port) as client:
        await client.send(HEAD.replace(b"Host", b"Expect: 100-continue\r\nHost"))
        assert await client.stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"0123456789")
        assert (await client.answer(b"POST")).body == b"0123456789"


async def test_a_client_that_ends_within_its_upload_gets_the_answer_of_the_ordinary_way(fast_path):
    async with serving_uploads(echo, fast_path=fast_path) as (port, _), connected(port) as client:
        await client.send(HEAD + b"01")
        await until(lambda: fast_path.seen)
        await client.stream.send_eof()
        assert (await client.answer(b"POST")).status == 400
        assert await client.is_closed()
        assert len(fast_path.seen) == 1


async def test_a_client_that_resets_within_its_upload_leaves_nothing(fast_path):
    before = open_descriptors()
    async with serving_uploads(echo, fast_path=fast_path) as (port, _):
        async with connected(port) as client:
            await client.send(HEAD + b"01")
            await until(lambda: fast_path.seen)
            client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        async with connected(port) as other:
            assert (await other.ask(WHOLE)).body == b"fast"
    assert open_descriptors() == before


@pytest.mark.parametrize("is_newcomer", [True, False])
async def test_stopping_answers_an_upload_that_has_begun(fast_path, is_newcomer):
    async with serving_uploads(echo, fast_path=fast_path) as (port, accepting), connected(port) as client:
        if not is_newcomer:
            assert (await client.ask(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200
        await client.send(HEAD + b"01")
        await until(lambda: fast_path.seen[-1:] == [HEAD + b"01"])
        accepting.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await client.send(b"23456789")
        answer = await client.answer(b"POST")
        assert answer.body in {b"0123456789", b"fast"}
        assert await client.is_closed()


async def test_cutting_a_connection_within_its_upload_leaves_nothing(fast_path):
    before = open_descriptors()
    async with serving_uploads(echo, fast_path=fast_path, drain_s=0.0) as (port, accepting), connected(port) as client:
        await client.send(HEAD + b"01")
        await until(lambda: fast_path.seen)
        accepting.cancel()
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            await client.answer(b"POST")
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        (HEAD, 10),
        (HEAD + b"0", 9),
        (HEAD.replace(b"POST", b"PUT").replace(b"Content-Length", b"content-length"), 10),
        (HEAD.replace(b"10", str(MAX_KEPT_BYTES - len(HEAD) - 3).encode()), MAX_KEPT_BYTES - len(HEAD) - 3),
        pytest.param(HEAD.replace(b"10", b"%d" % (MAX_KEPT_BYTES - len(HEAD) - 2)), 0, id="too-long"),
        pytest.param(WHOLE, 0, id="whole"),
        pytest.param(WHOLE + b"x", 0, id="more"),
        pytest.param(HEAD[:-1], 0, id="half-a-head"),
        pytest.param(HEAD.replace(b"POST", b"GET"), 0, id="a-read"),
        pytest.param(HEAD.replace(b"Host", b"EXPECT: 100-continue\r\nHost"), 0, id="waits"),
        pytest.param(HEAD.replace(b"Host", b"Transfer-Encoding: chunked\r\nHost"), 0, id="chunked"),
        pytest.param(HEAD.replace(b": 10", b": x"), 0, id="no-number"),
        pytest.param(HEAD.replace(b": 10", b": 9999999"), 0, id="huge"),
        pytest.param(HEAD.replace(b"Content-Length: 10\r\n", b""), 0, id="no-length"),
        pytest.param(HEAD.replace(b"Host", b"A: " + b"a" * 5000 + b"\r\nHost"), 0, id="a-long-head"),
        pytest.param(b"", 0, id="nothing"),
    ],
)
def test_what_an_upload_lacks(data, missing):
    assert UPLOADS.missing_bytes(data) == missing
    assert NO_LONG_REQUESTS.missing_bytes(data) == 0
