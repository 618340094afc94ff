"""Requests that two servers could read differently never reach a handler, and end the connection. After each row a
second request is sent, which must not be answered either.
"""

from __future__ import annotations

import pytest
from support.http_serving import limits, serving

from native_handlers.http_model.message import BodyError, Response

H = b"Host: x\r\n"
AFTER = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
CL_TE = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"

CORPUS = {
    "length and chunked": (b"POST / HTTP/1.1\r\n" + H + CL_TE + b"\r\n0\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "two lengths in one": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0, 4\r\n\r\nabcd", 400),
    "signed length": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +4\r\n\r\nabcd", 400),
    "hex length": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0x4\r\n\r\nabcd", 400),
    "space before colon": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length : 4\r\n\r\nabcd", 400),
    "tab before colon": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
    "folded": (b"POST / HTTP/1.1\r\n" + H + b"X: a\r\n Content-Length: 4\r\n\r\nabcd", 400),
    "folded value": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "bare lf line": (b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
    "bare lf head end": (b"GET / HTTP/1.1\r\nHost: x\n\n", 400),
    "lf cr lf": (b"GET / HTTP/1.1\r\nHost: x\n\r\n", 400),
    "bare cr": (b"GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n", 400),
    "nul in value": (b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", 400),
    "nul in name": (b"GET / HTTP/1.1\r\nHost: x\r\nX\x00: a\r\n\r\n", 400),
    "control in value": (b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x1fb\r\n\r\n", 400),
    "vertical tab chunked": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
    "not chunked last": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n", 501),
    "quoted chunked": (b"POST / HTTP/1.1\r\n" + H + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 501),
    "chunked in 1.0": (b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "http 0.9": (b"GET /\r\n", 400),
    "http 2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "no host": (b"GET / HTTP/1.1\r\nX: y\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "space in target": (b"GET /a b HTTP/1.1\r\n" + H + b"\r\n", 400),
    "tls hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "empty line first": (b"\r\nGET / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "long head": (b"GET / HTTP/1.1\r\n" + H + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    "long line": (b"GET /" + b"y" * 70_000, 431),
    "many fields": (b"GET / HTTP/1.1\r\n" + H + b"X:\r\n" * 300 + b"\r\n", 431),
    "unknown expectation": (b"POST / HTTP/1.1\r\n" + H + b"Expect: tea\r\n\r\n", 417),
    "huge body": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 99999999999\r\n\r\n", 413),
}

BODIES = {
    "bare lf after size": b"1\na\r\n0\r\n\r\n",
    "bare lf after data": b"1\r\na\n0\r\n\r\n",
    "signed size": b"+1\r\na\r\n0\r\n\r\n",
    "hex prefix": b"0x1\r\na\r\n0\r\n\r\n",
    "space after size": b"1 \r\na\r\n0\r\n\r\n",
    "huge size": b"fffffffffffffffff\r\na\r\n",
    "too long for its size": b"1\r\nab\r\n0\r\n\r\n",
    "cr in extension": b"1;a\rb\r\na\r\n0\r\n\r\n",
    "folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "length in trailers": b"0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("name", CORPUS)
async def test_an_ambiguous_head_is_refused(autojump_clock, name):
    raw, status = CORPUS[name]
    handled = []

    async def handle(request):
        handled.append(request)
        return Response(200)

    async with serving(handle, limits(linger_s=1)) as (client, _):
        await client.send(raw + AFTER)
        answer = await client.answer()
        assert answer.status == status, answer.body
        assert answer.headers["connection"] == "close"
        await client.stream.send_eof()
        assert await client.is_closed()
    assert handled == []


@pytest.mark.parametrize("name", BODIES)
async def test_ambiguous_chunks_end_the_connection_inside_the_body(autojump_clock, name):
    seen = []

    async def handle(request):
        seen.append(request.target)
        try:
            while await request.body.receive_some():
                pass
        except BodyError:
            seen.append("refused")
            raise
        return Response(200)

    async with serving(handle, limits(linger_s=1)) as (client, _):
        await client.send(b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n" + BODIES[name] + AFTER)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        await client.stream.send_eof()
        assert await client.is_closed()
    assert seen == ["/", "refused"]


async def test_what_an_unread_body_holds_is_never_taken_for_a_request():
    async def handle(request):
        return Response(200, body=request.target.encode())

    async with serving(handle) as (client, _):
        await client.send(b"POST /first HTTP/1.1\r\n" + H + b"Content-Length: %d\r\n\r\n" % len(AFTER) + AFTER)
        await client.send(b"GET /second HTTP/1.1\r\n" + H + b"\r\n")
        assert [(await client.answer()).body for _ in range(2)] == [b"/first", b"/second"]
