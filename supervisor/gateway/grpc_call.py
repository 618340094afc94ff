"""One gRPC call as both engines see it, for every shape of RPC."""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

import grpc

from native_handlers.grpc.context import Metadata, RequestsBroken, RpcFailure, taken_already
from native_handlers.records import dataclass
from supervisor.gateway.grpc_metadata import with_request_id
from supervisor.gateway.grpc_shares import CallPlace, Waiting
from supervisor.net.grpc_deadline import remaining_s

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from contextlib import AbstractContextManager

    from native_handlers.grpc.context import Taking
    from native_handlers.pb.methods import RpcMethod
    from supervisor.net.grpc_clients import GrpcClient
    from supervisor.routing.registry import Route


class RequestStream:
    """A client's messages as bytes, one at a time. The next message is read from the client only when it is asked for.

    Ends with StopIteration only when the client has said that it is done. grpcio also ends its own iterator when the
    client vanishes in between. So this class asks grpcio once more at the end, when grpcio knows which it was.
    Otherwise half a file would pass for a whole one.

    `place`, where there is one, is told whenever the call waits for a message. Each of `checks` gets each message
    before the caller does, and raises RpcFailure for a message that must not pass. Messages that were given back were
    checked.

    Raises:
        RpcFailure: RESOURCE_EXHAUSTED for a message of more than `max_bytes`, and for a first one of more than
            `max_first_bytes`.
        RequestsBroken: the client cancelled, ran out of time, or vanished.
    """

    def __init__(
        self,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
        max_bytes: int,
        max_first_bytes: int | None = None,
    ) -> None:
        self._requests = requests
        self._context = context
        self.place: CallPlace | None = None
        self.checks: list[Callable[[bytes], None]] = []
        self.refusal: RpcFailure | None = None
        """Why a message was not passed on. It is read after the call is over."""
        self._max_bytes = max_bytes
        self._max_first_bytes = max_bytes if max_first_bytes is None else max_first_bytes
        self._awaited = Waiting.FIRST_MESSAGE
        self._given_back: deque[bytes] = deque()

    def __iter__(self) -> RequestStream:
        return self

    def __next__(self) -> bytes:
        if self._given_back:
            return self._given_back.popleft()
        if self.place is not None:
            self.place.wait_for(self._awaited)
        try:
            return self._checked(next(self._requests))
        except grpc.RpcError as error:
            raise RequestsBroken from error
        except StopIteration:
            if self._is_complete():
                raise
        finally:
            self._awaited = Waiting.NEXT_MESSAGE
            if self.place is not None:
                self.place.go_on()
        raise RequestsBroken

    def _checked(self, message: bytes) -> bytes:
        try:
            is_first = self._awaited is Waiting.FIRST_MESSAGE
            max_bytes = self._max_first_bytes if is_first else self._max_bytes
            if len(message) > max_bytes:
                text = f"grpc: received message larger than max ({len(message)} vs. {max_bytes})"
                raise RpcFailure(text, grpc.StatusCode.RESOURCE_EXHAUSTED)
            for check in self.checks:
                check(message)
        except RpcFailure as failure:
            self.refusal = failure
            raise
        return message

    def _is_complete(self) -> bool:
        try:
            next(self._requests)
        except grpc.RpcError:
            return False
        except StopIteration:
            return self._context.is_active()
        raise AssertionError("grpcio gave a message after the end of the stream")

    def give_back(self, *messages: bytes) -> None:
        """Makes `messages`, which were just taken in this order, the next ones again."""
        self._given_back.extendleft(reversed(messages))

    def only(self) -> bytes:
        """The one message of a unary request. Without a message the call fails as in Go."""
        try:
            return next(self)
        except StopIteration:
            raise RpcFailure("EOF") from None


@dataclass(slots=True)
class Call:
    """A call that was admitted. `request_id` is empty for a streaming call without one.

    For `pausing`, `taking` and `volume_ids` see `RpcContext`.
    """

    route: Route
    method: RpcMethod
    requests: RequestStream
    context: grpc.ServicerContext
    client: GrpcClient
    metadata: Metadata
    request_id: str
    trailing: Metadata = field(default=())
    pausing: Callable[[], AbstractContextManager[None]] = nullcontext
    taking: Taking = taken_already
    volume_ids: Collection[int] | None = None

    @property
    def time_remaining_s(self) -> float | None:
        return remaining_s(self.context)

    def set_trailing(self, metadata: Metadata) -> None:
        """Sets the trailing metadata, with the request id where the call has one to return."""
        is_unary = not (self.method.client_streaming or self.method.server_streaming)
        self.trailing = with_request_id(metadata, self.request_id) if is_unary else metadata
        self.context.set_trailing_metadata(self.trailing)


class CallEngine(Protocol):
    """Executes calls. Both methods block, and raise only RpcFailure and RequestsBroken.

    The method's response shape decides which of the two is called.
    """

    name: str

    def respond(self, call: Call) -> bytes: ...

    def stream(self, call: Call) -> Iterator[bytes]:
        """Yields the answers one at a time as they are taken. Closing the iterator early ends the call."""
        ...


class Refusal:
    """An engine that ends every call with `failure`."""

    name = "none"

    def __init__(self, failure: RpcFailure) -> None:
        self._failure = failure

    def respond(self, call: Call) -> bytes:
        raise self._failure

    def stream(self, call: Call) -> Iterator[bytes]:
        raise self._failure
