"""Requests that are answered before they are parsed, between others on one connection, under the same deadlines."""

from __future__ import annotations

import pytest
import trio
from http_harness import echo, limits, serving
from trio.testing import lockstep_stream_pair

from native_handlers.http.message import Listener
from supervisor.net.http_connection import Client, HttpConnection
from supervisor.net.pace import Pace
from supervisor.net.transport import StreamTransport

QUICK = b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n"
OTHER = b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nquick"


def quick(listener, data):
    assert listener is Listener.ADMIN
    return ANSWER if data == QUICK else None


def quick_serving(**changes):
    return serving(echo, limits(**changes), quick=quick)


async def test_both_kinds_take_turns():
    async with quick_serving() as (client, _):
        for raw, body in ((QUICK, b"quick"), (OTHER, b""), (QUICK, b"quick"), (QUICK, b"quick")):
            assert (await client.ask(raw)).body == body


async def test_what_does_not_come_whole_and_alone_is_parsed():
    async with quick_serving() as (client, _):
        await client.send(QUICK[:20])
        await trio.testing.wait_all_tasks_blocked()
        await client.send(QUICK[20:] + QUICK)
        for _ in range(2):
            assert (await client.answer()).headers["x-saw"] == "GET /quick"
        assert (await client.ask(QUICK)).body == b"quick"


async def test_a_client_that_ends_its_side_gets_its_answer(autojump_clock):
    async with quick_serving() as (client, _):
        await client.send(QUICK)
        await client.stream.send_eof()
        assert await client.read_to_end() == ANSWER
    assert trio.current_time() < 1


@pytest.mark.parametrize("asked", [0, 1, 3])
async def test_an_idle_connection_is_closed_after_the_idle_timeout(autojump_clock, asked):
    async with quick_serving(idle_timeout_s=7) as (client, _):
        for _ in range(asked):
            await trio.sleep(5)
            await client.ask(QUICK)
        idle_since = trio.current_time()
        assert await client.is_closed()
        assert trio.current_time() - idle_since == pytest.approx(7)


async def test_a_head_that_begins_must_end_in_time(autojump_clock):
    async with quick_serving(idle_timeout_s=70, head_timeout_s=3) as (client, _):
        await client.ask(QUICK)
        await trio.sleep(50)
        began_at = trio.current_time()
        await client.send(OTHER[:20])
        assert (await client.answer()).status == 408
        assert trio.current_time() - began_at == pytest.approx(3)


async def test_a_client_that_does_not_take_its_answer_is_cut(autojump_clock):
    ours, theirs = lockstep_stream_pair()
    pace = Pace(limits(idle_timeout_s=7).pace)
    connection = HttpConnection(
        StreamTransport(ours, pace), Client("10.0.0.1", 1, Listener.ADMIN), echo, limits(), quick
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, QUICK)
        await connection.serve()
    assert trio.current_time() == pytest.approx(7)


async def test_draining_closes_an_idle_connection_at_once(autojump_clock):
    async with quick_serving() as (client, connection):
        await client.ask(QUICK)
        await trio.testing.wait_all_tasks_blocked()
        connection.drain()
        assert await client.is_closed()
    assert trio.current_time() < 1


async def test_draining_while_an_answer_goes_out_takes_no_other_request(autojump_clock):
    def drain(_listener, data):
        connection.drain()
        return quick(_listener, data)

    async with serving(echo, quick=drain) as (client, connection):
        await client.send(QUICK)
        assert await client.read_to_end() == ANSWER
    assert trio.current_time() < 1
