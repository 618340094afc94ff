"""The server's flags and memory where the backend has the volumes: it owns state.pb, so it is asked.

The backend can be reached through us only, so what it said last holds until somebody changes it through us. That is
what is answered while it restarts.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc

from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.memory import add_process_memory, own_memory_status
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import volume_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.gateway.grpc_forward import ForwardedCall

CALL_TIMEOUT_S = 5.0
"""The backend is on this machine and answers these from memory, but SetState waits for an fsync."""


class BackendStateKeeper:
    """Implements `native_handlers.grpc.node.StateKeeper` by asking the backend. Thread-safe."""

    def __init__(self, channel: Callable[[], grpc.Channel]) -> None:
        self._channel = channel
        self._lock = threading.Lock()  # protects _last
        self._last: pb.VolumeServerState | None = None

    def state(self) -> pb.VolumeServerState:
        try:
            response = self._call("GetState", pb.GetStateRequest())
        except RpcFailure as failure:
            last = self._last
            if last is None or failure.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            return last
        return self._remember(response.state)

    def update(self, state: pb.VolumeServerState) -> pb.VolumeServerState:
        return self._remember(self._call("SetState", pb.SetStateRequest(state=state)).state)

    def note_forwarded(self, call: ForwardedCall) -> None:
        """To be run after each SetState that was forwarded: remembers what the backend answered."""
        assert call.response is not None
        self._remember(pb.SetStateResponse.FromString(call.response).state)

    def _remember(self, state: pb.VolumeServerState) -> pb.VolumeServerState:
        with self._lock:
            # Answers may overtake each other on their way here; versions only grow.
            if self._last is None or state.version >= self._last.version:
                self._last = state
            return state

    def _call(self, name: str, request: Any) -> Any:  # noqa: ANN401  the messages of either RPC
        return call_backend(self._channel(), name, request)


def memory_with_backend(channel: Callable[[], grpc.Channel]) -> pb.MemStatus:
    """The memory of this process and the backend's together; only this process's while the backend is away."""
    total = own_memory_status()
    try:
        status = call_backend(channel(), "VolumeServerStatus", pb.VolumeServerStatusRequest())
    except RpcFailure:
        return total
    add_process_memory(total, status.memory_status)
    return total


def call_backend(channel: grpc.Channel, name: str, request: Any) -> Any:  # noqa: ANN401
    """The backend's answer to a question of our own.

    Raises:
        RpcFailure: with the backend's code and text, or UNAVAILABLE where it cannot be reached.
    """
    try:
        return getattr(volume_server(channel), name)(request, timeout=CALL_TIMEOUT_S)
    except ValueError as error:  # what grpcio raises for a closed channel
        raise RpcFailure(f"the backend volume server is unavailable: {error}", grpc.StatusCode.UNAVAILABLE) from error
    except grpc.RpcError as error:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE:
            details = f"the backend volume server is unavailable: {details}"
        raise RpcFailure(details, code) from error
