"""Calls that this process executes itself: messages are decoded here and handed to a native handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from native_handlers.grpc.context import RpcContext, RpcFailure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

    from native_handlers.grpc.context import GrpcHandler
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.pb.methods import RpcMethod
    from supervisor.gateway.grpc_call import Call


class NativeEngine:
    """Runs `handler` with `node`, in the call's own thread."""

    name = "native"

    def __init__(self, node: GrpcNode, handler: GrpcHandler) -> None:
        self._node = node
        self._handler = handler

    def respond(self, call: Call) -> bytes:
        context = _context_of(call)
        try:
            response: Message | bytes = self._handler(self._node, context, _requests_of(call))
            return _serialized(response)
        finally:
            call.set_trailing(tuple(context.trailing))

    def stream(self, call: Call) -> Iterator[bytes]:
        context = _context_of(call)
        try:
            responses: Iterator[Message | bytes] = self._handler(self._node, context, _requests_of(call))
            for response in responses:
                yield _serialized(response)
        finally:
            call.set_trailing(tuple(context.trailing))


def _serialized(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def _requests_of(call: Call) -> Message | Iterator[Message]:
    if call.method.client_streaming:
        return (_parse(call.method, request) for request in call.requests)
    return _parse(call.method, call.requests.only())


def _parse(method: RpcMethod, request: bytes) -> Message:
    try:
        return method.request_class.FromString(request)
    except DecodeError as error:
        raise RpcFailure(f"grpc: error unmarshalling request: {error}", grpc.StatusCode.INTERNAL) from error


def _context_of(call: Call) -> RpcContext:
    return RpcContext(
        peer_host=call.peer.host,
        peer_port=call.peer.port,
        metadata=call.metadata,
        request_id=call.request_id,
        is_active=call.context.is_active,
        add_callback=call.context.add_callback,
        time_remaining_s=lambda: call.time_remaining_s,
        pausing=call.pausing,
    )


def native_engines(node: GrpcNode, handlers: Mapping[str, GrpcHandler]) -> dict[str, NativeEngine]:
    """What `GrpcGateway` wants to know of the RPCs that this process can execute."""
    return {name: NativeEngine(node, handler) for name, handler in handlers.items()}
