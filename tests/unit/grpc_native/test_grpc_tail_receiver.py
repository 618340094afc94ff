"""VolumeTailReceiver between two servers of this project, and with sources that send wrong data, fail or fall
silent.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from support.grpc_nodes import make_context
from support.grpc_servers import COOKIE, VID, serving
from support.waiting import LIMIT_S as T
from support.waiting import wait_until

from native_handlers.format import crc
from native_handlers.format.errors import FormatError
from native_handlers.format.needle import (
    FLAG_HAS_LAST_MODIFIED,
    FLAG_HAS_MIME,
    FLAG_HAS_NAME,
    FLAG_HAS_PAIRS,
    FLAG_HAS_TTL,
    FLAG_IS_CHUNK_MANIFEST,
    FLAG_IS_COMPRESSED,
    Needle,
    encode_needle,
)
from native_handlers.format.ttl import Ttl
from native_handlers.grpc import tail_sender
from native_handlers.grpc.tail_receiver import received_needles
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from native_handlers.storage.check import check_directory
from native_handlers.storage.model.errors import Deleted, NotFound
from native_handlers.storage.volume.append_log import PIECE_BYTES
from supervisor.gateway.grpc_pools import CallLimits
from supervisor.gateway.grpc_shares import ShareRule
from supervisor.routing.registry import ROUTES_BY_NAME, Pool

ROW_BYTES = 16
EMPTY_RECORD_BYTES = 32


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    monkeypatch.setattr(tail_sender, "ROUND_S", 0.001)


@pytest.fixture
def pair(tmp_path):
    """A source and a target with an empty volume each. Both are checked after the test."""
    with serving(tmp_path / "source") as source, serving(tmp_path / "target") as target:
        yield source, target
        for server in (source, target):
            wait_until(server.is_idle, "nothing is held")
    for name in ("source", "target"):
        report = check_directory(tmp_path / name)
        assert report.is_healthy, str(report)


def receive(target, address, since_ns=0, idle=1, volume_id=VID, **options):
    request = pb.VolumeTailReceiverRequest(
        volume_id=volume_id, since_ns=since_ns, idle_timeout_seconds=idle, source_volume_server=address
    )
    return target.rpc.VolumeTailReceiver.future(request, timeout=options.pop("timeout", T), **options)


def error_of(call):
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    return caught.value.code(), caught.value.details()


def facts_of(server, needle_id):
    """All stored facts of a needle except its time; None for an absent needle."""
    try:
        read = server.store.get_volume(VID).read(needle_id, cookie=None)
    except (NotFound, Deleted):
        return None
    try:
        one = read.needle
        return (
            *(one.cookie, bytes(one.data), one.flags, one.name, one.mime),
            *(one.last_modified_s, one.ttl, one.pairs, one.checksum, one.size),
        )
    finally:
        read.release()


def sizes_of(server):
    return server.volume.size_bytes, server.volume.index_size_bytes


class TestReceiving:
    def test_everything_that_a_needle_says_of_itself(self, pair):
        source, target = pair
        flags = (FLAG_IS_COMPRESSED, FLAG_HAS_NAME, FLAG_HAS_MIME, FLAG_HAS_LAST_MODIFIED, FLAG_HAS_TTL)
        every = sum((*flags, FLAG_HAS_PAIRS, FLAG_IS_CHUNK_MANIFEST))
        more = {
            "name": b"a name",
            "mime": b"text/plain",
            "last_modified_s": 1_700_000_123,
            "ttl": Ttl(3, 3),
            "pairs": b'{"Seaweed-X":"1"}',
        }
        for needle_id, each in enumerate((0, every, *flags, FLAG_HAS_PAIRS, FLAG_IS_CHUNK_MANIFEST), 1):
            source.write(needle_id, b"payload %d" % needle_id, cookie=needle_id, flags=each, **more)
        receive(target, source.address).result()
        for needle_id in range(1, 10):
            assert facts_of(target, needle_id) == facts_of(source, needle_id) is not None
        assert sizes_of(target) == sizes_of(source)

    def test_a_large_needle_comes_whole(self, pair):
        source, target = pair
        source.write(1, bytes(range(256)) * (PIECE_BYTES // 100))
        receive(target, source.address).result()
        assert facts_of(target, 1) == facts_of(source, 1)

    def test_a_deletion_is_one_record_and_one_row_and_the_needle_is_gone(self, pair):
        source, target = pair
        source.write(1)
        receive(target, source.address).result()
        since_ns = source.write(2).append_at_ns
        before = sizes_of(target)
        source.delete(1, checksum=0xABCD)
        receive(target, source.address, since_ns).result()
        assert sizes_of(target) == (before[0] + EMPTY_RECORD_BYTES, before[1] + ROW_BYTES)
        assert facts_of(target, 1) is None
        tombstone = (target.directory / f"{VID}.dat").read_bytes()[before[0] :]
        mine = (source.directory / f"{VID}.dat").read_bytes()[-EMPTY_RECORD_BYTES:]
        assert (tombstone[:20], tombstone[28:]) == (mine[:20], mine[28:])  # all but the append time

    def test_it_outlives_a_restart_of_the_volume(self, pair):
        source, target = pair
        source.write(1)
        source.delete(1)
        source.write(2)
        receive(target, source.address).result()
        target.store.unmount_volume(VID)
        target.store.mount_volume(VID)
        assert target.store.findings == []
        assert facts_of(target, 1) is None
        assert facts_of(target, 2) == facts_of(source, 2)

    def test_a_repeated_tail_changes_nothing(self, pair):
        source, target = pair
        source.write(1)
        source.write(2)
        source.delete(1)
        receive(target, source.address).result()
        counted = target.volume.report().file_count
        since_ns = target.volume.handle.opened.last_append_at_ns
        for _ in range(2):
            receive(target, source.address, since_ns=0).result()
            assert facts_of(target, 1) is None
            assert facts_of(target, 2) == facts_of(source, 2)
        # A needle that was deleted since is written and deleted again; a needle that is present is not written.
        assert target.volume.report().file_count - counted <= 2
        assert target.volume.handle.opened.last_append_at_ns >= since_ns
        before = sizes_of(target)
        receive(target, source.address, since_ns=source.volume.handle.opened.last_append_at_ns).result()
        assert sizes_of(target) == before

    def test_a_deletion_of_what_is_not_here_changes_nothing(self, pair):
        source, target = pair
        since_ns = source.write(1).append_at_ns
        source.delete(1)
        receive(target, source.address, since_ns).result()
        assert sizes_of(target) == (8, 0)

    def test_times_of_appending_are_ours_and_grow(self, pair):
        source, target = pair
        first = source.write(1).append_at_ns
        source.write(2)
        last_ns = target.write(9).append_at_ns
        receive(target, source.address, first - 1).result()
        request = pb.VolumeTailSenderRequest(volume_id=VID, idle_timeout_seconds=1)
        sent = tail_sender.volume_tail_sender(target.node, make_context(), request)
        times = [one.append_at_ns for one in received_needles(sent)]
        assert times == sorted(set(times))
        assert times[0] == last_ns

    def test_writes_that_come_meanwhile_are_had_too(self, pair):
        source, target = pair
        source.write(1)
        call = receive(target, source.address, idle=0)
        for needle_id in range(2, 30):
            source.write(needle_id)
            if needle_id % 3 == 0:
                source.delete(needle_id - 1)
        wait_until(lambda: facts_of(target, 29), "the last write is there")
        for needle_id in range(1, 30):
            assert facts_of(target, needle_id) == facts_of(source, needle_id)
        call.cancel()

    def test_a_needle_without_a_cookie_takes_over_the_one_it_replaces(self, pair):
        source, target = pair
        target.write(1, b"old", cookie=COOKIE)
        source.write(1, b"new", cookie=0)
        receive(target, source.address).result()
        assert facts_of(target, 1)[:2] == (COOKIE, b"new")


class TestRefusals:
    def test_no_such_volume_here(self, pair):
        source, target = pair
        answer = error_of(receive(target, source.address, volume_id=9))
        assert answer == (grpc.StatusCode.UNKNOWN, "receiver not found volume id 9")

    def test_no_such_volume_there(self, pair):
        source, target = pair
        source.store.unmount_volume(VID)
        assert error_of(receive(target, source.address)) == (grpc.StatusCode.UNKNOWN, f"not found volume id {VID}")
        source.store.mount_volume(VID)

    def test_nobody_there(self, pair):
        assert error_of(receive(pair[1], "127.0.0.1:1.2"))[0] is grpc.StatusCode.UNAVAILABLE

    def test_a_volume_that_takes_no_writes(self, pair):
        source, target = pair
        source.write(1)
        target.store.mark_readonly(target.store.get_volume(VID))
        assert error_of(receive(target, source.address)) == (grpc.StatusCode.UNKNOWN, f"volume {VID} is read only")
        assert facts_of(target, 1) is None

    def test_another_cookie(self, pair):
        source, target = pair
        source.write(1, b"before")
        source.write(2, cookie=5)
        source.write(3, b"after")
        target.write(2, b"other", cookie=6)
        assert error_of(receive(target, source.address)) == (grpc.StatusCode.UNKNOWN, "mismatching cookie 5")
        assert facts_of(target, 1) == facts_of(source, 1)
        assert facts_of(target, 2)[:2] == (6, b"other")
        assert facts_of(target, 3) is None

    def test_the_target_goes_away_meanwhile(self, pair):
        source, target = pair
        call = receive(target, source.address, idle=0)
        source.write(1)
        wait_until(lambda: facts_of(target, 1), "it has begun")
        target.store.unmount_volume(VID)
        source.write(2)
        code, text = error_of(call)
        assert code is grpc.StatusCode.UNKNOWN
        assert text.startswith(f"volume {VID} not found on ")
        target.store.mount_volume(VID)

    def test_maintenance_does_not_forbid_it(self, pair):
        source, target = pair
        source.write(1)
        target.rpc.SetState(pb.SetStateRequest(state=pb.VolumeServerState(maintenance=True)), timeout=T)
        receive(target, source.address).result()
        assert facts_of(target, 1) is not None


class TestEnds:
    def test_a_client_that_goes_ends_it_at_both_servers(self, pair, monkeypatch):
        monkeypatch.setattr(tail_sender, "ROUND_S", 600.0)
        source, target = pair
        call = receive(target, source.address, idle=0)
        wait_until(lambda: source.gateway.running_calls == 1, "the source sends")
        call.cancel()
        wait_until(lambda: source.is_idle() and target.is_idle(), "both have ended")

    @pytest.mark.slow
    def test_its_deadline_ends_it_at_both_servers(self, pair, monkeypatch):
        """Slow: waits for a deadline."""
        monkeypatch.setattr(tail_sender, "ROUND_S", 600.0)
        source, target = pair
        call = receive(target, source.address, idle=0, timeout=0.2)
        assert error_of(call)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: source.is_idle() and target.is_idle(), "both have ended")

    def test_a_source_that_stops_ends_it(self, pair):
        source, target = pair
        source.write(1)
        call = receive(target, source.address, idle=0)
        wait_until(lambda: facts_of(target, 1), "it has begun")
        source.gateway.drain(0.01)
        assert error_of(call)[0] in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}

    def test_followers_are_counted_as_streams(self, tmp_path):
        """Followers last as long as streams, so small calls must not share their limit."""
        assert ROUTES_BY_NAME["grpc.VolumeTailReceiver"].pool is Pool.LONG
        limits = CallLimits(unary=1, streaming=2, rule=ShareRule(1, 1, 1))
        with serving(tmp_path / "source") as source, serving(tmp_path / "target", limits) as target:
            calls = [receive(target, source.address, idle=0) for _ in range(2)]
            wait_until(lambda: source.gateway.running_calls == 2, "both follow")
            assert target.rpc.Ping(pb.PingRequest(), timeout=T).start_time_ns
            code, text = error_of(receive(target, source.address))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert text == "2 streaming calls are in progress; try again later"
            for call in calls:
                call.cancel()
            wait_until(lambda: source.is_idle() and target.is_idle(), "all have ended")

    def test_its_request_id_comes_back(self, pair):
        call = receive(pair[1], pair[0].address)
        assert "x-amz-request-id" in dict(call.trailing_metadata())


class ScriptedSource(grpc.GenericRpcHandler):
    """A volume server that sends the given messages and then follows its instruction."""

    def __init__(self, messages, end):
        self._messages, self._end = messages, end

    def service(self, details):
        method = VOLUME_SERVER_METHODS[details.method.rpartition("/")[2]]

        def behavior(request, context):
            yield from self._messages
            self._end(context)

        return grpc.unary_stream_rpc_method_handler(
            behavior, method.request_class.FromString, method.response_class.SerializeToString
        )


@contextmanager
def scripted(messages, end=lambda context: None):
    server = grpc.server(ThreadPoolExecutor(2), handlers=[ScriptedSource(messages, end)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:1.{port}"
    finally:
        server.stop(None).wait()


def record(needle_id, data=b"payload", version=3):
    needle = Needle(needle_id=needle_id, cookie=COOKIE, data=data, checksum=crc.crc32c(data), append_at_ns=1)
    return encode_needle(needle, version)


def message(raw, *, is_last=True, version=3, start=16, end=None):
    return pb.VolumeTailSenderResponse(
        needle_header=raw[:16], needle_body=raw[start:end], is_last_chunk=is_last, version=version
    )


class TestBadSources:
    @pytest.mark.parametrize("count", range(4))
    def test_a_source_that_fails_after_any_message_is_followed_again(self, pair, count):
        """The messages before the failure are stored; storing them again changes nothing."""
        source, target = pair
        for needle_id in (1, 2):
            source.write(needle_id)
        source.delete(1)
        request = pb.VolumeTailSenderRequest(volume_id=VID, idle_timeout_seconds=1)
        messages = list(source.rpc.VolumeTailSender(request, timeout=T))
        fail = lambda context: context.abort(grpc.StatusCode.UNKNOWN, "streamFollow: the disk is gone")  # noqa: E731
        with scripted(messages[:count], fail) as address:
            assert error_of(receive(target, address)) == (
                grpc.StatusCode.UNKNOWN,
                "streamFollow: the disk is gone",
            )
        assert (facts_of(target, 1) is not None) == (count in {1, 2})
        receive(target, source.address).result()
        for needle_id in (1, 2):
            assert facts_of(target, needle_id) == facts_of(source, needle_id)

    def test_half_a_record_is_none(self, pair):
        raw = record(1)
        with scripted([message(raw, is_last=False, end=20)]) as address:
            assert error_of(receive(pair[1], address)) == (
                grpc.StatusCode.UNKNOWN,
                f"needle 1 needs {len(raw)} bytes, there are 20",
            )
        assert facts_of(pair[1], 1) is None

    def test_a_silent_source_is_left_when_the_client_goes(self, pair):
        is_silent, left = threading.Event(), threading.Event()

        def hang(context):
            is_silent.set()
            if context.add_callback(left.set):
                left.wait(T)
            else:
                left.set()

        with scripted([message(record(1))], hang) as address:
            call = receive(pair[1], address)
            wait_until(lambda: facts_of(pair[1], 1), "it has begun")
            # A source whose call ends before is asked for nothing more.
            assert is_silent.wait(T)
            call.cancel()
            assert left.wait(T)

    @pytest.mark.parametrize(
        ("messages", "text"),
        [
            ([message(record(1), version=9)], "volume version 9 is not supported; 1, 2 and 3 are"),
            ([pb.VolumeTailSenderResponse(needle_header=b"short", is_last_chunk=True)], "needle header needs 16 bytes"),
            ([message(bytes(12) + b"\xff\xff\xff\xff" + bytes(20))], "needle 0: size -1 is negative"),
            ([message(record(1)[:-12])], "needle 1 needs"),
            ([message(record(1) + bytes(8))], "needle 1: more than its"),
            (
                [message(record(1), is_last=False, end=20), message(record(1), start=20), message(record(1)[:30])],
                "needle 1 needs",
            ),
            ([message(record(1), is_last=False, end=20), message(record(2))], "needle 1: another begins after 20 of"),
            ([message(record(1), is_last=False)] * 1000, "needle 1: more than its"),
            ([message(record(1)[:22] + b"X" + record(1)[23:])], "invalid CRC for needle 1"),
            ([message(bytes(12) + b"\x7f\xff\xff\xff" + bytes(20))], "needle 0 needs"),
        ],
    )
    def test_what_is_no_record_ends_it(self, messages, text):
        with pytest.raises(FormatError) as caught:
            list(received_needles(iter(messages)))
        assert str(caught.value).startswith(text)

    @pytest.mark.parametrize("version", [1, 2, 3, 0])
    def test_records_of_each_version(self, version):
        heartbeat = pb.VolumeTailSenderResponse(is_last_chunk=True, version=version)
        raw = record(1, b"x" * 100, version or 3)
        parts = [message(raw, is_last=False, end=50, version=version), message(raw, start=50, version=version)]
        [found] = received_needles(iter([heartbeat, *parts, heartbeat]))
        assert (found.needle_id, found.cookie, found.data) == (1, COOKIE, b"x" * 100)
