"""Stored data comes back to other clients: odd headers, names and images, read in odd ways. No log has a traceback."""

import io
import struct
import zlib

import pytest
from harness.http1 import multipart
from harness.server import VolumeServer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_contract_hostile import ask, mutations, no_trace_in_the_log

pytestmark = pytest.mark.only(lambda implementation: implementation.name == "native")
LENIENT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
FEW = settings(LENIENT, max_examples=15, deadline=None)
__all__ = ["no_trace_in_the_log"]

stored_names = st.sampled_from(
    ["Content-Length", "Content-Range", "Content-Encoding", "Content-Type", "Content-Disposition", "Transfer-Encoding",
     "Connection", "Keep-Alive", "Upgrade", "Trailer", "Etag", "Date", "Server", "Set-Cookie", "Location",
     "Last-Modified", "Accept-Ranges", "X-Amz-Request-Id", "X-File-Store", "X-Content-Type-Options", "A", "-", "!#$"]
) | st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=9)  # fmt: skip
stored_values = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30
) | st.sampled_from(
    ["5", "0", "-1", "99999999999999999999", "chunked", "gzip", "identity", "close", "bytes 0-1/2", "*"]
)
read_headers = st.lists(
    st.sampled_from(
        [("Range", "bytes=0-3"), ("Range", "bytes=0-3,5-6"), ("Range", "bytes=0-9,0-9"), ("Range", "bytes=99-"),
         ("Range", "bytes=,"), ("Range", "lines=1"), ("Accept-Encoding", "gzip"), ("Accept-Encoding", "*"),
         ("If-None-Match", "*"), ("If-Modified-Since", "Sun, 29 Nov 2037 12:00:00 GMT"), ("Origin", "null")]
    ),
    max_size=3,
)  # fmt: skip
read_queries = st.sampled_from(
    ["", "dl=true", "cm=false", "width=5", "response-content-type=%0d%0aA:b", "response-content-encoding=gzip",
     "response-content-disposition=%ff%00", "response-expires=", "readDeleted=true", "width=5&height=-1&mode=fit"]
)  # fmt: skip
contents = st.sampled_from(
    [b"", b"hello world", b"\x1f\x8b", bytes(70_000), b"{}", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
)


@LENIENT
@example(
    pairs=[("Content-Length", "5")],
    content=b"hello world",
    upload=("", "a/b", "", ""),
    reads=[([("Range", "bytes=0-9,0-9")], "", "")],
)
@given(
    pairs=st.lists(st.tuples(stored_names, stored_values), max_size=4),
    content=contents,
    upload=st.tuples(
        st.sampled_from(["", "?cm=true", "?ttl=x", "?ts=99999999999999999999"]),
        st.sampled_from(["", "a/b", "text/plain", "image/png", "\xff", "a" * 300]),
        st.sampled_from(["", "gzip", "br"]),
        st.sampled_from(["", "a.png", "\xe4.JPG", "%00", "a" * 300, '"', "."]),
    ),
    reads=st.lists(st.tuples(read_headers, read_queries, st.sampled_from(["", ".png", "/x.gif", "/\xff"])), max_size=3),
)
def test_what_is_stored_with_a_file(server, pairs, content, upload, reads):
    fid, (query, kind, encoding, name) = server.new_fid(), upload
    headers = [(f"Seaweed-{key}", value) for key, value in pairs] + [
        ("Content-Type", kind),
        ("Content-Encoding", encoding),
    ]
    headers.append(("Content-Disposition", f'attachment; filename="{name}"'))
    ask(server, "PUT", f"/{fid}{query}", headers, content)
    for asked, query, end in [([], "", ""), *reads]:
        target = f"/{fid.replace(',', '/') if end.startswith('/') else fid}{end}?{query}"
        for method in ("GET", "HEAD"):
            reply = ask(server, method, target, asked)
            assert len(reply.get_all("Content-Length")) <= 1
            if method == "GET" and reply.status == 200 and "cm" not in upload[0]:
                assert reply.body in {content, b""} or encoding or "width" in query


@pytest.mark.parametrize("number", ["9" * 5000, "0" * 5000 + "7", "-" + "9" * 5000, "+" + "0" * 5000])
def test_numbers_of_thousands_of_digits(server, number):
    """Python refuses to parse them, with an error of its own."""
    fid = server.store(b"\x89PNG", [("Content-Type", "image/png")])
    volume, _, needle = fid.partition(",")
    for query in ("ttl={}", "ttl={}d", "ts={}", "cm={}", "fsync={}", "type={}", "width={}", "crop_x2={}&crop_y2={}"):
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            ask(server, method, f"/{fid}.png?{query.replace('{}', number)}", [("Content-Type", "a/b")], None)
    for target in (f"{number},{needle}", f"{volume},{number}", f"{fid}_{number}", f"{volume}/{needle}_{number}"):
        for method in ("GET", "PUT", "DELETE"):
            ask(server, method, f"/{target}")
    for name in (
        "Range",
        "If-Modified-Since",
        "X-Manifest-Depth",
        "Content-Length",
        "Content-MD5",
        "Expect",
        "Seaweed-A",
    ):
        for value in (number, f"bytes={number}-", f"bytes=-{number}"):
            ask(server, "GET", f"/{fid}", [(name, value)])
            ask(server, "PUT", f"/{fid}", [(name, value)])


PART = b"caf=C3=A9 =\r\n\r\n= \t\n==3D \x7f=" * 3
QUOTED = [("Content-Transfer-Encoding", "quoted-printable"), ("Content-Encoding", "gzip")]


@LENIENT
@given(mutations(PART), st.integers(1, 2))
def test_encoded_parts(server, encoded, headers):
    fields, body = multipart(encoded, content_type="a/b", part_headers=QUOTED[:headers])
    fid = server.new_fid()
    ask(server, "POST", f"/{fid}", fields, body)
    ask(server, "GET", f"/{fid}")


def png(width, height, depth=8, colours=0):
    """A black image of any size, in few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    row = 1 + (width * depth * channels + 7) // 8
    data = zlib.compress(bytes(min(row * height, 64 << 20)), 1)
    head = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    palette = chunk(b"PLTE", b"abc") if colours == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "size",
    [
        (49_999_999, 1),
        (1, 49_999_999),
        (999_999, 50),
        (1_000_001, 1),
        (65_536, 3),
        (0x7FFFFFFF, 1),
        (1, 1),
        (65_535, 762),
        (0, 5),
    ],
    ids=lambda size: "x".join(map(str, size)),
)
def test_narrow_images(server, size):
    data = png(*size)
    fid = server.store(data, [("Content-Type", "image/png")])
    for query in ("width=10", "height=10", "width=10&height=10&mode=fill", "width=1&height=3", "width=1000000000",
                  "crop_x1=0&crop_y1=0&crop_x2=1&crop_y2=1", "width=3&height=3&mode=fit"):  # fmt: skip
        reply = ask(server, "GET", f"/{fid}.png?{query}", waits=True)
        assert reply.status == 200
        if reply.body not in {data, b""}:
            made = Image.open(io.BytesIO(reply.body))
            assert max(made.size) <= 65_535


sides = st.sampled_from([1, 2, 3, 99, 100, 101, 5000])
amounts = st.sampled_from(["", "0", "1", "3", "100", "5001", "-5", "1000000", "9223372036854775807", "9" * 5000])


@FEW
@given(
    size=st.tuples(sides, sides),
    depth_and_colours=st.sampled_from([(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (4, 3), (8, 4), (8, 6), (16, 6)]),
    asked=st.dictionaries(st.sampled_from(["width", "height", "crop_x2", "crop_y2", "crop_x1"]), amounts, min_size=1),
    mode=st.sampled_from(["", "fit", "fill"]),
    ext=st.sampled_from([".png", ".jpg", ".gif", ".webp"]),
    is_packed=st.booleans(),
)
def test_images_of_any_shape_and_depth(server, size, depth_and_colours, asked, mode, ext, is_packed):
    data = png(*size, *depth_and_colours)
    encoding = []
    if is_packed:
        data, encoding = zlib.compress(data, 1, 31), [("Content-Encoding", "gzip")]
    fid = server.store(data, [("Content-Type", "image/png"), *encoding])
    query = "&".join(f"{name}={value}" for name, value in {**asked, "mode": mode}.items())
    assert ask(server, "GET", f"/{fid}{ext}?{query}", waits=True).status == 200


@pytest.fixture(scope="module")
def turning_server(implementation, master, weed, tmp_path_factory):
    made = VolumeServer(implementation, tmp_path_factory.mktemp("turning"), master, weed, ["-images.fix.orientation"])
    yield made
    made.stop()


def photo():
    made = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    Image.new("RGB", (20, 10), (200, 30, 30)).save(made, "JPEG", exif=exif)
    return made.getvalue()


@LENIENT
@given(mutations(photo()), st.sampled_from(["image/jpeg", ""]))
def test_photos_that_are_to_be_turned(turning_server, data, kind):
    fid = turning_server.new_fid()
    ask(turning_server, "PUT", f"/{fid}/a.jpg", [("Content-Type", kind)], data)
    assert b"Traceback" not in turning_server.process.log_path.read_bytes()
