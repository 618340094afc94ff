"""Server reflection as in upstream's Go server: v1alpha and v1, whose messages are the same on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection import ReflectionServicer
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2
from native_handlers.pb.methods import RpcMethod
from supervisor.routing.registry import REFLECTION_PATHS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.gateway.grpc_call import Call


def _method(path: str) -> RpcMethod:
    _, service, name = path.split("/")
    return RpcMethod(service, name, ServerReflectionRequest, ServerReflectionResponse, True, True)


REFLECTION_METHODS = {path: _method(path) for path in REFLECTION_PATHS}


class ReflectionEngine:
    """Answers reflection requests from this project's own descriptors."""

    name = "native"

    def __init__(self) -> None:
        services = {method.service for method in REFLECTION_METHODS.values()}
        services.update(service.full_name for service in volume_server_pb2.DESCRIPTOR.services_by_name.values())
        self._servicer = ReflectionServicer(services)

    def respond(self, call: Call) -> bytes:
        raise AssertionError("reflection is a stream")

    def stream(self, call: Call) -> Iterator[bytes]:
        for response in self._servicer.ServerReflectionInfo(_requests(call), call.context):
            yield response.SerializeToString()


def _requests(call: Call) -> Iterator[ServerReflectionRequest]:
    for request in call.requests:
        try:
            yield ServerReflectionRequest.FromString(request)
        except DecodeError as error:
            raise RpcFailure(f"grpc: error unmarshalling request: {error}", grpc.StatusCode.INTERNAL) from error
