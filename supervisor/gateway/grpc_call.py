"""One gRPC call as both engines see it, whatever its shape."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import grpc

from native_handlers.grpc.context import Metadata, RequestsBroken, RpcFailure
from supervisor.gateway.grpc_metadata import with_request_id
from supervisor.net.grpc_deadline import remaining_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from native_handlers.pb.methods import RpcMethod
    from supervisor.net.grpc_peers import Peer


class RequestStream:
    """A client's messages as bytes, one at a time: the next is asked of the client only when it is asked for here.

    Ends with StopIteration only when the client said that it is done. grpcio ends its own iterator in the same way when
    the client vanishes in between, so at the end it is asked once more: by then it knows. (Without this, half a file
    would pass for a whole one.)

    Raises:
        RequestsBroken: the client cancelled, ran out of time, or vanished.
    """

    def __init__(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> None:
        self._requests = requests
        self._context = context
        self._given_back: bytes | None = None

    def __iter__(self) -> RequestStream:
        return self

    def __next__(self) -> bytes:
        if self._given_back is not None:
            message, self._given_back = self._given_back, None
            return message
        try:
            return next(self._requests)
        except grpc.RpcError as error:
            raise RequestsBroken from error
        except StopIteration:
            if self._is_complete():
                raise
        raise RequestsBroken

    def _is_complete(self) -> bool:
        try:
            next(self._requests)
        except grpc.RpcError:
            return False
        except StopIteration:
            return self._context.is_active()
        raise AssertionError("grpcio gave a message after the end of the stream")

    def give_back(self, message: bytes) -> None:
        """Makes `message`, just taken, the next one again."""
        self._given_back = message

    def only(self) -> bytes:
        """The one message of a unary request. Without one the call fails as it does in Go."""
        try:
            return next(self)
        except StopIteration:
            raise RpcFailure("EOF") from None


@dataclass(slots=True)
class Call:
    """A call that was let in. `request_id` is empty for streaming calls that brought none; for `pausing` see
    `RpcContext`.
    """

    route_name: str
    method: RpcMethod
    requests: RequestStream
    context: grpc.ServicerContext
    peer: Peer
    metadata: Metadata
    request_id: str
    trailing: Metadata = field(default=())
    pausing: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def time_remaining_s(self) -> float | None:
        return remaining_s(self.context)

    def set_trailing(self, metadata: Metadata) -> None:
        """Says what ends the call, with the request id where the call has one to return."""
        is_unary = not (self.method.client_streaming or self.method.server_streaming)
        self.trailing = with_request_id(metadata, self.request_id) if is_unary else metadata
        self.context.set_trailing_metadata(self.trailing)


class CallEngine(Protocol):
    """Who executes a call. Both methods block, and raise nothing but RpcFailure and RequestsBroken.

    Exactly one is called, by the method's response shape.
    """

    name: str

    def respond(self, call: Call) -> bytes: ...

    def stream(self, call: Call) -> Iterator[bytes]:
        """Yields the answers one at a time as they are taken. Closing it early gives the call up."""
        ...


class Refusal:
    """Serves a call by ending it with `failure`."""

    name = "none"

    def __init__(self, failure: RpcFailure) -> None:
        self._failure = failure

    def respond(self, call: Call) -> bytes:
        raise self._failure

    def stream(self, call: Call) -> Iterator[bytes]:
        raise self._failure
