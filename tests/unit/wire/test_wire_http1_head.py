"""Heads: an accepted head is split exactly, and a head that two servers could read differently is refused."""

from __future__ import annotations

import pytest

from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1_head import (
    HeadLimits,
    declared_length,
    find_head,
    split_request_head,
    split_response_head,
    split_trailers,
)

LIMITS = HeadLimits(max_bytes=400, max_fields=4)

REQUESTS = [
    ("GET / HTTP/1.1\r\n\r\n", ("GET", "/", "1.1", [])),
    ("PROPFIND /a?b HTTP/1.0\r\nHost: x\r\n\r\n", ("PROPFIND", "/a?b", "1.0", [("Host", "x")])),
    ("get /%20 HTTP/1.1\r\nx-Y:\r\n\r\n", ("get", "/%20", "1.1", [("x-Y", "")])),
    ("GET / HTTP/1.1\r\nA: \t b  c \t\r\nA:d\r\n\r\n", ("GET", "/", "1.1", [("A", "b  c"), ("A", "d")])),
    ("GET /\xe6\x97 HTTP/1.1\r\nName: caf\xe9\r\n\r\n", ("GET", "/\xe6\x97", "1.1", [("Name", "caf\xe9")])),
    ("GET / HTTP/1.1\r\nA: b:c: d\r\n\r\n", ("GET", "/", "1.1", [("A", "b:c: d")])),
]

BAD_REQUESTS = [
    ("GET / HTTP/1.1\r\nA : b\r\n\r\n", 400, "space between the header name 'A'"),
    ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400, "folded"),
    ("GET / HTTP/1.1\r\n A: b\r\n\r\n", 400, "folded or starts with a space"),
    ("GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", 400, "LF without CR"),
    ("GET / HTTP/1.1\nA: b\r\n\r\n", 400, "request line"),
    ("GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", 400, "malformed header line"),
    ("GET / HTTP/1.1\r\nA: b\x00\r\n\r\n", 400, "malformed header line"),
    ("GET / HTTP/1.1\r\nA: \x01b\r\n\r\n", 400, "malformed header line"),
    ("GET / HTTP/1.1\r\nA: \x7f\r\n\r\n", 400, "malformed header line"),
    ("GET / HTTP/1.1\r\nA\r\n\r\n", 400, "malformed header line 'A'"),
    ("GET / HTTP/1.1\r\n: b\r\n\r\n", 400, "malformed header line"),
    ("GET / HTTP/1.1\r\nA(: b\r\n\r\n", 400, "malformed header line"),
    ("GET / HTTP/1.1\r\nA\x80: b\r\n\r\n", 400, "malformed header line"),
    ("\r\nGET / HTTP/1.1\r\n\r\n", 400, "request line"),
    ("GET  / HTTP/1.1\r\n\r\n", 400, "request line"),
    ("GET / a HTTP/1.1\r\n\r\n", 400, "request line"),
    ("GET\t/ HTTP/1.1\r\n\r\n", 400, "request line"),
    ("GET / HTTP/1.1 \r\n\r\n", 400, "request line"),
    ("GET /\r\n\r\n", 400, "request line"),
    ("GET / http/1.1\r\n\r\n", 400, "request line"),
    ("G@T / HTTP/1.1\r\n\r\n", 400, "request line"),
    ("GET /\x00 HTTP/1.1\r\n\r\n", 400, "request line"),
    ("PRI * HTTP/2.0\r\n\r\n", 505, "HTTP/2.0"),
    ("GET / HTTP/1.2\r\n\r\n", 505, "HTTP/1.2"),
    ("GET / HTTP/1.1\r\n" + "A: b\r\n" * 5 + "\r\n", 431, "more than 4 header fields"),
]


@pytest.mark.parametrize(("head", "parts"), REQUESTS)
def test_a_good_request_head_is_split_exactly(head, parts):
    assert split_request_head(head, LIMITS) == parts


@pytest.mark.parametrize(("head", "status", "why"), BAD_REQUESTS)
def test_a_bad_request_head_is_refused_with_its_reason(head, status, why):
    with pytest.raises(RemoteProtocolError) as caught:
        split_request_head(head, LIMITS)
    assert caught.value.status == status
    assert why in caught.value.why


@pytest.mark.parametrize(
    ("head", "parts"),
    [
        ("HTTP/1.1 200 OK\r\n\r\n", (200, "OK", "1.1", [])),
        ("HTTP/1.1 204\r\n\r\n", (204, "", "1.1", [])),
        ("HTTP/1.0 499 status code 499\r\nA: b\r\n\r\n", (499, "status code 499", "1.0", [("A", "b")])),
    ],
)
def test_a_good_response_head_is_split_exactly(head, parts):
    assert split_response_head(head, LIMITS) == parts


@pytest.mark.parametrize(
    "head", ["HTTP/1.1 20 OK\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "HTTP/1.1 2000\r\n\r\n", "ICY 200 OK\r\n\r\n"]
)
def test_a_bad_status_line_is_refused(head):
    with pytest.raises(RemoteProtocolError, match="status line"):
        split_response_head(head, LIMITS)


def test_a_head_is_found_however_it_is_cut():
    raw = b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest"
    for cut in range(1, 24):
        assert find_head(raw[:cut], cut - 1, LIMITS) == -1
        assert find_head(raw, cut, LIMITS) == 24


@pytest.mark.parametrize(
    ("buffer", "status"),
    [
        (b"A" * 401, 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 400 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b" GET / HTTP/1.1\r\n", 400),
    ],
)
def test_a_head_that_will_never_be_good_is_refused_at_once(buffer, status):
    with pytest.raises(RemoteProtocolError) as caught:
        find_head(buffer, 0, LIMITS)
    assert caught.value.status == status


def test_a_bare_lf_is_seen_across_receives():
    with pytest.raises(RemoteProtocolError, match="LF without CR"):
        find_head(b"GET / HTTP/1.1\n", 14, LIMITS)


@pytest.mark.parametrize(("values", "length"), [([], None), (["0"], 0), (["7", "7"], 7), (["7, 7"], 7)])
def test_a_declared_length(values, length):
    assert declared_length(values) == length


@pytest.mark.parametrize(
    "values", [["7", "8"], ["7, 8"], ["+7"], ["-7"], ["0x7"], ["7 7"], [""], ["7,"], ["1" * 19], ["\u0661"]]
)
def test_a_length_that_is_none_is_refused(values):
    with pytest.raises(RemoteProtocolError, match="Content-Length"):
        declared_length(values)


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Host", "Connection"])
def test_framing_has_no_place_in_trailers(name):
    with pytest.raises(RemoteProtocolError, match=f"{name} in the trailers"):
        split_trailers(f"{name}: 1\r\n\r\n", LIMITS)
