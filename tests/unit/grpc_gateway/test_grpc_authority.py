"""Which engine runs a call, and which has its volumes meanwhile, where both engines work on the same ones."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from supervisor.authority.authority import Authority
from supervisor.gateway.grpc_authority import GrpcAuthority
from supervisor.routing.decision import Engine
from supervisor.routing.registry import ROUTES_BY_NAME

CODED = 5


class PlayedHolder:
    def close_volume(self, volume_id):
        return True

    def open_volume(self, volume_id):
        pass


@dataclass
class PlayedRunner:
    """Notes who had the volumes when it ran."""

    name: str
    authority: Authority
    seen: list = field(default_factory=list)

    def respond(self, call):
        message = call.method.request_class.FromString(call.requests.only())
        self.seen.append(self.authority.owner_of(message.volume_id))
        return b"answer"

    def stream(self, call):
        message = call.method.request_class.FromString(call.requests.only())
        for volume_id in message.volume_ids:
            self.seen.append(self.authority.owner_of(volume_id))
            yield b"answer"


class OneRequest:
    def __init__(self, raw):
        self._raw = [raw]

    def only(self):
        return self._raw.pop()

    def give_back(self, raw):
        self._raw.append(raw)


def a_call(name, raw):
    return SimpleNamespace(method=VOLUME_SERVER_METHODS[name], requests=OneRequest(raw), time_remaining_s=5.0)


@pytest.fixture
def authority():
    holders = {Engine.NATIVE: PlayedHolder(), Engine.BACKEND: PlayedHolder()}
    made = Authority(holders, lambda hand_over: nullcontext(), is_backend_ready=lambda: True)
    yield made
    made.close()


@pytest.fixture
def native(authority):
    return PlayedRunner("native", authority)


@pytest.fixture
def backend(authority):
    return PlayedRunner("backend", authority)


@pytest.fixture
def guard(authority, native, backend):
    grpc_authority = GrpcAuthority(authority, model=None, is_bound=lambda volume_id: volume_id == CODED)

    def guarded(name):
        return grpc_authority.guarded(ROUTES_BY_NAME[f"grpc.{name}"], Engine.NATIVE, native, backend)

    return guarded


def test_a_native_call_has_its_volume(guard, native, backend):
    runner = guard("VolumeStatus")
    assert runner.respond(a_call("VolumeStatus", pb.VolumeStatusRequest(volume_id=3).SerializeToString())) == b"answer"
    assert (native.seen, backend.seen, runner.name) == ([Engine.NATIVE], [], "native")


def test_a_call_about_an_erasure_coded_volume_is_the_backends(guard, native, backend):
    runner = guard("VolumeUnmount")
    raw = pb.VolumeUnmountRequest(volume_id=CODED).SerializeToString()
    assert runner.respond(a_call("VolumeUnmount", raw)) == b"answer"
    assert (native.seen, backend.seen, runner.name) == ([], [Engine.BACKEND], "backend")


def test_a_stream_about_several_of_which_one_is_coded(guard, native, backend):
    guard("VolumeStatus").respond(a_call("VolumeStatus", pb.VolumeStatusRequest(volume_id=3).SerializeToString()))
    raw = pb.ReadAllNeedlesRequest(volume_ids=[3, CODED]).SerializeToString()
    assert list(guard("ReadAllNeedles").stream(a_call("ReadAllNeedles", raw))) == [b"answer", b"answer"]
    assert backend.seen == [Engine.BACKEND, Engine.BACKEND], "what was native was handed over"


def test_without_a_volume_nothing_is_asked_for(guard, native):
    assert guard("Ping") is native


def test_what_is_no_message(guard, native, backend):
    with pytest.raises(RpcFailure, match="error unmarshalling request"):
        guard("VolumeStatus").respond(a_call("VolumeStatus", b"\xff\xff"))
    assert native.seen == backend.seen == []
