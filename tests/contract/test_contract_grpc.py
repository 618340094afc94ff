"""The RPCs of the control plane, and rules for all RPCs: codes, trailers, unknown names, limits."""

import grpc
import pytest
from support.waiting import LIMIT_S

from native_handlers.pb import volume_server_pb2 as pb

SERVICE = "/volume_server_pb.VolumeServer"


def refused(call, request, **options):
    """The error of `call`."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=LIMIT_S, **options)
    return raised.value


def trailer(call, key):
    return [value for name, value in call.trailing_metadata() if name == key]


def test_ping_of_the_server_itself_tells_the_time(server):
    answer = server.rpc.Ping(pb.PingRequest(), timeout=LIMIT_S)
    assert 1_600_000_000 * 10**9 < answer.start_time_ns <= answer.stop_time_ns
    assert answer.remote_time_ns == 0


def test_ping_of_the_master_tells_its_time(server):
    request = pb.PingRequest(target=server.master.address, target_type="master")
    answer = server.rpc.Ping(request, timeout=LIMIT_S)
    assert answer.start_time_ns < answer.remote_time_ns < answer.stop_time_ns


@pytest.mark.parametrize("kind", ["master", "volumeServer", "filer", "bogus"])
def test_ping_of_a_stranger_is_refused(server, kind):
    error = refused(server.rpc.Ping, pb.PingRequest(target="127.0.0.1:1", target_type=kind))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == f"unknown ping target 127.0.0.1:1 of type {kind}"


def test_a_request_id_comes_back_in_the_trailer(server):
    ping = server.rpc.Ping
    _, call = ping.with_call(pb.PingRequest(), timeout=LIMIT_S, metadata=(("x-amz-request-id", "mine-7"),))
    assert trailer(call, "x-amz-request-id") == ["mine-7"]


def test_a_missing_request_id_is_made_even_for_an_error(server):
    error = refused(server.rpc.VolumeStatus, pb.VolumeStatusRequest(volume_id=999_999))
    (made,) = trailer(error, "x-amz-request-id")
    assert len(made) == 36


def test_the_state_has_a_version_that_a_writer_must_know(server):
    before = server.rpc.GetState(pb.GetStateRequest(), timeout=LIMIT_S).state
    wrong = pb.VolumeServerState(maintenance=True, version=before.version + 7)
    error = refused(server.rpc.SetState, pb.SetStateRequest(state=wrong))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert error.details() == (
        f"version mismatch for VolumeServerState (got {before.version}, want {before.version + 7})"
    )
    assert server.rpc.GetState(pb.GetStateRequest(), timeout=LIMIT_S).state == before


def test_setting_no_state_changes_nothing(server):
    before = server.rpc.GetState(pb.GetStateRequest(), timeout=LIMIT_S).state
    assert server.rpc.SetState(pb.SetStateRequest(), timeout=LIMIT_S).state == before


def test_maintenance_refuses_changes_until_it_is_over(server):
    before = server.rpc.GetState(pb.GetStateRequest(), timeout=LIMIT_S).state
    wanted = pb.VolumeServerState(maintenance=True, version=before.version)
    on = server.rpc.SetState(pb.SetStateRequest(state=wanted), timeout=LIMIT_S).state
    try:
        assert on == pb.VolumeServerState(maintenance=True, version=before.version + 1)
        assert server.rpc.VolumeServerStatus(pb.VolumeServerStatusRequest(), timeout=LIMIT_S).state == on
        request = pb.AllocateVolumeRequest(volume_id=1999, replication="000", version=3)
        error = refused(server.rpc.AllocateVolume, request)
        assert error.details() == f"volume server {server.url} is in maintenance mode"
    finally:
        wanted = pb.VolumeServerState(maintenance=False, version=on.version)
        off = server.rpc.SetState(pb.SetStateRequest(state=wanted), timeout=LIMIT_S).state
    assert off == pb.VolumeServerState(maintenance=False, version=before.version + 2)
    server.new_volume()


def test_server_status_tells_disks_memory_and_version(server):
    status = server.rpc.VolumeServerStatus(pb.VolumeServerStatusRequest(), timeout=LIMIT_S)
    (disk,) = status.disk_statuses
    assert disk.dir == str(server.data_dir)
    assert disk.all == disk.used + disk.free
    assert status.memory_status.all > status.memory_status.used > 0
    assert status.version.startswith(("30GB ", "8000GB "))


def test_a_volume_that_is_not_here_is_an_unknown_error_with_upstreams_text(server):
    error = refused(server.rpc.VolumeStatus, pb.VolumeStatusRequest(volume_id=999_999))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "not found volume id 999999")


def test_allocating_a_volume_twice_is_refused(server):
    request = pb.AllocateVolumeRequest(volume_id=server.volume_id, replication="000", version=3)
    error = refused(server.rpc.AllocateVolume, request)
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert error.details() == f"Volume Id {server.volume_id} already exists!"


@pytest.mark.parametrize("path", [f"{SERVICE}/NoSuchRpc", "/no.such.Service/Rpc"])
def test_unknown_names_are_unimplemented(server, path):
    error = refused(server.channel.unary_unary(path), b"")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_message_are_an_error_of_that_call_alone(server):
    error = refused(server.channel.unary_unary(f"{SERVICE}/Ping"), b"\xff\xff\xff")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert server.rpc.Ping(pb.PingRequest(), timeout=LIMIT_S).start_time_ns


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_service(server, version):
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    list_services = b"\x3a\x00"
    (answer,) = server.channel.stream_stream(method)(iter([list_services]), timeout=LIMIT_S)
    assert b"volume_server_pb.VolumeServer" in answer


def test_many_calls_share_a_connection(server):
    futures = [server.rpc.Ping.future(pb.PingRequest(), timeout=LIMIT_S) for _ in range(50)]
    assert all(one.result().start_time_ns for one in futures)


@pytest.mark.only(lambda implementation: implementation.needs_weed)
def test_a_needle_written_over_http_is_seen_over_grpc(server):
    fid = server.store(b"seen from both sides")
    volume_id, _, key = fid.partition(",")
    request = pb.VolumeNeedleStatusRequest(volume_id=int(volume_id), needle_id=int(key[:-8], 16))
    status = server.rpc.VolumeNeedleStatus(request, timeout=LIMIT_S)
    assert (status.cookie, status.needle_id) == (int(key[-8:], 16), request.needle_id)
