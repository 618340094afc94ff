"""The same requests to the Go server and to the native handlers, one after the other on equal, fresh volumes.

Status, headers and body must be equal but for what differs from answer to answer (date, request id, boundary) and
Content-Length, which Go leaves out of some answers. Slow: two Go processes are started. Skipped without `weed`.
"""

from __future__ import annotations

import itertools

import pytest
from go_pair import COOKIE
from harness.implementations import weed_program

from native_handlers.http_model.message import Listener

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(weed_program() is None, reason="no weed program: WEED_BINARY or PATH"),
]

FORM = {"Content-Type": "multipart/form-data; boundary=x"}
TS = "?ts=1700000000"


def multipart(*parts):
    encoded = (("".join(f"{line}\r\n" for line in lines).encode("latin-1"), content) for lines, content in parts)
    return b"".join(b"--x\r\n%s\r\n%s\r\n" % part for part in encoded) + b"--x--\r\n"


CONTENTS = (
    b"hello world, hello world",
    b"",
    b"\0bin",
    b"<html><b>x</b>",
    b'{"a":1}',
    b"%PDF-1.4",
    b"\x89PNG\r\n\x1a\n1",
)
TYPES = (
    "",
    "text/plain",
    "application/octet-stream",
    "application/json",
    "text/html; charset=utf-8",
    "application/x-a",
    "application/octet-stream; x=y",
)
NAMES = (
    "", "a.txt", "a.TXT", "a.bin", "a.json", "a b.png", "\xc3\xa4.pdf", "dir/x.gz", "C:\\d\\e.jpg", ".txt",
    "none", "x.",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_uploads_and_how_they_are_read_back(pair, name):
    for index, (content, mime) in enumerate(itertools.product(CONTENTS, TYPES)):
        fid = pair.new_fid()
        if index % 2:
            headers = [("Content-Type", mime)] if mime else []
            headers += [("Content-Disposition", f'attachment; filename="{name}"')] if name else []
            pair.ask("PUT", fid + TS, headers, content)
        else:
            lines = [f'Content-Disposition: form-data; name="file"; filename="{name}"']
            lines += [f"Content-Type: {mime}"] if mime else []
            pair.ask("POST", fid + TS, FORM, multipart((lines, content)))
        for headers in ({}, {"Accept-Encoding": "gzip", "Range": "bytes=0-3"}, {"Range": "bytes=1-2,4-"}):
            pair.ask("GET", fid, headers)
        pair.ask("HEAD", f"{fid}.jpg")
        pair.ask("GET", fid.replace(",", "/") + "/n.css?dl=true")


@pytest.fixture(scope="module")
def fid(pair):
    """One object with all metadata."""
    target = pair.new_fid()
    headers = {"Content-Type": "a/b", "Seaweed-Foo": "1", "seaweed-bar-BAZ": "x y"}
    assert pair.ask("PUT", target + TS, headers, b"0123456789" * 10) == 201
    return target


@pytest.mark.parametrize(
    "header",
    ["bytes=", "bytes=,", "bytes=0-", "bytes=-1", "bytes=-0", "bytes=-1000", "bytes=100-", "bytes=99-", "bytes=101-",
     "bytes=5-4", "bytes=a", "bytes=0-9,0-99", "bytes=0-9,20-29,-3", "chars=1", "Bytes=0-1", "bytes = 0-1",
     "bytes=0 - 1", "bytes=0-1-2", "bytes=+1-2", "bytes=0-99999999999999999999"],
)  # fmt: skip
def test_ranges(pair, fid, header):
    pair.ask("GET", fid, {"Range": header})
    pair.ask("HEAD", fid, {"Range": header})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("If-None-Match", "*"),
        ("If-None-Match", '"x"'),
        ("If-Modified-Since", "Tue, 14 Nov 2023 22:13:20 GMT"),
        ("If-Modified-Since", "Tue, 14 Nov 2023 22:13:19 GMT"),
        ("If-Modified-Since", "tue, 14 nov 2023 22:13:20 GMT"),
        ("If-Modified-Since", "Wed, 15 Nov 2023 2:13:20 GMT"),
        ("If-Modified-Since", "Tuesday, 14-Nov-23 22:13:20 GMT"),
        ("Origin", "http://a"),
    ],
)
def test_conditions(pair, fid, name, value):
    pair.ask("GET", fid, {name: value})
    pair.ask("HEAD", fid, {name: value})


@pytest.mark.parametrize(
    "query",
    ["response-content-type=x/y", "Response-Cache-Control=a&response-expires=b", "response-content-disposition=a&dl=1",
     "response-content-encoding=gzip", "dl=1", "dl=x", "a=b;c&dl=1", "%zz&dl=1", "readDeleted=true", "pretty=1",
     "response-content-type="],
)  # fmt: skip
def test_queries(pair, fid, query):
    pair.ask("GET", f"{fid}?{query}")
    pair.ask("GET", f"{fid.replace(',', '/')}/n.txt?{query}")


@pytest.mark.parametrize(
    "target",
    ["/x", "/", "/4", "/4,", "/4,12", "/,12", "/abc,0912345678", "/4,zz12345678", "/4/", "/4/ff0112345678/",
     "/4,ff0112345678_", "/4,ff0112345678_x", "/4,00000000000000000112345678", "/stats/counter", "/stats", "//x",
     "/a//b?c=d", "/a/./b", "/a/..", "/seaweedfsstatic", "/seaweedfsstatic/nope", "/%2e%2e/x", "/ui/", "/metrics",
     "/4%2Cff0112345678", "/a%20b"],
)  # fmt: skip
def test_odd_targets(pair, target):
    for method in ("GET", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS"):
        for listener in Listener:
            pair.ask(method, target, listener=listener)


@pytest.mark.parametrize("target", ["/healthz", "/readyz"])
def test_health(pair, target):
    for method in ("GET", "HEAD", "POST"):
        pair.ask(method, target, {"Origin": "http://a"})


BODIES = (
    (FORM, b""),
    (FORM, b"--x--"),
    (FORM, b"--x\r\n\r\nabc"),
    (FORM, multipart(([], b"one"), (["Content-Disposition: form-data; filename=z.txt", "Content-Type: q/r"], b"two"))),
    (FORM, multipart((["Content-Disposition: form-data; name=ts"], b"123"))),
    ({"Content-Type": "form-data"}, b"x"),
    ({"Content-Type": "multipart/form-data"}, b"x"),
    ({"Content-Type": "text/x; y"}, b"x"),
    ({"Content-Type": "application/x-www-form-urlencoded"}, b"a=b&ts=1600000000"),
    ({"Content-Type": "application/x-www-form-urlencoded"}, b"a=%zz"),
    ({"Content-Type": "multipart/mixed; boundary=x; a=form-data"}, multipart(([], b"one"))),
    (FORM, multipart((["Content-Encoding: gzip"], b"not gzip"))),
    (FORM, b"pre\n--x\n\nabc\n--x--"),
    (FORM, multipart((["Content-Transfer-Encoding: quoted-printable"], b"a=3Db=\r\nc"))),
    (FORM, b"--x\r\nbad\r\n\r\nabc\r\n--x--"),
    (FORM, b"--x\r\n\r\n--x--"),
    (FORM, b"--x\r\n\r\nabc\r\n--xy\r\n--x--"),
    (FORM, b"--x\r\n\r\nabc\r\n--x junk\r\n--x--"),
)


@pytest.mark.parametrize(("headers", "body"), BODIES)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_upload_bodies(pair, method, headers, body):
    target = pair.new_fid()
    pair.ask(method, target + TS, headers, body)
    pair.ask("GET", target)


@pytest.mark.parametrize(
    "query",
    ["ttl=5m", "ttl=x", "cm=true", "cm=1&type=replicate", "ttl=300m", "fsync=true", "cm=x", "ts=18446744073709551615"],
)
def test_upload_queries(pair, query):
    assert pair.ask("PUT", f"{pair.new_fid()}?{query}", {"Content-Type": "a/b"}, b"xyz") == 201


@pytest.mark.parametrize("md5", ["", "aaa", "edlqFvxm1quTw4+ZWM7Trg=="])
def test_md5(pair, md5):
    target = pair.new_fid()
    for _ in range(2):
        pair.ask("PUT", target, {"Content-MD5": md5, "Content-Type": "text/plain"}, CONTENTS[0])


def test_a_needles_life(pair):
    target = pair.new_fid()
    other_cookie = target.replace(COOKIE, "22345678")
    for method, path, body in (
        ("DELETE", target, b""),
        ("PUT", target, b"one"),
        ("PUT", target, b"one"),
        ("PUT", other_cookie, b"two"),
        ("DELETE", other_cookie, b""),
        ("DELETE", f"{target}?pretty=1", b""),
        ("DELETE", target, b""),
        ("PUT", other_cookie, b"three"),
        ("PUT", target, b"four"),
        ("HEAD", target, b""),
        ("PUT", "/77,0112345678x", b"five"),
    ):
        pair.ask(method, path, (), body)
