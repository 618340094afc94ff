"""The fast path of forwarded requests and the ordinary way give the backend and the client the same bytes."""

from __future__ import annotations

import re

import h11
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.http_serving import RawClient
from support.recording_backend import CLOSE, PLAIN_ANSWER, WARM, Recorded, front_of

from native_handlers.http_model.headers import Headers
from supervisor.wire.http1 import ClientConnection, ServerConnection
from supervisor.wire.http1_events import RequestHead, ResponseHead
from supervisor.wire.simple_heads import match_request, match_response

CHANGING = re.compile(rb"((?:Date|X-Amz-Request-Id): )\w{3}[^\r]*|(127\.0\.0\.1:)\d+")
METHODS = st.sampled_from([b"GET"] * 4 + [b"HEAD", b"DELETE", b"POST", b"POST", b"PUT", b"OPTIONS", b"get"])
TARGETS = st.sampled_from(
    [b"/3,01637037d6"] * 20
    + [
        b"/3,01637037d6?type=replicate&ts=1",
        b"/3,01637037d6.jpg",
        b"/3,01637037d6_1",
        b"/3,01637037d6_1.gz?dl=true",
        b"/3,01637037d6?",
        b"/3,01637037d6?a=\xe9",
        b"/3,01637037d6#x",
        b"/3/01637037d6",
        b"/3/01637037d6/a.txt",
        b"/3%2C01637037d6",
        b"/x/y/z/3,01637037d6",
        b"/status",
        b"/4294967303,01637037d6",
        b"//3,01637037d6",
        b"http://else.where/3,01637037d6",
    ]
)
FIELDS = (
    rb"""Accept: */*
Accept: */*\x20
Accept:*/*
Accept:  */*
Accept:
Accept:\x20
Accept-Encoding: gzip
Authorization: Bearer x.y.z
Bad : x
Bad Name: x
Connection: close
Connection: keep-alive
connection: Keep-Alive
CONNECTION: keep-alive
Connection: keep-alive, X-Name
Connection: X-Name
Content-Encoding: gzip
Content-Length: 0
Content-Length: 3
Content-MD5: x
Content-Type: multipart/form-data; boundary=abc
Cookie: a=b
Date: now
Expect: 100-continue
Host: y
host: y
If-None-Match: "00000000"
Keep-Alive: timeout=5
Origin: http://z
Proxy-Connection: keep-alive
Range: bytes=0-1
TE: trailers
Te: x
Trailer: X-T
Transfer-Encoding: chunked
Transfer-Encoding: gzip
Upgrade: h2c
User-Agent: Go-http-client/1.1
X-Amz-Request-Id: 1
X-Forwarded-For: 1.2.3.4
X-Name: a\tb
X-Name: \xe9
X-Name: \x01
 folded""".replace(rb"\x20", b" ")
    .replace(rb"\t", b"\t")
    .replace(rb"\xe9", b"\xe9")
    .replace(rb"\x01", b"\x01")
)
ODD_FIELDS = st.sampled_from([*FIELDS.split(b"\n"), b"a\nb: c", b"a\rb: c"])
USUAL_FIELDS = st.sampled_from(
    [b"Accept: */*", b"User-Agent: Go-http-client/1.1", b"Connection: keep-alive", b"X-Name: 1", b"Range: bytes=0-1"]
)
BODIES = st.sampled_from([b"", b"x", b"abc", b"\r\n\r\n", bytes(1024)])
ANSWER_FIELDS = rb"""Accept-Ranges: bytes
Connection: close
Connection: keep-alive
Connection: X-Name
Content-Disposition: inline; filename="a\xe9.txt"
Content-Length: 4
Content-Length: 04
Content-Length:  4
content-length: 4
Date: Mon, 30 Nov 2026 01:20:00 GMT
Etag: "0123"
Keep-Alive: timeout=5
Proxy-Authenticate: Basic
Server: SeaweedFS Volume 30GB 4.44
TE: trailers
Trailer: X-T
Transfer-Encoding: chunked
Upgrade: h2c
Vary:
Content-Md5:\x20
X-Name: 1\x20
X-Name: a
Bad : x
 folded""".replace(rb"\xe9", b"\xe9").replace(rb"\x20", b" ")
ODD_ANSWER_FIELDS = st.sampled_from(ANSWER_FIELDS.split(b"\n"))


@st.composite
def requests(draw) -> bytes:
    """One request, mostly well-formed, with its whole body."""
    method, target = draw(METHODS), draw(TARGETS)
    version = draw(st.sampled_from([b"1.1"] * 9 + [b"1.0"]))
    block = [b"Host: x"] * draw(st.sampled_from([1] * 9 + [0, 2])) + draw(st.lists(USUAL_FIELDS, max_size=2))
    is_odd = draw(st.booleans())
    block += draw(st.lists(ODD_FIELDS, max_size=2)) if is_odd else []
    body = draw(BODIES) if method in {b"POST", b"PUT"} else b""
    declared = b"".join(block).lower()
    if b"chunked" in declared:
        body = b"3\r\nabc\r\n0\r\n\r\n"
    elif b"length: 3" in declared:
        body = b"abc"
    elif method in {b"POST", b"PUT"} and draw(st.sampled_from([True] * 9 + [False])):
        block.insert(draw(st.integers(0, len(block))), b"Content-Length: %d" % len(body))
    return b"\r\n".join([b"%s %s HTTP/%s" % (method, target, version), *block, b"", body])


@st.composite
def answers(draw) -> bytes:
    """One answer of the backend, mostly well-formed; some break off."""
    status = draw(st.sampled_from([b"200 OK"] * 5 + [b"201 Created", b"202 Accepted", b"204 No Content", b"206 P",
        b"304 Not Modified", b"404 Not Found", b"409", b"409 ", b"500 a b", b"100 Continue", b"103 Early Hints",
        b"101 Switching Protocols", b"20 x", b"700 x"]))  # fmt: skip
    version = draw(st.sampled_from([b"HTTP/1.1"] * 9 + [b"HTTP/1.0", b"http/1.1", b"XTTP/1.1"]))
    body = draw(st.sampled_from([b"", b"warm", bytes(1000), bytes(5000), bytes(70_000), bytes(400_000)]))
    block = [b"Date: Mon, 30 Nov 2026 01:20:00 GMT"] * draw(st.sampled_from([1] * 5 + [0, 2]))
    block += draw(st.lists(st.sampled_from([b'Etag: "0123"', b"Server: SeaweedFS", b"Content-Md5: "]), max_size=2))
    block += [b"Content-Length: %d" % len(body)] * draw(st.sampled_from([1] * 7 + [0, 2]))
    if draw(st.sampled_from([False, False, True])):
        block += draw(st.lists(ODD_ANSWER_FIELDS, max_size=2))
    raw = b"\r\n".join([b"%s %s" % (version, status), *block, b"", body])
    cut = draw(st.sampled_from([None] * 9 + [0, 1, 20, len(raw) - 1]))
    end = draw(st.sampled_from([b""] * 4 + [CLOSE, b"x"]))
    # An answer without a length ends with its connection; one that is cut would otherwise never end.
    must_end = b"Content-Length" not in raw or cut is not None or b"chunked" in raw or status[:3] != b"200"
    return raw[:cut] + (CLOSE if must_end else end)


async def _send(client, raw: bytes, cut: int | None) -> None:
    """Sends a request, its body in two pieces where `cut` says so: that many bytes of the body come with the head."""
    start = raw.find(b"\r\n\r\n") + 4
    if cut is not None and start + cut < len(raw):
        await client.send(raw[: start + cut])
        await trio.testing.wait_all_tasks_blocked()
        raw = raw[start + cut :]
    await client.send(raw)


async def _exchange_all(is_fast: bool, exchanges) -> tuple[list[bytes], bytes, dict, int]:
    """Sends the requests one after the other. Returns what the backend got, what the client got, and the counts."""
    # A plain exchange before each of them leaves a kept connection, without which there is no fast path.
    backend = Recorded()
    async with front_of(backend, is_fast=is_fast, linger_s=0.05) as front:
        received = []
        stream = await trio.open_tcp_stream("127.0.0.1", front.port)
        async with stream:
            client = RawClient(_Taped(stream, received))
            for raw, scripted, cut in [
                exchange for pair in exchanges for exchange in ((WARM, PLAIN_ANSWER, None), pair)
            ]:
                backend.answers = [scripted]
                try:
                    await _send(client, raw, cut)
                    answer = await client.answer(raw.split(b" ")[0].upper())
                except (h11.RemoteProtocolError, trio.BrokenResourceError, AssertionError):
                    break
                if answer.headers.get("connection") == "close":
                    break
            try:
                await stream.send_eof()
                await client.read_to_end()
            except trio.BrokenResourceError:
                received.append(RESET)
        counts = dict(front.gateway.counts)
    answers = with_chunks_joined(b"".join(received))
    return backend.requests, CHANGING.sub(rb"\1\2", answers), counts, front.begun


CHUNKED = b"Transfer-Encoding: chunked"
CHUNK_LINE = re.compile(rb"([0-9a-f]+)\r\n")


def with_chunks_joined(raw: bytes) -> bytes:
    """`raw` with the chunks of each answer joined: where a chunk ends depends on the pieces in which bytes arrived."""
    before, chunked, rest = raw.partition(CHUNKED)
    if not chunked:
        return raw
    fields, blank, rest = rest.partition(b"\r\n\r\n")
    body = b""
    while line := CHUNK_LINE.match(rest):
        start, end = line.end(), line.end() + int(line[1], 16)
        body, rest = body + (rest[start:end] if end > start else b"<last chunk>"), rest[end + 2 :]
        if end == start:
            break
    return before + chunked + fields + blank + body + with_chunks_joined(rest)


def test_joined_chunks_do_not_hide_a_difference():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n"
    whole = with_chunks_joined(head + b"3\r\nabc\r\n0\r\n\r\n" + head + b"1\r\nx")
    assert whole == head + b"abc<last chunk>" + head + b"x"
    assert whole == with_chunks_joined(head + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n" + head + b"1\r\nx")
    last = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert with_chunks_joined(last + b"1\r\na\r\n1\r\nb\r\n") == last + b"ab"
    assert whole != with_chunks_joined(head + b"3\r\nabc\r\n" + head + b"1\r\nx")


class _Taped:
    """A stream that keeps a copy of what is received."""

    def __init__(self, stream, received) -> None:
        self._stream, self._received = stream, received

    async def send_all(self, data) -> None:
        await self._stream.send_all(data)

    async def receive_some(self) -> bytes:
        data = await self._stream.receive_some()
        self._received.append(bytes(data))
        return data


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    exchanges=st.lists(
        st.tuples(requests(), answers(), st.sampled_from([None, None, 0, 1, 1000])), min_size=1, max_size=4
    )
)
def test_both_ways_give_both_ends_the_same_bytes(exchanges):
    """Slow: starts two fronts and two backends for each example."""
    requests_of_fast, *fast = trio.run(_exchange_all, True, exchanges)
    requests_of_ordinary, *ordinary = trio.run(_exchange_all, False, exchanges)
    assert requests_of_fast == requests_of_ordinary
    assert without_what_a_reset_discards(fast[0], ordinary[0]) == without_what_a_reset_discards(ordinary[0], fast[0])
    assert fast[1] == ordinary[1]


RESET = b"<reset>"


def without_what_a_reset_discards(received: bytes, other: bytes) -> bytes:
    """What a client received, as far as both clients received something where both were reset: the kernel discards what
    had not been read by then.
    """
    if not (received.endswith(RESET) and other.endswith(RESET)):
        return received
    return received[: min(len(received), len(other)) - len(RESET)]


@given(raw=requests())
def test_a_head_that_matches_is_one_that_the_ordinary_way_sends_unchanged(raw):
    matched = match_request(raw)
    if matched is None:
        return
    server, client = ServerConnection(), ClientConnection()
    server.receive_data(raw)
    head = server.next_event()
    assert isinstance(head, RequestHead)
    assert head.keep_alive
    assert not head.expects_continue
    assert head.body_length_bytes == len(raw.partition(b"\r\n\r\n")[2])
    kept = RequestHead(
        head.method, head.target, head.headers.without(["Connection"]), body_length_bytes=head.body_length_bytes
    )
    assert client.send_whole(kept) + raw.partition(b"\r\n\r\n")[2] == matched.raw


@given(raw=answers(), is_head=st.booleans())
def test_an_answer_that_matches_is_one_that_the_ordinary_way_passes_on_unchanged(raw, is_head):
    raw = raw.removesuffix(CLOSE)
    matched = match_response(raw, len(raw), is_head=is_head)
    if matched is None:
        return
    client = ClientConnection()
    client.send_whole(RequestHead("HEAD" if is_head else "GET", "/", Headers([("Host", "x")]), body_length_bytes=0))
    client.receive_data(raw)
    head = client.next_event()
    assert isinstance(head, ResponseHead)
    assert (head.status, head.body_length_bytes, head.keep_alive) == (matched.status, matched.body_bytes, True)
    server = ServerConnection()
    server.receive_data(b"%s / HTTP/1.1\r\nHost: x\r\n\r\n" % (b"HEAD" if is_head else b"GET"))
    server.next_event()
    length = None if is_head else head.body_length_bytes
    sent = server.send_whole(ResponseHead(head.status, head.headers, head.reason, length))
    assert sent == raw[: matched.head_bytes]


@pytest.mark.parametrize("data", [b"", b"GET", b"\r\n\r\n", WARM[:-1], WARM + b"x", WARM + WARM])
def test_what_is_not_exactly_one_request_is_left_alone(data):
    assert match_request(data) is None


WRITTEN = (
    b"HTTP/1.1 201 Created\r\nContent-Md5: \r\nContent-Type: application/json\r\nDate: x\r\nContent-Length: 2\r\n\r\n{}"
)


def test_the_answers_of_upstream_match():
    """Upstream sends an empty Content-Md5 after an upload without one."""
    assert match_response(WRITTEN, len(WRITTEN), is_head=False) == (201, len(WRITTEN) - 2, 2)


@pytest.mark.parametrize("line", [b"Name: a ", b"Name: a\t", b"Name:  a", b"Name:a", b"Name: \t", b"Name:"])
def test_a_line_that_the_encoder_would_change_does_not_match(line):
    assert match_request(WARM[:-2] + line + b"\r\n\r\n") is None
    answer = WRITTEN.replace(b"Date", line + b"\r\nDate")
    assert match_response(answer, len(answer), is_head=False) is None
