"""Paths, queries, numbers, JSON, dates, ranges, media types: pure functions, against observed answers of upstream."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import finish

from native_handlers.content.mime_types import MimeTypes
from native_handlers.content.sniff import UNKNOWN, sniff
from native_handlers.http_model import query as http_query
from native_handlers.http_model.conditional import (
    format_http_date,
    is_not_modified_since,
    is_same_etag,
    parse_http_date,
)
from native_handlers.http_model.errors import BadMediaType, BadNumber, BadRange, quote
from native_handlers.http_model.go_json import encode_json, format_float32, text_of_wire
from native_handlers.http_model.go_numbers import (
    parse_bool,
    parse_int,
    parse_int_or_zero,
    parse_uint,
    parse_uint_or_zero,
)
from native_handlers.http_model.headers import HeaderMap, canonical_name
from native_handlers.http_model.media_type import format_media_type, parse_media_type
from native_handlers.http_model.query import MAX_PAIRS, Query, encode_form, encode_query, parse_query
from native_handlers.http_model.ranges import ByteRange, parse_ranges
from native_handlers.http_model.target import (
    ObjectPath,
    base_name,
    extension,
    parse_object_path,
    upload_file_id,
)

if TYPE_CHECKING:
    from pathlib import Path

WIRE = st.text(st.characters(max_codepoint=255), max_size=40)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/3,01637037d6", ObjectPath("3", "01637037d6")),
        ("/3,01637037d6.jpg", ObjectPath("3", "01637037d6", "", ".jpg")),
        ("/3/01637037d6", ObjectPath("3", "01637037d6")),
        ("/3/01637037d6.tar.gz", ObjectPath("3", "01637037d6.tar", "", ".gz")),
        ("/3/01637037d6/my.photo.jpg", ObjectPath("3", "01637037d6", "my.photo.jpg", ".jpg")),
        ("/3/01637037d6/none", ObjectPath("3", "01637037d6", "none", "")),
        ("/3", ObjectPath("3", "")),
        ("/", ObjectPath("", "")),
        ("/,01637037d6", ObjectPath("", "01637037d6")),
        ("/3,01,02", ObjectPath("3,01", "02")),
        ("/3.5,01637037d6", ObjectPath("3.5", "01637037d6")),
        ("/3/.hidden", ObjectPath("3", ".hidden")),
        ("/a/b/c/3,01637037d6", ObjectPath("", "")),
        ("*", ObjectPath("", "")),
    ],
)
def test_object_paths(path, expected):
    assert parse_object_path(path) == expected


@pytest.mark.parametrize(
    ("path", "file_id"),
    [
        ("/3,01637037d6", "01637037d6"),
        ("/3,01637037d6.jpg", "01637037d6"),
        ("/3,01.a.b", "01.a"),
        ("/3.5,01637037d6", "01637037d6"),
        ("/3/01637037d6", "/3/01637037d6"),
    ],
)
def test_uploads_take_the_file_id_after_the_last_comma(path, file_id):
    assert upload_file_id(path) == file_id


@pytest.mark.parametrize("path", ["/3.5,01637037d6", "/.,", "/,.", "/...,,,"])
def test_a_dot_before_the_comma_is_no_extension(path):
    assert "." not in parse_object_path("/3.5,01637037d6").file_id
    upload_file_id(path)
    parse_object_path(path)


@pytest.mark.parametrize(
    ("name", "ext"), [("a.jpg", ".jpg"), (".png", ".png"), ("a", ""), ("a.", "."), ("d.x/a", ""), ("", "")]
)
def test_extension(name, ext):
    assert extension(name) == ext


@pytest.mark.parametrize(("path", "base"), [("", "."), ("/", "/"), ("a/b/", "b"), ("/a", "a"), ("///", "/")])
def test_base_name(path, base):
    assert base_name(path) == base


@pytest.mark.parametrize(
    ("raw", "pairs", "error"),
    [
        ("", (), None),
        ("a=1&b=2&a=3", (("a", "1"), ("b", "2"), ("a", "3")), None),
        ("a", (("a", ""),), None),
        ("&&a=+%2B%41", (("a", " +A"),), None),
        ("a=b;c&d=e", (("d", "e"),), "invalid semicolon separator in query"),
        ("a=%zz&d=e", (("d", "e"),), 'invalid URL escape "%zz"'),
        ("%4", (), 'invalid URL escape "%4"'),
        ("a=%C3%A4", (("a", "\xc3\xa4"),), None),
    ],
)
def test_queries(raw, pairs, error):
    query = parse_query(raw)
    assert query.pairs == pairs
    assert query.error == error


def test_a_query_with_too_many_pairs_is_refused_whole():
    assert parse_query("&".join(["a"] * (MAX_PAIRS + 1))).error == "number of URL query parameters exceeded limit"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("12")), max_size=40))
def test_the_first_value_counts_however_many_pairs_there_are(pairs):
    query = Query(tuple(pairs))
    for name in "abcde":
        assert query.get(name) == next((value for key, value in pairs if key == name), "")
    assert query == Query(tuple(pairs))


@given(st.lists(st.tuples(WIRE, WIRE), max_size=5), st.integers(1, 3))
def test_pairs_are_encoded_in_steps_as_at_once(pairs, step):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_query, "STEP_CHARACTERS", step)
        assert finish(encode_form(pairs)) == encode_query(pairs)


@given(st.dictionaries(WIRE, WIRE, max_size=5))
def test_query_round_trip(values):
    query = parse_query(encode_query(values))
    assert query.error is None
    assert dict(query.pairs) == values
    assert [key for key, _ in query.pairs] == sorted(values)


@pytest.mark.parametrize("text", ["", "+1", "-1", " 1", "1_0", "٣", "0x1", "1.0"])
def test_unsigned_numbers_are_digits_only(text):
    with pytest.raises(BadNumber, match="invalid syntax"):
        parse_uint(text)
    assert parse_uint_or_zero(text) == 0


def test_unsigned_range():
    assert parse_uint("18446744073709551615") == 2**64 - 1
    assert parse_uint("0" * 100 + "7") == 7
    assert parse_uint("ffffFFFF", 16, 32) == 2**32 - 1
    for text in ("18446744073709551616", "9" * 5000):
        with pytest.raises(BadNumber, match="value out of range"):
            parse_uint(text)
        assert parse_uint_or_zero(text) == 2**64 - 1


def test_signed_numbers():
    assert [parse_int(text) for text in ("5", "+5", "-5", "-0")] == [5, 5, -5, 0]
    assert parse_int("-9223372036854775808") == -(2**63)
    assert parse_int_or_zero("x") == 0
    assert parse_int_or_zero("9" * 5000) == 2**63 - 1
    assert parse_int_or_zero("-" + "9" * 30) == -(2**63)
    for text in ("", "-", "--5", "+-5", "5-"):
        with pytest.raises(BadNumber, match=r"strconv\.ParseInt"):
            parse_int(text)


@given(st.text("+-019aF_ \n\xe9", max_size=24))
def test_numbers_are_digits_with_at_most_a_sign(text):
    unsigned = int(text) if text and set(text) <= set("0123456789") else None
    if unsigned is None:
        assert parse_uint_or_zero(text) == 0
    else:
        assert parse_uint_or_zero(text) == min(unsigned, 2**64 - 1)
    body = text[1:] if text[:1] in {"+", "-"} else text
    signed = int(text) if body and set(body) <= set("0123456789") else 0
    assert parse_int_or_zero(text) == max(-(2**63), min(signed, 2**63 - 1))


def test_booleans_are_gos():
    assert all(map(parse_bool, ("1", "t", "T", "true", "True", "TRUE")))
    assert not any(map(parse_bool, ("", "0", "yes", "tRUE", "on", "false")))


def test_quoted_text():
    assert quote('a"b\\\n\x00\xc3\xa4\xff') == r'"a\"b\\\n\x00ä\xff"'
    assert quote("\xe2\x80\x8b\xf3\xb0\x80\x80") == r'"\u200b\U000f0000"'


@given(st.lists(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\\n\x00\u200b\ue000'), max_size=20))
def test_characters_are_quoted_among_others_as_alone(chars):
    alone = [quote(_wire(char))[1:-1] for char in chars]
    assert quote(_wire("".join(chars))) == f'"{"".join(alone)}"'


def _wire(text):
    return text.encode().decode("latin-1")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    ),
    st.booleans(),
)
def test_json_says_the_same_to_any_reader(value, is_pretty):
    encoded = encode_json(value, is_pretty=is_pretty)
    assert json.loads(encoded) == value
    assert not set(encoded) & set(b"<>&")


def test_json_escapes_as_go_does():
    assert encode_json("<a href='x'>&\u2028\u2029\x01\t\x7fä") == (
        b"\"\\u003ca href='x'\\u003e\\u0026\\u2028\\u2029\\u0001\\t\x7f\xc3\xa4\""
    )
    assert encode_json({"b": [], "a": {}, "c": [1, None]}, is_pretty=True) == (
        b'{\n  "b": [],\n  "a": {},\n  "c": [\n    1,\n    null\n  ]\n}'
    )


def test_json_replaces_bytes_that_are_no_text():
    assert encode_json(text_of_wire("a\xff\xc3\xa4")) == '"a\\ufffdä"'.encode()
    assert encode_json("\udcff\ufffd") == '"\\ufffd\ufffd"'.encode()


def test_json_refuses_what_it_does_not_know():
    with pytest.raises(TypeError):
        encode_json(b"bytes")


@pytest.mark.parametrize(
    ("value", "text"),
    [(30.146055, "30.146055"), (50.0, "50"), (0.0, "0"), (0.1, "0.1"), (1e-5, "0.00001"), (3.3e-7, "3.3e-7"),
     (1e20, "100000000000000000000"), (1e22, "1e+22"), (-2.5, "-2.5")],
)  # fmt: skip
def test_float32(value, text):
    assert format_float32(value) == text


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float32_round_trip(value):
    assert struct.pack("<f", float(format_float32(value))) == struct.pack("<f", value)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_float32_without_a_json_form(value):
    with pytest.raises(ValueError, match="no JSON form"):
        format_float32(value)


def test_http_dates():
    assert format_http_date(1700000000) == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert format_http_date(253402300799) == "Fri, 31 Dec 9999 23:59:59 GMT"
    assert format_http_date(253402300800) == "Sat, 01 Jan 10000 00:00:00 GMT"
    assert format_http_date(2**40 - 1) == "Mon, 20 Feb 36812 00:36:15 GMT"
    assert parse_http_date("Tue, 14 Nov 2023 22:13:20 GMT") == 1700000000
    assert parse_http_date("Mon, 14 nov 2023 22:13:20 GMT") == 1700000000


@given(st.integers(0, 253402300799))
def test_http_date_round_trip(seconds):
    assert parse_http_date(format_http_date(seconds)) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "1700000000", "Tue, 14 Nov 2023 22:13:20 UTC", "Tue, 4 Nov 2023 22:13:20 GMT", "Tue, 31 Feb 2023 00:00:00 GMT",
     "Tue, 14 Nov 2023 24:00:00 GMT", "Tuesday, 14-Nov-23 22:13:20 GMT", "Tue, 14 Nov 0000 00:00:00 GMT"],
)  # fmt: skip
def test_other_dates_are_no_condition(text):
    assert parse_http_date(text) is None
    assert not is_not_modified_since(text, 1)


def test_conditions():
    assert is_not_modified_since("Tue, 14 Nov 2023 22:13:20 GMT", 1700000000)
    assert not is_not_modified_since("Tue, 14 Nov 2023 22:13:20 GMT", 1700000001)
    assert not is_not_modified_since(None, 1)
    assert is_same_etag('"d3152e74"', "d3152e74")
    assert not any(
        is_same_etag(text, "d3152e74") for text in (None, "*", 'W/"d3152e74"', "d3152e74", '"a", "d3152e74"')
    )


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        ("bytes=0-3", 24, [ByteRange(0, 4)]),
        ("bytes=0-3,5-6", 24, [ByteRange(0, 4), ByteRange(5, 2)]),
        ("bytes= 0 - 3 , ,5-", 24, [ByteRange(0, 4), ByteRange(5, 19)]),
        ("bytes=20-99", 24, [ByteRange(20, 4)]),
        ("bytes=-5", 24, [ByteRange(19, 5)]),
        ("bytes=-99", 24, [ByteRange(0, 24)]),
        ("bytes=-0", 24, [ByteRange(24, 0)]),
        ("bytes=24-", 24, [ByteRange(24, 0)]),
        ("bytes=24-30", 24, [ByteRange(24, 0)]),
        ("bytes=0-", 0, [ByteRange(0, 0)]),
        ("bytes=", 24, None),
        ("bytes=,", 24, None),
        ("bytes=0-20,3-20", 24, None),
    ],
)
def test_ranges(header, size, expected):
    assert parse_ranges(header, size) == expected


@pytest.mark.parametrize(
    "header",
    ["0-3", "items=0-3", "Bytes=0-3", "bytes=25-", "bytes=5-4", "bytes=a-b", "bytes=5", "bytes=--5", "bytes=0-0x3",
     "bytes=0-99999999999999999999", "bytes=-", "bytes=0-1,x"],
)  # fmt: skip
def test_bad_ranges(header):
    with pytest.raises(BadRange, match="invalid range"):
        parse_ranges(header, 24)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60) | st.none()), min_size=1, max_size=5))
def test_ranges_with_signs_and_spaces_are_those_without(pairs):
    plain = [(str(start), "" if end is None else str(end)) for start, end in pairs]
    odd = [f"\t +{start} - {'+' if end else ''}{end} " for start, end in plain]
    assert _ranges([f"{start}-{end}" for start, end in plain]) == _ranges(odd)


def _ranges(specs):
    try:
        return parse_ranges(f"bytes={','.join(specs)}", 50)
    except BadRange:
        return "bad"


@given(st.text("0123456789-, bytes="), st.integers(0, 50))
def test_ranges_never_leave_the_content(header, size):
    try:
        ranges = parse_ranges(f"bytes={header}", size)
    except BadRange:
        return
    for one in ranges or ():
        assert one.start >= 0
        assert one.length >= 0
        assert one.start + one.length <= size


def test_content_range():
    assert ByteRange(24, 0).content_range(24) == "bytes 24-23/24"


@pytest.mark.parametrize(
    ("value", "media_type", "parameters"),
    [
        ("text/plain", "text/plain", {}),
        ("Text/HTML; Charset=UTF-8 ;", "text/html", {"charset": "UTF-8"}),
        ('form-data; name="a"; filename="x\\"y\\\\z"', "form-data", {"name": "a", "filename": 'x"y\\z'}),
        ('form-data; filename="C:\\dir\\f.txt"', "form-data", {"filename": "C:\\dir\\f.txt"}),
        ("attachment; filename*=UTF-8''n%c3%a4me", "attachment", {"filename": "n\xc3\xa4me"}),
        ("a/b; t*0*=utf-8'en'x%20; t*1=y; t*2*=%7a", "a/b", {"t": "x yz"}),
        ("a/b; t*=iso-8859-1''x", "a/b", {}),
        ('a/b; x=""', "a/b", {"x": ""}),
        ("a/b; x=1; x=1", "a/b", {"x": "1"}),
    ],
)
def test_media_types(value, media_type, parameters):
    assert parse_media_type(value) == (media_type, parameters)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "mime: no media type"),
        ("text plain", "mime: expected slash after first token"),
        ("text/", "mime: expected token after slash"),
        ("text/a b", "mime: unexpected content after media subtype"),
        ("text/x; y", "mime: invalid media parameter"),
        ('text/x; y="a', "mime: invalid media parameter"),
        ("text/x; y=1; y=2", "mime: duplicate parameter name"),
    ],
)
def test_bad_media_types(value, message):
    with pytest.raises(BadMediaType, match=f"^{message}$"):
        parse_media_type(value)


@pytest.mark.parametrize(
    ("filename", "shown"),
    [
        ("h.txt", "inline; filename=h.txt"),
        ("a b.bin", 'inline; filename="a b.bin"'),
        ('a"b\\c', 'inline; filename="a\\"b\\\\c"'),
        ("n\xc3\xa4me.pdf", "inline; filename*=utf-8''n%C3%A4me.pdf"),
        ("a\tb", 'inline; filename="a\tb"'),
        ("", 'inline; filename=""'),
    ],
)
def test_formatted_media_types(filename, shown):
    assert format_media_type("inline", {"filename": filename}) == shown


def test_unformattable_media_types():
    assert format_media_type("in line", {}) == ""
    assert format_media_type("inline", {"file name": "x"}) == ""


@given(WIRE)
def test_media_type_round_trip(value):
    shown = format_media_type("attachment", {"filename": value})
    assert parse_media_type(shown) == ("attachment", {"filename": value})


@given(st.text('\\("a /', max_size=12))
def test_backslashes_escape_special_characters_alone(value):
    expected, at = "", 0
    while at < len(value) and value[at] != '"':
        at += value[at] == "\\" and value[at + 1 : at + 2] in {"\\", "(", '"', "/"}
        expected += value[at]
        at += 1
    try:
        parsed = parse_media_type(f'a/b; c="{value}"')[1]["c"]
    except BadMediaType:
        assert at < len(value) or value.endswith("\\"), "a quote ends it early, or its last one is escaped"
    else:
        assert parsed == expected


@given(WIRE)
def test_media_types_parse_or_say_why(value):
    try:
        media_type, _ = parse_media_type(value)
    except BadMediaType:
        return
    assert format_media_type(media_type, {}) == media_type


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (b"", "text/plain; charset=utf-8"),
        (b"hello", "text/plain; charset=utf-8"),
        (b"  <html>", "text/html; charset=utf-8"),
        (b"<!doctype html >", "text/html; charset=utf-8"),
        (b"<htmlx>", "text/plain; charset=utf-8"),
        (b" <?xml ", "text/xml; charset=utf-8"),
        (b"%PDF-1.4", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xffx", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", "audio/wave"),
        (b"GIF89a", "image/gif"),
        (b"\x1f\x8b\x08", "application/x-gzip"),
        (b"PK\x03\x04", "application/zip"),
        (b"\0" * 34 + b"LP", "application/vnd.ms-fontobject"),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp41", "video/mp4"),
        (b"\0\0\0\x10ftypisommp41", UNKNOWN),
        (b"\xef\xbb\xbfx", "text/plain; charset=utf-8"),
        (b"\xfe\xff\0x", "text/plain; charset=utf-16be"),
        (b"a\0b", UNKNOWN),
        (b"x" * 512 + b"\0", "text/plain; charset=utf-8"),
    ],
)
def test_sniffing(data, mime):
    assert sniff(data) == mime
    assert sniff(memoryview(data)) == mime


def test_built_in_mime_types():
    types = MimeTypes()
    assert types.of_extension(".txt") == "text/plain; charset=utf-8"
    assert types.of_extension(".PNG") == "image/png"
    assert types.of_extension(".bin") == "application/octet-stream"
    assert types.of_extension(".yaml") == "text/yaml; charset=utf-8"
    assert types.of_extension(".XML") == "application/xml"
    assert types.of_extension(".C++") == "text/x-c++; charset=utf-8"
    assert types.of_extension(".ico") == "image/x-icon"
    assert types.of_extension(".nope") == ""
    assert types.of_extension("") == ""


def test_machine_mime_types_glob_file_first(tmp_path: Path):
    globs = tmp_path / "globs2"
    globs.write_text(
        "# c\n50:text/x-foo:*.foo\n40:other/foo:*.foo\n50:image/wrong:*.png\n50:a/b:*.[x]\n50:nope\n50:bad type:*.bad\n"
    )
    types_file = tmp_path / "mime.types"
    types_file.write_text("# c\ntext/x-bar bar baz # not\nimage/over png tif\n\n")
    both = MimeTypes([tmp_path / "absent", globs], [types_file])
    assert both.of_extension(".foo") == "text/x-foo; charset=utf-8"
    assert both.of_extension(".png") == "image/png"
    assert both.of_extension(".bar") == ""
    only_types = MimeTypes([tmp_path / "absent"], [tmp_path / "absent", types_file])
    assert only_types.of_extension(".BAZ") == "text/x-bar; charset=utf-8"
    assert only_types.of_extension(".tif") == "image/over"
    assert only_types.of_extension(".png") == "image/png", "the program's own types come before the machine's"
    assert only_types.of_extension(".not") == ""


def test_header_map():
    headers = HeaderMap()
    headers.set("content-MD5", "a")
    headers.set("Content-Md5", "b\r\nX: y ")
    headers.set("bad name", "x")
    headers.set("", "x")
    assert list(headers.to_headers()) == [("Content-Md5", "b  X: y")]
    assert headers.get("CONTENT-MD5") == "b  X: y"
    headers.drop("content-md5")
    assert headers.get("Content-Md5") is None
    assert canonical_name("seaweed-foo-BAR") == "Seaweed-Foo-Bar"
    assert canonical_name("with space") == "with space"
