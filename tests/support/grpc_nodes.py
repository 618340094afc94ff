"""Fakes that handlers get in place of a cluster."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from native_handlers.grpc import needles
from native_handlers.grpc.context import RpcContext, RpcFailure
from native_handlers.grpc.fetched_memory import FetchedMemory
from native_handlers.grpc.node import GrpcNode, NodeFacts
from native_handlers.pb.methods import volume_server
from native_handlers.pb.volume_server_pb2 import BatchDeleteResponse, VolumeServerState


class FakeState:
    """A state keeper in memory."""

    def __init__(self) -> None:
        self.now = VolumeServerState()

    def state(self) -> VolumeServerState:
        return self.now

    def update(self, state: VolumeServerState) -> VolumeServerState:
        self.now = VolumeServerState(maintenance=state.maintenance, version=state.version + 1)
        return self.now


@dataclass
class FakeMasters:
    """Knows one master; `marks` has the marks that it received; `failure` is its answer instead."""

    known: str = "127.0.0.1:9333"
    marks: list = field(default_factory=list)
    failure: RpcFailure | None = None
    on_mark: object = None
    asked_holders: int = 0
    learns_after: int = 0

    def is_known(self, target: str) -> bool:
        return target == self.known

    def ping(self, target: str, timeout_s: float | None) -> int:
        if self.failure is not None:
            raise self.failure
        return 1234

    def holds(self, volume_id: int, ip: str, port: int, timeout_s: float) -> bool:
        if self.failure is not None:
            raise self.failure
        self.asked_holders += 1
        return self.asked_holders > self.learns_after

    def mark_readonly(self, request, timeout_s: float | None) -> None:
        if self.failure is not None:
            raise self.failure
        self.marks.append(request)
        if self.on_mark is not None:
            self.on_mark()


class LoopbackVolumeServers:
    """Connects to other servers without TLS, and takes none for itself."""

    def is_self(self, error) -> bool:
        return False

    @contextmanager
    def open_volume_server(self, address: str):
        host, _, ports = address.rpartition(":")
        port, _, grpc_port = ports.partition(".")
        with grpc.insecure_channel(f"{host}:{grpc_port or int(port) + 10000}") as channel:
            yield volume_server(channel)


def make_node(tmp_path, store=None, **more) -> GrpcNode:
    facts = NodeFacts(
        id="node-1",
        ip="127.0.0.1",
        port=8080,
        version="30GB 4.44 ",
        data_center="dc1",
        rack="r1",
        directories=(tmp_path,),
    )
    settings = {
        "state": FakeState(),
        "masters": FakeMasters(),
        "volume_servers": LoopbackVolumeServers(),
        "leave": lambda: None,
        "fetched_memory": FetchedMemory(),
        "facts": facts,
        **more,
    }
    return GrpcNode(store=store, **settings)


def batch_delete(node, context, request):
    """The answer of BatchDelete, which gets and gives its messages as bytes."""
    return BatchDeleteResponse.FromString(needles.batch_delete(node, context, request.SerializeToString()))


def failure_of(invoke) -> RpcFailure:
    """The failure that the handler raises which `invoke` calls."""
    with pytest.raises(RpcFailure) as caught:
        invoke()
    return caught.value


def failure_text(invoke) -> str:
    """The text of such a failure. Its code is UNKNOWN."""
    failure = failure_of(invoke)
    assert failure.code is grpc.StatusCode.UNKNOWN
    return failure.message


def make_context() -> RpcContext:
    return RpcContext("10.0.0.1", 5, (), "id", lambda: True, lambda callback: True, lambda: None)
