"""Bodies that `receive_into` receives in their final memory, over memory streams, sockets and TLS."""

from __future__ import annotations

import os

import pytest
import trio
from support.certificate_authority import Authority
from support.http_serving import connected, limits, serving, serving_on

from native_handlers.http.upload_body import read_limited
from native_handlers.http_model.message import BodyError, Response
from supervisor.net.tls import TlsContextSource, TlsSettings, client_context

LIMIT_BYTES = 32 << 20
BODY = os.urandom((9 << 20) + 7)


async def give_back(request):
    body = await read_limited(request.body, LIMIT_BYTES)
    return Response(200 if body == BODY[: len(body or b"")] else 500, body=str(len(body or b"")).encode())


def head(length, extra=""):
    return f"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{extra}\r\n".encode()


async def send_in_pieces(client, data, size):
    for start in range(0, len(data), size):
        await client.send(data[start : start + size])


@pytest.mark.parametrize("length", [0, 1, 65536, 65537, 131072, 131073, 4 << 20, (4 << 20) + 1, len(BODY)])
async def test_each_byte_arrives_once_and_the_connection_goes_on(length):
    async with serving(give_back) as (client, _), trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(send_in_pieces, client, head(length) + BODY[:length], 100_001)
            answer = await client.answer(b"PUT")
            assert (answer.status, answer.body) == (200, str(length).encode())


async def test_the_next_request_is_not_taken_for_the_body():
    async with serving(give_back) as (client, _), trio.open_nursery() as nursery:
        both = (head(200_000) + BODY[:200_000]) * 2
        nursery.start_soon(client.send, both)
        for _ in range(2):
            answer = await client.answer(b"PUT")
            assert (answer.status, answer.body) == (200, b"200000")


@pytest.mark.parametrize("is_tls", [False, True])
async def test_over_a_socket(is_tls, tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tls = TlsContextSource(TlsSettings(cert=certificate, key=key), trio.current_time) if is_tls else None
    context = client_context(None, None, authority.ca) if is_tls else None
    async with serving_on(give_back, tls=tls) as (port, _), connected(port, context) as client:
        for _ in range(2):
            answer = await client.ask(head(len(BODY)) + BODY)
            assert (answer.status, answer.body) == (200, str(len(BODY)).encode())


async def test_a_client_that_waits_to_be_asked():
    async with serving(give_back) as (client, _), trio.open_nursery() as nursery:
        await client.send(head(300_000, "Expect: 100-continue\r\n"))
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        nursery.start_soon(client.send, BODY[:300_000])
        assert (await client.answer(b"PUT")).body == b"300000"


async def test_a_body_that_breaks_off_is_the_clients_fault():
    failures = []

    async def handle(request):
        try:
            return await give_back(request)
        except BodyError as error:
            failures.append(str(error))
            raise

    async with serving(handle) as (client, _):
        await client.send(head(300_000) + BODY[:299_999])
        await client.stream.send_eof()
        assert (await client.answer(b"PUT")).status == 400
    assert len(failures) == 1
    assert "the connection was closed with 1 bytes of the body missing" in failures[0]


async def test_a_body_that_is_too_long_is_refused_unread():
    async with serving(give_back, limits(unread_body_bytes=0)) as (client, _):
        await client.send(head(LIMIT_BYTES + 1) + BODY[:10])
        answer = await client.answer(b"PUT")
        assert (answer.body, answer.headers.get("connection")) == (b"0", "close")
