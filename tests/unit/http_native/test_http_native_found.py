"""Cases that the random comparison with Go has found, with the observed answers of the Go server."""

from __future__ import annotations

import json

import pytest
from support.http_native import fetch, make_context
from support.jobs import finish

from native_handlers.content.quoted_printable import QuotedPrintableDecoder
from native_handlers.http_model.errors import BadUpload

FID = "/3,0212345678"
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize("target", ["/3,02%zz345678", "/3,0212345678%", "/%/a//b", "/3/0212345678/%4"])
@pytest.mark.parametrize("route", ["http.read", "http.write", "http.delete", "http.status", "http.public.other"])
async def test_a_percent_sign_without_an_escape_is_no_target(context, route, target):
    answer = await fetch(route, context, target=target, headers={"Origin": "http://a"})
    assert (answer.status, answer.body) == (400, b"400 Bad Request")
    assert list(answer.headers) == [("Content-Type", "text/plain; charset=utf-8")]


async def test_a_percent_sign_in_the_query_is_left_to_the_handler(context):
    assert (await fetch("http.read", context, target=f"{FID}?a=%zz")).status == 404


async def test_a_byte_that_lacks_its_escape_makes_escapes_count(context):
    assert (await fetch("http.read", context, target="/%2F0}12345678")).status == 307
    assert (await fetch("http.read", context, target="/%2F012345678")).status == 400


@pytest.mark.parametrize("target", ["/3/0//0/n.txt", "/1/2/3/n.txt"])
async def test_the_last_segment_of_a_deep_path_is_a_volume_id(context, target):
    if "//" in target:
        target = target.replace("//", "/x/")
    answer = await fetch("http.write", context, method="PUT", target=target)
    assert json.loads(answer.body)["error"] == 'strconv.ParseUint: parsing "n.txt": invalid syntax'


async def test_what_is_not_printable_is_quoted_as_go_does(context):
    answer = await fetch("http.delete", context, method="DELETE", target="/3/00{%00}00000000/x")
    wanted = r'{"error":"Parse needleId error: needle id 00{\u0000} format error: '
    wanted += r'strconv.ParseUint: parsing \"00{\\x00}\": invalid syntax"}'
    assert answer.body.decode() == wanted


async def test_a_delta_that_overflows_names_the_id_in_hex_of_hex(context):
    answer = await fetch("http.delete", context, method="DELETE", target="/4,56012345678_18446744073709551615")
    assert answer.body == b'{"error":"delta 18446744073709551615 overflows needle id 353630"}'


async def test_a_type_that_is_no_text_is_an_escaped_replacement(context):
    body = b"--x\r\nContent-Type: a/\xe4\r\n\r\nx\r\n--x--\r\n"
    answer = await fetch("http.write", context, method="POST", target=FID, headers=FORM, body=body)
    assert b'"mime":"a/\\ufffd"' in answer.body


async def test_years_beyond_9999(context):
    await fetch("http.write", context, method="PUT", target=f"{FID}?ts=18446744073709551616", body=b"x")
    answer = await fetch("http.read", context, target=FID)
    assert answer.headers.get("Last-Modified") == "Mon, 20 Feb 36812 00:36:15 GMT"


@pytest.mark.parametrize("data", [b"--x\r\n", b"--x\r\nA: b"])
async def test_a_part_that_ends_in_its_headers(context, data):
    answer = await fetch("http.write", context, method="POST", target=FID, headers=FORM, body=data)
    assert (answer.status, answer.body) == (400, b'{"error":"EOF"}')


async def test_assets_are_sent_in_parts():
    whole = await fetch("http.favicon")
    assert whole.headers.get("Accept-Ranges") == "bytes"
    answer = await fetch("http.favicon", headers={"Range": "bytes=0-3"})
    assert (answer.status, answer.body) == (206, whole.body[:4])
    assert answer.headers.get("Content-Range") == f"bytes 0-3/{len(whole.body)}"


# ---- quoted-printable parts


@pytest.mark.parametrize(
    ("encoded", "data"),
    [
        (b"", b""),
        (b"a=3Db=3db", b"a=b=b"),
        (b"soft=\r\nline=\nend", b"softlineend"),
        (b"end=", b"end"),
        (b"blanks \t\r\nat ends \n", b"blanks\r\nat ends\n"),
        (b"blanks at the end ", b"blanks at the end"),
        (b"blanks behind = \t\nan equals sign= ", b"blanks behind an equals sign"),
        (b"=zz =3 =", b"=zz =3 "),
        (b"\xe4\t", b"\xe4"),
        (b"=0A=0D=00", b"\n\r\0"),
    ],
)
def test_quoted_printable(encoded, data):
    assert decode(encoded) == data


def decode(encoded):
    decoder = QuotedPrintableDecoder()
    return finish(decoder.feed(encoded)) + decoder.finish()


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"a\x1fb", "quotedprintable: invalid unescaped byte 0x1f in body"),
        (b"\x7f", "quotedprintable: invalid unescaped byte 0x7f in body"),
        (b"a= \r\r\n", 'quotedprintable: invalid bytes after =: "\\r\\r\\n"'),
        (b"=", 'quotedprintable: invalid bytes after =: ""'),
    ],
)
async def test_bad_quoted_printable_is_400(context, encoded, message):
    with pytest.raises(BadUpload):
        decode(encoded)
    body = b"--x\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n%s\r\n--x--\r\n" % encoded
    answer = await fetch("http.write", context, method="POST", target=FID, headers=FORM, body=body)
    assert (answer.status, json.loads(answer.body)) == (400, {"error": message})


@pytest.mark.slow
async def test_the_size_limit_counts_what_quoted_printable_stands_for(store):
    """Slow: bodies of the greatest size, and of twice that size."""
    context = make_context(store=store)
    limit = context.settings.file_size_limit_bytes
    for data, status in ((b"=41=\n" * limit, 201), (b"=41=\n" * (limit + 1), 400), (b"=41=\n" * (2 * limit), 400)):
        body = b"--x\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n%s\r\n--x--\r\n" % data
        answer = await fetch("http.write", context, method="POST", target=FID, headers=FORM, body=body)
        assert answer.status == status
