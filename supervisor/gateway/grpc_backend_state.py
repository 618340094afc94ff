"""The server's flags and memory where the backend has the volumes. The backend owns state.pb, so the backend is asked.

The backend can be reached through this process only. So its last answer holds until the next change through this
process. That last answer is given while the backend restarts.
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

    from google.protobuf.message import Message

    from native_handlers.pb.methods import ServiceClient
    from supervisor.gateway.grpc_forward import ForwardedCall

CALL_TIMEOUT_S = 5.0
"""The backend runs on this machine and answers from memory, except that SetState waits for an fsync."""


class BackendStateKeeper:
    """Implements `native_handlers.grpc.node.StateKeeper` by asking the backend. Thread-safe."""

    def __init__(self, channel: Callable[[], grpc.Channel]) -> None:
        self._channel = channel
        self._lock = threading.Lock()  # protects _last
        self._last: pb.VolumeServerState | None = None

    def state(self) -> pb.VolumeServerState:
        try:
            response = self._call(lambda server: server.GetState, pb.GetStateRequest())
        except RpcFailure as failure:
            last = self._last
            if last is None or failure.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            return last
        return self._remember(response.state)

    def update(self, state: pb.VolumeServerState) -> pb.VolumeServerState:
        return self._remember(self._call(lambda server: server.SetState, pb.SetStateRequest(state=state)).state)

    def note_forwarded(self, call: ForwardedCall) -> None:
        """Remembers the backend's answer. It runs after each forwarded SetState."""
        assert call.response is not None
        self._remember(pb.SetStateResponse.FromString(call.response).state)

    def _remember(self, state: pb.VolumeServerState) -> pb.VolumeServerState:
        with self._lock:
            # A later answer may arrive first. Versions only grow, so an older version is dropped.
            if self._last is None or state.version >= self._last.version:
                self._last = state
            return state

    def _call(self, rpc: Callable[[ServiceClient], Any], request: Message) -> Any:  # noqa: ANN401  of either RPC
        return call_backend(self._channel(), rpc, request)


def memory_with_backend(channel: Callable[[], grpc.Channel]) -> pb.MemStatus:
    """The memory of this process and the backend's together. Only this process's while the backend does not answer."""
    total = own_memory_status()
    try:
        status = call_backend(channel(), lambda server: server.VolumeServerStatus, pb.VolumeServerStatusRequest())
    except RpcFailure:
        return total
    add_process_memory(total, status.memory_status)
    return total


def call_backend(channel: grpc.Channel, rpc: Callable[[ServiceClient], Any], request: Message) -> Any:  # noqa: ANN401  the answer of any RPC
    """The backend's answer to a question of this process. `rpc` picks the RPC from a client of the backend.

    Raises:
        RpcFailure: with the backend's code and text, or UNAVAILABLE where the backend cannot be reached.
    """
    try:
        return rpc(volume_server(channel))(request, timeout=CALL_TIMEOUT_S)
    except ValueError as error:  # grpcio raises this for a closed channel
        raise RpcFailure(f"the backend volume server is unavailable: {error}", grpc.StatusCode.UNAVAILABLE) from error
    except grpc.RpcError as error:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE:
            details = f"the backend volume server is unavailable: {details}"
        raise RpcFailure(details, code) from error
