"""Random requests: mostly sensible; each part is sometimes odd."""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass, field

from hypothesis import strategies as st

COOKIE, OTHER_COOKIE = "12345678", "0abcdef1"
MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"
MODIFIED_S = 1700000000
BOUNDARY = "differential"
_PLAIN, _WITH_TTL, _READ_ONLY, _ABSENT = "3", "4", "5", "99"
_TARGET_ALPHABET = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "?{}")


@dataclass(frozen=True)
class Ask:
    """One request. `{n}` in the target stands for the needle id of slot n, which differs from example to example."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    is_public: bool = False
    is_compressible: bool = field(default=False)
    """Whether the server may compress the body; Go's bytes and native ones then differ."""


def mostly(usual, odd, *, odds=6):
    """`usual`, or `odd` once in `odds` times."""
    return st.integers(1, odds).flatmap(lambda number: odd if number == 1 else usual)


# ---- targets

slots = st.sampled_from(["{0}", "{0}", "{0}", "{1}", "{1}", "{2}"])
cookies = mostly(st.just(COOKIE), st.sampled_from([OTHER_COOKIE, COOKIE.upper(), "00000000"]), odds=8)
volumes = mostly(
    st.just(_PLAIN),
    st.sampled_from([_WITH_TTL, _READ_ONLY, _ABSENT, "03", "4294967299", "x", "", "-3", "3.5", "18446744073709551619"]),
    odds=9,
)
deltas = mostly(
    st.just(""), st.sampled_from(["_0", "_1", "_2", "_x", "_", "_-1", "_18446744073709551615", "_1_2"]), odds=10
)
extensions = mostly(st.just(""), st.sampled_from([".txt", ".jpg", ".JPG", ".css", ".", ".tar.gz", ".html", ".unknown"]))
names = st.sampled_from(["n.txt", "a%20b.png", "%C3%A4.pdf", "x", ".hidden", "n.tar.gz", "a,b", "a;b.txt", "%22.txt"])


@st.composite
def file_ids(draw):
    zeros = draw(mostly(st.just(""), st.sampled_from(["0", "00", "+", "0x"]), odds=15))
    return f"{zeros}{draw(slots)}{draw(cookies)}{draw(deltas)}"


@st.composite
def object_paths(draw):
    volume, file_id, form = draw(volumes), draw(file_ids()), draw(st.integers(0, 9))
    if form == 0:
        return f"/{volume}/{file_id}/{draw(names)}"
    if form == 1:
        return f"/{volume}/{file_id}{draw(extensions)}"
    if form == 2:
        return f"/{volume},{file_id}/{draw(names)}"
    return f"/{volume},{file_id}{draw(extensions)}"


@st.composite
def broken_paths(draw):
    """A path with something inserted, removed or moved."""
    path = draw(object_paths())
    at = draw(st.integers(1, len(path)))
    inserted = draw(
        st.sampled_from(
            [
                "/",
                ",",
                ".",
                "_",
                "%2F",
                "%2C",
                "%25",
                "%zz",
                "%",
                "//",
                "/../",
                "/./",
                ";",
                "+",
                "%00",
                "=",
                "&",
                ":",
                "@",
                "~",
                "*",
                "%C3",
                "%c3%a4",
            ]
        )
        | st.text(_TARGET_ALPHABET, max_size=3)
    )
    removed = draw(st.integers(0, 3))
    return path[:at] + inserted + path[at + removed :]


paths = mostly(object_paths(), broken_paths(), odds=8)

read_queries = st.lists(
    st.sampled_from(
        [
            "readDeleted=true", "readDeleted=1", "cm=false", "cm=true", "dl=true", "dl=1", "dl=no", "dl=", "dl=T",
            "response-content-type=x/y", "response-content-type=", "Response-Cache-Control=no-cache", "pretty=y",
            "response-content-disposition=attachment", "response-content-encoding=br", "response-expires=now",
            "response-content-language=de", "response-x=y", "width=5", "height=x", "mode=fit", "crop_x2=5&crop_y2=5",
            "a=%zz", "a;b", "&&", "=", "proxied=true", "collection=c", "jwt=abc", "callback=f",
        ]
    ),
    max_size=3,
)  # fmt: skip
write_queries = st.lists(
    st.sampled_from(
        [
            f"ts={MODIFIED_S}", "ts=0", "ts=-1", "ts=1e3", "ts=18446744073709551616", "ttl=3d", "ttl=5M", "ttl=x",
            "ttl=0m", "ttl=256y", "ttl=3", "cm=x", "cm=0", "fsync=true", "type=replicate", "a=%zz", "pretty=1", "a;b",
            "ts=", "ttl=", "ttl=-3d", "ttl=3d&ttl=4d",
        ]
    ),
    max_size=3,
)  # fmt: skip


def with_query(path, fields):
    return f"{path}?{'&'.join(fields)}" if fields else path


# ---- headers of reads

positions = st.integers(0, 70).map(str) | st.sampled_from(
    ["", "x", "1000000", "99999999999999999999", "+1", " 1", "01"]
)
one_range = st.tuples(positions, positions).map("-".join)
ranges = mostly(
    st.lists(one_range, min_size=1, max_size=3).map(lambda some: "bytes=" + ",".join(some)),
    st.sampled_from(
        [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "Bytes=0-1",
            "lines=0-1",
            "bytes=0-1-2",
            "bytes= 0-1 , 2-3 ",
            "bytes =0-1",
            "bytes=0-1,",
            "bytes=\t0-1",
        ]
    ),
)
etags = st.sampled_from(['"{etag}"', "{etag}", 'W/"{etag}"', '"x", "{etag}"', "*", '"x"', ""])
dates = st.sampled_from(
    [
        MODIFIED, "Tue, 14 Nov 2023 22:13:19 GMT", "Tue, 14 Nov 2023 22:13:21 GMT", "Tue, 14 Nov 2023 22:13:20 UTC",
        "Mon, 14 Nov 2023 22:13:20 GMT", "Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023", "0", "",
        "Fri, 31 Feb 2023 22:13:20 GMT", "Tue, 14 Nov 2023 24:00:00 GMT", "Tue, 4 Nov 2025 02:13:20 GMT",
        "tue, 14 nov 2023 22:13:20 GMT", "Tue, 14 Nov 99999 22:13:20 GMT", "Tue, 14 Nov 2023 22:13:20 GMT ",
    ]
)  # fmt: skip
encodings = st.sampled_from(["gzip", "gzip;q=0", "identity", "br, gzip", "x-gzip", "zstd", "", "*", "GZIP", "deflate"])
read_headers = st.fixed_dictionaries(
    {},
    optional={
        "Range": ranges,
        "If-None-Match": etags,
        "If-Modified-Since": dates,
        "Accept-Encoding": encodings,
        "Origin": st.sampled_from(["http://a", ""]),
        "If-Range": etags,
        "If-Match": etags,
        "If-Unmodified-Since": dates,
        "X-Amz-Request-Id": st.just("mine"),
        "Authorization": st.sampled_from(["Bearer x", "Basic x"]),
    },
).map(lambda fields: tuple(fields.items()))


@st.composite
def reads(draw):
    method = draw(st.sampled_from(["GET", "GET", "GET", "HEAD"]))
    target = with_query(draw(paths), draw(read_queries))
    return Ask(method, target, draw(read_headers), is_public=draw(st.integers(0, 7)) == 0)


# ---- uploads

CONTENTS = (
    b"hello world, hello world", b"", b"\0bin\xff", b"<html><b>x</b>", b'{"a":1}', b"%PDF-1.4 x", b"\x89PNG\r\n\x1a\n1",
    b"GIF89a", b"\x1f\x8b", b"\x1f\x8b\x08 no gzip", gzip.compress(b"packed content, packed content", mtime=0),
    gzip.compress(b"", mtime=0), gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0),
    gzip.compress(b"cut short, cut short", mtime=0)[:-9], b"\x28\xb5\x2f\xfd\x04\x00\x19\x00\x00abc",
    b"a=b&c=d", b"--" + BOUNDARY.encode(), hashlib.shake_256(b"small").digest(600),
    hashlib.shake_256(b"streamed").digest((1 << 20) + 1), hashlib.shake_256(b"over the limit").digest((2 << 20) + 1),
)  # fmt: skip
COMPRESSIBLE = b"words and words " * 40
MIMES = (
    "", "text/plain", "application/octet-stream", "application/json", "text/html; charset=utf-8", "application/x-a",
    "application/octet-stream; x=y", "image/png", "Text/Plain", "text", "a/b; c", "application/javascript", " a/b ",
    "image/svg+xml", "x" * 256, "application/zip", "audio/wav", "a/\xe4",
)  # fmt: skip
FILE_NAMES = (
    "", "a.txt", "a.TXT", "a.bin", "a.json", "a b.png", "\xc3\xa4.pdf", "dir/x.gz", "C:\\d\\e.jpg", ".txt", "none",
    "x.", "a" * 255 + ".t", "a.unknown", "..", "/", "a.JPG", "a.tar.gz", "quo\\\"te.txt", "a;b.txt", "a.css", "a.svg",
)  # fmt: skip


def md5_of(data):
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


@st.composite
def contents(draw):
    """(bytes, whether a server may compress them)."""
    if draw(st.integers(0, 9)) == 0:
        return COMPRESSIBLE, True
    return draw(st.sampled_from(CONTENTS)), False


@st.composite
def upload_extras(draw, data):
    """Headers that an upload may have in addition, on the request or on a part."""
    extras = {}
    if draw(st.integers(0, 5)) == 0:
        extras["Content-Encoding"] = draw(st.sampled_from(["gzip", "GZIP", "zstd", "identity", "", "gzip, gzip"]))
    if draw(st.integers(0, 5)) == 0:
        extras["Content-MD5"] = draw(st.sampled_from([md5_of(data), md5_of(b"other"), "x", ""]))
    return list(extras.items())


pairs = st.lists(
    st.tuples(
        st.sampled_from(["Seaweed-A", "seaweed-b-C", "SEAWEED-d", "Seaweed-", "Seaweed-Content-Type", "Seaweeds-X"]),
        st.sampled_from(["1", "", "x y", "\xc3\xa4", '"q"', "<&>", "a\tb", "1, 2"]),
    ),
    max_size=2,
    unique_by=lambda pair: pair[0].lower(),
)


@st.composite
def raw_uploads(draw):
    (data, is_compressible), mime, name = (
        draw(contents()),
        draw(st.sampled_from(MIMES)),
        draw(st.sampled_from(FILE_NAMES)),
    )
    method = draw(st.sampled_from(["PUT", "PUT", "POST"]))
    headers = draw(upload_extras(data))
    headers += [("Content-Type", mime)] if mime else []
    if name and draw(st.booleans()):
        form = draw(
            st.sampled_from(
                [
                    'attachment; filename="{}"',
                    'inline; name="{}"',
                    'filename="{}"',
                    "inline; filename={}",
                    'form-data; name=a; filename="{}"',
                    "bad",
                ]
            )
        )
        headers.append(("Content-Disposition", form.format(name)))
    target = with_query(draw(paths), draw(write_queries))
    return Ask(method, target, tuple(headers + draw(pairs)), data, is_compressible=is_compressible)


@st.composite
def parts(draw):
    (data, is_compressible), mime, name = (
        draw(contents()),
        draw(st.sampled_from(MIMES)),
        draw(st.sampled_from(FILE_NAMES)),
    )
    fields = draw(upload_extras(data))
    fields += [("Content-Type", mime)] if mime else []
    disposition = draw(
        st.sampled_from(
            [
                'form-data; name="file"; filename="{}"',
                'form-data; name="ts"',
                'form-data; filename="{}"',
                "",
                "bad; ;",
                "attachment; filename*=UTF-8''%C3%A4.txt",
            ]
        )
    )
    fields += [("Content-Disposition", disposition.format(name))] if disposition else []
    if draw(st.integers(0, 9)) == 0:
        fields.append(("Content-Transfer-Encoding", draw(st.sampled_from(["quoted-printable", "base64", "binary"]))))
    lines = "".join(f"{key}: {value}\r\n" for key, value in fields).encode("latin-1")
    return b"--" + BOUNDARY.encode() + b"\r\n" + lines + b"\r\n" + data + b"\r\n", is_compressible


@st.composite
def form_uploads(draw):
    made = draw(st.lists(parts(), min_size=0, max_size=3))
    end = draw(
        mostly(st.just(b"--\r\n"), st.sampled_from([b"--", b"", b"\r\n", b"--\r\ntrailing", b"-- \r\n"]), odds=8)
    )
    body = draw(mostly(st.just(b""), st.just(b"preamble\r\n"), odds=8)) + b"".join(part for part, _ in made)
    body += b"--" + BOUNDARY.encode() + end
    mime = draw(
        mostly(
            st.just(f"multipart/form-data; boundary={BOUNDARY}"),
            st.sampled_from(
                [
                    "",
                    "multipart/form-data",
                    f"multipart/mixed; boundary={BOUNDARY}",
                    f'multipart/form-data; boundary="{BOUNDARY}"',
                    "form-data",
                    "multipart/form-data; boundary=other",
                    f"Multipart/Form-Data; Boundary={BOUNDARY}",
                    "application/x-www-form-urlencoded",
                ]
            ),
            odds=6,
        )
    )
    headers = [("Content-Type", mime)] if mime else []
    method = draw(mostly(st.just("POST"), st.just("PUT"), odds=8))
    target = with_query(draw(paths), draw(write_queries))
    # As a raw body it is text, usually the boundary.
    is_compressible = method == "PUT" or "form-data" not in mime or any(compressible for _, compressible in made)
    return Ask(method, target, tuple(headers + draw(pairs)), body, is_compressible=is_compressible)


# ---- the rest


@st.composite
def deletes(draw):
    fields = draw(st.lists(st.sampled_from(["pretty=1", "type=replicate", "ts=5", "a=%zz", "ts=x"]), max_size=2))
    return Ask("DELETE", with_query(draw(paths), fields), draw(st.sampled_from([(), (("Origin", "http://a"),)])))


@st.composite
def others(draw):
    method = draw(st.sampled_from(["OPTIONS", "PATCH", "TRACE", "PROPFIND", "GET", "HEAD", "POST", "DELETE", "PUT"]))
    target = draw(
        paths
        | st.sampled_from(
            [
                "/",
                "/stats/counter",
                "/healthz",
                "/readyz",
                "/seaweedfsstatic/x",
                "/metrics",
                "/x",
                "/ui/",
                "/status/",
                "/healthz/",
            ]
        )
    )
    headers = draw(st.sampled_from([(), (("Origin", "http://a"),)]))
    body = b"" if method in {"POST", "PUT"} else None
    return Ask(method, target, headers, body, is_public=draw(st.booleans()))


asks = st.one_of(reads(), reads(), reads(), raw_uploads(), form_uploads(), deletes(), others())


def plain_upload(slot):
    """An upload that makes later reads of the slot find a needle."""
    return st.builds(
        lambda content, mime: Ask(
            "PUT", f"/3,{slot}{COOKIE}?ts={MODIFIED_S}", (("Content-Type", mime),) if mime else (), content
        ),
        st.sampled_from(CONTENTS[:-1]),
        st.sampled_from(MIMES[:14]),
    )


sequences = st.builds(
    lambda first, second, rest: [first, second, *rest],
    plain_upload("{0}"),
    plain_upload("{1}"),
    st.lists(asks, min_size=1, max_size=8),
)
