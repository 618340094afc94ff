"""Which forwarded requests are sent again when a backend's connection dies, and which never."""

from __future__ import annotations

import pytest
import trio
from support.http_serving import read_exactly, read_head
from test_http_forward import GET, OK, answering, forwarding, post


def dying_after(served: int, reads: int):
    """Serves `served` requests on its first connection, then reads `reads` bytes of the next and closes."""
    first = True

    async def script(stream):
        nonlocal first
        if not first:
            await answering(OK)(stream)
            return
        first = False
        for _ in range(served):
            await read_head(stream)
            await stream.send_all(OK)
        if reads:
            await read_exactly(stream, reads)
        await stream.aclose()

    return script


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_a_read_on_a_kept_connection_that_died_unanswered_is_sent_again_once(method):
    async with forwarding(dying_after(served=1, reads=5)) as (client, backend):
        assert (await client.ask(GET)).status == 200
        assert (await client.ask(GET.replace(b"GET", method))).status == 200
        assert backend.connections == 2


async def test_a_read_on_a_fresh_connection_is_not_sent_again():
    async with forwarding(dying_after(served=0, reads=5)) as (client, backend):
        assert (await client.ask(GET)).status == 502
        assert backend.connections == 1


DELETE = GET.replace(b"GET", b"DELETE")
LONG = post(100_000) + b"x" * 100_000


@pytest.mark.parametrize("raw", [DELETE, post(0), post(3) + b"abc", LONG])
async def test_what_may_have_been_executed_is_not_sent_again(raw):
    async with forwarding(dying_after(served=1, reads=5)) as (client, backend):
        assert (await client.ask(GET)).status == 200
        assert (await client.ask(raw)).status == 502
        assert backend.connections == 1


async def test_a_read_whose_answer_had_begun_is_not_sent_again():
    async def script(stream):
        await read_head(stream)
        await stream.send_all(OK)
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 2")
        await stream.aclose()

    async with forwarding(script) as (client, backend):
        assert (await client.ask(GET)).status == 200
        assert (await client.ask(GET)).status == 502
        assert backend.connections == 1


@pytest.mark.parametrize("raw", [DELETE, post(3) + b"abc", LONG])
async def test_what_never_left_is_sent_on_a_fresh_connection(raw):
    async with forwarding(dying_after(served=1, reads=0)) as (client, backend):
        assert (await client.ask(GET)).status == 200
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.ask(raw)).status == 200
        assert backend.connections == 2
