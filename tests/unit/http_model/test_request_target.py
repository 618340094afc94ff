"""The parse of a request target: one function for the router, the guard, the authority and the handlers."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from string import ascii_letters, digits
from time import process_time
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.http_native import make_request

from native_handlers.format.errors import BadFileId
from native_handlers.format.fid import parse_volume_id
from native_handlers.http_model.message import Listener
from native_handlers.http_model.percent import escape, escapes_but, unescape
from native_handlers.http_model.query import SHORT_CHARACTERS, parse_query
from native_handlers.http_model.target import RequestTarget, is_well_formed


@pytest.mark.parametrize(
    ("path", "volume_id"),
    [
        ("/3,01637037d6", 3),
        ("/3,01637037d6.jpg", 3),
        ("/3/01637037d6", 3),
        ("/3/01637037d6/name.txt", 3),
        ("/3/01637037d6/a,b", 3),
        ("/3", 3),
        ("/007,01", 7),
        ("/4294967298,01", 2),
        ("/18446744073709551615,01", 0xFFFFFFFF),
        ("/0000000000000000000000000000000000003,01", 3),
        ("/18446744073709551616,01", None),
        ("/" + "9" * 5000 + ",01", None),
        ("/", None),
        ("/,01", None),
        ("/x,01", None),
        ("/-3,01", None),
        ("/+3,01", None),
        ("/3_0,01", None),
        ("/\xb9,01", None),
        ("/\u00b2,01", None),
        ("/stats/counter", None),
        ("", None),
        ("*", None),
        ("/a/b/c/3,01", None),
        ("/a/b/c/3", 3),
        ("/3%2C01", 3),
        ("/3%2F01%2Fname?x=/4,01", 3),
    ],
)
def test_the_volume_of_a_path(path, volume_id):
    assert RequestTarget.parse(path).volume_id == volume_id


def test_each_byte_of_the_path_is_kept():
    request = make_request(target="/3,01%2F%ff%C3%A4?a=b")
    assert request.parsed.path == "/3,01/\xff\xc3\xa4"
    assert request.path == "/3,01/\udcff\xe4"
    assert (request.raw_path, request.raw_query) == ("/3,01%2F%ff%C3%A4", "a=b")


def test_a_target_is_read_once():
    request = make_request(target="/3,01637037d6")
    assert request.parsed is request.parsed
    assert replace(request, listener=Listener.PUBLIC).parsed is request.parsed


@pytest.mark.parametrize("unit", ["a=b&", "%41=a&", "+=+&", "%4=&", "a;b&", "a=%41%42&"])
def test_a_long_query_is_parsed_in_steps(unit):
    raw = unit * 3000 + "ttl=3d&ttl=4d"
    target = RequestTarget.parse(f"/3,01637037d6?{raw}")
    assert target.has_long_query
    assert sum(1 for _ in target.parse_long_query()) >= 3000 // 256
    assert not target.has_long_query
    assert target.query == parse_query(raw)
    assert target.query.get("ttl") == "3d"
    assert not RequestTarget.parse("/3,01637037d6?" + "a" * SHORT_CHARACTERS).has_long_query


@pytest.mark.parametrize(
    ("path", "token_file_id", "writes_another"),
    [
        ("/7,01aabbccdd", "7,01aabbccdd", False),
        ("/7,01aabbccdd.jpg", "7,01aabbccdd", False),
        ("/7,01aabbccdd_2.jpg", "7,01aabbccdd", False),
        ("/7/01aabbccdd/a,01aabbccdd", "7,01aabbccdd", False),
        ("/7/01aabbccdd_1/a,01aabbccdd_2", "7,01aabbccdd", False),
        # An upload to this target writes nothing, so its own refusal stands.
        ("/7/01aabbccdd", "7,01aabbccdd", False),
        ("/7/01aabbccdd/name", "7,01aabbccdd", False),
        ("/7/01aabbccdd/x,zz", "7,01aabbccdd", False),
        ("/7/01aabbccdd/x,02aabbccdd", "7,01aabbccdd", True),
        ("/7/01aabbccdd_x,02aabbccdd", "7,01aabbccdd", True),
        ("/7/01aabbccdd.,02aabbccdd", "7,01aabbccdd", True),
        ("/7/01aabbccdd/x,02aabbccdd.jpg", "7,01aabbccdd", True),
        ("/7/01aabbccdd/x%2C02aabbccdd", "7,01aabbccdd", True),
        ("/7%2F01aabbccdd%2Fx%2C02aabbccdd_3", "7,01aabbccdd", True),
        ("/7_1,01aabbccdd", "7_1,01aabbccdd", False),
    ],
)
def test_a_token_is_for_what_an_upload_writes(path, token_file_id, writes_another):
    target = RequestTarget.parse(path)
    assert (target.token_file_id, target.uploads_another) == (token_file_id, writes_another)


@pytest.mark.parametrize(
    ("path", "is_misread"),
    [
        ("/7,01aabbccdd", False),
        ("/7/01aabbccdd/a,b", False),
        ("/a/b/c/d", False),
        ("/a/b/c,d/e", False),
        ("/a/b/c/7,01aabbccdd", True),
        ("/aaa/bb/cc/dd/7x01aabbccddxxxxxxxx,.jpg", True),
    ],
)
def test_deep_paths_with_a_comma_are_read_in_two_ways(path, is_misread):
    assert RequestTarget.parse(path).is_misread is is_misread


DIGITS = st.text("0123456789abcdefABCDEF_.,/%", max_size=30)
PATHS = st.one_of(
    st.from_regex(r"/[0-9]{1,9},[0-9a-fA-F]{9,24}", fullmatch=True),
    st.builds(lambda vid, fid: f"/{vid},{fid}", st.integers(0, 2**40), DIGITS),
    st.text("/.%2aF,3_~{ ", max_size=20).map(lambda text: f"/{text}"),
)


@given(PATHS)
def test_the_usual_form_is_read_as_any_other(path):
    assert RequestTarget.parse(path) == RequestTarget.parse_any(path, "")


@given(PATHS)
def test_what_is_called_canonical_reaches_a_handler(path):
    target = RequestTarget.parse(path)
    if target.is_canonical:
        assert is_well_formed(target)
        assert target.canonical_target("GET") is None


def test_a_path_of_bad_escapes_is_not_decoded():
    """The path is refused, and the decoding of 60 kB would hold up all requests for tens of milliseconds."""
    path = "/" + "%" * 60_000
    began = process_time()
    for _ in range(10):
        target = RequestTarget.parse(path)
        assert not is_well_formed(target)
    assert (process_time() - began) / 10 < 0.01
    assert target.path == path


@given(st.binary(max_size=30), st.lists(st.sampled_from([b"%", b"%4", b"%41", b"%zz", b"=", b"%3D", b"\n", b"%0A"])))
def test_escapes_are_decoded_as_the_standard_library_does_it(data, pieces):
    data += b"".join(pieces)
    assert unescape(data) == unquote_to_bytes(data)


def test_many_bad_escapes_are_decoded_in_little_time():
    data = b"%" * 60_000
    began = process_time()
    for _ in range(5):
        assert unescape(data) == data
    assert (process_time() - began) / 5 < 0.02


@given(st.text(st.characters(max_codepoint=255), max_size=20), st.sampled_from(["/", "/~!'\"", ""]))
def test_bytes_are_escaped_as_the_standard_library_does_it(wire, safe):
    assert escape(wire, escapes_but(f"{ascii_letters}{digits}_.-~{safe}")) == quote(wire.encode("latin-1"), safe=safe)


@given(st.lists(st.sampled_from(["", ".", "..", "a", "b"]), max_size=12))
def test_a_path_is_cleaned_as_the_standard_library_does_it(segments):
    path = "/" + "/".join(segments)
    slash = "/" if path.endswith("/") and posixpath.normpath(path).strip("/") else ""
    clean = "/" + posixpath.normpath(path).strip("/") + slash
    target = RequestTarget.parse(path)
    assert (target.canonical_target("GET") or path) == clean
    assert target.canonical_target("CONNECT") is None


def test_a_query_is_read_once():
    target = make_request(target="/3,01637037d6?a=b&c").parsed
    assert target.query.pairs == (("a", "b"), ("c", ""))
    assert target.query is target.query


def test_an_id_that_cannot_be_parsed_is_told_with_its_reason():
    target = RequestTarget.parse("/x,1")
    assert (target.volume_id, target.needle, target.uploaded_needle) == (None, None, None)
    with pytest.raises(BadFileId) as failed:
        target.require_volume_id()
    with pytest.raises(BadFileId) as expected:
        parse_volume_id("x")
    assert str(failed.value) == str(expected.value)
    for require in (target.require_needle, target.require_uploaded_needle):
        with pytest.raises(BadFileId, match=r"Invalid fid: 1$"):
            require()
    sound = RequestTarget.parse("/3,01637037d6")
    assert sound.require_volume_id() == sound.volume_id == 3
    assert sound.require_needle() == sound.require_uploaded_needle() == (1, 0x637037D6)
