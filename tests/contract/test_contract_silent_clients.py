"""Clients that begin calls and then do nothing: other clients are served as if there were no such clients."""

import grpc
import pytest
from harness.raw_calls import RawCalls
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import methods
from native_handlers.pb import volume_server_pb2 as pb

ANY_REVISION = 2**32 - 1
MAX_STREAMS = 1000
"""The limit of one connection, as upstream has it."""


@pytest.fixture
def other(server):
    """A client with its own connection."""
    with server.open_channel() as channel:
        yield methods.volume_server(channel)


@pytest.fixture
def address(server):
    return server.host, server.layout.grpc_port


@pytest.fixture
def volume_id(server):
    made = server.new_volume()
    for _ in range(4):
        server.store(bytes(1 << 20), [("Content-Type", "application/octet-stream")], fid=server.new_fid(made))
    return made


def copy_request(volume_id, stop_offset=2**62):
    return pb.CopyFileRequest(
        volume_id=volume_id, ext=".dat", compaction_revision=ANY_REVISION, stop_offset=stop_offset
    )


def check_served(other, volume_id):
    assert other.Ping(pb.PingRequest(), timeout=LIMIT_S).start_time_ns
    assert sum(len(piece.file_content) for piece in other.CopyFile(copy_request(volume_id), timeout=LIMIT_S)) > 4 << 20
    tail = pb.VolumeTailSenderRequest(volume_id=volume_id, idle_timeout_seconds=0)
    call = other.VolumeTailSender(tail, timeout=LIMIT_S)
    assert next(call).needle_header
    call.cancel()


@pytest.mark.parametrize("name", ["Ping", "VolumeTailSender", "CopyFile", "ReceiveFile", "VolumeDelete"])
def test_calls_that_never_send_their_message(address, other, volume_id, name):
    with RawCalls(address) as silent:
        silent.begin(name, MAX_STREAMS)
        check_served(other, volume_id)


def test_calls_of_many_kinds_from_several_connections(address, other, volume_id):
    with RawCalls(address) as first, RawCalls(address) as second, RawCalls(address) as third:
        for silent in (first, second, third):
            silent.begin("Ping", 300)
            silent.begin("VolumeTailSender", 300)
        wait_until(lambda: is_served(other, volume_id), "the other client to be served")


def is_served(other, volume_id):
    """Several connections of one host may use up its share until their calls count as silent."""
    try:
        check_served(other, volume_id)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False
    return True


def test_streams_whose_answers_are_never_read(address, other, volume_id):
    with RawCalls(address) as deaf:
        deaf.begin("CopyFile", MAX_STREAMS // 2, copy_request(volume_id).SerializeToString())
        deaf.begin("ReadAllNeedles", 50, pb.ReadAllNeedlesRequest(volume_ids=[volume_id]).SerializeToString())
        check_served(other, volume_id)


def test_answers_of_small_calls_that_are_never_read(address, other, volume_id):
    with RawCalls(address) as deaf:
        deaf.begin("VolumeServerStatus", MAX_STREAMS, b"")
        check_served(other, volume_id)


@pytest.mark.only(lambda implementation: implementation.is_front)
@pytest.mark.parametrize("length", [20_000, 15_000_000])
def test_a_ping_does_not_repeat_what_it_was_sent(other, length):
    """Upstream repeats it whole, in a trailer."""
    request = pb.PingRequest(target="x" * length, target_type="master")
    with pytest.raises(grpc.RpcError) as raised:
        other.Ping(request, timeout=LIMIT_S)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details().startswith("unknown ping target xxxx")
    assert len(raised.value.details()) < 1000


@pytest.mark.only(lambda implementation: implementation.is_front)
def test_a_ping_with_a_target_of_200_mb_is_refused(other):
    with pytest.raises(grpc.RpcError) as raised:
        other.Ping(pb.PingRequest(target="x" * 200_000_000, target_type="master"), timeout=60)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in raised.value.details()
    assert other.Ping(pb.PingRequest(), timeout=LIMIT_S).start_time_ns
