"""`StateKeeper` of a process that has the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.grpc.context import RpcFailure
from native_handlers.pb.volume_server_pb2 import VolumeServerState
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.store_state import ServerState

if TYPE_CHECKING:
    from native_handlers.storage.store import Store


class StoreStateKeeper:
    """Keeps the flags in the store's state.pb, as upstream does."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def state(self) -> VolumeServerState:
        return _message(self._store.state)

    def update(self, state: VolumeServerState) -> VolumeServerState:
        try:
            return _message(self._store.set_state(ServerState(maintenance=state.maintenance, version=state.version)))
        except StorageError as error:
            raise RpcFailure(str(error)) from error


def _message(state: ServerState) -> VolumeServerState:
    return VolumeServerState(maintenance=state.maintenance, version=state.version)
