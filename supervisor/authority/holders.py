"""Both engines as holders of open volumes: the native store, and the backend over its RPCs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import volume_server
from native_handlers.storage.erasure_coding.errors import EcShardNotHere
from native_handlers.storage.model.errors import StorageError
from supervisor.authority.errors import After, HolderFailed
from supervisor.authority.form import Mark, Shards, VolumeForm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from native_handlers.pb.methods import ServiceClient
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume.volume import Volume

_log = logging.getLogger(__name__)
RPC_TIMEOUT_S = 30.0
"""The time limit of one RPC. Opening a volume reads its whole index; about ten million needles take a second."""
_NOT_OPEN = "not found volume"
"""The beginning of VolumeStatus's answer for a volume that is not open. Source: weed/server/volume_grpc_admin.go."""
_IS_DEAD = "data backend not found"
"""The end of VolumeStatus's answer for a volume whose files were closed and not opened again: a commit of a vacuum
failed. Closing and opening the volume repairs this. Source: weed/server/volume_grpc_admin.go,
weed/storage/volume_vacuum.go."""
_NO_SHARDS = "VolumeEcShardsInfo: EC volume "
"""The beginning of VolumeEcShardsInfo's answer where no shard is open.
Source: weed/server/volume_grpc_erasure_coding.go (VolumeEcShardsInfo).
"""
_SHARD_NOT_HERE = " not found on disk"
"""The end of VolumeEcShardsMount's answer for a shard without a file. Source: weed/storage/store_ec.go
(MountEcShards)."""
_UNANSWERED = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
    | {grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED}
)


def _unmount(server: ServiceClient) -> Any:  # noqa: ANN401  as ServiceClient
    return server.VolumeUnmount


class VolumeHolder(Protocol):
    """An engine that can have volumes and shards of erasure-coded volumes open.

    Calls block. No operation may run on the volume during a call.
    """

    def form_of(self, volume_id: int) -> VolumeForm | None:
        """The open form of the volume, as far as the engine knows; None where nothing is open.

        Raises:
            HolderFailed: the engine gave no answer.
        """
        ...

    def close_volume(self, volume_id: int, form: VolumeForm) -> None:
        """Puts the open parts of the volume, which `form` names, on disk and closes them.

        Raises:
            HolderFailed: `after` says in which state the volume may be.
        """
        ...

    def open_volume(self, volume_id: int, form: VolumeForm) -> None:
        """Opens the parts that `form` names, and sets its mark. Open parts stay open. Shards without files are left
        out.

        Raises:
            HolderFailed: the volume is not open; with `after` UNKNOWN it may be open.
        """
        ...


class NativeHolder:
    """The native store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def form_of(self, volume_id: int) -> VolumeForm | None:
        volume, coded = self._store.find_volume(volume_id), self._store.ec.copies(volume_id)
        if volume is None and not coded:
            return None
        mark = Mark.WRITABLE if volume is None else _mark_of(volume)
        return VolumeForm(volume is not None, mark, self._shards_of(coded))

    def close_volume(self, volume_id: int, form: VolumeForm) -> None:
        try:
            # The backend may delete the .dat at once, and does not sync shards that it has not made.
            self._store.sync_shards(volume_id)
        except OSError as error:
            why = f"its shards cannot be put on disk: {error}"
            raise HolderFailed(volume_id, "closing", why, After.UNTOUCHED) from error
        try:
            if form.has_data:
                self._store.unmount_volume(volume_id)
            if form.shards.ids:
                with self._store.ec.exclusive(volume_id):
                    self._store.ec.unload(volume_id)
        except (StorageError, OSError) as error:
            raise HolderFailed(volume_id, "closing", str(error)) from error

    def open_volume(self, volume_id: int, form: VolumeForm) -> None:
        try:
            if form.has_data:
                self._store.mount_volume(volume_id)
            if form.mark is not Mark.WRITABLE:
                can_delete = form.mark is Mark.READ_ONLY_CAN_DELETE
                self._store.mark_readonly(self._store.get_volume(volume_id), can_delete=can_delete)
            for shard_id in form.shards.ids:
                self._mount_shard(volume_id, shard_id, form.shards)
        except (StorageError, OSError) as error:
            raise HolderFailed(volume_id, "opening", f"{error}; the log has more") from error

    def _mount_shard(self, volume_id: int, shard_id: int, shards: Shards) -> None:
        try:
            self._store.ec.mount(shards.collection, volume_id, shard_id, shards.disk_type)
        except EcShardNotHere as error:
            _log.warning("%s; it was open before volume %d changed hands", error, volume_id)

    def _shards_of(self, copies: Sequence[EcVolume]) -> Shards:
        if not copies:
            return Shards()
        named = [one.disk_type or "hdd" for one in copies if one.disk_type != one.place.disk_type]
        ids = sorted({shard_id for one in copies for shard_id in one.shards})
        return Shards(copies[0].collection, tuple(ids), named[0] if named else "")


def _mark_of(volume: Volume) -> Mark:
    reasons = volume.read_only_reasons
    if volume.marks.is_on_disk or not (reasons.no_write_or_delete or reasons.no_write_can_delete):
        return Mark.WRITABLE
    return Mark.READ_ONLY if reasons.no_write_or_delete else Mark.READ_ONLY_CAN_DELETE


class BackendHolder:
    """The managed backend."""

    def __init__(self, channel: Callable[[], grpc.Channel]) -> None:
        self._channel = channel

    def form_of(self, volume_id: int) -> VolumeForm | None:
        """As `VolumeHolder`, without the mark: the backend does not say why it refuses writes.

        The ledger knows the mark.
        """
        has_data, shards = self._has_data(volume_id), self._open_shards(volume_id)
        return VolumeForm(has_data, shards=shards) if has_data or shards.ids else None

    def close_volume(self, volume_id: int, form: VolumeForm) -> None:
        if form.has_data:
            self._call(volume_id, "closing", _unmount, pb.VolumeUnmountRequest(volume_id=volume_id))
        if form.shards.ids:
            request = pb.VolumeEcShardsUnmountRequest(volume_id=volume_id, shard_ids=form.shards.ids)
            self._call(volume_id, "closing shards of", lambda server: server.VolumeEcShardsUnmount, request)

    def open_volume(self, volume_id: int, form: VolumeForm) -> None:
        if form.has_data:
            self._open_data(volume_id, form.mark)
        if form.shards.ids:
            self._open_all_shards(volume_id, form)

    def _has_data(self, volume_id: int) -> bool:
        request = pb.VolumeStatusRequest(volume_id=volume_id)
        try:
            self._call(volume_id, "looking at", lambda server: server.VolumeStatus, request)
        except HolderFailed as failure:
            if failure.details.startswith(_NOT_OPEN):
                return False
            if not failure.details.endswith(_IS_DEAD):
                raise
        return True

    def _open_shards(self, volume_id: int) -> Shards:
        request = pb.VolumeEcShardsInfoRequest(volume_id=volume_id)
        try:
            answer = self._call(volume_id, "looking at", lambda server: server.VolumeEcShardsInfo, request)
        except HolderFailed as failure:
            if failure.details.startswith(_NO_SHARDS):
                return Shards()
            raise
        infos = answer.ec_shard_infos
        return Shards(infos[0].collection if infos else "", tuple(sorted(info.shard_id for info in infos)))

    def _open_data(self, volume_id: int, mark: Mark) -> None:
        self._call(volume_id, "opening", lambda server: server.VolumeMount, pb.VolumeMountRequest(volume_id=volume_id))
        if mark is Mark.WRITABLE:
            return
        can_delete = mark is Mark.READ_ONLY_CAN_DELETE
        request = pb.VolumeMarkReadonlyRequest(volume_id=volume_id, can_delete=can_delete)
        try:
            self._call(volume_id, "marking", lambda server: server.VolumeMarkReadonly, request)
        except HolderFailed:
            # The engine that had the volume takes it back. The volume must not stay open here without its mark.
            self._call(volume_id, "closing", _unmount, pb.VolumeUnmountRequest(volume_id=volume_id))
            raise

    def _open_all_shards(self, volume_id: int, form: VolumeForm) -> None:
        try:
            self._open_shard_ids(volume_id, form.shards, form.shards.ids)
        except HolderFailed as failure:
            if failure.after is not After.FAILED:
                raise
            self._open_one_by_one(volume_id, form, failure)

    def _open_one_by_one(self, volume_id: int, form: VolumeForm, first: HolderFailed) -> None:
        """Opens each shard by a call of its own: a call for all shards ends at the first failure (a missing file)."""
        for shard_id in form.shards.ids:
            try:
                self._open_shard_ids(volume_id, form.shards, (shard_id,))
            except HolderFailed as failure:
                if not failure.details.endswith(_SHARD_NOT_HERE):
                    self.close_volume(volume_id, form)
                    raise
                _log.warning("%s; it was open before the volume changed hands", first)

    def _open_shard_ids(self, volume_id: int, shards: Shards, ids: Sequence[int]) -> None:
        request = pb.VolumeEcShardsMountRequest(
            volume_id=volume_id, collection=shards.collection, shard_ids=ids, source_disk_type=shards.disk_type
        )
        self._call(volume_id, "opening shards of", lambda server: server.VolumeEcShardsMount, request)

    def _call(self, volume_id: int, doing: str, rpc: Callable[[ServiceClient], Any], request: Message) -> Any:  # noqa: ANN401  as ServiceClient
        try:
            return rpc(volume_server(self._channel()))(request, timeout=RPC_TIMEOUT_S)
        except ValueError as error:  # grpcio raises it for a closed channel
            raise HolderFailed(volume_id, doing, f"the backend is away: {error}", After.UNTOUCHED) from error
        except grpc.RpcError as error:
            after = After.UNKNOWN if error.code() in _UNANSWERED else After.FAILED
            details = error.details() or ""
            why = f"the backend says {error.code().name}: {details}"
            raise HolderFailed(volume_id, doing, why, after, details=details) from error
