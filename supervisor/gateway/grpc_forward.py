"""Calls that are passed to the backend as bytes. Of all messages only that of Ping is decoded."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from native_handlers.grpc.context import RequestsBroken, RpcFailure
from native_handlers.pb.volume_server_pb2 import PingRequest
from native_handlers.records import dataclass
from supervisor.gateway.grpc_metadata import forwarded_answer_metadata, forwarded_request_metadata, with_request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from supervisor.gateway.grpc_call import Call, CallEngine, RequestStream
    from supervisor.routing.registry import AfterForward

UNAVAILABLE_TEXT = "the backend volume server is unavailable"
_OF_GRPC_ITSELF = (
    "Broken pipe",
    "Channel ",
    "Connection ",
    "Endpoint ",
    "GOAWAY",
    "Socket closed",
    "Stream removed",
    "empty address list",
    "failed to connect",
    "ipv4:",
    "keepalive",
    "ping timeout",
    "recvmsg:",
    "sendmsg:",
)
"""Beginnings of UNAVAILABLE texts that no server sent. grpcio makes such a status when the connection has failed, and
only the text tells it apart. The backend may send an UNAVAILABLE too, about a third server."""


@dataclass(frozen=True, slots=True)
class ForwardedCall:
    """A call that the backend answered with OK. `request` or `response` is None where it was a stream."""

    request: bytes | None
    response: bytes | None


class BackendEngine:
    """Forwards calls on the channel that `channel` gives. A call is tried once: the backend may have executed it.

    Args:
        channel: called for each call, because a restarted backend has a new channel.
        after_forward: by the value of `Route.after_forward`, a function that is called after the backend's OK and
            before the client gets it. If the function raises, the client gets INTERNAL.
    """

    name = "backend"

    def __init__(
        self, channel: Callable[[], grpc.Channel], after_forward: Mapping[AfterForward, Callable[[ForwardedCall], None]]
    ) -> None:
        self._channel = channel
        self._after_forward = after_forward

    def respond(self, call: Call) -> bytes:
        request = None if call.method.client_streaming else call.requests.only()
        rpc = self._start(call, request)
        # code() blocks until the call is over, with success or not.
        if rpc.code() is not grpc.StatusCode.OK:
            raise _failure_of(rpc, call)
        response: bytes = rpc.result()
        self._finish(rpc, call, request, response)
        initial = forwarded_answer_metadata(rpc.initial_metadata())
        if initial:
            _send_headers(call, rpc)
        return response

    def stream(self, call: Call) -> Iterator[bytes]:
        request = None if call.method.client_streaming else call.requests.only()
        rpc = self._start(call, request)
        try:
            rpc.initial_metadata()  # blocks until the headers have come or the call is over
            if not rpc.done():
                _send_headers(call, rpc)
            # Each step asks the backend for one message, so the client's speed limits the backend's.
            yield from _messages(rpc)
            if rpc.code() is not grpc.StatusCode.OK:
                raise _failure_of(rpc, call)
            self._finish(rpc, call, request, None)
        finally:
            rpc.cancel()

    def _start(self, call: Call, request: bytes | None) -> Any:  # noqa: ANN401  grpcio types its calls by shape
        """Begins the backend's call, which ends no later than the client's call."""
        metadata = with_request_id(forwarded_request_metadata(call.metadata), call.request_id)
        forwarded: bytes | _ForwardedRequests = _ForwardedRequests(call.requests) if request is None else request
        try:
            rpc = _invoke(self._channel(), call, forwarded, metadata)
        except ValueError as error:  # grpcio raises this for a closed channel
            rpc = None
            raise RpcFailure(f"{UNAVAILABLE_TEXT}: {error}", grpc.StatusCode.UNAVAILABLE) from error
        finally:
            if isinstance(forwarded, _ForwardedRequests):
                forwarded.started(rpc)
        if not call.context.add_callback(rpc.cancel):
            rpc.cancel()
        return rpc

    def _finish(self, rpc: Any, call: Call, request: bytes | None, response: bytes | None) -> None:  # noqa: ANN401
        hook = self._after_forward.get(call.route.after_forward)
        if hook is not None:
            hook(ForwardedCall(request, response))
        call.set_trailing(forwarded_answer_metadata(rpc.trailing_metadata()))


class PingForwarder:
    """Forwards a Ping without a target; a Ping with a target is native. See `BeforeForward.ANSWER_TARGETS`."""

    name = BackendEngine.name

    def __init__(self, backend: CallEngine, native: CallEngine) -> None:
        self._backend = backend
        self._native = native

    def respond(self, call: Call) -> bytes:
        request = call.requests.only()
        call.requests.give_back(request)
        try:
            has_target = bool(PingRequest.FromString(request).target)
        except DecodeError:
            has_target = False
        return (self._native if has_target else self._backend).respond(call)

    def stream(self, call: Call) -> Iterator[bytes]:
        raise AssertionError("Ping is a unary call")


def _invoke(channel: grpc.Channel, call: Call, forwarded: object, metadata: object) -> Any:  # noqa: ANN401
    path, timeout_s = call.method.path, call.time_remaining_s
    if call.method.server_streaming:
        open_stream: Any = channel.stream_stream if call.method.client_streaming else channel.unary_stream
        return open_stream(path)(forwarded, timeout=timeout_s, metadata=metadata)
    open_unary: Any = channel.stream_unary if call.method.client_streaming else channel.unary_unary
    return open_unary(path).future(forwarded, timeout=timeout_s, metadata=metadata)


def _messages(rpc: Any) -> Iterator[bytes]:  # noqa: ANN401
    try:
        yield from rpc
    except grpc.RpcError:
        return  # the caller reads the reason from the call's code


def _send_headers(call: Call, rpc: Any) -> None:  # noqa: ANN401
    try:
        call.context.send_initial_metadata(forwarded_answer_metadata(rpc.initial_metadata()))
    except grpc.RpcError as error:
        raise RequestsBroken from error


def _failure_of(rpc: Any, call: Call) -> RpcFailure:  # noqa: ANN401
    """The backend's status, with its trailers; or the reason why a message of the client was not passed on."""
    if call.requests.refusal is not None:
        return call.requests.refusal
    code: grpc.StatusCode = rpc.code()
    details: str = rpc.details() or ""
    trailing = forwarded_answer_metadata(rpc.trailing_metadata())
    if code is grpc.StatusCode.UNAVAILABLE and not trailing and details.startswith(_OF_GRPC_ITSELF):
        details = f"{UNAVAILABLE_TEXT}: {details}"
    call.set_trailing(trailing)
    return RpcFailure(details, code)


class _ForwardedRequests:
    """The client's stream. A thread of grpcio sends its messages on, one at a time.

    If the client breaks off, or sends a message that is refused, the backend's call is cancelled *before* this iterator
    ends. Otherwise grpcio would tell the backend that the stream is complete.
    """

    def __init__(self, requests: RequestStream) -> None:
        self._requests = requests
        self._rpc: Any = None
        self._is_started = threading.Event()

    def started(self, rpc: Any) -> None:  # noqa: ANN401
        self._rpc = rpc
        self._is_started.set()

    def __iter__(self) -> _ForwardedRequests:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._requests)
        except (RequestsBroken, RpcFailure):
            self._is_started.wait()
            if self._rpc is not None:
                self._rpc.cancel()
            raise StopIteration from None
