"""The bound on the memory of needles that come from elsewhere: for fetches, tails and copies together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest
from support.grpc_nodes import make_context, make_node
from support.grpc_servers import COOKIE, VID, serving
from support.waiting import LIMIT_S, wait_until

from native_handlers.format import crc
from native_handlers.format.needle import Needle, encode_needle
from native_handlers.grpc import fetched_memory
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_client import ended
from native_handlers.grpc.fetched_memory import UNCOUNTED_BYTES, FetchedMemory
from native_handlers.grpc.remote_fetch import fetch_and_write_needle
from native_handlers.grpc.tail_receiver import received_needles, volume_tail_receiver
from native_handlers.pb import remote_pb2
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.remote.parts import PART_BYTES, memory_of
from native_handlers.storage.model.errors import NotFound

LARGE = 1 << 20


def goes_on():
    """The call has not ended."""


def refused(memory, held_bytes=LARGE, check=goes_on):
    with pytest.raises(RpcFailure) as caught, memory.holding(held_bytes, check):
        pytest.fail("there is no room")
    return caught.value


class TestShares:
    def test_a_call_waits_until_there_is_room(self):
        memory, order = FetchedMemory(LARGE), []

        def second():
            with memory.holding(LARGE, goes_on):
                order.append("second")

        with ThreadPoolExecutor(1) as threads:
            with memory.holding(LARGE, goes_on):
                waiting = threads.submit(second)
                wait_until(lambda: memory.waiting_count == 1)
                order.append("first")
            waiting.result(LIMIT_S)
        assert order == ["first", "second"]

    def test_a_call_that_finds_no_room_in_time_is_refused(self):
        memory = FetchedMemory(LARGE, wait_s=0)
        with memory.holding(LARGE, goes_on):
            failure = refused(memory)
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure.message == f"there was no memory for {LARGE} fetched bytes for 0 s; try again later"
        assert memory.waiting_count == 0
        with memory.holding(LARGE, goes_on):
            pass

    def test_a_call_that_ends_waits_no_longer(self, monkeypatch):
        monkeypatch.setattr(fetched_memory, "LOOK_S", 0.001)

        def check():
            raise ended()

        memory = FetchedMemory(LARGE)
        with memory.holding(LARGE, goes_on):
            assert refused(memory, check=check).code is grpc.StatusCode.CANCELLED
        assert memory.waiting_count == 0

    def test_what_needs_more_than_there_is_goes_on_alone_and_what_is_small_does_not_wait(self):
        memory = FetchedMemory(LARGE, wait_s=0)
        with memory.holding(100 * LARGE, goes_on):
            refused(memory, UNCOUNTED_BYTES + 1)
            with memory.holding(UNCOUNTED_BYTES, goes_on):
                pass


class HeldObjects:
    """Objects of remote storage. Reads wait for `go_on`."""

    def __init__(self):
        self.has_begun, self.go_on, self.read_bytes = threading.Event(), threading.Event(), []

    def read(self, _bucket, _key, _offset, size, _concurrency):
        self.read_bytes.append(size)
        self.has_begun.set()
        assert self.go_on.wait(LIMIT_S)
        return b"x"


class TestFetches:
    SIZE = 1 << 30

    @pytest.fixture
    def objects(self, monkeypatch):
        made = HeldObjects()
        monkeypatch.setattr("native_handlers.remote.kinds.open_remote", lambda *_args, **_fields: made)
        return made

    @pytest.fixture
    def volume(self, store):
        return store.allocate_volume(VID)

    def fetch(self, node, needle_id):
        location = remote_pb2.RemoteStorageLocation(bucket="b", path="/p")
        wanted = pb.FetchAndWriteNeedleRequest(
            volume_id=VID, needle_id=needle_id, size=self.SIZE, remote_location=location
        )
        return fetch_and_write_needle(node, make_context(), wanted)

    def test_large_ones_take_turns(self, node, volume, objects):
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(self.fetch, node, 1)
            assert objects.has_begun.wait(LIMIT_S)
            second = threads.submit(self.fetch, node, 2)
            wait_until(lambda: node.fetched_memory.waiting_count == 1)
            assert objects.read_bytes == [self.SIZE]
            objects.go_on.set()
            for one in (first, second):
                assert one.result(LIMIT_S).e_tag
        assert objects.read_bytes == [self.SIZE] * 2

    def test_one_that_finds_no_room_is_refused_before_anything_is_asked_for(self, tmp_path, store, volume, objects):
        node = make_node(tmp_path, store, fetched_memory=FetchedMemory(wait_s=0))
        with node.fetched_memory.holding(LARGE, goes_on), pytest.raises(RpcFailure) as caught:
            self.fetch(node, 1)
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not objects.read_bytes
        assert not volume.has_needles

    def test_the_parts_that_wait_are_counted(self):
        assert memory_of(PART_BYTES, 64) == PART_BYTES
        assert memory_of(3 * PART_BYTES) == 6 * PART_BYTES
        assert memory_of(100 * PART_BYTES) == 110 * PART_BYTES
        assert memory_of(1000 * PART_BYTES, 10_000) == 1128 * PART_BYTES


def record_in_pieces(needle_id, data):
    needle = Needle(needle_id=needle_id, cookie=COOKIE, data=data, checksum=crc.crc32c(data), append_at_ns=1)
    raw, half = encode_needle(needle, 3), len(data) // 2
    for start, end in ((16, half), (half, None)):
        yield pb.VolumeTailSenderResponse(
            needle_header=raw[:16], needle_body=raw[start:end], is_last_chunk=end is None, version=3
        )


class TestTails:
    def test_a_large_needle_holds_its_share_until_the_next_is_asked_for(self):
        memory = FetchedMemory(LARGE, wait_s=0)
        data = b"x" * LARGE

        def receive(messages):
            return received_needles(messages, lambda held_bytes: memory.holding(held_bytes, goes_on))

        first = receive(record_in_pieces(1, data))
        assert next(first).data == data
        messages = record_in_pieces(2, data)
        with pytest.raises(RpcFailure):
            next(receive(messages))
        assert next(messages).is_last_chunk, "no more was received of it"
        assert next(first, None) is None
        assert next(receive(record_in_pieces(3, data))).needle_id == 3

    def test_one_that_finds_no_room_ends_and_what_was_before_it_is_stored(self, tmp_path):
        with serving(tmp_path / "source") as source, serving(tmp_path / "target") as target:
            source.write(1)
            source.write(2, b"x" * LARGE)
            node = replace(target.node, fetched_memory=FetchedMemory(LARGE, wait_s=0))
            wanted = pb.VolumeTailReceiverRequest(
                volume_id=VID, idle_timeout_seconds=1, source_volume_server=source.address
            )
            with node.fetched_memory.holding(LARGE, goes_on), pytest.raises(RpcFailure) as caught:
                volume_tail_receiver(node, make_context(), wanted)
            assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert target.volume.read(1, cookie=COOKIE).needle.data == b"payload"
            with pytest.raises(NotFound):
                target.volume.read(2, cookie=COOKIE)
