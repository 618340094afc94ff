"""The fast path of a read answers as the ordinary path does, byte for byte, or leaves the request to the ordinary
path.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.http_serving import ordinary_answer
from support.security import security
from support.stores import open_at

from native_handlers.format.needle import Needle
from native_handlers.format.ttl import Ttl
from native_handlers.http.context import HttpContext
from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.message import HeldAnswer, Listener
from supervisor.fast_path.reads import FastPathReads
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.routing.live import LiveTable
from supervisor.routing.native import NATIVE_HTTP
from supervisor.routing.table import table_native

SETTINGS = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=1 << 20)
OPEN_TO_ALL = Guard(security())
CHANGING = re.compile(rb"(X-Amz-Request-Id|Date): [^\r]*")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A store with the volumes 3 and 5 (every needle of 5 expires), and the handlers for it."""
    path = tmp_path_factory.mktemp("volumes")
    store = open_at(path)
    store.allocate_volume(3)
    store.allocate_volume(5, ttl="3m")
    context = HttpContext(settings=SETTINGS, node=None, store=store)
    table = LiveTable(table_native(NATIVE_HTTP))
    gateway = HttpGateway(table, NATIVE_HTTP, context, None, OPEN_TO_ALL)
    fast_path = FastPathReads(Listener.ADMIN, context, gateway)
    yield SimpleNamespace(store=store, gateway=gateway, fast_path=fast_path)
    store.close()


labels = st.one_of(st.none(), st.binary(max_size=20), st.sampled_from([b"a.txt", b"b.PNG", b'"\r\n', b"\xc3\xa9.html"]))
mimes = st.one_of(st.none(), st.binary(max_size=20), st.sampled_from([b"text/plain", b"application/octet-stream"]))
payloads = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"<html>", b"\x1f\x8b\x08", b"GIF89a", bytes(600), b"x" * 150_000, b"y" * 1_100_000]),
)


@st.composite
def needles(draw) -> Needle:
    needle = Needle(draw(st.sampled_from([1, 0xAB, 2**64 - 1])), 0x637037D6, draw(payloads))
    name, mime, modified_s = draw(labels), draw(mimes), draw(st.sampled_from([None, 0, 1, 1700000000, 2**40 - 1]))
    needle.has_name, needle.name = name is not None, name or b""
    needle.has_mime, needle.mime = mime is not None, mime or b""
    needle.has_last_modified, needle.last_modified_s = modified_s is not None, modified_s or 0
    needle.has_ttl, needle.ttl = draw(st.sampled_from([(False, None), (True, Ttl(1, 6))]))
    needle.has_pairs, needle.pairs = draw(st.sampled_from([(False, b"")] * 4 + [(True, b'{"A": "b"}')]))
    needle.is_compressed = draw(st.sampled_from([False, False, False, True]))
    needle.is_chunk_manifest = draw(st.sampled_from([False, False, False, True]))
    return needle


odd_targets = [
    b"/%d,%s.png",
    b"/%d,%s?dl=true",
    b"/%d,%s?",
    b"/%d/%s",
    b"/0%d,0%s",
    b"/%d,%s_1",
    b"//%d,%s",
    b"/%d,%s0",
]
targets = st.sampled_from([b"/%d,%s"] * 12 + odd_targets)
FIELDS = b"""Accept: */*
Accept: */*\x20
Accept-Encoding: gzip
Bad : x
Bad Name: x
Connection: close
Connection: keep-alive
Content-Length: 0
Content-Length: 3
Expect: 100-continue
Host: y
If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT
If-None-Match: "00000000"
Origin: http://z
Range: bytes=0-1
Transfer-Encoding: chunked
Upgrade: h2c
User-Agent: Go-http-client/1.1
X-Amz-Request-Id: 1
 folded"""
fields = st.sampled_from([*FIELDS.split(b"\n"), b"a\nb: c", b"a\rb: c"])


@st.composite
def requests(draw) -> bytes:
    volume_id = draw(st.sampled_from([3, 3, 3, 5, 9]))
    fid = draw(st.sampled_from([b"01", b"ab", b"AB", b"00ab", b"f" * 16])) + draw(
        st.sampled_from([b"637037d6"] * 4 + [b"637037D6", b"00000000"])
    )
    method, version = (
        draw(st.sampled_from([b"GET"] * 6 + [b"HEAD", b"get"])),
        draw(st.sampled_from([b"1.1"] * 6 + [b"1.0"])),
    )
    line = b"%s %s HTTP/%s" % (method, draw(targets) % (volume_id, fid), version)
    block = [b"Host: x"] * draw(st.sampled_from([1, 1, 1, 1, 0, 2])) + draw(st.lists(fields, max_size=2))
    rest = draw(st.sampled_from([b""] * 6 + [b"xyz", b"\r\n", b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"]))
    return b"\r\n".join([line, *block, b"", b""]) + rest


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(needle=needles(), volume_id=st.sampled_from([3, 3, 3, 5]), raws=st.lists(requests(), min_size=1, max_size=4))
def test_both_ways_give_the_same_answer(node, needle, volume_id, raws):
    node.store.get_volume(volume_id).write(needle)
    for raw in raws:
        fast_path = node.fast_path.answer(raw)
        if isinstance(fast_path, HeldAnswer):
            fast_path, release = fast_path.head + bytes(fast_path.body), fast_path.release
            release()
        if fast_path is not None:
            assert CHANGING.sub(rb"\1", fast_path) == CHANGING.sub(
                rb"\1", trio.run(ordinary_answer, node.gateway.handle, raw)
            )
