"""The fast path of small writes and deletes does what the ordinary way does: the same answers, the same bytes in the
volume's files and the same counts, or it leaves the request to the ordinary way and has changed nothing.
"""

from __future__ import annotations

import gzip
import re
from types import SimpleNamespace

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.http_serving import ordinary_answer
from support.security import security
from support.stores import open_at
from support.waiting import LIMIT_S

from native_handlers.http import write as ordinary_write
from native_handlers.http.context import HttpContext
from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.message import Listener, PendingAnswer
from supervisor.fast_path import writes as fast_writes
from supervisor.fast_path.fast_path import FastPath
from supervisor.fast_path.write_batch import DiskBatches
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.routing.live import LiveTable
from supervisor.routing.native import NATIVE_HTTP
from supervisor.routing.table import table_native

SETTINGS = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=4000)
CHANGING = re.compile(rb"(X-Amz-Request-Id|Date): [^\r]*")
NOW_NS = 1_700_000_000 * 10**9
PLAIN, EXPIRING, SEALED, REPLICATED = 3, 5, 6, 7


class Node:
    """A store, and both ways into it. `fast` counts the requests that the fast path has answered."""

    def __init__(self, path):
        self.path = path
        self.store = open_at(path, clock_ns=lambda: NOW_NS)
        self.store.allocate_volume(PLAIN)
        self.store.allocate_volume(EXPIRING, ttl="3m")
        self.store.allocate_volume(SEALED)
        self.store.get_volume(SEALED).marks.mark_read_only(can_delete=False, persist=False)
        self.store.allocate_volume(REPLICATED, replication="001")
        context = HttpContext(settings=SETTINGS, node=None, store=self.store)
        self.gateway = HttpGateway(LiveTable(table_native(NATIVE_HTTP)), NATIVE_HTTP, context, None, Guard(security()))
        self.fast_path = FastPath(context, self.gateway, DiskBatches(wait_s=LIMIT_S))
        self.metrics = context.metrics
        self.fast = 0

    def close(self):
        self.fast_path.close()
        self.store.close()

    def answer_fast(self, raws):
        """The answers of the fast path to requests that come in one turn; None for those that it leaves."""
        return trio.run(self._answer_fast, raws)

    async def _answer_fast(self, raws):
        pending = [self.fast_path.answer(Listener.ADMIN, raw) for raw in raws]
        return [await self._settled(one) for one in pending]

    async def _settled(self, pending):
        if pending is None:
            return None
        assert isinstance(pending, PendingAnswer)
        if not pending.try_finish():
            await pending.wait()
        answer = pending.outcome()
        self.fast += answer is not None
        return answer

    def files(self):
        names = sorted(path for path in self.path.iterdir() if path.suffix in {".dat", ".idx"})
        return {path.name: path.read_bytes() for path in names}

    def counts(self):
        counts = self.metrics.snapshot()
        totals = {kind: sum(seen.counts) for kind, seen in counts.request_seconds.items()}
        return counts.request_total, counts.in_flight_requests, sum(counts.replication_targets.counts), totals


@pytest.fixture(scope="module", autouse=True)
def same_time():
    """Both ways store the same time of modification."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (ordinary_write, fast_writes):
            patch.setattr(module, "time", SimpleNamespace(time=lambda: NOW_NS // 10**9))
        yield


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    made = [Node(tmp_path_factory.mktemp(name)) for name in ("fast", "ordinary")]
    yield made
    for node in made:
        node.close()


async def comparable_answer(node, raw):
    return CHANGING.sub(rb"\1", await ordinary_answer(node.gateway.handle, raw))


PAYLOADS = [b"", b"x", b"hello", b"<html>" * 20, bytes(600), b"text " * 500, bytes(range(256)) * 15, b"x" * 4001]
payloads = st.one_of(st.sampled_from(PAYLOADS), st.binary(max_size=40))
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
pretty=y
ts=%zz
collection=c""".split(b"\n")
FIELDS = b"""Accept: */*
Connection: close
Connection: keep-alive
Content-Encoding: gzip
Content-Encoding: br
Content-Length: 3
Content-MD5: XUFAKrxLKna5cZ2REBfFkg==
Expect: 100-continue
Host: y
Origin: http://z
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
Idempotency-Key: http://x/3,01
Bad Name: x
 folded""".split(b"\n")
NAMES = [b"", b"a.txt", b"b.JPG", b"dir/c.bin", b"\xc3\xa9.html", b'q\\"', b"n" * 300]


def form(draw, payload):
    boundary = draw(st.sampled_from([b"b0", b"----WebKitFormBoundary7", b"b0"]))
    name = draw(st.sampled_from(NAMES))
    disposition = draw(st.sampled_from([b'form-data; name="file"; filename="%s"'] * 4 + [b'form-data; name="%s"']))
    head = [b"Content-Disposition: " + disposition % name, *draw(st.lists(st.sampled_from(PART_FIELDS), max_size=2))]
    end = draw(st.sampled_from([b"--\r\n"] * 4 + [b"--", b"", b"--\r\nmore", b"x--\r\n"]))
    second = draw(
        st.sampled_from([b""] * 4 + [b'\r\n--%s\r\nContent-Disposition: form-data; name="ts"\r\n\r\n9' % boundary])
    )
    body = b"--%s\r\n%s\r\n\r\n%s%s\r\n--%s%s" % (boundary, b"\r\n".join(head), payload, second, boundary, end)
    return b"multipart/form-data; boundary=" + boundary, body


@st.composite
def changes(draw) -> bytes:
    method = draw(st.sampled_from([b"POST"] * 8 + [b"PUT"] * 5 + [b"DELETE"] * 5 + [b"GET", b"post"]))
    volume_id = draw(st.sampled_from([PLAIN] * 12 + [EXPIRING, SEALED, REPLICATED, 9]))
    fid = draw(st.sampled_from([b"01", b"02", b"ab", b"AB", b"00ab", b"f" * 16])) + draw(
        st.sampled_from([b"637037d6"] * 12 + [b"637037D6", b"00000000"])
    )
    target = draw(st.sampled_from([b"/%d,%s"] * 20 + [b"/%d,%s.png", b"/%d/%s", b"/%d,%s_1", b"//%d,%s"])) % (
        volume_id,
        fid,
    )
    if query := draw(st.sampled_from([b""] * 8 + QUERIES)):
        target += b"?" + query
    payload = draw(payloads)
    block = [b"Host: x"] * draw(st.sampled_from([1] * 16 + [0, 2]))
    block += draw(st.one_of(st.just([]), st.lists(st.sampled_from(FIELDS), max_size=2)))
    if method == b"DELETE":
        payload = draw(st.sampled_from([b""] * 5 + [b"x"]))
    elif draw(st.booleans()):
        content_type, payload = form(draw, payload)
        block.append(b"Content-Type: " + content_type)
    elif kind := draw(st.sampled_from(["", *TYPES])):
        block.append(b"Content-Type: " + kind.encode())
    if draw(st.sampled_from([False] * 5 + [True])):
        payload = gzip.compress(payload, mtime=0)
    length = len(payload) + draw(st.sampled_from([0] * 20 + [-1]))
    if payload or draw(st.booleans()):
        block.insert(draw(st.integers(0, len(block))), b"Content-Length: %d" % max(length, 0))
    version = draw(st.sampled_from([b"1.1"] * 9 + [b"1.0"]))
    return b"%s %s HTTP/%s\r\n%s\r\n\r\n" % (method, target, version, b"\r\n".join(block)) + payload


PUT = b"PUT /3,%s637037d6 HTTP/1.1\r\nHost: x\r\nContent-Type: text/x\r\nContent-Length: 5\r\n\r\nhello"
DELETE = b"DELETE /3,%s637037d6 HTTP/1.1\r\nHost: x\r\n\r\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(raws=st.lists(changes(), min_size=1, max_size=5))
def test_both_ways_do_the_same(nodes, raws):
    fast, ordinary = nodes
    answers = fast.answer_fast(raws)
    # What the fast path leaves comes after what it does, as in a turn of the event loop.
    for raw, answer in zip(raws, answers, strict=True):
        if answer is not None:
            assert CHANGING.sub(rb"\1", answer) == trio.run(comparable_answer, ordinary, raw)
    for raw, answer in zip(raws, answers, strict=True):
        if answer is None:
            assert trio.run(comparable_answer, fast, raw) == trio.run(comparable_answer, ordinary, raw)
    assert fast.files() == ordinary.files()
    assert fast.counts() == ordinary.counts()
    assert fast.gateway.counts == ordinary.gateway.counts


def test_the_usual_changes_of_one_turn_are_answered_and_written_together(nodes):
    fast, ordinary = nodes
    before = fast.fast
    raws = [PUT % b"%02x" % number for number in range(32, 40)] + [DELETE % b"21"]
    for raw in raws[:2]:
        trio.run(comparable_answer, ordinary, raw)
        trio.run(comparable_answer, fast, raw)
    raws = raws[2:]
    answers = fast.answer_fast(raws)
    assert [CHANGING.sub(rb"\1", answer) for answer in answers] == [
        trio.run(comparable_answer, ordinary, raw) for raw in raws
    ]
    assert fast.fast == before + len(raws)
    assert fast.files() == ordinary.files()
