"""What is answered the short way, and what closes it. That both ways agree is a property test."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

import pytest
from test_gateway_guard import security

from native_handlers.format.needle import Needle
from native_handlers.http.context import HttpContext, HttpSettings
from native_handlers.http.handlers import HTTP_HANDLERS
from native_handlers.http.message import Listener
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.files import NotCached, OsFiles
from native_handlers.storage.payload_buffers import LARGEST_BYTES, PayloadBuffers
from native_handlers.storage.store import StoreConfig, open_store
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.gateway.http_quick import QuickReads
from supervisor.gateway.throttle import FlightLimit, Throttle
from supervisor.routing.decision import Engine
from supervisor.routing.live import LiveTable
from supervisor.routing.table import table_forwarding_all, table_native

GET = b"GET /3,01637037d6 HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE_GET = GET.replace(b",01", b",05")
NATIVE = table_native(HTTP_HANDLERS)
SETTINGS = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=1)


@pytest.fixture
def store(tmp_path):
    opened = open_store(StoreConfig(locations=(LocationConfig(path=tmp_path, idx_path=tmp_path, max_volumes=8),)))
    opened.allocate_volume(3)
    write(opened, data=b"hello")
    yield opened
    opened.close()


def write(store, needle_id=1, **fields):
    store.write_needle(3, Needle(needle_id=needle_id, cookie=0x637037D6, **fields))


def quick_reads(store, *, table=NATIVE, listener=Listener.ADMIN, guard=None, throttle=None, buffers=None):
    """The short way, and the gateway that counts its answers."""
    buffers = PayloadBuffers() if buffers is None else buffers
    context = HttpContext(settings=SETTINGS, node=None, store=store, payload_buffers=buffers)
    live, guard = LiveTable(table), guard or Guard(security())
    gateway = HttpGateway(live, HTTP_HANDLERS, context, None, guard, throttle)
    return QuickReads(listener, live, context, guard, gateway), gateway.counts


@pytest.mark.parametrize(("listener", "route"), [(Listener.ADMIN, "http.read"), (Listener.PUBLIC, "http.public.read")])
def test_a_plain_get_is_answered_and_counted(store, listener, route):
    reads, counts = quick_reads(store, listener=listener)
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
        pytest.param(GET.replace(b"GET", b"HEAD"), id="head"),
        pytest.param(GET.replace(b" HTTP", b"?dl=true HTTP"), id="query"),
        pytest.param(GET.replace(b"Host: x", b"Host: x\r\nRange: bytes=0-1"), id="range"),
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
    reads, counts = quick_reads(store)
    assert reads.answer(data) is None
    assert not counts


def test_what_is_not_plain_or_not_in_memory_is_left_too(store, monkeypatch):
    write(store, needle_id=2, data=b"x" * (LARGEST_BYTES + 100_000))
    write(store, needle_id=3, data=b"x", flags=0x01)
    write(store, needle_id=4, data=b"")
    write(store, needle_id=5, data=b"x" * 2_000_000)
    reads, _ = quick_reads(store)
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
        buffers = PayloadBuffers()
        reads, counts = quick_reads(store, buffers=buffers)
        answer = reads.answer(LARGE_GET)
        assert answer.head.endswith(b"\r\n\r\n")
        assert b"Content-Length: %d\r\n" % size in answer.head
        assert answer.body == data
        assert counts == {("http.read", Engine.NATIVE): 1}
        assert buffers.lent_bytes >= size
        answer.release()
        assert buffers.lent_bytes == 0

    def test_two_answers_do_not_share_memory(self, store):
        for needle_id in (5, 6):
            write(store, needle_id=needle_id, data=os.urandom(200_000))
        reads, _ = quick_reads(store)
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
        buffers = PayloadBuffers()
        reads, counts = quick_reads(store, buffers=buffers)
        assert reads.answer(LARGE_GET.replace(b"d6 HTTP", get)) is None
        assert (buffers.lent_bytes, counts) == (0, {})

    def test_no_memory_is_left(self, store):
        write(store, needle_id=5, data=bytes(200_000))
        reads, _ = quick_reads(store, buffers=PayloadBuffers(total_bytes=0))
        assert reads.answer(LARGE_GET) is None
        assert reads.answer(GET)


def test_a_read_key_closes_it_at_once(store):
    guard = Guard(security())
    reads, _ = quick_reads(store, guard=guard)
    assert reads.answer(GET)
    guard.update(security(read=b"secret"))
    assert reads.answer(GET) is None


@pytest.mark.parametrize(
    "closing",
    [
        pytest.param({"table": table_forwarding_all()}, id="forwarded"),
        pytest.param({"table": replace(NATIVE, absent=frozenset({"http.read"}))}, id="absent"),
        pytest.param({"throttle": Throttle(FlightLimit(), FlightLimit(10**9))}, id="download-limit"),
    ],
)
def test_what_closes_it(store, closing):
    reads, counts = quick_reads(store, **closing)
    assert reads.answer(GET) is None
    assert not counts


def test_without_a_store_and_with_an_upload_limit(store):
    assert quick_reads(None)[0].answer(GET) is None
    assert quick_reads(store, throttle=Throttle(FlightLimit(10**9), FlightLimit()))[0].answer(GET)


def test_a_log_of_every_access_closes_it(store, caplog):
    reads, _ = quick_reads(store)
    with caplog.at_level(logging.DEBUG, "supervisor.access"):
        assert reads.answer(GET) is None
    assert reads.answer(GET)


def test_any_number_of_different_heads_is_known_in_bounded_memory(store):
    reads, _ = quick_reads(store)
    for number in range(600):
        assert reads.answer(GET.replace(b"Host: x", b"Host: x\r\nTraceparent: %d" % number))
    assert len(reads._gets._blocks) <= 256
