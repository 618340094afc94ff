"""The longest texts that a head has room for, and the longest fields of a form. None takes the event loop more than
some milliseconds.
"""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from support.processor_work import calls_worth

from native_handlers.format.errors import BadFileId, BadTtl
from native_handlers.format.ttl import parse_ttl
from native_handlers.http.send_content import disposition_of
from native_handlers.http.tokens import choose_token
from native_handlers.http.upload import encode_pairs
from native_handlers.http.upload_body import MAX_FORM_BYTES
from native_handlers.http_model.errors import BadMediaType, BadRange, quote
from native_handlers.http_model.go_numbers import parse_int_or_zero, parse_uint_or_zero
from native_handlers.http_model.headers import HeaderMap, Headers, canonical_name
from native_handlers.http_model.media_type import MAX_PARAMETERS, parse_media_type
from native_handlers.http_model.message import Listener
from native_handlers.http_model.query import parse_form
from native_handlers.http_model.ranges import MAX_RANGES, parse_ranges
from native_handlers.http_model.target import RequestTarget
from native_handlers.storage.volume.paths import VolumePaths
from supervisor.fast_path.write_request import MAX_BODY_BYTES, ChangeMatcher
from supervisor.routing.match import match_http
from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.forwarding import end_to_end
from supervisor.wire.http1 import ServerConnection
from supervisor.wire.http1_head import normalised_target
from supervisor.wire.simple_heads import match_request, match_response

MOST_CALLS = 120_000
"""As much as so many calls of an empty function: five milliseconds and more, depending on the machine."""
LONG = 60_000


def asked_twice_for_its_redirect(path):
    """As for the answer, and for the counts of answers."""
    target = RequestTarget.parse(path)
    return target.canonical_target("GET") == target.canonical_target("GET")


def head_of(method, name, value):
    """The head of a request with that field, and what is passed on of it."""
    connection = ServerConnection()
    connection.receive_data(f"{method} / HTTP/1.1\r\nHost: x\r\n{name}: {value}\r\n\r\n".encode())
    return end_to_end(connection.next_event().headers)


def cookies(*lines):
    return choose_token("", "", lines)


def media_type(value):
    with suppress(BadMediaType):
        parse_media_type(f"a/b; {value}")


def ranges(*specs):
    with suppress(BadRange):
        parse_ranges(f"bytes={','.join(specs)}", 1 << 40)


def ids_of(path):
    target = RequestTarget.parse(path)
    with suppress(BadFileId):
        target.require_volume_id()


def ttl(text):
    with suppress(BadTtl):
        parse_ttl(text)


def part_with_many_headers():
    """The fast path leaves this part to the ordinary way, which gives way while it parses."""
    part = "--b\r\n" + "a: b\r\n" * (MAX_BODY_BYTES // 6 - 10) + "\r\n\r\n--b--\r\n"
    head = f"Host: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(part)}\r\n"
    assert ChangeMatcher().parse(f"POST /3,01637037d6 HTTP/1.1\r\n{head}\r\n{part}".encode()) is None


def nearly_simple_request(fields):
    head = b"GET /1,0122334455 HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * fields
    assert match_request(head + b"Expect: 100-continue\r\n\r\n") is None


def nearly_simple_answer(fields):
    head = b"HTTP/1.1 200 OK\r\n" + b"A: b\r\nDate: c\r\n" * (fields // 2) + b"TE: d\r\n\r\n"
    assert match_response(head, len(head), is_head=False) is None


def too_many_fields():
    with pytest.raises(RemoteProtocolError, match="more than 256"):
        head_of("GET", "A", "\r\na:b" * (LONG // 5))


TEXTS = {
    "a target of bytes beyond ASCII": lambda: normalised_target("GET", "/" + "\xe9" * LONG),
    "a whole address of them": lambda: normalised_target("GET", "http://x/" + "\xe9/" * (LONG // 2)),
    "a path of slashes": lambda: asked_twice_for_its_redirect("/" * LONG),
    "a path of quotes to be cleaned": lambda: asked_twice_for_its_redirect("//" + '"' * LONG),
    "a path of many segments": lambda: match_http(Listener.ADMIN, "GET", "/%2e" * (LONG // 4)),
    "a list of options of the connection": lambda: head_of("GET", "Connection", "a," * (LONG // 2)),
    "a list beside a length": lambda: head_of("PUT", "Content-Length: 1\r\nConnection", "a," * (LONG // 2)),
    "many segments below a fixed path": lambda: match_http(Listener.ADMIN, "GET", "/seaweedfsstatic" + "/a" * 30_000),
    "a request that its last field makes no simple one": lambda: nearly_simple_request(18),
    "such a request of many fields": lambda: nearly_simple_request(LONG // 6),
    "an answer that its last field makes no simple one": lambda: nearly_simple_answer(14),
    "such an answer of many fields": lambda: nearly_simple_answer(LONG // 8),
    "a path that names no volume": lambda: ids_of("/" + "\xe9" * LONG),
    "a path of percent signs": lambda: ids_of("/" + "%4" * (LONG // 2)),
    "empty cookies": lambda: cookies(";" * LONG),
    "other cookies": lambda: cookies("a=b;" * (LONG // 4)),
    "malformed cookies": lambda: cookies("AT=\\;" * (LONG // 5)),
    "fields of malformed cookies": lambda: cookies(*["AT=\\;" * 47] * 250),
    "parameters of a media type": lambda: media_type(";".join(f"a{i}={'b' * 220}" for i in range(MAX_PARAMETERS))),
    "a parameter of backslashes": lambda: media_type('a="' + "\\(" * (LONG // 2) + '"'),
    "a parameter of escapes": lambda: media_type("a*=utf-8''" + "%41" * (LONG // 3)),
    "a parameter in pieces": lambda: media_type(";".join(f"a*{i}*={'%41' * 70}" for i in range(MAX_PARAMETERS))),
    "a file name of odd bytes": lambda: disposition_of("\xe9" * LONG, is_download=False),
    "a file name of quotes": lambda: disposition_of('"' * LONG, is_download=False),
    "a quote of odd bytes": lambda: quote("\xe9" * LONG),
    "a quote of control characters": lambda: quote("\x01" * LONG),
    "a quote of letters": lambda: quote("\xc3\xa4" * (LONG // 2)),
    "a name of many words": lambda: canonical_name("a-" * (LONG // 2)),
    "an answer's field of odd bytes": lambda: HeaderMap().set("A", "\xe9" * LONG),
    "ranges": lambda: ranges(*[f"{i}-{i}" for i in range(MAX_RANGES)]),
    "odd ranges": lambda: ranges(*[f" +{i} - +{i} " for i in range(MAX_RANGES)]),
    "more ranges": lambda: ranges(*["1-1"] * (LONG // 4)),
    "a range of odd bytes": lambda: ranges("\xe9" * LONG + "-"),
    "a pair of odd bytes": lambda: encode_pairs(Headers([("Seaweed-A", "\xe9" * LONG)])),
    "many pairs": lambda: encode_pairs(Headers([(f"Seaweed-{i}-a-b", "v" * 200) for i in range(250)])),
    "a part of a form with many headers": part_with_many_headers,
}
FIELDS = {
    "a number of odd bytes": (parse_uint_or_zero, "\xe9", ""),
    "a number that ends odd": (parse_int_or_zero, "1", "\xe9"),
    "digits": (parse_uint_or_zero, "1", ""),
    "zeros": (parse_int_or_zero, "0", "1"),
    "a TTL of zeros": (ttl, "0", "1m"),
    "a TTL of odd bytes": (ttl, "\xe9", ""),
}
"""How a field of a form is read that is as long as the whole form, 10 MB: what parses it, its characters, its end."""
MOST_CALLS_FOR_FIELDS = 400_000
KEPT = {
    "names of header fields": canonical_name,
    "file names": lambda name: disposition_of(name, is_download=True),
    "collections": lambda name: VolumePaths(Path(), Path(), name, 3).file(".dat"),
}
"""Requests with a long text of a client, over HTTP or gRPC."""


@pytest.mark.parametrize("work", TEXTS.values(), ids=TEXTS)
def test_no_text_of_a_client_takes_long(work):
    assert calls_worth(work) < MOST_CALLS


def test_a_value_of_many_words_costs_no_more_beside_a_length():
    assert calls_worth(lambda: head_of("PUT", "Content-Length: 1\r\nA", "b " * (LONG // 2))) < MOST_CALLS / 2


def test_many_more_fields_than_are_accepted_are_not_split():
    assert calls_worth(too_many_fields) < MOST_CALLS / 3


@pytest.mark.parametrize(("parse", "character", "end"), FIELDS.values(), ids=FIELDS)
def test_no_field_of_a_form_takes_long(parse, character, end):
    text = character * MAX_FORM_BYTES + end
    assert calls_worth(lambda: parse(text)) < MOST_CALLS_FOR_FIELDS


def first_step(form):
    next(parse_form(form))


@pytest.mark.parametrize("form", ["a" * MAX_FORM_BYTES, f"{'+' * 32_000}&" * 320], ids=["one pair", "pairs"])
def test_the_step_of_a_long_form_that_is_done_on_the_loop_is_short(form):
    assert calls_worth(lambda: first_step(form)) < MOST_CALLS


def test_a_usual_range_among_a_thousand_costs_no_more_than_it_does_alone():
    specs = [f"{i}-{i}" for i in range(MAX_RANGES)]
    assert calls_worth(lambda: ranges(*specs)) < MOST_CALLS * 2 / 3


@pytest.mark.parametrize("work", KEPT.values(), ids=KEPT)
def test_long_texts_are_not_kept(work):
    tracemalloc.start()
    try:
        for number in range(50):
            work(f"{number}" + "a" * LONG)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 10 * LONG
