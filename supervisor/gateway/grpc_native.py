"""Calls that this process executes: messages are decoded here and given to a native handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from native_handlers.grpc.context import RpcContext, RpcFailure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

    from native_handlers.grpc.context import BytesHandler, GrpcHandler
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.pb.methods import RpcMethod
    from supervisor.gateway.grpc_call import Call, CallEngine


class NativeEngine:
    """Runs `handler` with `node`, in the thread of the call."""

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


class BytesEngine:
    """As `NativeEngine`, for a handler that takes its request and gives its answer as bytes."""

    name = "native"

    def __init__(self, node: GrpcNode, handler: BytesHandler) -> None:
        self._node = node
        self._handler = handler

    def respond(self, call: Call) -> bytes:
        context = _context_of(call)
        try:
            return self._handler(self._node, context, call.requests.only())
        except DecodeError as error:
            raise _no_request(error) from error
        finally:
            call.set_trailing(tuple(context.trailing))

    def stream(self, call: Call) -> Iterator[bytes]:
        yield self.respond(call)


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
        raise _no_request(error) from error


def _no_request(error: DecodeError) -> RpcFailure:
    return RpcFailure(f"grpc: error unmarshalling request: {error}", grpc.StatusCode.INTERNAL)


def _context_of(call: Call) -> RpcContext:
    return RpcContext(
        client_host=call.client.host,
        client_port=call.client.port,
        metadata=call.metadata,
        request_id=call.request_id,
        is_active=call.context.is_active,
        add_callback=call.context.add_callback,
        time_remaining_s=lambda: call.time_remaining_s,
        pausing=call.pausing,
        taking=call.taking,
        volume_ids=call.volume_ids,
    )


def native_engines(
    node: GrpcNode, handlers: Mapping[str, GrpcHandler], bytes_handlers: Mapping[str, BytesHandler] | None = None
) -> dict[str, CallEngine]:
    """The engines of the RPCs that this process can execute. An RPC is in one of the maps."""
    engines: dict[str, CallEngine] = {name: NativeEngine(node, handler) for name, handler in handlers.items()}
    return engines | {name: BytesEngine(node, handler) for name, handler in (bytes_handlers or {}).items()}
