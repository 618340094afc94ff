"""The two engines as those who close and open volumes: the native store, and the backend over its RPCs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import grpc

from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import volume_server
from native_handlers.storage.errors import StorageError
from supervisor.authority.errors import After, HolderFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.store import Store

RPC_TIMEOUT_S = 30.0
"""Opening a volume reads its whole index; some ten million needles take a second."""
_NOT_OPEN = "not found volume"
"""How VolumeStatus answers for a volume that is not open. Source: weed/server/volume_grpc_admin.go."""
_UNANSWERED = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
    | {grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED}
)


class VolumeHolder(Protocol):
    """An engine that can have volumes open. Calls block; nothing may be under way on the volume."""

    def close_volume(self, volume_id: int) -> bool:
        """Puts the volume on disk and closes it; False where it was not open.

        Raises:
            HolderFailed: see its `after`.
        """
        ...

    def open_volume(self, volume_id: int) -> None:
        """Opens the volume; one that is open stays so.

        Raises:
            HolderFailed: it is not open, or `after` is UNKNOWN.
        """
        ...


class NativeHolder:
    """The native store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def close_volume(self, volume_id: int) -> bool:
        if self._store.find_volume(volume_id) is None:
            return False
        try:
            self._store.unmount_volume(volume_id)
        except (StorageError, OSError) as error:
            raise HolderFailed(volume_id, "closing", str(error)) from error
        return True

    def open_volume(self, volume_id: int) -> None:
        try:
            self._store.mount_volume(volume_id)
        except (StorageError, OSError) as error:
            raise HolderFailed(volume_id, "opening", f"{error}; the log has more") from error


class BackendHolder:
    """The managed backend.

    Args:
        has_ec_shards: whether the backend holds erasure coding shards of a volume, which it alone can serve.
    """

    def __init__(self, channel: Callable[[], grpc.Channel], has_ec_shards: Callable[[int], bool]) -> None:
        self._channel = channel
        self._has_ec_shards = has_ec_shards

    def close_volume(self, volume_id: int) -> bool:
        if self._has_ec_shards(volume_id):
            raise HolderFailed(volume_id, "closing", "it is erasure-coded", After.UNTOUCHED)
        if not self._is_open(volume_id):
            return False
        self._call(volume_id, "closing", "VolumeUnmount", pb.VolumeUnmountRequest(volume_id=volume_id))
        return True

    def open_volume(self, volume_id: int) -> None:
        self._call(volume_id, "opening", "VolumeMount", pb.VolumeMountRequest(volume_id=volume_id))

    def _is_open(self, volume_id: int) -> bool:
        try:
            volume_server(self._channel()).VolumeStatus(
                pb.VolumeStatusRequest(volume_id=volume_id), timeout=RPC_TIMEOUT_S
            )
        except ValueError as error:  # what grpcio raises for a closed channel
            raise HolderFailed(volume_id, "looking at", f"the backend is away: {error}", After.UNTOUCHED) from error
        except grpc.RpcError as error:
            if (error.details() or "").startswith(_NOT_OPEN):
                return False
            why = f"the backend says {error.code().name}: {error.details()}"
            raise HolderFailed(volume_id, "looking at", why, After.UNTOUCHED) from error
        return True

    def _call(self, volume_id: int, doing: str, name: str, request: Any) -> None:  # noqa: ANN401  either message
        try:
            getattr(volume_server(self._channel()), name)(request, timeout=RPC_TIMEOUT_S)
        except ValueError as error:
            raise HolderFailed(volume_id, doing, f"the backend is away: {error}", After.UNTOUCHED) from error
        except grpc.RpcError as error:
            after = After.UNKNOWN if error.code() in _UNANSWERED else After.FAILED
            why = f"the backend says {error.code().name}: {error.details()}"
            raise HolderFailed(volume_id, doing, why, after) from error
