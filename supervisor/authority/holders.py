"""The two engines as those who close and open volumes: the native store, and the backend over its RPCs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import grpc

from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import volume_server
from native_handlers.storage.errors import StorageError
from supervisor.authority.errors import After, HolderFailed
from supervisor.authority.ledger import Mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.store import Store

RPC_TIMEOUT_S = 30.0
"""Opening a volume reads its whole index; some ten million needles take a second."""
_NOT_OPEN = "not found volume"
"""How VolumeStatus answers for a volume that is not open. Source: weed/server/volume_grpc_admin.go."""
_IS_DEAD = "data backend not found"
"""The end of its answer for one whose files were closed and not opened again: a commit of a vacuum that failed. Closing
and opening it sets it right. Source: weed/server/volume_grpc_admin.go, weed/storage/volume_vacuum.go."""
_UNANSWERED = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
    | {grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED}
)


class VolumeHolder(Protocol):
    """An engine that can have volumes open. Calls block; nothing may be under way on the volume."""

    def mark_of(self, volume_id: int) -> Mark | None:
        """What the engine knows of a mark that the volume's files do not tell; None where the volume is not open.

        Raises:
            HolderFailed: nothing is known.
        """
        ...

    def close_volume(self, volume_id: int) -> None:
        """Puts the volume on disk and closes it.

        Raises:
            HolderFailed: see its `after`.
        """
        ...

    def open_volume(self, volume_id: int, mark: Mark) -> None:
        """Opens the volume and marks it; one that is open stays so.

        Raises:
            HolderFailed: it is not open, or `after` is UNKNOWN.
        """
        ...


class NativeHolder:
    """The native store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def mark_of(self, volume_id: int) -> Mark | None:
        volume = self._store.find_volume(volume_id)
        if volume is None:
            return None
        reasons = volume.read_only_reasons
        if volume.is_marked_on_disk or not (reasons.no_write_or_delete or reasons.no_write_can_delete):
            return Mark.WRITABLE
        return Mark.READ_ONLY if reasons.no_write_or_delete else Mark.READ_ONLY_CAN_DELETE

    def close_volume(self, volume_id: int) -> None:
        try:
            self._store.unmount_volume(volume_id)
        except (StorageError, OSError) as error:
            raise HolderFailed(volume_id, "closing", str(error)) from error

    def open_volume(self, volume_id: int, mark: Mark) -> None:
        try:
            self._store.mount_volume(volume_id)
            if mark is not Mark.WRITABLE:
                self._store.mark_readonly(volume_id, can_delete=mark is Mark.READ_ONLY_CAN_DELETE)
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

    def mark_of(self, volume_id: int) -> Mark | None:
        """As `VolumeHolder`. The ledger knows the marks that it was given: it does not say why it writes nothing."""
        if self._has_ec_shards(volume_id):
            raise HolderFailed(volume_id, "looking at", "it is erasure-coded")
        try:
            self._call(volume_id, "looking at", "VolumeStatus", pb.VolumeStatusRequest(volume_id=volume_id))
        except HolderFailed as failure:
            if failure.details.startswith(_NOT_OPEN):
                return None
            if not failure.details.endswith(_IS_DEAD):
                raise
        return Mark.WRITABLE

    def close_volume(self, volume_id: int) -> None:
        self._call(volume_id, "closing", "VolumeUnmount", pb.VolumeUnmountRequest(volume_id=volume_id))

    def open_volume(self, volume_id: int, mark: Mark) -> None:
        self._call(volume_id, "opening", "VolumeMount", pb.VolumeMountRequest(volume_id=volume_id))
        if mark is Mark.WRITABLE:
            return
        can_delete = mark is Mark.READ_ONLY_CAN_DELETE
        request = pb.VolumeMarkReadonlyRequest(volume_id=volume_id, can_delete=can_delete)
        try:
            self._call(volume_id, "marking", "VolumeMarkReadonly", request)
        except HolderFailed:
            # Whoever had it takes it back: it must not stay open here, and unmarked.
            self.close_volume(volume_id)
            raise

    def _call(self, volume_id: int, doing: str, name: str, request: Any) -> None:  # noqa: ANN401  any of the messages
        try:
            getattr(volume_server(self._channel()), name)(request, timeout=RPC_TIMEOUT_S)
        except ValueError as error:  # what grpcio raises for a closed channel
            raise HolderFailed(volume_id, doing, f"the backend is away: {error}", After.UNTOUCHED) from error
        except grpc.RpcError as error:
            after = After.UNKNOWN if error.code() in _UNANSWERED else After.FAILED
            details = error.details() or ""
            why = f"the backend says {error.code().name}: {details}"
            raise HolderFailed(volume_id, doing, why, after, details=details) from error
