"""What a native RPC handler is given of its call, and how it fails.

Handlers are synchronous and run in a thread of their own. They never see grpcio: the gateway that calls them turns what
they return, yield and raise into an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from native_handlers.grpc.node import GrpcNode

Metadata = tuple[tuple[str, str | bytes], ...]


class RpcFailure(Exception):
    """The call ends with this code and text. Nothing else may leave a handler, but for `RequestsBroken`.

    Upstream's plain errors travel as UNKNOWN with the bare text, and its tools decide by that code: any other code is
    for the few places where upstream has one too.
    """

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class RequestsBroken(Exception):
    """A client's stream of requests ended because the client gave up or vanished, not because it was complete."""

    def __init__(self) -> None:
        super().__init__("the client ended the call before its stream of requests was complete")


@dataclass(slots=True)
class RpcContext:
    """One call. `peer_host` is the true TCP peer. `request_id` is empty for streaming calls without one, as upstream.

    Args:
        is_active: whether anyone still waits for the answer; long handlers ask between steps.
        add_callback: runs the argument when the call ends, in another thread; False when it has ended already.
        time_remaining_s: seconds to the client's deadline, None without one.
        pausing: for a stream that waits for something to happen to a volume: inside, other engines may work on it;
            afterwards it has to be looked up anew. Raises RpcFailure where it is not to be had again.
    """

    peer_host: str
    peer_port: int
    metadata: Metadata
    request_id: str
    is_active: Callable[[], bool]
    add_callback: Callable[[Callable[[], None]], bool]
    time_remaining_s: Callable[[], float | None]
    trailing: list[tuple[str, str | bytes]] = field(default_factory=list)
    pausing: Callable[[], AbstractContextManager[None]] = nullcontext

    def set_trailing(self, key: str, value: str | bytes) -> None:
        """Adds to the metadata that ends the call, whether it succeeds or fails."""
        self.trailing.append((key, value))


GrpcHandler = Callable[["GrpcNode", RpcContext, Any], Any]
"""``handler(node, context, request)``; a client-streaming RPC gets an iterator of requests instead. Returns the
response, or an iterator of them for a server-streaming RPC; bytes are a response that is serialized already.
Raises RpcFailure, or lets RequestsBroken through."""
