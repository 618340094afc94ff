"""Requests that the fast path answers, and facts that switch it off. A property test compares both ways."""

from __future__ import annotations

import gzip
import logging
import os
import re
from dataclasses import replace

import pytest
import trio
from support.fast_path_requests import make_token
from support.security import security

from native_handlers.format.crc import crc32c
from native_handlers.format.needle import FLAG_IS_CHUNK_MANIFEST, FLAG_IS_COMPRESSED, Needle
from native_handlers.http.context import HttpContext
from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.headers import CommonHeaders
from native_handlers.http_model.message import Listener
from native_handlers.runtime.server_counts import ServerCounts
from native_handlers.storage.system.buffer_pool import LARGEST_BYTES, BufferPool
from native_handlers.storage.system.files import NotCached, OsFiles
from supervisor.fast_path import reads as fast_reads
from supervisor.fast_path.reads import FastPathReads
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.gateway.throttle import InflightLimit, Throttle
from supervisor.net.http_connection import Client
from supervisor.routing.decision import Engine
from supervisor.routing.live import LiveTable
from supervisor.routing.native import NATIVE_HTTP
from supervisor.routing.registry import ROUTES_BY_NAME, Access, AccessKind, Gate, TokenKey
from supervisor.routing.table import table_forwarding_all, table_native

GET = b"GET /3,01637037d6 HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE_GET = GET.replace(b",01", b",05")


def with_field(line, get=GET):
    return get.replace(b"Host: x", b"Host: x\r\n" + line)


NATIVE = table_native(NATIVE_HTTP)
SETTINGS = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=1 << 20)


@pytest.fixture
def store(tmp_path, opened):
    store = opened(tmp_path, volumes=(3,))
    write(store, data=b"hello")
    return store


def write(store, needle_id=1, **fields):
    store.get_volume(3).write(Needle(needle_id=needle_id, cookie=0x637037D6, **fields))


def fast_path_reads(
    store, *, table=NATIVE, listener=Listener.ADMIN, guard=None, throttle=None, buffers=None, metrics=None
):
    """The fast path, and the gateway that counts its answers."""
    buffers = BufferPool() if buffers is None else buffers
    metrics = metrics or ServerCounts()
    context = HttpContext(settings=SETTINGS, node=None, store=store, payload_buffers=buffers, metrics=metrics)
    live, guard = LiveTable(table), guard or Guard(security())
    gateway = HttpGateway(live, NATIVE_HTTP, context, None, guard, throttle)
    return Reads(listener, context, gateway), gateway.counts


class Reads:
    """The fast path of reads, asked by one client."""

    def __init__(self, listener, context, gateway):
        self._reads = FastPathReads(listener, context, gateway)
        self._client = Client("10.0.0.1", 1, listener)

    def answer(self, data):
        return self._reads.answer(self._client, data)

    @property
    def known_heads(self):
        return self._reads.known_heads


@pytest.mark.parametrize(("listener", "route"), [(Listener.ADMIN, "http.read"), (Listener.PUBLIC, "http.public.read")])
def test_a_plain_get_is_answered_and_counted(store, listener, route):
    reads, counts = fast_path_reads(store, listener=listener)
    answer = reads.answer(GET)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nhello")
    assert counts == {(route, Engine.NATIVE): 1}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="end-of-stream"),
        pytest.param(GET[:-1], id="incomplete"),
        pytest.param(GET + GET, id="pipelined"),
        pytest.param(GET.replace(b" HTTP", b"?dl=true HTTP"), id="query"),
        pytest.param(with_field(b"Range: bytes=0-1,3-4"), id="two-ranges"),
        pytest.param(with_field(b"Range: bytes=0-1,"), id="a-range-and-nothing"),
        pytest.param(with_field(b"Range: bytes=6-"), id="a-range-beyond-the-end"),
        pytest.param(with_field(b"Range: bytes=5-"), id="a-range-at-the-end"),
        pytest.param(with_field(b"Range: lines=0-1"), id="another-unit"),
        pytest.param(with_field(b"Range: bytes=0-1\r\nRange: bytes=0-1"), id="range-twice"),
        pytest.param(with_field(b"If-Range: x"), id="if-range"),
        pytest.param(with_field(b"Origin: http://z"), id="origin"),
        pytest.param(with_field(b"Pragma:\r\n" * 255 + b"Pragma:"), id="too-many-fields"),
        pytest.param(GET.replace(b"Host: x", b"Host: x\r\nConnection: close"), id="close"),
        pytest.param(GET.replace(b"Host: x", b"Host: x\r\nAccept: " + b"x" * 3000), id="long-fields"),
        pytest.param(GET.replace(b"Host: x", b"Accept: x"), id="no-host"),
        pytest.param(GET.replace(b"/3,", b"/4,"), id="no-volume"),
        pytest.param(GET.replace(b",01", b",02"), id="no-needle"),
        pytest.param(GET.replace(b"d6 ", b"d7 "), id="wrong-cookie"),
        pytest.param(GET.replace(b"d6 HTTP/1.1", b"d6 HTTP/1.0"), id="http-1.0"),
    ],
)
def test_the_rest_is_left_to_the_long_way(store, data):
    reads, counts = fast_path_reads(store)
    assert reads.answer(data) is None
    assert not counts


@pytest.mark.parametrize(
    "line", [b"Hostx", b"Host\t", b"Acceptx", b"X-Forwarded-Forx", b"Seaweed-foo", b": x", b"Connectionx"]
)
def test_a_line_without_a_name_and_a_colon_is_left_to_the_parser_that_refuses_it(store, line):
    reads, _ = fast_path_reads(store)
    assert reads.answer(with_field(line)) is None
    assert reads.answer(GET.replace(b"Host: x", line)) is None


GZIP = b"Accept-Encoding: gzip"


def test_compressed_data_goes_out_as_it_is_stored_to_a_client_that_takes_gzip(store):
    packed = gzip.compress(os.urandom(100_000))
    write(store, needle_id=2, data=packed, flags=FLAG_IS_COMPRESSED)
    reads, _ = fast_path_reads(store)
    head, _, body = reads.answer(with_field(GZIP, GET.replace(b",01", b",02"))).partition(b"\r\n\r\n")
    assert b"\r\nContent-Encoding: gzip\r\n" in head
    assert b"\r\nContent-Type:" not in head
    assert body == packed


def test_compressed_data_is_unpacked_at_once_only_where_it_and_its_content_are_short(store):
    write(store, needle_id=2, data=gzip.compress(b"<html>" * 20), flags=FLAG_IS_COMPRESSED)
    write(store, needle_id=3, data=gzip.compress(os.urandom(5000)), flags=FLAG_IS_COMPRESSED)
    write(store, needle_id=4, data=gzip.compress(bytes(70_000)), flags=FLAG_IS_COMPRESSED)
    write(store, needle_id=5, data=gzip.compress(b"<html>")[:-1], flags=FLAG_IS_COMPRESSED)
    reads, _ = fast_path_reads(store)
    answer = reads.answer(GET.replace(b",01", b",02"))
    assert b"\r\nContent-Encoding:" not in answer
    assert b"\r\nContent-Type: text/html; charset=utf-8\r\n" in answer
    assert answer.endswith(b"\r\n\r\n" + b"<html>" * 20)
    for needle_id in (b"3", b"4", b"5"):
        get = GET.replace(b",01", b",0" + needle_id)
        assert reads.answer(get) is None
        assert reads.answer(with_field(b"Accept-Encoding: br", get)) is None
        assert reads.answer(with_field(GZIP, get))


def test_each_client_gets_compressed_data_in_the_form_that_it_takes(store):
    """The fields are remembered after the first requests."""
    write(store, needle_id=2, data=gzip.compress(b"hello"), flags=FLAG_IS_COMPRESSED)
    reads, _ = fast_path_reads(store)
    get = GET.replace(b",01", b",02")
    for _ in range(3):
        assert b"\r\nContent-Encoding: gzip\r\n" in reads.answer(with_field(GZIP, get))
        assert reads.answer(get).endswith(b"\r\n\r\nhello")
    assert reads.known_heads == 2


def test_what_is_not_plain_or_not_in_memory_is_left_too(store, monkeypatch):
    write(store, needle_id=2, data=b"x" * (LARGEST_BYTES + 100_000))
    write(store, needle_id=3, data=b"x", flags=FLAG_IS_CHUNK_MANIFEST)
    write(store, needle_id=4, data=b"")
    write(store, needle_id=5, data=b"x" * 2_000_000)
    reads, _ = fast_path_reads(store)
    for needle_id in (b"2", b"3", b"4"):
        assert reads.answer(GET.replace(b",01", b",0" + needle_id)) is None

    def read_cached(_files, _fd, _buffer, _offset_bytes):
        raise NotCached

    assert reads.answer(GET)
    reads.answer(LARGE_GET).release()
    monkeypatch.setattr(OsFiles, "read_cached_into", read_cached)
    assert reads.answer(GET) is None
    assert reads.answer(LARGE_GET) is None


class TestLarge:
    SIZES = (132_000, 1 << 20, (1 << 20) + 1, 4 << 20)

    @pytest.mark.parametrize("size", SIZES)
    def test_the_answer_lies_in_a_buffer_until_it_is_sent(self, store, size):
        data = os.urandom(size)
        write(store, needle_id=5, data=data)
        buffers = BufferPool()
        reads, counts = fast_path_reads(store, buffers=buffers)
        answer = reads.answer(LARGE_GET)
        assert answer.head.endswith(b"\r\n\r\n")
        assert b"Content-Length: %d\r\n" % size in answer.head
        assert answer.body == data
        assert counts == {("http.read", Engine.NATIVE): 1}
        assert buffers.lent_bytes >= size
        answer.release()
        assert buffers.lent_bytes == 0

    @pytest.mark.parametrize("size", [132_000, (1 << 20) - 1000])
    def test_a_range_lies_in_a_buffer_too(self, store, size):
        data = os.urandom(size)
        write(store, needle_id=5, data=data)
        buffers = BufferPool()
        reads, _ = fast_path_reads(store, buffers=buffers)
        answer = reads.answer(with_field(b"Range: bytes=131000-131999", LARGE_GET))
        assert b"\r\nContent-Range: bytes 131000-131999/%d\r\n" % size in answer.head
        assert answer.body == data[131_000:132_000]
        answer.release()
        assert buffers.lent_bytes == 0

    @pytest.mark.parametrize("get", [LARGE_GET.replace(b"GET", b"HEAD"), with_field(b'If-None-Match: "%b"', LARGE_GET)])
    def test_an_answer_without_a_body_keeps_no_memory(self, store, get):
        data = os.urandom(200_000)
        write(store, needle_id=5, data=data)
        buffers = BufferPool()
        reads, _ = fast_path_reads(store, buffers=buffers)
        answer = reads.answer(get.replace(b"%b", b"%08x" % crc32c(data)))
        assert answer.startswith((b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 304 Not Modified\r\n"))
        assert answer.endswith(b"\r\n\r\n")
        assert buffers.lent_bytes == 0

    @pytest.mark.parametrize("get", [LARGE_GET.replace(b"GET", b"HEAD"), with_field(b"Range: bytes=1-2", LARGE_GET)])
    def test_a_part_of_a_larger_one_is_left_to_the_way_that_reads_no_more(self, store, get):
        write(store, needle_id=5, data=bytes(1 << 20))
        reads, _ = fast_path_reads(store)
        assert reads.answer(get) is None

    def test_two_answers_do_not_share_memory(self, store):
        for needle_id in (5, 6):
            write(store, needle_id=needle_id, data=os.urandom(200_000))
        reads, _ = fast_path_reads(store)
        first, second = reads.answer(LARGE_GET), reads.answer(LARGE_GET.replace(b",05", b",06"))
        assert first.body != second.body

    @pytest.mark.parametrize("get", [b"d7 HTTP", b"d6 HTTP"], ids=["wrong-cookie", "damaged"])
    def test_what_is_not_answered_leaves_its_memory(self, store, tmp_path, get):
        data = os.urandom(200_000)
        write(store, needle_id=5, data=data)
        if get == b"d6 HTTP":
            with (tmp_path / "3.dat").open("r+b") as dat:
                dat.seek(dat.read().index(data) + 100_000)
                dat.write(bytes([data[100_000] ^ 1]))
        buffers = BufferPool()
        reads, counts = fast_path_reads(store, buffers=buffers)
        assert reads.answer(LARGE_GET.replace(b"d6 HTTP", get)) is None
        assert (buffers.lent_bytes, counts) == (0, {})

    def test_no_memory_is_left(self, store):
        write(store, needle_id=5, data=bytes(200_000))
        reads, _ = fast_path_reads(store, buffers=BufferPool(total_bytes=0))
        assert reads.answer(LARGE_GET) is None
        assert reads.answer(GET)


def test_other_keys_are_asked_at_once(store):
    guard = Guard(security())
    reads, counts = fast_path_reads(store, guard=guard)
    carried = GET.replace(b" HTTP", b"?jwt=%b HTTP" % make_token(b"secret", {"fid": "3,01637037d6"}))
    assert [reads.answer(get) is not None for get in (GET, carried)] == [True, True]
    guard.update(security(read=b"secret"))
    assert [reads.answer(get) is not None for get in (GET, carried, carried)] == [False, True, True]
    guard.update(security(read=b"another"))
    assert [reads.answer(get) is not None for get in (GET, carried)] == [False, False]
    assert counts == {("http.read", Engine.NATIVE): 4}


def test_a_large_needle_is_read_with_a_token(store):
    write(store, needle_id=5, data=bytes(2_000_000))
    reads, _ = fast_path_reads(store, guard=Guard(security(read=b"secret")))
    token = make_token(b"secret", {"fid": "3,05637037d6"})
    reads.answer(with_field(b"Authorization: BEARER " + token, LARGE_GET)).release()
    reads.answer(LARGE_GET.replace(b" HTTP", b"?jwt=%b HTTP" % token)).release()


@pytest.mark.parametrize(
    "closing",
    [
        pytest.param({"table": table_forwarding_all()}, id="forwarded"),
        pytest.param({"table": replace(NATIVE, absent=frozenset({"http.read"}))}, id="absent"),
    ],
)
def test_what_closes_it(store, closing):
    reads, counts = fast_path_reads(store, **closing)
    assert reads.answer(GET) is None
    assert not counts


@pytest.mark.parametrize(
    ("row", "rules"),
    [
        pytest.param({"gate": Gate.WHITE_LIST}, {"white_list": ["10.0.0.9"]}, id="gate"),
        pytest.param({"token": TokenKey.WRITE}, {"write": b"secret"}, id="token"),
        pytest.param({"common_headers": CommonHeaders.NONE}, {}, id="headers"),
        pytest.param({"access": Access(AccessKind.NOTHING)}, {}, id="access"),
    ],
)
def test_another_row_of_the_registry_closes_it(store, monkeypatch, row, rules):
    guard = Guard(security(**rules))
    assert fast_path_reads(store, guard=guard)[0].answer(GET)
    monkeypatch.setattr(fast_reads, "match_object", lambda *_: replace(ROUTES_BY_NAME["http.read"], **row))
    assert fast_path_reads(store, guard=guard)[0].answer(GET) is None


def test_a_route_that_is_not_counted_is_not(store, monkeypatch):
    for is_counted in (True, False):
        row = replace(ROUTES_BY_NAME["http.read"], is_counted=is_counted)
        monkeypatch.setattr(fast_reads, "match_object", lambda *_, row=row: row)
        context = HttpContext(settings=SETTINGS, node=None, store=store, payload_buffers=BufferPool())
        gateway = HttpGateway(LiveTable(NATIVE), NATIVE_HTTP, context, None, Guard(security()))
        assert Reads(Listener.ADMIN, context, gateway).answer(GET)
        assert bool(context.metrics.snapshot().request_total) == is_counted


def test_without_a_store_and_with_an_upload_limit(store):
    assert fast_path_reads(None)[0].answer(GET) is None
    assert fast_path_reads(store, throttle=Throttle(InflightLimit(10**9), InflightLimit()))[0].answer(GET)


def test_each_access_leaves_a_line_in_the_log(store, caplog):
    reads, _ = fast_path_reads(store)
    with caplog.at_level(logging.DEBUG, "supervisor.access"):
        for get in (GET, with_field(b"Range: bytes=1-2"), GET.replace(b"GET", b"HEAD"), GET.replace(b",01", b",02")):
            reads.answer(get)
    named, ending = "10.0.0.1:1 {} /3,01637037d6 {} http.read native", r" 0\.\d{6}"
    wanted = [named.format(*line) for line in (("GET", 200), ("GET", 206), ("HEAD", 200))]
    assert [re.sub(ending, "", record.getMessage()) for record in caplog.records] == wanted
    assert all(re.search(ending + "$", record.getMessage()) for record in caplog.records)


class TestLimitOfDownloads:
    def test_an_answer_counts_until_it_is_sent(self, store):
        throttle = Throttle(InflightLimit(), InflightLimit(4))
        reads, counts = fast_path_reads(store, throttle=throttle)
        first = reads.answer(GET)
        assert (throttle.downloads.bytes, bytes(first.body)) == (5, b"hello")
        assert reads.answer(GET) is None
        assert reads.answer(GET.replace(b"GET", b"HEAD")) is None
        first.release()
        assert throttle.downloads.bytes == 0
        assert isinstance(reads.answer(GET.replace(b"GET", b"HEAD")), bytes)
        reads.answer(with_field(b"Range: bytes=1-2")).release()
        assert counts == {("http.read", Engine.NATIVE): 3}

    async def test_a_read_does_not_overtake_those_that_wait(self, store, autojump_clock):
        elsewhere, throttle = 5, Throttle(InflightLimit(), InflightLimit(4))
        throttle.join_downloads(lambda: elsewhere, lambda _: None)
        reads, _ = fast_path_reads(store, throttle=throttle)
        with throttle.downloads.turn(None) as turn:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(throttle.downloads.wait_for_room, turn)
                await trio.testing.wait_all_tasks_blocked()
                assert reads.answer(GET) is None
                elsewhere = 0
                answer = reads.answer(GET)
                assert turn.is_given, "what waits gets in first"
            answer.release()

    def test_a_large_answer_counts_without_a_limit_too(self, store):
        write(store, needle_id=5, data=bytes(200_000))
        throttle = Throttle(InflightLimit(), InflightLimit())
        reads, _ = fast_path_reads(store, throttle=throttle)
        answer = reads.answer(LARGE_GET)
        assert throttle.downloads.bytes == 200_000
        answer.release()
        assert throttle.downloads.bytes == 0

    @pytest.mark.parametrize(("listener", "in_flight"), [(Listener.ADMIN, 1), (Listener.PUBLIC, 0)])
    def test_a_request_is_in_flight_until_its_answer_is_sent(self, store, listener, in_flight):
        metrics = ServerCounts()
        throttle = Throttle(InflightLimit(), InflightLimit(4))
        reads, _ = fast_path_reads(store, listener=listener, throttle=throttle, metrics=metrics)
        answer, counts = reads.answer(GET), metrics.snapshot()
        assert (counts.in_flight_requests["GET"], counts.request_total["GET", "200"]) == (in_flight, 0)
        answer.release()
        counts = metrics.snapshot()
        assert (counts.in_flight_requests["GET"], counts.request_total["GET", "200"]) == (0, 1)


def test_any_number_of_different_heads_is_known_in_bounded_memory(store):
    reads, _ = fast_path_reads(store)
    for number in range(600):
        assert reads.answer(GET.replace(b"Host: x", b"Host: x\r\nAccept: %d" % number))
    assert 0 < reads.known_heads <= 256


def test_heads_that_differ_each_time_are_not_remembered(store):
    reads, _ = fast_path_reads(store)
    for number in range(600):
        for field in (b"Traceparent: %d", b"If-None-Match: %d", b"Range: bytes=0-%d"):
            assert reads.answer(with_field(field % number))
    assert reads.known_heads == 0
