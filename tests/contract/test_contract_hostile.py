"""Arbitrary requests: the native server answers each, blames no other server, and logs no traceback. A 500 means that
the storage or another server fails; its body says so.
"""

import io
import json
import re

import pytest
from harness.http1 import Connection, multipart, request_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

pytestmark = pytest.mark.only(lambda implementation: implementation.name == "native")

LENIENT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
STORAGE_FAILURES = re.compile(
    rb"replicating lookup failed|volume \d+ not found|mismatching cookie|chunks? |Load chunks manifest error"
    rb"|Delete chunks error|manifest|begins at|is no number"
)
"""The body of a 500 names one of these: the storage, or an absent object that an upload describes."""
BUGS = ("Traceback", "a bug of ours", "the answer makes no message")
FID = "{volume},0a637037d6"


@pytest.fixture(autouse=True)
def no_trace_in_the_log(server):
    """Fails the test when the server's log has a traceback."""
    before = server.process.log_path.stat().st_size
    yield
    written = server.process.log_path.read_bytes()[before:].decode("utf-8", "replace")
    assert not [word for word in BUGS if word in written], written[:4000]


def send(server, data, method="", *, waits=False):
    """The first final answer to `data`; nothing is sent after `data`. None for data without a request. The sending side
    is closed at once unless the client `waits`, so the server may take the client for gone.
    """
    with Connection(server.admin) as connection:
        connection.send(data)
        if not waits:
            connection.end_sending()
        if not data.strip(b"\r\n"):
            return None
        reply = connection.read_reply(method)
        while reply.status < 200:
            reply = connection.read_reply(method)
    return check(reply)


def ask(server, method, target, headers=(), body=None, *, waits=False):
    return send(server, request_bytes(method, target, headers, body), method, waits=waits)


def check(reply):
    if reply.status == 501:
        # HEAD has no body to say why.
        assert not reply.body or b"Transfer-Encoding" in reply.body, reply
    elif reply.status == 500 and reply.get("X-File-Store") is None:
        assert STORAGE_FAILURES.search(reply.body), reply
    else:
        # Some chunks of a file may be unreadable; HEAD has no body to say which.
        assert 200 <= reply.status <= 500, reply
    return reply


# ---- heads

tokens = st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "G\xe4T", ""])
targets = st.text(st.characters(max_codepoint=0xFF, exclude_characters=" "), min_size=1, max_size=40)
names = st.sampled_from(
    ["Range", "Content-Type", "Content-Length", "Transfer-Encoding", "Content-Encoding", "Content-Disposition",
     "Expect", "Content-MD5", "If-None-Match", "If-Modified-Since", "Accept-Encoding", "Authorization", "Cookie",
     "Connection", "Upgrade", "Seaweed-A", "Host", "Origin", "X-Manifest-Depth", "Trailer", "TE", "Content-Range"]
)  # fmt: skip
values = st.text(st.characters(max_codepoint=0xFF), max_size=30) | st.sampled_from(
    ["chunked", "100-continue", "-1", "0", "99999999999999999999", "bytes=0-", "bytes=-9223372036854775808", "gzip",
     "multipart/form-data; boundary=", "multipart/form-data; boundary=\x7f", "close", "keep-alive", "h2c", "\xff" * 30,
     "bytes=" + "0-0," * 200, "attachment; filename*=UTF-8''%", "application/x-www-form-urlencoded", "AT=x", "Bearer "]
)  # fmt: skip


@LENIENT
@given(st.binary(max_size=300), st.booleans())
def test_bytes(server, data, is_ended):
    send(server, data + (b"\r\n\r\n" if is_ended else b""))


@LENIENT
@given(tokens, targets, st.lists(st.tuples(names, values), max_size=5), st.binary(max_size=200), st.booleans())
def test_heads(server, method, target, headers, body, has_length):
    fields = [("Host", "a"), *headers, *([("Content-Length", str(len(body)))] if has_length else [])]
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    send(server, f"{method} /{target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body, method)


queries = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), max_size=60)


@LENIENT
@given(st.sampled_from(["GET", "HEAD", "PUT", "DELETE"]), queries)
def test_queries(server, method, query):
    body = b"x" if method == "PUT" else None
    ask(server, method, f"/{FID.format(volume=server.volume_id)}?{query}", [("Content-Type", "a/b")], body)


# ---- bodies


@st.composite
def mutations(draw, whole):
    """`whole` with a few bytes changed, removed, inserted or doubled."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 8))
        data[at : at + length] = draw(st.binary(max_size=8) | st.just(bytes(data[at : at + 2 * length])))
    return bytes(data)


FORM_HEADERS, FORM = multipart(b"content", content_type="text/plain", part_headers=[("Content-MD5", "x")])


@LENIENT
@given(mutations(FORM), st.sampled_from(["POST", "PUT"]))
def test_forms(server, body, method):
    ask(server, method, f"/{server.new_fid()}", FORM_HEADERS, body)


@LENIENT
@given(mutations(b"8\r\ncontents\r\n4;x=y\r\nmore\r\n0\r\nTrailer: x\r\n\r\n"))
def test_chunked_bodies(server, body):
    fields = [("Transfer-Encoding", "chunked"), ("Content-Type", "a/b")]
    send(server, request_bytes("PUT", f"/{server.new_fid()}", fields) + body)


@LENIENT
@given(mutations(bytes.fromhex("1f8b0800000000000203") + bytes(40)), st.sampled_from(["gzip", "", "br"]))
def test_compressed_bodies(server, data, accepted):
    fid = server.new_fid()
    ask(server, "PUT", f"/{fid}", [("Content-Encoding", "gzip"), ("Content-Type", "a/b")], data)
    ask(server, "GET", f"/{fid}", [("Accept-Encoding", accepted)])


# ---- images


def picture(kind):
    made = io.BytesIO()
    Image.new("RGB", (20, 10), (200, 30, 30)).save(made, kind)
    return made.getvalue()


PICTURES = {kind: picture(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP")}
numbers = st.sampled_from(["", "0", "1", "7", "-1", "100000", "99999999999999999999", "x", "1e9", "2147483648", "%31"])


@LENIENT
@given(
    kind=st.sampled_from(sorted(PICTURES)),
    data=st.data(),
    ext=st.sampled_from([".png", ".jpg", ".gif", ".webp", ".JPEG", ""]),
    fields=st.dictionaries(
        st.sampled_from(["width", "height", "crop_x1", "crop_y1", "crop_x2", "crop_y2"]), numbers, max_size=6
    ),
    mode=st.sampled_from(["", "fit", "fill", "x"]),
)
def test_images(server, kind, data, ext, fields, mode):
    body = data.draw(st.just(PICTURES[kind]) | mutations(PICTURES[kind]))
    fid = server.new_fid()
    ask(server, "PUT", f"/{fid}", [("Content-Type", "image/x")], body)
    query = "&".join(f"{name}={value}" for name, value in {**fields, "mode": mode}.items())
    for method in ("GET", "HEAD"):
        assert ask(server, method, f"/{fid}{ext}?{query}").status == 200


# ---- manifests

odd_numbers = st.integers(-(2**70), 2**70) | st.sampled_from([0, 1, 5, 2**63 - 1, 2**63, 1e999, 1.5, "5", None, True])
chunk = st.fixed_dictionaries(
    {},
    optional={
        "fid": st.sampled_from(["{here},0a637037d6", "{self}", "99,01637037d6", "x", "", ",", 3, None, "{here},01"]),
        "offset": odd_numbers,
        "size": odd_numbers,
    },
)
manifests = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=10) | st.integers(),
        "mime": st.text(max_size=10) | st.none(),
        "size": odd_numbers,
        "chunks": st.lists(chunk, max_size=3) | st.none() | st.integers(),
    },
) | st.recursive(st.none() | st.integers(), lambda inner: st.lists(inner, max_size=3))


@LENIENT
@given(
    manifests, st.sampled_from(["", "[" * 3000, "\ufeff", "\x00"]), st.sampled_from(["", "bytes=0-", "bytes=3-5,-1"])
)
def test_manifests(server, manifest, before, wanted):
    fid = server.new_fid()
    text = before + json.dumps(manifest).replace("{here}", str(server.volume_id)).replace("{self}", fid)
    body = text.encode("utf-8", "surrogatepass")
    ask(server, "PUT", f"/{fid}?cm=true", [("Content-Type", "a/b")], body)
    headers = [("Range", wanted)] if wanted else []
    for target in (f"/{fid}", f"/{fid}.png?width=5"):
        assert status_of_a_read(server, target, headers) in {200, 206, 416, 500}
        assert ask(server, "HEAD", target, headers).status in {200, 500}
    assert ask(server, "DELETE", f"/{fid}").status in {202, 404, 500}


def status_of_a_read(server, target, headers):
    """The answer breaks off at a missing chunk. Its head was sent before."""
    with Connection(server.admin) as connection:
        connection.send(request_bytes("GET", target, headers))
        status_line, _ = connection.read_head()
    return int(status_line.split()[1])
