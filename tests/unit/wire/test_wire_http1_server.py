"""The server's side of a connection: requests whole, byte by byte, pipelined, malformed; h11 reads the responses."""

from __future__ import annotations

import re

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from native_handlers.http_model.headers import Headers
from supervisor.wire.errors import LocalProtocolError, RemoteProtocolError
from supervisor.wire.http1 import ServerConnection, WireLimits
from supervisor.wire.http1_events import NO_HEADERS, Data, EndOfMessage, RequestHead, ResponseHead, Signal

H = b"Host: x\r\n"
HOST = ("Host", "x")


def head(method="GET", target="/", *fields, version="1.1", length=0, expects=False, keep_alive=True):
    return RequestHead(method, target, Headers(fields), version, length, expects, keep_alive)


# The sent bytes, the parsed head, its body, its trailers.
GOOD = [
    (b"GET / HTTP/1.1\r\n" + H + b"\r\n", head("GET", "/", HOST), b"", ()),
    (b"GET /3,01?a=b%20c#d HTTP/1.1\r\nhOST: x\r\nB: 2\r\nA: 1\r\n\r\n",
     head("GET", "/3,01?a=b%20c#d", ("hOST", "x"), ("B", "2"), ("A", "1")), b"", ()),
    (b"PROPFIND /a HTTP/1.1\r\n" + H + b"\r\n", head("PROPFIND", "/a", HOST), b"", ()),
    (b"GET / HTTP/1.0\r\n\r\n", head("GET", "/", version="1.0", keep_alive=False), b"", ()),
    (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
     head("GET", "/", ("Connection", "Keep-Alive"), version="1.0"), b"", ()),
    (b"GET / HTTP/1.1\r\n" + H + b"Connection: x, CLOSE\r\n\r\n",
     head("GET", "/", HOST, ("Connection", "x, CLOSE"), keep_alive=False), b"", ()),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\n\r\nhello",
     head("POST", "/", HOST, ("Content-Length", "5"), length=5), b"hello", ()),
    (b"POST / HTTP/1.1\r\n" + H + b"content-length: 5\r\nContent-Length: 5\r\n\r\nhello",
     head("POST", "/", HOST, ("content-length", "5"), length=5), b"hello", ()),
    (b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: 0\r\n\r\n",
     head("PUT", "/", HOST, ("Content-Length", "0"), length=0), b"", ()),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nSum: 1\r\n\r\n",
     head("POST", "/", HOST, ("Transfer-Encoding", "chunked"), length=None), b"hello!", (("Sum", "1"),)),
    (b"POST / HTTP/1.1\r\n" + H + b"Expect: 100-Continue\r\nContent-Length: 1\r\n\r\n!",
     head("POST", "/", HOST, ("Expect", "100-Continue"), ("Content-Length", "1"), length=1, expects=True), b"!", ()),
    (b"GET / HTTP/1.1\r\n" + H + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
     head("GET", "/", HOST, ("Upgrade", "h2c"), ("Connection", "Upgrade")), b"", ()),
    (b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n", head("OPTIONS", "*", HOST), b"", ()),
    (b"CONNECT a:1 HTTP/1.1\r\n" + H + b"\r\n", head("CONNECT", "a:1", HOST), b"", ()),
    (b"GET http://real:80/p?q HTTP/1.1\r\nHost: other\r\nA: 1\r\n\r\n",
     head("GET", "/p?q", ("Host", "real:80"), ("A", "1")), b"", ()),
    (b"GET HTTP://real?q HTTP/1.1\r\nHost: other\r\n\r\n", head("GET", "/?q", ("Host", "real")), b"", ()),
    (b"GET /\xe6\x96\x87 HTTP/1.1\r\n" + H + b"\r\n", head("GET", "/%E6%96%87", HOST), b"", ()),
    (b"POST /\xe6 HTTP/1.1\r\n" + H + b"Content-Length: 1\r\n\r\n!",
     head("POST", "/%E6", HOST, ("Content-Length", "1"), length=1), b"!", ()),
]  # fmt: skip

BAD = [
    (b"GET / HTTP/1.1\r\n\r\n", 400, "Host"),
    (b"GET / HTTP/1.1\r\n" + H + b"host: y\r\n\r\n", 400, "Host"),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "together"),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400, "together"),
    (b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.0"),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400, "Content-Length"),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5, 6\r\n\r\n", 400, "Content-Length"),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +5\r\n\r\n", 400, "Content-Length"),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: \r\n\r\n", 400, "Content-Length"),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "chunked"),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: identity\r\n\r\n", 501, "chunked"),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n", 501, "chunked"),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\x0bchunked\r\n\r\n", 400, "header line"),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding : chunked\r\n\r\n", 400, "space"),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501, "multiple"),
    (b"POST / HTTP/1.1\r\n" + H + b"Expect: 200-ok\r\n\r\n", 417, "100-continue"),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 11\r\n\r\n", 413, "longer than 10"),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n", 413, "longer"),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\nz\r\n", 400, "chunk size"),
    (b"GET a HTTP/1.1\r\n" + H + b"\r\n", 400, "request target"),
    (b"GET * HTTP/1.1\r\n" + H + b"\r\n", 400, "request target"),
    (b"GET ftp://a/b HTTP/1.1\r\n" + H + b"\r\n", 400, "request target"),
    (b"GET http://u@a/b HTTP/1.1\r\n" + H + b"\r\n", 400, "request target"),
]  # fmt: skip

LIMITS = WireLimits(max_body_bytes=10)


def read_all(connection: ServerConnection, raw: bytes, step: int = 100_000) -> list:
    """Every event of `raw` in pieces of `step` bytes; body pieces are joined."""
    events, body = [], b""
    for at in range(0, len(raw), step):
        connection.receive_data(raw[at : at + step])
        while not isinstance(event := connection.next_event(), Signal):
            if isinstance(event, Data):
                body += event.data
                continue
            if isinstance(event, EndOfMessage):
                events.append(body)
            events.append(event)
    return events


def read_to_end(connection: ServerConnection) -> None:
    while not isinstance(connection.next_event(), EndOfMessage):
        pass


@pytest.mark.parametrize(("raw", "request_head", "body", "trailers"), GOOD)
@pytest.mark.parametrize("step", [1, 3, 100_000])
def test_a_good_request_is_read(raw, request_head, body, trailers, step):
    assert read_all(ServerConnection(LIMITS), raw, step) == [request_head, body, EndOfMessage(Headers(trailers))]


@pytest.mark.parametrize(("raw", "request_head", "body", "trailers"), GOOD)
def test_what_follows_a_request_waits_for_the_next_cycle(raw, request_head, body, trailers):
    connection = ServerConnection(LIMITS)
    follower = b"GET /next HTTP/1.1\r\n" + H + b"\r\n"
    assert read_all(connection, raw + follower) == [request_head, body, EndOfMessage(Headers(trailers))]
    assert connection.next_event() is Signal.PAUSED
    assert connection.buffered_bytes == len(follower)
    connection.send(ResponseHead(204, NO_HEADERS, keep_alive=request_head.keep_alive))
    connection.send(EndOfMessage())
    if not request_head.keep_alive:
        assert not connection.can_continue
        return
    connection.start_next_cycle()
    assert connection.next_event() == head("GET", "/next", HOST)


@pytest.mark.parametrize(("raw", "request_head", "body", "trailers"), GOOD)
def test_a_request_that_is_cut_short_is_an_error_not_a_request(raw, request_head, body, trailers):
    for cut in range(1, len(raw)):
        connection = ServerConnection(LIMITS)
        connection.receive_data(raw[:cut])
        connection.receive_data(b"")
        with pytest.raises(RemoteProtocolError, match="closed"):
            read_to_end(connection)


@pytest.mark.parametrize(("raw", "status", "why"), BAD)
@pytest.mark.parametrize("step", [1, 100_000])
def test_a_bad_request_is_refused_and_poisons_the_connection(raw, status, why, step):
    connection = ServerConnection(LIMITS)
    with pytest.raises(RemoteProtocolError) as caught:
        read_all(connection, raw, step)
    assert caught.value.status == status
    assert why in caught.value.why
    with pytest.raises(RemoteProtocolError):
        connection.next_event()


def test_a_close_between_requests_is_no_error():
    connection = ServerConnection()
    connection.receive_data(b"")
    assert connection.next_event() is Signal.CLOSED


def start(raw: bytes = b"GET / HTTP/1.1\r\n" + H + b"\r\n") -> ServerConnection:
    connection = ServerConnection()
    read_all(connection, raw)
    return connection


def as_h11_reads(sent: bytes, method: bytes = b"GET", *, is_closed: bool = False) -> list:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(sent)
    if is_closed:
        client.receive_data(b"")
    events = []
    while (event := client.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        events.append(event)
        if isinstance(event, h11.ConnectionClosed):
            break
    return events


def test_a_response_of_known_length_as_h11_reads_it():
    connection = start()
    sent = connection.send(ResponseHead(200, Headers([("b-B", "1"), ("A-a", "2")]), body_length_bytes=5))
    sent += connection.send(Data(b"he")) + connection.send(Data(b"llo")) + connection.send(EndOfMessage())
    assert sent == b"HTTP/1.1 200 OK\r\nb-B: 1\r\nA-a: 2\r\nContent-Length: 5\r\n\r\nhello"
    response, data, _ = as_h11_reads(sent)
    assert (response.status_code, bytes(data.data)) == (200, b"hello")


def test_a_response_of_unknown_length_is_chunked_with_its_trailers():
    connection = start()
    sent = connection.send(ResponseHead(200, NO_HEADERS)) + connection.send(Data(b"hello"))
    sent += connection.send(EndOfMessage(Headers([("Sum", "1")])))
    _, data, end = as_h11_reads(sent)
    assert bytes(data.data) == b"hello"
    assert end.headers == [(b"sum", b"1")]


def test_http_1_0_gets_the_end_of_the_connection_instead_of_chunks():
    connection = start(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    sent = connection.send(ResponseHead(200, NO_HEADERS)) + connection.send(Data(b"hello"))
    sent += connection.send(EndOfMessage())
    assert sent == b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nhello"
    assert not connection.can_continue


def test_http_1_0_keeps_a_connection_that_it_asked_to_keep():
    connection = start(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    sent = connection.send(ResponseHead(200, NO_HEADERS, body_length_bytes=0)) + connection.send(EndOfMessage())
    assert sent == b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"
    assert connection.can_continue


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_no_length(status):
    connection = start()
    sent = connection.send(ResponseHead(status, NO_HEADERS, body_length_bytes=0)) + connection.send(EndOfMessage())
    assert b"Content-Length" not in sent
    assert connection.can_continue


@pytest.mark.parametrize(
    ("fields", "length", "expected"),
    [
        ([("Content-Length", "77")], 0, b"Content-Length: 77\r\n\r\n"),
        ([], 77, b"Content-Length: 77\r\n\r\n"),
        ([], None, b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
)
def test_the_answer_to_a_head_tells_the_length_and_has_no_body(fields, length, expected):
    connection = start(b"HEAD / HTTP/1.1\r\n" + H + b"\r\n")
    sent = connection.send(ResponseHead(200, Headers(fields), body_length_bytes=length))
    assert (sent + connection.send(EndOfMessage())).endswith(expected)
    assert connection.can_continue


def test_a_status_that_has_no_name_is_named_as_upstream_names_it():
    assert (
        start().send(ResponseHead(499, NO_HEADERS, body_length_bytes=0)).startswith(b"HTTP/1.1 499 status code 499\r\n")
    )


def test_a_value_cannot_end_its_header():
    sent = start().send(
        ResponseHead(200, Headers([("A", "b\r\nEvil: 1"), ("B\r\n", "c"), ("C", "d\x00e")]), body_length_bytes=0)
    )
    assert sent == b"HTTP/1.1 200 OK\r\nA: b  Evil: 1\r\nC: d e\r\nContent-Length: 0\r\n\r\n"


@example(["a\rb"])
@example(["\r"])
@example(["\n", "a\r\nb: c"])
@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=5), min_size=1, max_size=3))
def test_forbidden_characters_of_values_become_spaces(values):
    fields = Headers([(f"A{number}", value) for number, value in enumerate(values)])
    sent = start().send(ResponseHead(200, fields, body_length_bytes=0)).decode("latin-1")
    shown = (re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", " ", value) for value in values)
    lines = "".join(f"A{number}: {value}\r\n" for number, value in enumerate(shown))
    assert sent == f"HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n"


@pytest.mark.parametrize("value", ["b\r\nEvil: 1", "b\r\nTransfer-Encoding: chunked\r\nX: ", "b\r\n"])
def test_a_value_that_is_whole_lines_makes_no_header_of_its_own(value):
    """Only this value is wrong: its header block is a good one."""
    sent = start().send(ResponseHead(200, Headers([("A", value), ("C", "d")]), body_length_bytes=0))
    assert sent.startswith(b"HTTP/1.1 200 OK\r\nA: b  ")
    assert sent.count(b"\r\n") == len((b"status", b"A", b"C", b"Content-Length", b"end"))


def test_a_value_with_wide_characters_goes_out_as_utf_8():
    sent = start().send(ResponseHead(200, Headers([("A", "文")]), body_length_bytes=0))
    assert b"A: \xe6\x96\x87\r\n" in sent


def test_framing_headers_of_a_handler_do_not_reach_the_client():
    fields = [("Transfer-Encoding", "chunked"), ("Connection", "keep-alive"), ("A", "1")]
    sent = start().send(ResponseHead(200, Headers(fields), body_length_bytes=0, keep_alive=False))
    assert sent == b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def test_interim_answers_come_before_the_answer():
    connection = start()
    sent = connection.send(ResponseHead(100, NO_HEADERS)) + connection.send(ResponseHead(103, Headers([("L", "1")])))
    assert sent == b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nL: 1\r\n\r\n"
    connection.send(ResponseHead(200, NO_HEADERS, body_length_bytes=0))
    with pytest.raises(LocalProtocolError):
        connection.send(ResponseHead(100, NO_HEADERS))


@pytest.mark.parametrize(
    "misuse",
    [
        lambda c: c.send(Data(b"x")),
        lambda c: c.send(EndOfMessage()),
        lambda c: c.start_next_cycle(),
        lambda c: c.send(ResponseHead(200, Headers([("Content-Length", "3")]), body_length_bytes=4)),
        lambda c: c.send(ResponseHead(200, Headers([("Content-Length", "3")]))),
        lambda c: [c.send(ResponseHead(200, NO_HEADERS, body_length_bytes=2)), c.send(Data(b"xyz"))],
        lambda c: [c.send(ResponseHead(200, NO_HEADERS, body_length_bytes=2)), c.send(EndOfMessage())],
        lambda c: [c.send(ResponseHead(204, NO_HEADERS)), c.send(Data(b"x"))],
        lambda c: [c.send(ResponseHead(200, NO_HEADERS)), c.sent_out_of_band(1)],
        lambda c: [c.send(ResponseHead(200, NO_HEADERS)), c.send(EndOfMessage()), c.send(EndOfMessage())],
    ],
)
def test_misuse_is_a_bug_of_ours(misuse):
    with pytest.raises(LocalProtocolError):
        misuse(start())


TOKEN = st.text("abcXYZ-_!09", min_size=1, max_size=8)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=20).map(
    lambda text: "".join(c for c in text if c != "\x7f").strip(" \t\x85\xa0")
)


@given(TOKEN, st.lists(st.tuples(TOKEN, VALUE), max_size=6), st.sampled_from(["1.0", "1.1"]))
def test_both_parsers_read_a_good_request_alike(method, fields, version):
    """The short path without h11 and h11 must not differ in a request that both accept."""
    fields = [(name, value) for name, value in fields if name.lower() not in {"host", "expect", "upgrade"}]
    block = "".join(f"{name}: {value}\r\n" for name, value in [HOST, *fields])
    raw = f"{method} /path?q HTTP/{version}\r\n{block}\r\n".encode("latin-1")
    ours = read_all(ServerConnection(), raw)[0]
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(raw)
    theirs = parser.next_event()
    assert ours.method == theirs.method.decode()
    assert [(n.encode("latin-1"), v.encode("latin-1")) for n, v in ours.headers] == theirs.headers.raw_items()


FRAMING = st.one_of(
    st.tuples(st.sampled_from(["Content-Length", "content-length"]), st.sampled_from(["3", "03", "3, 3", "3,4", "x"])),
    st.tuples(
        st.sampled_from(["Transfer-Encoding", "transfer-encoding"]), st.sampled_from(["chunked", "Chunked", "a"])
    ),
    st.tuples(st.sampled_from(["Expect", "Upgrade", "Connection"]), st.sampled_from(["100-continue", "close", "a"])),
    st.tuples(TOKEN, VALUE),
)


@given(st.lists(FRAMING, max_size=5), st.integers(0, 5))
def test_a_head_that_frames_a_body_is_read_as_h11_reads_all_of_it(fields, place):
    """h11 gets the fields that frame the body alone."""
    fields.insert(place, HOST)
    block = "".join(f"{name}: {value}\r\n" for name, value in fields)
    raw = f"PUT /path HTTP/1.1\r\n{block}\r\n".encode("latin-1")
    connection, parser = ServerConnection(), h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    try:
        ours = connection.next_event()
    except RemoteProtocolError:
        return
    parser.receive_data(raw)
    assert [(n.encode("latin-1"), v.encode("latin-1")) for n, v in ours.headers] == (
        parser.next_event().headers.raw_items()
    )


@given(st.binary(max_size=80), st.booleans())
def test_what_we_take_h11_takes_too(noise, has_host):
    """On arbitrary input: the server may refuse requests that h11 accepts, never the other way round."""
    raw = b"GET / HTTP/1.1\r\n" + (H if has_host else b"") + noise + b"\r\n\r\n"
    connection = ServerConnection()
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except RemoteProtocolError:
        return
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(raw)
    theirs = parser.next_event()
    assert isinstance(event, RequestHead)
    assert [(n.encode("latin-1"), v.encode("latin-1")) for n, v in event.headers] == theirs.headers.raw_items()
