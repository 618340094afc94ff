"""The headers that a proxy forwards: all, in their order and case, except those of one connection."""

from __future__ import annotations

import pytest

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Listener, Request, RequestBody
from supervisor.wire.forwarding import HOP_BY_HOP, end_to_end, forwarded_request


class Body(RequestBody):
    def __init__(self, length_bytes):
        self.length_bytes = length_bytes

    async def receive_some(self):
        raise AssertionError("the head says it all")


def request(*fields, method="GET", length=0):
    return Request(method, "/a?b", Headers(fields), Body(length), Listener.ADMIN, "10.0.0.1", 1, "ID")


def test_order_case_and_repetition_stay():
    fields = [("zZ", "1"), ("HOST", "h"), ("a", "2"), ("zz", "3")]
    assert list(end_to_end(Headers(fields))) == fields


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_hop_by_hop_headers_end_here(name):
    assert list(end_to_end(Headers([(name.title(), "x"), ("Host", "h")]))) == [("Host", "h")]


def test_what_connection_names_ends_here_too():
    fields = [("Connection", "close, X-Mine"), ("x-mine", "1"), ("Connection", "x-other"), ("X-Other", "2"), ("B", "3")]
    assert list(end_to_end(Headers(fields))) == [("B", "3")]


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Authorization", "Cookie"])
def test_connection_cannot_name_framing_or_access_away(name):
    assert list(end_to_end(Headers([("Connection", name), (name, "1")]))) == [(name, "1")]


def test_host_is_what_the_client_sent_and_an_absent_one_is_sent_empty():
    assert forwarded_request(request(("Host", "h:1")), keeps_expect=False).headers.get("Host") == "h:1"
    assert forwarded_request(request(), keeps_expect=False).headers.get("Host") == ""


@pytest.mark.parametrize(("keeps", "expected"), [(True, "100-continue"), (False, None)])
def test_expect_goes_along_only_where_the_body_waits_for_it(keeps, expected):
    head = forwarded_request(request(("Expect", "100-continue"), length=3), keeps_expect=keeps)
    assert head.headers.get("Expect") == expected
    assert head.expects_continue is keeps


@pytest.mark.parametrize("length", [0, 5, None])
def test_method_target_and_framing_are_kept(length):
    head = forwarded_request(request(method="PROPFIND", length=length), keeps_expect=False)
    assert (head.method, head.target, head.body_length_bytes) == ("PROPFIND", "/a?b", length)
