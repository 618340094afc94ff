"""Requests as clients send them, and others nearly like them: for the comparison of the fast path and the ordinary way.

A `Sent` says whether it is a usual request: one that the fast path must answer itself where no setting is against it.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import itertools
import json
import random
from base64 import b64encode, urlsafe_b64encode
from dataclasses import dataclass

from hypothesis import strategies as st

from native_handlers.format.crc import crc32c
from native_handlers.format.needle import Needle
from native_handlers.format.ttl import Ttl
from native_handlers.http_model.conditional import format_http_date

NOW_S = 1_700_000_000
READ_KEY, WRITE_KEY, OTHER_KEY = b"read" * 8, b"write" * 8, b"other" * 8
PLAIN, EXPIRING, SEALED, REPLICATED = 3, 5, 6, 7
COOKIE = 0x637037D6
USUAL_ID, BARE_ID, PACKED_ID = 0x77, 0x78, 0x79
USUAL_DATA, USUAL_MODIFIED_S = b"<html>" + b"hello " * 100, NOW_S - 1000
PACKED_DATA = gzip.compress(b"<html>" + random.Random(1).randbytes(900).hex().encode(), mtime=0)
"""Compressed and not, longer than each usual range wants."""
ETAG, PACKED_ETAG = (f'"{crc32c(data):08x}"'.encode() for data in (USUAL_DATA, PACKED_DATA))
_numbers = itertools.count(1 << 20)
"""Ids of the needles of usual changes: each is changed once."""


@dataclass(frozen=True)
class Sent:
    """A request. `has_token`: whether it has a token that allows it."""

    raw: bytes
    is_usual: bool = False
    has_token: bool = False
    stored: Needle | None = None
    """The needle that must be there before the request is sent."""

    @property
    def method(self):
        return self.raw.partition(b" ")[0].decode()

    @property
    def is_synced(self):
        """Whether the answer comes only when the change is on disk."""
        return self.method in {"POST", "PUT"} and b"fsync=true" in self.raw.partition(b"\r\n")[0]


def usual_needle(needle_id=USUAL_ID):
    needle = Needle(needle_id, COOKIE, USUAL_DATA)
    needle.has_name, needle.name = True, b"a.bin"
    needle.has_last_modified, needle.last_modified_s = True, USUAL_MODIFIED_S
    return needle


def bare_needle():
    """A needle with the same data, without a name, a type or a time."""
    return Needle(BARE_ID, COOKIE, USUAL_DATA)


def packed_needle(needle_id=PACKED_ID):
    """A needle as a filer stores text: compressed, with a type."""
    needle = Needle(needle_id, COOKIE, PACKED_DATA)
    needle.is_compressed = True
    needle.has_mime, needle.mime = True, b"text/html"
    needle.has_last_modified, needle.last_modified_s = True, USUAL_MODIFIED_S
    return needle


# ---- tokens


def make_token(key, claims, algorithm="HS256"):
    def part(value):
        return urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).rstrip(b"=")

    signed = part({"alg": algorithm, "typ": "JWT"}) + b"." + part(claims)
    digest = {"HS512": hashlib.sha512, "HS384": hashlib.sha384}.get(algorithm, hashlib.sha256)
    return signed + b"." + urlsafe_b64encode(hmac.digest(key, signed, digest)).rstrip(b"=")


GOOD_TIMES = [{}, {"exp": NOW_S + 10}, {"exp": NOW_S + 1, "nbf": NOW_S}, {"exp": 0.5 + NOW_S + 1, "iat": 1}]
BAD_TIMES = [{"exp": NOW_S}, {"exp": NOW_S - 1}, {"nbf": NOW_S + 1, "exp": NOW_S + 9}, {"exp": "soon"}, {"exp": -1}]


CARRIERS = ["Bearer", "BEARER", "query", "cookie", "all"]


def carry(token, where):
    """A query and header lines that carry `token`."""
    if where == "query":
        return b"jwt=" + token, []
    if where == "all":
        return b"jwt=" + token, [b"Authorization: Bearer other", b"Cookie: AT=third"]
    if where == "cookie":
        return b"", [b"Cookie: a=b; AT=%b; c" % token]
    return b"", [b"Authorization: %b %b" % (where.encode(), token)]


def _signed(claims=None, *, named="{}", key=None, algorithm="HS256"):
    """Makes the token for a file id under a key, or one that differs as the arguments say."""

    def make(fid, own_key):
        return make_token(key or own_key, {"fid": named.format(fid), **(claims or {})}, algorithm)

    return make


GOOD_TOKENS = [*map(_signed, GOOD_TIMES), _signed(algorithm="HS384"), _signed(algorithm="HS512")]
BAD_TOKENS = [
    *map(_signed, BAD_TIMES),
    *(_signed(named=named) for named in ("3,01637037d6", "{}_1", "0{}", "{}0", "")),
    _signed(key=OTHER_KEY),
    _signed(algorithm="none"),
    lambda fid, _: make_token(WRITE_KEY + READ_KEY, {"fid": fid}),
    lambda fid, key: make_token(key, {"fid": fid})[:-1],
    lambda fid, key: make_token(key, {"fid": fid}) + b".x",
    lambda *_: b"none",
]
"""Each is refused where there is a key."""


@st.composite
def tokens(draw, fid, key):
    """A query and header lines, with a token for `fid` under `key`, a bad one, or none."""
    makers = draw(st.sampled_from([GOOD_TOKENS, BAD_TOKENS, []]))
    if not makers:
        return b"", []
    return carry(draw(st.sampled_from(makers))(fid, key), draw(st.sampled_from(CARRIERS)))


def is_good(where, make):
    return bool(where) and make in GOOD_TOKENS


def _carried(fid, key, where, make):
    return carry(make(fid, key), where) if where else (b"", [])


# ---- reads

PACKED = [
    *(gzip.compress(clear, mtime=0) for clear in (b"", b"<html>" * 20, b"x" * 4000, b"x" * 4001, bytes(200_000))),
    gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0),
    gzip.compress(b"damaged " * 9, mtime=0)[:-1],
    PACKED_DATA,
    gzip.compress(random.Random(2).randbytes(5000), mtime=0),
]
"""Sound and damaged, with contents below and above the limit, and one that is longer than the fast path unpacks."""
payloads = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(PACKED),
    st.sampled_from([b"<html>", b"\x1f\x8b\x08", b"GIF89a", bytes(600), b"x" * 150_000, b"y" * 1_100_000]),
)
labels = st.one_of(st.none(), st.binary(max_size=20), st.sampled_from([b"a.txt", b"b.PNG", b'"\r\n', b"\xc3\xa9.html"]))
mimes = st.one_of(st.none(), st.binary(max_size=20), st.sampled_from([b"text/plain", b"application/octet-stream"]))


@st.composite
def needles(draw):
    """A needle as a writer may leave it."""
    needle = Needle(draw(st.sampled_from([1, 0xAB, 2**64 - 1])), COOKIE, draw(payloads))
    name, mime, modified_s = draw(labels), draw(mimes), draw(st.sampled_from([None, 0, 1, NOW_S, 2**40 - 1]))
    needle.has_name, needle.name = name is not None, name or b""
    needle.has_mime, needle.mime = mime is not None, mime or b""
    needle.has_last_modified, needle.last_modified_s = modified_s is not None, modified_s or 0
    needle.has_ttl, needle.ttl = draw(st.sampled_from([(False, None), (True, Ttl(1, 6))]))
    needle.has_pairs, needle.pairs = draw(st.sampled_from([(False, b"")] * 4 + [(True, b'{"A": "b"}')]))
    needle.is_compressed = draw(st.sampled_from([False, True]))
    needle.is_chunk_manifest = draw(st.sampled_from([False, False, False, True]))
    return needle


ODD_TARGETS = [
    "{}.png",
    "{}?dl=true",
    "{}?",
    "{}?width=1",
    "{}?readDeleted=1",
    "{}?readDeleted=true&cm=false",
    "{}?jwt=a&jwt=b",
    "{}?jwt=",
    "{}?jwt=a%62",
    "{}_1",
    "/{}",
    "{}0",
]
READ_FIELDS = b"""Accept: */*
Accept: */*\x20
Accept-Encoding: gzip
Accept-Encoding: br, gzip;q=0
Accept-Encoding:
Authorization:
Authorization: Basic eA==
Bad : x
Bad Name: x
Connection: close
Connection: keep-alive
Connection: Keep-Alive, x
Content-Length: 0
Content-Length: 3
Cookie: a=b
Expect: 100-continue
Host: y
If-Match: "1"
If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT
If-Modified-Since:
If-None-Match: "00000000"
If-None-Match: *
If-Range: "00000000"
Origin: http://z
Range:
Range: bytes=0-1
Range: bytes=0-1,3-4
Range: bytes=0-0,
Range: bytes=1-0
Range: bytes=-0
Range: bytes=-3
Range: bytes=+1-2
Range: bytes=7-
Range: bytes=999999999-
Range: chars=0-1
Seaweed-Color: red
Transfer-Encoding: chunked
Upgrade: h2c
User-Agent: Go-http-client/1.1
X-Amz-Request-Id: 1
 folded""".split(b"\n")
read_fields = st.sampled_from([*READ_FIELDS, b"a\nb: c", b"a\rb: c"])
USUAL_READ_FIELDS = [b"Accept-Encoding: gzip", b"User-Agent: x", b"connection: Keep-Alive", b"traceparent: 1"]
READ_OPTIONS = [b"", b"readDeleted=true"]
"""What filers send, and what others send."""
USUAL_RANGES = [b"0-3", b"2-", b"-4", b"0-99999", b"605-605", b" 1 - 2"]
CONDITIONS = [
    [],
    [b"If-None-Match: " + ETAG],
    [b"If-None-Match: " + PACKED_ETAG],
    [b'If-None-Match: "0"'],
    [b"if-none-match: W/" + ETAG],
    [b"If-Modified-Since: " + format_http_date(USUAL_MODIFIED_S).encode()],
    [b"If-Modified-Since: " + format_http_date(USUAL_MODIFIED_S - 1).encode()],
    [b"If-Modified-Since: yesterday", b"If-None-Match: " + ETAG],
    [b"If-Modified-Since: " + format_http_date(NOW_S).encode(), b'If-None-Match: "0"'],
]


def head(method, target, fields, version=b"1.1"):
    return b"%b %b HTTP/%b\r\n%b\r\n\r\n" % (method, target.encode(), version, b"\r\n".join(fields))


def usual_read(  # noqa: PLR0913, PLR0917  each is a part of a request
    method=b"GET", wanted=b"", conditions=(), needle_id=USUAL_ID, where="", make=GOOD_TOKENS[0], option=b"", more=()
):
    """GET or HEAD of one of three needles: whole or a range, with conditions, a token, an option, and `more` fields."""
    fid = f"{PLAIN},{needle_id:02x}{COOKIE:08x}"
    query, fields = _carried(fid, READ_KEY, where, make)
    query = b"&".join(one for one in (option, query) if one)
    if conditions and option and where:
        query = b"&".join(reversed(query.split(b"&")))
    fields = [*more, b"Host: x", *fields, *conditions]
    if wanted:
        fields.append(b"Range: bytes=" + wanted)
    target = f"/{fid}?{query.decode()}" if query else f"/{fid}"
    return Sent(head(method, target, fields), is_usual=True, has_token=is_good(where, make))


usual_reads = st.builds(
    usual_read,
    st.sampled_from([b"GET", b"GET", b"HEAD"]),
    st.sampled_from([b"", b"", *USUAL_RANGES]),
    st.sampled_from(CONDITIONS),
    st.sampled_from([USUAL_ID, BARE_ID, PACKED_ID]),
    st.sampled_from(["", "", *CARRIERS]),
    st.sampled_from(GOOD_TOKENS),
    st.sampled_from(READ_OPTIONS),
    st.lists(st.sampled_from(USUAL_READ_FIELDS), max_size=2, unique=True),
)


@st.composite
def other_reads(draw):
    """Reads that the fast path may decline."""
    volume_id = draw(st.sampled_from([PLAIN, PLAIN, PLAIN, EXPIRING, 9]))
    cookie = draw(st.sampled_from(["637037d6"] * 4 + ["637037D6", "00000000"]))
    fid = f"{volume_id},{draw(st.sampled_from(['01', 'ab', 'AB', '00ab', '77', 'f' * 16]))}{cookie}"
    query, carried = draw(tokens(fid, READ_KEY))
    target = "/" + draw(st.sampled_from(["{}"] * 12 + ODD_TARGETS)).format(fid)
    if query:
        target += f"?{query.decode()}"
    method = draw(st.sampled_from([b"GET"] * 6 + [b"HEAD"] * 2 + [b"get"]))
    block = [b"Host: x"] * draw(st.sampled_from([1] * 8 + [0, 2])) + carried + draw(st.lists(read_fields, max_size=2))
    version = draw(st.sampled_from([b"1.1"] * 8 + [b"1.0"]))
    rest = draw(st.sampled_from([b""] * 8 + [b"xyz", b"\r\n", b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"]))
    return Sent(head(method, target, block, version) + rest)


# ---- changes

PAYLOADS = [b"", b"x", b"hello", b"<html>" * 20, bytes(600), b"text " * 500, bytes(range(256)) * 15, b"x" * 4001]
TYPES = [
    "text/plain",
    "image/png",
    "image/jpeg",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "text/html; charset=utf-8",
    "multipart/form-data",
    "/bad",
]
QUERIES = b"""ts=1600000000
ttl=3m
ttl=0
ttl=bad
type=replicate
type=replicate&ts=7&ttl=5d
cm=true
fsync=true
fsync=true
fsync=1
pretty=y
ts=%zz
collection=c""".split(b"\n")
CHANGE_FIELDS = b"""Accept: */*
Authorization: Basic eA==
Connection: close
Connection: keep-alive
Content-Encoding: gzip
Content-Encoding: br
Content-Length: 3
Content-MD5: XUFAKrxLKna5cZ2REBfFkg==
Cookie: a=b
Expect: 100-continue
Host: y
If-None-Match: *
Origin: http://z
Range: bytes=0-1
Seaweed-Color: red
Seaweed-Color: blue
seaweed-\xc3\xa9: 1
Seaweed-Name: \xc3\xa9 "
Transfer-Encoding: chunked
Content-Disposition: inline; filename="n.txt"
User-Agent: Go-http-client/1.1
X-Amz-Request-Id: 1
X-Volume-Holder: required
 folded""".split(b"\n")
PART_FIELDS = b"""Content-Type: text/plain
Content-Type: image/png
Content-Encoding: gzip
Content-MD5: XUFAKrxLKna5cZ2REBfFkg==
Content-Transfer-Encoding: quoted-printable
Content-Transfer-Encoding: Quoted-Printable
Content-Transfer-Encoding: binary
Idempotency-Key: http://x/3,01
Bad Name: x
 folded""".split(b"\n")
NAMES = [b"", b"a.txt", b"b.JPG", b"dir/c.bin", b"\xc3\xa9.html", b'q\\"', b"n" * 300]


UPLOAD_OPTIONS = [
    [],
    [b"ttl=3m"],
    [b"ts=7"],
    [b"ttl=3m", b"ts=7"],
    [b"type=replicate"],
    [b"type=replicate", b"ts=7"],
    [b"fsync=true"],
    [b"type=replicate", b"fsync=true"],
]
BODIES = [b"hello", b"text " * 300, bytes(range(256))]


@dataclass(frozen=True)
class Sender:
    """How a program sends a file in a form. `fields` are those of the part, before its type and encoding."""

    boundary: bytes
    fields: tuple[bytes, ...]
    has_md5: bool = False

    @property
    def content_type(self):
        return b"Content-Type: multipart/form-data; boundary=" + self.boundary

    def body(self, fields, content, clear):
        """The form with `content`, which is `clear` compressed, or itself."""
        if self.has_md5:
            fields = [*fields, b"Content-Md5: " + b64encode(hashlib.md5(clear, usedforsecurity=False).digest())]
        boundary = self.boundary.strip(b'"')
        return b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (
            boundary,
            b"\r\n".join([*self.fields, *fields]),
            content,
            boundary,
        )


_NAMED = b'Content-Disposition: form-data; name="file"; filename="%b"'
SENDERS = [
    Sender(b"b0", (_NAMED % b"a.txt",)),
    Sender(b"0f" * 30, (_NAMED % b"\xc3\xa9.html", b"Idempotency-Key: http://127.0.0.1:8080/3,1"), has_md5=True),
    Sender(b"914bd2394" * 6, (b"Content-Disposition: form-data; filename=c.bin; name=file",), has_md5=True),
    Sender(b"------------------------d9f8274741053614", (_NAMED % b"dir/b.css",)),
    Sender(b'"----=_Part_0_1.2"', (_NAMED % b'q\\"', b"Content-Transfer-Encoding: binary")),
]
"""A simple form; `weed upload`; a filer; curl; libraries of Java."""


def usual_upload(  # noqa: PLR0913, PLR0917  each is a part of a request
    method=b"PUT", body=b"hello", options=(), where="", make=GOOD_TOKENS[0], is_gzipped=False, sender=None
):
    """PUT or POST of a new needle, raw or as `sender` sends it in a form of one part. A write that another holder sends
    on goes to a volume with copies.
    """
    number = next(_numbers)
    fid = f"{REPLICATED if b'type=replicate' in options else PLAIN},{number:x}{COOKIE:08x}"
    query, fields = _carried(fid, WRITE_KEY, where, make)
    encoding = [b"Content-Encoding: gzip"] if is_gzipped else []
    clear, body = body, gzip.compress(body, mtime=0) if is_gzipped else body
    content_type = b"Content-Type: text/plain"
    if sender is not None and method == b"POST":
        body = sender.body([content_type, *encoding], body, clear)
        encoding, content_type = [], sender.content_type
    query = b"&".join([*options, query] if query else options).decode()
    target = f"/{fid}?{query}" if query else f"/{fid}"
    fields = [b"Host: x", b"Content-Length: %d" % len(body), content_type, *encoding, b"Seaweed-Color: red", *fields]
    return Sent(head(method, target, fields) + body, is_usual=True, has_token=is_good(where, make))


def usual_deletion(where="", make=GOOD_TOKENS[0], stored=usual_needle):
    """DELETE of a needle that is there."""
    number = next(_numbers)
    fid = f"{PLAIN},{number:x}{COOKIE:08x}"
    query, fields = _carried(fid, WRITE_KEY, where, make)
    target = f"/{fid}?{query.decode()}" if query else f"/{fid}"
    return Sent(
        head(b"DELETE", target, [b"Host: x", *fields]),
        is_usual=True,
        has_token=is_good(where, make),
        stored=stored(number),
    )


carriers, makers = st.sampled_from(["", "", *CARRIERS]), st.sampled_from(GOOD_TOKENS)
usual_uploads = st.builds(
    usual_upload,
    st.sampled_from([b"PUT", b"POST"]),
    st.sampled_from(BODIES),
    st.sampled_from(UPLOAD_OPTIONS),
    carriers,
    makers,
    st.booleans(),
    st.sampled_from([None, *SENDERS]),
)
usual_deletions = st.builds(usual_deletion, carriers, makers, st.sampled_from([usual_needle, packed_needle]))


def form(draw, payload):
    content_type, boundary = draw(
        st.sampled_from(
            [(b"multipart/form-data; boundary=b0", b"b0")] * 4
            + [
                (b"multipart/form-data; boundary=----WebKitFormBoundary7", b"----WebKitFormBoundary7"),
                (b'multipart/form-data;boundary="b(0)"', b"b(0)"),
                (b'multipart/form-data; boundary="b 0"', b"b 0"),
                (b"multipart/form-data; boundary=b(0)", b"b(0)"),
                (b'multipart/form-data; boundary="b0', b"b0"),
                (b"multipart/form-data; boundary=b0; charset=x", b"b0"),
            ]
        )
    )
    name = draw(st.sampled_from(NAMES))
    disposition = draw(st.sampled_from([b'form-data; name="file"; filename="%s"'] * 4 + [b'form-data; name="%s"']))
    fields = [b"Content-Disposition: " + disposition % name, *draw(st.lists(st.sampled_from(PART_FIELDS), max_size=2))]
    end = draw(st.sampled_from([b"--\r\n"] * 4 + [b"--", b"", b"--\r\nmore", b"x--\r\n"]))
    second = draw(
        st.sampled_from([b""] * 4 + [b'\r\n--%s\r\nContent-Disposition: form-data; name="ts"\r\n\r\n9' % boundary])
    )
    body = b"--%s\r\n%s\r\n\r\n%s%s\r\n--%s%s" % (boundary, b"\r\n".join(fields), payload, second, boundary, end)
    return content_type, body


@st.composite
def other_changes(draw):
    """Changes that the fast path may decline."""
    method = draw(st.sampled_from([b"POST"] * 8 + [b"PUT"] * 5 + [b"DELETE"] * 5 + [b"GET", b"post"]))
    volume_id = draw(st.sampled_from([PLAIN] * 12 + [EXPIRING, SEALED, REPLICATED, 9]))
    cookie = draw(st.sampled_from(["637037d6"] * 12 + ["637037D6", "00000000"]))
    fid = f"{volume_id},{draw(st.sampled_from(['31', '32', 'ac', 'AC', '00ac', 'e' * 16]))}{cookie}"
    query, carried = draw(tokens(fid, WRITE_KEY))
    target = draw(st.sampled_from(["/{}"] * 20 + ["/{}.png", "/{}_1", "//{}"])).format(fid)
    option = draw(st.sampled_from([b""] * 8 + QUERIES))
    if joined := b"&".join(one for one in (option, query) if one):
        target += "?" + joined.decode()
    payload = draw(st.one_of(st.sampled_from(PAYLOADS), st.binary(max_size=40)))
    block = [b"Host: x"] * draw(st.sampled_from([1] * 16 + [0, 2])) + carried
    block += draw(st.one_of(st.just([]), st.lists(st.sampled_from(CHANGE_FIELDS), max_size=2)))
    if method == b"DELETE":
        payload = draw(st.sampled_from([b""] * 5 + [b"x"]))
    elif draw(st.booleans()):
        content_type, payload = form(draw, payload)
        block.append(b"Content-Type: " + content_type)
    elif name := draw(st.sampled_from(["", *TYPES])):
        block.append(b"Content-Type: " + name.encode())
    if draw(st.sampled_from([False] * 5 + [True])):
        payload = gzip.compress(payload, mtime=0)
    length = len(payload) + draw(st.sampled_from([0] * 20 + [-1]))
    if payload or draw(st.booleans()):
        block.insert(draw(st.integers(0, len(block))), b"Content-Length: %d" % max(length, 0))
    version = draw(st.sampled_from([b"1.1"] * 9 + [b"1.0"]))
    return Sent(head(method, target, block, version) + payload)


requests = st.one_of(usual_reads, usual_uploads, usual_deletions, other_reads(), other_changes())


def usual_requests():
    """Each usual kind of request with each way to carry a token: a finite list, without chance."""
    wheres = ["", *CARRIERS]
    needles = ((USUAL_ID, ()), (BARE_ID, ()), (PACKED_ID, ()), (PACKED_ID, (b"Accept-Encoding: gzip",)))
    reads = [*itertools.product((b"GET", b"HEAD"), (b"", *USUAL_RANGES), CONDITIONS, needles)]
    carried = itertools.cycle([(where, make) for make in GOOD_TOKENS for where in wheres])
    options = itertools.cycle(READ_OPTIONS)
    sents = [
        usual_read(*read, needle_id, *next(carried), next(options), more)
        for _ in READ_OPTIONS
        for *read, (needle_id, more) in reads
    ]
    uploads = itertools.product((None, *SENDERS), (b"PUT", b"POST"), BODIES, UPLOAD_OPTIONS, (False, True))
    for sender, method, body, options, is_gzipped in uploads:
        if sender is None or method == b"POST":
            sents.append(usual_upload(method, body, options, *next(carried), is_gzipped, sender))
    deletions = itertools.product(wheres, GOOD_TOKENS, (usual_needle, packed_needle))
    return [*sents, *itertools.starmap(usual_deletion, deletions)]


def requests_with_bad_tokens():
    """Usual requests, but for their tokens: each bad token in each kind of request."""
    carried = [*zip(itertools.cycle(CARRIERS), BAD_TOKENS, strict=False), ("", GOOD_TOKENS[0])]
    sents = [usual_read(method, where=where, make=make) for method in (b"GET", b"HEAD") for where, make in carried]
    sents += [usual_upload(method, where=where, make=make) for method in (b"PUT", b"POST") for where, make in carried]
    return [*sents, *(usual_deletion(where, make) for where, make in carried)]
