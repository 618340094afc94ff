"""Responses from a disk: the event loop never reads data that is not in memory, whatever the client and the disk do."""

from __future__ import annotations

import os
import socket

import pytest
import trio
from support.http_serving import PAGE_BYTES, PagedSource, serving, serving_a_socket
from support.waiting import LIMIT_S

from native_handlers.http_model.message import FileBody, FileSlice, Response
from supervisor.net import file_pieces, transport

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
MIB = 1024 * 1024
DATA = os.urandom(3 * MIB + 123)
LAST_PAGE = len(DATA) // PAGE_BYTES
DRIVERS = pytest.mark.parametrize("serve", [serving_a_socket, serving], ids=["socket", "stream"])


def answering(source, offset_bytes=0, length_bytes=None):
    length_bytes = len(source.data) if length_bytes is None else length_bytes

    async def handle(request):
        return Response(206, body=FileBody([FileSlice(source, offset_bytes, length_bytes)]))

    return handle


@DRIVERS
@pytest.mark.parametrize("length_bytes", [len(DATA), MIB, 300_001])
async def test_a_window_whose_ends_alone_are_in_memory_is_read_elsewhere(serve, length_bytes):
    """This is the state after the first page was read for its type and the last one with the metadata."""
    start = len(DATA) - length_bytes
    source = PagedSource(DATA, {start // PAGE_BYTES, LAST_PAGE})
    async with serve(answering(source, start, length_bytes)) as (client, _):
        with trio.fail_after(LIMIT_S):
            assert (await client.ask(GET)).body == DATA[start:]
    read = {page for offset, length in source.reads for page in source.pages(offset, length)}
    missing = set(range(start // PAGE_BYTES + 1, LAST_PAGE))
    assert missing <= read


@DRIVERS
async def test_what_memory_holds_needs_no_thread(serve):
    source = PagedSource(DATA, range(LAST_PAGE + 1))
    async with serve(answering(source)) as (client, _):
        assert (await client.ask(GET)).body == DATA
    assert source.reads == []


@DRIVERS
async def test_a_disk_whose_pages_are_never_in_memory(serve):
    source = PagedSource(DATA, forgets=True)
    async with serve(answering(source)) as (client, _):
        assert (await client.ask(GET)).body == DATA


async def test_slow_clients_do_not_get_the_bytes_of_others():
    other = bytes(255 - byte for byte in DATA[:256]) * (len(DATA) // 256)
    sources = [PagedSource(DATA, range(LAST_PAGE + 1)), PagedSource(other, range(len(other) // PAGE_BYTES + 1))]
    async with (
        serving_a_socket(answering(sources[0])) as (first, _),
        serving_a_socket(answering(sources[1])) as (second, _),
    ):
        bodies = {}

        async def ask(name, client):
            bodies[name] = (await client.ask(GET)).body

        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, "first", first)
                nursery.start_soon(ask, "second", second)
    assert bodies == {"first": DATA, "second": other}


@DRIVERS
async def test_a_disk_that_fails_while_it_is_sent_breaks_the_answer_off(serve, caplog):
    class Failing(PagedSource):
        async def read(self, length_bytes, offset_bytes):
            raise OSError(5, "Input/output error")

    source = Failing(DATA, range(100))
    async with serve(answering(source)) as (client, _):
        await client.send(GET)
        with trio.fail_after(LIMIT_S):
            try:
                received = await client.read_to_end()
            except trio.BrokenResourceError:
                received = b""
    assert len(received) < len(DATA)
    assert "the answer broke off" in caplog.text


async def test_what_memory_holds_goes_straight_to_a_socket_and_the_rest_is_read():
    source = PagedSource(DATA, [page for page in range(LAST_PAGE + 1) if page // 256 != 1], sends=True)
    async with serving_a_socket(answering(source)) as (client, _):
        assert (await client.ask(GET)).body == DATA
    assert source.sent_straight
    assert {page for offset, length in source.reads for page in source.pages(offset, length)} >= set(range(256, 512))


async def test_where_the_kernel_paces_nothing_goes_straight(monkeypatch):
    monkeypatch.setattr(transport, "is_paced", lambda _sock: True)
    source = PagedSource(DATA, range(LAST_PAGE + 1), sends=True)
    async with serving_a_socket(answering(source)) as (client, _):
        assert (await client.ask(GET)).body == DATA
    assert not source.sent_straight


async def test_a_client_that_goes_while_it_is_sent_straight_is_gone():
    source = PagedSource(DATA, range(LAST_PAGE + 1), sends=True)
    async with serving_a_socket(answering(source)) as (client, _):
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        with trio.fail_after(LIMIT_S):
            await trio.testing.wait_all_tasks_blocked()
    assert source.sent_straight


@pytest.mark.parametrize("name", ["bbr", "cubic", "reno"])
def test_who_paces(name):
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        except OSError:
            pytest.skip(f"this machine does not offer {name}")
        assert file_pieces.is_paced(sock) == (name == "bbr")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not file_pieces.is_paced(ours)
