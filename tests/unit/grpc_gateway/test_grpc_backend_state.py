"""The flags and the memory of a server whose volumes are the backend's."""

from __future__ import annotations

import grpc
import pytest

from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.memory import own_memory_status
from native_handlers.pb import volume_server_pb2 as pb
from supervisor.gateway.grpc_backend_state import BackendStateKeeper, memory_with_backend
from supervisor.gateway.grpc_forward import ForwardedCall


@pytest.fixture
def channel(backend):
    with grpc.insecure_channel(f"127.0.0.1:{backend.port}") as opened:
        yield opened


@pytest.fixture
def keeper(channel):
    return BackendStateKeeper(lambda: channel)


def serve_state(backend, state: pb.VolumeServerState) -> None:
    backend.on("GetState")(lambda request, context: pb.GetStateResponse(state=state).SerializeToString())


def test_the_backend_is_asked(backend, keeper):
    serve_state(backend, pb.VolumeServerState(version=4))
    assert keeper.state().version == 4
    backend.on("SetState")(lambda request, context: pb.SetStateResponse(state={"version": 5}).SerializeToString())
    assert keeper.update(pb.VolumeServerState(version=4)).version == 5


def test_a_refusal_keeps_its_text(backend, keeper):
    text = "version mismatch for VolumeServerState (got 4, want 3)"
    backend.on("SetState")(lambda request, context: context.abort(grpc.StatusCode.UNKNOWN, text))
    with pytest.raises(RpcFailure) as caught:
        keeper.update(pb.VolumeServerState(version=3))
    assert (caught.value.message, caught.value.code) == (text, grpc.StatusCode.UNKNOWN)


def test_what_it_said_last_holds_while_it_is_away(backend, keeper):
    serve_state(backend, pb.VolumeServerState(version=4))
    keeper.state()
    answer = pb.SetStateResponse(state=pb.VolumeServerState(maintenance=True, version=5)).SerializeToString()
    keeper.note_forwarded(ForwardedCall(b"", answer))
    backend.server.stop(None).wait()
    assert keeper.state() == pb.VolumeServerState(maintenance=True, version=5)
    with pytest.raises(RpcFailure, match=r"^the backend volume server is unavailable: ") as caught:
        keeper.update(pb.VolumeServerState(version=5))
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_an_older_answer_that_comes_late_is_not_remembered(backend, keeper):
    for version in (5, 4):
        answer = pb.SetStateResponse(state=pb.VolumeServerState(version=version)).SerializeToString()
        keeper.note_forwarded(ForwardedCall(b"", answer))
    backend.server.stop(None).wait()
    assert keeper.state().version == 5


def test_nobody_knows_the_state_of_a_backend_that_never_answered(backend, keeper):
    backend.server.stop(None).wait()
    with pytest.raises(RpcFailure) as caught:
        keeper.state()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_a_closed_channel_is_an_unavailable_backend(channel, keeper):
    channel.close()
    with pytest.raises(RpcFailure) as caught:
        keeper.state()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_memory_of_both_processes(backend, channel):
    status = pb.VolumeServerStatusResponse(memory_status={"goroutines": 1000, "self": 1 << 40, "all": 5})
    backend.on("VolumeServerStatus")(lambda request, context: status.SerializeToString())
    memory = memory_with_backend(lambda: channel)
    assert memory.goroutines > 1000
    assert memory.self > 1 << 40
    assert memory.all == own_memory_status().all
    backend.server.stop(None).wait()
    assert memory_with_backend(lambda: channel).self < 1 << 40
