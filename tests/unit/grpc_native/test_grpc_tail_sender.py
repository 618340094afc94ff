"""VolumeTailSender and VolumeIncrementalCopy: what is sent, when the stream ends, and what stays open."""

from __future__ import annotations

import threading
from dataclasses import replace

import grpc
import pytest
from support.grpc_nodes import failure_text, make_context
from support.grpc_servers import COOKIE, VID, serving
from support.waiting import LIMIT_S as T
from support.waiting import wait_until

from native_handlers.format.idx import iter_entries
from native_handlers.format.needle import Needle, parse_needle
from native_handlers.format.types import VERSION_2
from native_handlers.grpc import tail_sender
from native_handlers.grpc.incremental_copy import volume_incremental_copy
from native_handlers.grpc.tail_receiver import received_needles
from native_handlers.grpc.tail_sender import volume_tail_sender
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.volume.append_log import PIECE_BYTES
from native_handlers.storage.volume.file_reader import FIRST_PIECE_BYTES

NEVER_S = 600.0


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path / "source") as made:
        yield made


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    monkeypatch.setattr(tail_sender, "ROUND_S", 0.001)


def tail(server, since_ns=0, idle=1, volume_id=VID):
    request = pb.VolumeTailSenderRequest(volume_id=volume_id, since_ns=since_ns, idle_timeout_seconds=idle)
    return volume_tail_sender(server.node, make_context(), request)


def is_heartbeat(message):
    return message == pb.VolumeTailSenderResponse(is_last_chunk=True, version=3)


class TestTail:
    def test_no_such_volume(self, server):
        assert failure_text(lambda: next(tail(server, volume_id=9))) == "not found volume id 9"

    @pytest.mark.parametrize("idle", [1, 3])
    def test_an_idle_volume_gives_a_heartbeat_a_round_until_the_timeout(self, server, idle):
        messages = list(tail(server, idle=idle))
        assert len(messages) == idle
        assert all(map(is_heartbeat, messages))

    def test_records_and_deletions_in_order_then_silence(self, server):
        server.write(1, b"one")
        server.write(2, b"two")
        server.delete(1, checksum=77)
        *records, heartbeat = tail(server)
        assert is_heartbeat(heartbeat)
        assert all(message.is_last_chunk and message.version == 3 for message in records)
        needles = list(received_needles(iter(records)))
        assert [(one.needle_id, bytes(one.data), one.cookie) for one in needles] == [
            (1, b"one", COOKIE),
            (2, b"two", COOKIE),
            (1, b"", COOKIE),
        ]
        assert needles[2].checksum == 77

    def test_only_what_came_after(self, server):
        first = server.write(1).append_at_ns
        second = server.write(2).append_at_ns
        for since_ns, expected in ((first - 1, [1, 2]), (first, [2]), (second, []), (second + 5, [])):
            assert [one.needle_id for one in received_needles(tail(server, since_ns))] == expected

    def test_the_bytes_are_those_on_disk(self, server):
        server.write(1, b"x" * 100, mime=b"text/plain", has_mime=True)
        server.delete(1)
        raw = b"".join(message.needle_header + message.needle_body for message in tail(server))
        assert raw == (server.directory / f"{VID}.dat").read_bytes()[8:]

    def test_a_large_record_in_pieces_each_with_its_header(self, server):
        server.write(1, b"L" * (2 * PIECE_BYTES + 5))
        *pieces, _ = tail(server)
        assert [len(piece.needle_body) for piece in pieces[:2]] == [PIECE_BYTES] * 2
        assert [piece.is_last_chunk for piece in pieces] == [False, False, True]
        assert len({piece.needle_header for piece in pieces}) == 1
        body = b"".join(piece.needle_body for piece in pieces)
        assert parse_needle(pieces[0].needle_header + body, 3).data == b"L" * (2 * PIECE_BYTES + 5)

    def test_news_start_the_timeout_anew(self, server):
        stream = tail(server, idle=2)
        assert is_heartbeat(next(stream))
        server.write(1)
        assert next(stream).needle_header
        assert [is_heartbeat(message) for message in stream] == [True, True]

    def test_without_a_timeout_it_goes_on(self, server):
        stream = tail(server, idle=0)
        for needle_id in range(1, 6):
            for _ in range(3):
                assert is_heartbeat(next(stream))
            server.write(needle_id)
            assert list(received_needles(iter([next(stream)])))[0].needle_id == needle_id  # noqa: RUF015
        stream.close()
        assert server.holders() == 1

    def test_nothing_is_held_open_between_rounds(self, server):
        held = []
        server.node = replace(server.node, store=_Asked(server.store, lambda: held.append(server.holders())))
        stream = tail(server, idle=3)
        while next(stream, None) is not None:
            held.append(server.holders())
        assert held == [1, 1, 2, 1, 2, 1, 2]

    @pytest.mark.parametrize("how", ["unmount_volume", "delete_volume"])
    def test_it_fails_when_the_volume_goes(self, server, how):
        server.write(1)
        server.write(2)
        stream = tail(server, idle=0)
        next(stream)
        getattr(server.store, how)(VID, **({"only_empty": False} if how == "delete_volume" else {}))
        assert next(stream).needle_header  # The round goes on to its end.
        assert failure_text(lambda: next(stream)) == f"streamFollow: volume {VID} is closed"

    def test_it_goes_on_with_a_volume_that_was_opened_anew(self, server):
        server.write(1)
        stream = tail(server, idle=3)
        assert next(stream).needle_header
        assert is_heartbeat(next(stream))
        server.store.unmount_volume(VID)
        server.store.mount_volume(VID)
        server.write(2)
        assert [one.needle_id for one in received_needles(stream)] == [2]

    def test_it_fails_when_the_volume_was_compacted(self, server):
        server.write(1)
        stream = tail(server, idle=0)
        next(stream)
        server.store.unmount_volume(VID)
        with (server.directory / f"{VID}.dat").open("r+b") as dat:
            dat.seek(5)
            dat.write(b"\x01")  # the low byte of the compaction revision
        server.store.mount_volume(VID)
        assert failure_text(lambda: next(stream)) == f"streamFollow: volume {VID} is compacted"

    def test_a_row_that_leads_nowhere_ends_it(self, server):
        server.write(1)
        rows = (server.directory / f"{VID}.idx").read_bytes()
        (server.directory / f"{VID}.idx").write_bytes(rows[:8] + b"\x09" + rows[9:])
        message = failure_text(lambda: list(tail(server)))
        assert message.startswith("streamFollow: fail to locate by appendAtNs 0: ")
        assert f"{VID}.dat at 1207959560 needs 16 bytes, there are 0" in message

    def test_old_versions_are_followed_from_now_on(self, server):
        """These versions have no append times, so present records count as old, as in upstream. Upstream sends no later
        record either.
        """
        server.store.allocate_volume(8, version=VERSION_2)
        stream = tail(server, volume_id=8, idle=2)
        assert next(stream) == pb.VolumeTailSenderResponse(is_last_chunk=True, version=2)
        server.store.get_volume(8).write(Needle(needle_id=5, cookie=1, data=b"v2"))
        assert [bytes(one.data) for one in received_needles(stream)] == [b"v2"]

    def test_a_client_that_is_gone_already(self, server):
        context = make_context()
        context.add_callback = lambda _: False
        assert list(volume_tail_sender(server.node, context, pb.VolumeTailSenderRequest(volume_id=VID))) == []


class _Asked:
    """A store that reports each request for a volume."""

    def __init__(self, store, on_ask):
        self._store, self._on_ask = store, on_ask

    def find_volume(self, vid):
        self._on_ask()
        return self._store.find_volume(vid)


class TestEnds:
    """Through the gateway. The rounds never end by themselves: a stream that ends here was woken."""

    @pytest.fixture(autouse=True)
    def endless_rounds(self, monkeypatch, short_rounds):
        monkeypatch.setattr(tail_sender, "ROUND_S", NEVER_S)

    def open(self, server, **options):
        return server.rpc.VolumeTailSender(pb.VolumeTailSenderRequest(volume_id=VID), **options)

    def test_cancelled_at_every_message(self, server):
        server.write(1)
        server.write(2, b"L" * (2 * PIECE_BYTES))
        server.delete(1)
        for count in range(6):
            stream = self.open(server, timeout=T)
            for _ in range(count):
                assert next(stream).needle_header
            stream.cancel()
            wait_until(server.is_idle, f"the call is over after {count} messages")

    @pytest.mark.slow
    def test_the_deadline_ends_it(self, server):
        """Slow: waits for a deadline."""
        server.write(1)
        stream = self.open(server, timeout=0.2)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(server.is_idle, "the call is over")

    def test_a_vanished_client_ends_it(self, server):
        stream = self.open(server, timeout=T)
        assert is_heartbeat(next(stream))
        server.channel.close()
        wait_until(server.is_idle, "the call is over")

    def test_stopping_the_server_ends_it(self, server):
        stream = self.open(server, timeout=T)
        next(stream)
        server.gateway.drain(0.05)
        with pytest.raises(grpc.RpcError):
            next(stream)
        wait_until(server.is_idle, "the call is over")

    @pytest.mark.slow
    def test_a_client_that_does_not_read_stops_it(self, server):
        """Flow control: a few messages and the connection's windows are read ahead, not the volume. Together the
        windows of gRPC (16 MiB) and the buffers of both sockets (10 MiB) may be full. Slow: writes 64 MiB.
        """
        size = 1 << 20
        for needle_id in range(1, 65):
            server.write(needle_id, bytes([needle_id]) * size)
        before = server.files.read_bytes
        stream = self.open(server, timeout=60)
        next(stream)
        seen, unchanged = 0, 0
        while unchanged < 200:
            server.rpc.Ping(pb.PingRequest(), timeout=T)
            unchanged = unchanged + 1 if server.files.read_bytes == seen else 0
            seen = server.files.read_bytes
        assert server.files.read_bytes - before < 40 * size
        rest = sum(1 for _ in zip(range(63), stream))  # noqa: B905  it never ends by itself
        assert rest == 63
        stream.cancel()
        wait_until(server.is_idle, "the call is over")


class TestIncrementalCopy:
    def copy(self, server, since_ns=0, volume_id=VID):
        request = pb.VolumeIncrementalCopyRequest(volume_id=volume_id, since_ns=since_ns)
        return volume_incremental_copy(server.node, make_context(), request)

    def dat(self, server):
        return (server.directory / f"{VID}.dat").read_bytes()

    def test_no_such_volume(self, server):
        assert failure_text(lambda: next(self.copy(server, volume_id=9))) == "not found volume id 9"

    def test_nothing_new(self, server):
        assert list(self.copy(server)) == []
        assert list(self.copy(server, server.write(1).append_at_ns)) == []

    def test_the_bytes_from_the_first_new_record_to_the_end(self, server):
        times = [server.write(needle_id, b"x" * needle_id * 100).append_at_ns for needle_id in range(1, 5)]
        server.delete(2)
        dat, width = self.dat(server), server.store.offset_width_bytes
        rows = list(iter_entries((server.directory / f"{VID}.idx").read_bytes(), width))
        assert b"".join(one.file_content for one in self.copy(server)) == dat[8:]
        for number, since_ns in enumerate(times, 1):
            assert b"".join(one.file_content for one in self.copy(server, since_ns)) == dat[rows[number].offset * 8 :]

    def test_pieces_and_an_end_that_stays_where_it_was(self, server):
        server.write(1, b"L" * (2 * PIECE_BYTES + 5))
        end = server.volume.size_bytes
        stream = self.copy(server)
        pieces = [next(stream).file_content]
        server.write(2)
        pieces += [one.file_content for one in stream]
        whole = [*(FIRST_PIECE_BYTES << step for step in range(5)), PIECE_BYTES]
        assert [len(piece) for piece in pieces] == [*whole, end - 8 - sum(whole)]

    def test_a_volume_deleted_under_it(self, server):
        server.write(1, b"L" * (2 * PIECE_BYTES))
        dat = self.dat(server)
        stream = self.copy(server)
        first = next(stream).file_content
        server.store.delete_volume(VID, only_empty=False)
        assert first + b"".join(one.file_content for one in stream) == dat[8:]

    def test_it_lets_go_when_it_is_given_up(self, server):
        server.write(1, b"L" * (2 * PIECE_BYTES))
        for count in range(4):
            stream = server.rpc.VolumeIncrementalCopy(pb.VolumeIncrementalCopyRequest(volume_id=VID), timeout=T)
            for _ in range(min(count, 3)):
                next(stream)
            stream.cancel()
            wait_until(server.is_idle, "the call is over")

    def test_a_row_that_leads_nowhere(self, server):
        server.write(1)
        rows = (server.directory / f"{VID}.idx").read_bytes()
        (server.directory / f"{VID}.idx").write_bytes(rows[:8] + b"\x09" + rows[9:])
        message = failure_text(lambda: list(self.copy(server, 5)))
        assert message.startswith("fail to locate by appendAtNs 5: ")
        assert f"{VID}.dat at 1207959560 needs 16 bytes, there are 0" in message


def test_small_calls_are_served_while_the_store_waits_for_a_disk(server):
    """A mount that hangs in the disk holds the lock of the set of volumes. Only calls of the same kind wait."""
    server.write(1)
    server.store.allocate_volume(9)
    server.store.unmount_volume(9)
    server.held_open.name = "9.dat"
    mount = server.rpc.VolumeMount.future(pb.VolumeMountRequest(volume_id=9), timeout=60)
    assert server.held_open.is_held.wait(T)
    unmount = server.rpc.VolumeUnmount.future(pb.VolumeUnmountRequest(volume_id=9), timeout=60)
    wait_until(lambda: server.gateway.running_calls == 2, "both wait")

    assert server.rpc.Ping(pb.PingRequest(), timeout=T).start_time_ns
    assert server.rpc.VolumeStatus(pb.VolumeStatusRequest(volume_id=VID), timeout=T).file_count == 1
    assert server.rpc.VolumeSyncStatus(pb.VolumeSyncStatusRequest(volume_id=VID), timeout=T).volume_id == VID
    assert server.rpc.ReadVolumeFileStatus(pb.ReadVolumeFileStatusRequest(volume_id=VID), timeout=T).file_count == 1
    assert server.rpc.VacuumVolumeCheck(pb.VacuumVolumeCheckRequest(volume_id=VID), timeout=T).garbage_ratio == 0
    assert server.rpc.VolumeServerStatus(pb.VolumeServerStatusRequest(), timeout=T).version
    status = pb.VolumeNeedleStatusRequest(volume_id=VID, needle_id=1)
    assert server.rpc.VolumeNeedleStatus(status, timeout=T).cookie == COOKIE
    server.write(2)
    assert [one.needle_id for one in received_needles(tail(server))] == [1, 2]
    assert not mount.done()
    assert not unmount.done()

    server.held_open.release.set()
    mount.result(timeout=T)
    unmount.result(timeout=T)


def test_writers_do_not_wait_for_streams(server):
    """Eight streams stand in the middle of the volume; none holds a lock that a writer needs."""
    server.write(1, b"L" * PIECE_BYTES)
    streams = [tail(server) for _ in range(8)]
    for stream in streams:
        next(stream)
    written = threading.Event()
    threading.Thread(target=lambda: (server.write(2), server.delete(1), written.set()), daemon=True).start()
    assert written.wait(T)
    for stream in streams:
        stream.close()
    assert server.holders() == 1
