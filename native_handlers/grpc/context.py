"""The facts of a call that a native RPC handler gets, and the exceptions that a handler raises.

Handlers are synchronous and run in a thread of their own. They never use grpcio: the gateway turns the values and
exceptions of handlers into answers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractContextManager

    from native_handlers.grpc.node import GrpcNode

Metadata = tuple[tuple[str, str | bytes], ...]


class RpcFailure(Exception):
    """The call ends with this code and text. A handler raises no other exception but `RequestsBroken`.

    Upstream's plain errors travel as UNKNOWN with the bare text, and its tools decide by that code. Other codes are for
    the few places where upstream uses one, too.
    """

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class RequestsBroken(Exception):
    """A client's stream of requests ended because the client gave up or vanished, not because it was complete."""

    def __init__(self) -> None:
        super().__init__("the client ended the call before its stream of requests was complete")


class Taking(Protocol):
    """See `RpcContext.taking`."""

    def __call__(self, volume_id: int, /, *, changes: bool = False) -> AbstractContextManager[None]: ...


def taken_already(_volume_id: int, /, *, changes: bool = False) -> AbstractContextManager[None]:  # noqa: ARG001  as Taking
    """For an engine that has all volumes."""
    return nullcontext()


@dataclass(slots=True)
class RpcContext:
    """One call. `client_host` is the address of the TCP client.

    `request_id` is empty for streaming calls without one, as upstream.

    Args:
        is_active: whether a client still waits for the answer; long handlers ask between steps.
        add_callback: runs the argument when the call ends, in another thread; False when it has ended already.
        time_remaining_s: seconds to the client's deadline, None without one.
        pausing: a context manager for streams that wait for changes of a volume. Inside the block other engines may
            work on the volume; afterwards the handler looks the volume up anew. Raises RpcFailure where the volume
            cannot be had again.
        taking: a context manager for calls about several volumes. Inside the block this engine has the volume, with
            `changes` also for writing. Raises RpcFailure where the volume cannot be had.
        volume_ids: the volumes that such a call concerns, where other engines may have some of them; None: those that
            are open here.
    """

    client_host: str
    client_port: int
    metadata: Metadata
    request_id: str
    is_active: Callable[[], bool]
    add_callback: Callable[[Callable[[], None]], bool]
    time_remaining_s: Callable[[], float | None]
    trailing: list[tuple[str, str | bytes]] = field(default_factory=list)
    pausing: Callable[[], AbstractContextManager[None]] = nullcontext
    taking: Taking = taken_already
    volume_ids: Collection[int] | None = None

    def set_trailing(self, key: str, value: str | bytes) -> None:
        """Adds to the trailing metadata of the call, whether it succeeds or fails."""
        self.trailing.append((key, value))


GrpcHandler = Callable[["GrpcNode", RpcContext, Any], Any]
"""``handler(node, context, request)``; a client-streaming RPC gets an iterator of requests instead. Returns the
response, or an iterator of responses for a server-streaming RPC. A response of bytes is serialized already. Raises
RpcFailure, or lets RequestsBroken through."""

BytesHandler = Callable[["GrpcNode", RpcContext, bytes], bytes]
"""As `GrpcHandler`, for one request and one answer, both serialized. Raises DecodeError for bytes that are no
request."""
