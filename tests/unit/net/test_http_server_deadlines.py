"""Time, on a virtual clock: idle connections, long transfers, slow clients, draining, cancellation."""

from __future__ import annotations

import pytest
import trio
from support.http_serving import echo, limits, serving
from support.waiting import LIMIT_S

from native_handlers.http_model.message import Response, StreamBody

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def seconds_until_closed(client) -> float:
    started_at = trio.current_time()
    await client.read_to_end()
    return trio.current_time() - started_at


@pytest.mark.parametrize("first", [b"", GET])
async def test_an_idle_connection_is_closed_after_the_idle_timeout(autojump_clock, first):
    async with serving(echo, limits(idle_timeout_s=7)) as (client, _):
        if first:
            await client.ask(first)
        assert await seconds_until_closed(client) == pytest.approx(7)


async def test_an_idle_timeout_of_nothing_waits_for_ever(autojump_clock):
    async with serving(echo, limits(idle_timeout_s=0)) as (client, _):
        await trio.sleep(80_000)
        assert (await client.ask(GET)).status == 200


async def test_a_handler_may_take_longer_than_the_idle_timeout(autojump_clock):
    async def handle(request):
        await trio.sleep(100)
        return Response(200)

    async with serving(handle, limits(idle_timeout_s=7)) as (client, _):
        assert (await client.ask(GET)).status == 200
        assert (await client.ask(GET)).status == 200


async def test_a_long_download_survives_a_client_that_only_reads(autojump_clock):
    async def slow():
        for _ in range(10):
            await trio.sleep(5)
            yield b"x"

    async def handle(request):
        return Response(200, body=StreamBody(slow()))

    async with serving(handle, limits(idle_timeout_s=7)) as (client, _):
        assert (await client.ask(GET)).body == b"x" * 10


async def test_a_long_upload_survives_a_server_that_only_reads(autojump_clock):
    async with serving(echo, limits(idle_timeout_s=7)) as (client, _):
        await client.send(POST)
        for _ in range(10):
            await trio.sleep(5)
            await client.send(b"64\r\n" + b"x" * 100 + b"\r\n")
        await client.send(b"0\r\n\r\n")
        assert len((await client.answer()).body) == 1000


async def test_output_keeps_a_connection_whose_input_is_silent(autojump_clock):
    async def handle(request):
        async def talk():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(request.body.receive_some)
                for _ in range(10):
                    await trio.sleep(5)
                    yield b"x"
                nursery.cancel_scope.cancel()

        pieces = talk()
        return Response(200, body=StreamBody(pieces), close_connection=True)

    async with serving(handle, limits(idle_timeout_s=7)) as (client, _):
        await client.send(POST)
        assert (await client.answer()).body == b"x" * 10


async def test_a_silent_upload_ends(autojump_clock):
    async with serving(echo, limits(idle_timeout_s=7, linger_s=1)) as (client, _):
        await client.send(POST)
        started_at = trio.current_time()
        assert (await client.answer()).status == 400
        assert trio.current_time() - started_at == pytest.approx(7)


async def test_a_head_that_dribbles_in_is_cut_off(autojump_clock):
    async with serving(echo, limits(idle_timeout_s=7, head_timeout_s=20, linger_s=1)) as (client, _):
        started_at = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def dribble():
                for at in range(len(GET)):
                    await client.send(GET[at : at + 1])
                    await trio.sleep(1)

            nursery.start_soon(dribble)
            answer = await client.answer()
            nursery.cancel_scope.cancel()
        assert answer.status == 408
        assert trio.current_time() - started_at == pytest.approx(20, abs=1)


async def test_a_dribbling_second_head_is_cut_off_too(autojump_clock):
    async with serving(echo, limits(head_timeout_s=20, idle_timeout_s=100)) as (client, _):
        await client.send(GET + GET[:5])
        assert (await client.answer()).status == 200
        started_at = trio.current_time()
        assert (await client.answer()).status == 408
        assert trio.current_time() - started_at == pytest.approx(20)


async def test_an_upload_below_the_minimum_rate_is_cut_off(autojump_clock):
    async with serving(echo, limits(min_bytes_per_s=10, grace_s=30, linger_s=1)) as (client, _):
        await client.send(POST)
        started_at = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def dribble():
                while True:
                    await trio.sleep(1)
                    await client.send(b"1\r\nx\r\n")

            nursery.start_soon(dribble)
            assert (await client.answer()).status == 400
            nursery.cancel_scope.cancel()
        assert 30 <= trio.current_time() - started_at <= 33


async def test_time_in_which_the_handler_does_not_read_counts_for_nobody(autojump_clock):
    async def handle(request):
        await trio.sleep(1000)
        return await echo(request)

    async with serving(handle, limits(min_bytes_per_s=10, grace_s=30)) as (client, _):
        await client.send(POST + b"1\r\nx\r\n")
        await trio.sleep(1001)
        await client.send(b"0\r\n\r\n")
        assert (await client.answer()).body == b"x"


async def test_draining_closes_an_idle_connection_at_once(autojump_clock):
    async with serving(echo) as (client, connection):
        await client.ask(GET)
        await trio.testing.wait_all_tasks_blocked()
        connection.drain()
        assert await seconds_until_closed(client) == 0


async def test_draining_lets_a_running_request_finish_and_takes_no_other(autojump_clock):
    async def handle(request):
        await trio.sleep(10)
        return Response(200, body=request.target.encode())

    async with serving(handle) as (client, connection):
        await client.send(GET)
        await trio.sleep(1)
        connection.drain()
        await client.send(GET)
        answer = await client.answer()
        assert (answer.body, answer.headers["connection"]) == (b"/a", "close")
        assert await client.is_closed()


async def test_draining_lets_a_request_that_is_arriving_finish():
    async with serving(echo) as (client, connection):
        await client.send(GET[:10])
        await trio.testing.wait_all_tasks_blocked()
        connection.drain()
        await client.send(GET[10:])
        assert (await client.answer()).headers["connection"] == "close"


async def test_draining_does_not_end_the_wait_for_a_body():
    began = trio.Event()

    async def handle(request):
        began.set()
        return await echo(request)

    async with serving(handle) as (client, connection):
        await client.send(POST)
        await began.wait()
        await trio.testing.wait_all_tasks_blocked()
        connection.drain()
        await client.send(b"1\r\nx\r\n0\r\n\r\n")
        assert (await client.answer()).body == b"x"


class Held:
    """A response that is being produced when the connection is cancelled. It records its release."""

    def __init__(self) -> None:
        self.is_released = False
        self.began = trio.Event()

    async def endless(self):
        self.began.set()
        while True:
            yield b"x" * 1000
            await trio.sleep(1)

    def release(self) -> None:
        self.is_released = True


@pytest.mark.parametrize("where", ["head", "body", "handler", "send"])
async def test_cancelling_a_connection_closes_it_and_releases_what_it_holds(autojump_clock, where):
    held = Held()

    async def handle(request):
        if where == "handler":
            await trio.sleep_forever()
        if where == "body":
            await request.body.receive_some()
        return Response(200, body=StreamBody(held.endless()), close=held.release)

    async with serving(handle) as (client, _):
        await client.send(POST[:10] if where == "head" else POST)
        if where == "send":
            await held.began.wait()
    with trio.fail_after(LIMIT_S):
        try:
            raw = await client.read_to_end()
        except trio.BrokenResourceError:
            raw = b""
    assert b"0\r\n\r\n" not in raw
    assert held.is_released is (where == "send")


async def test_a_cancelled_receive_has_lost_nothing(autojump_clock):
    async def handle(request):
        body, data = b"", b"-"
        while data:
            with trio.move_on_after(1):
                data = await request.body.receive_some()
                body += data
        return Response(200, body=body)

    async with serving(handle) as (client, _):
        await client.send(POST)
        for _ in range(5):
            await trio.sleep(3)
            await client.send(b"1\r\nx\r\n")
        await client.send(b"0\r\n\r\n")
        assert (await client.answer()).body == b"xxxxx"
