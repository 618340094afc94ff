"""The server's persistent state, state.pb. Source: weed/storage/store_state.go."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from native_handlers.pb import volume_server_pb2
from native_handlers.records import dataclass
from native_handlers.storage.model.errors import BadState, StateVersionMismatch, WriteFailed
from native_handlers.storage.system.files import read_file, replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.system.files import Files

STATE_FILE_NAME = "state.pb"


@dataclass(frozen=True, slots=True)
class ServerState:
    """`maintenance`: changes by RPC are refused. `version` counts the changes."""

    maintenance: bool = False
    version: int = 0


class StateFile:
    """The state in memory and on disk; the two are always equal."""

    def __init__(self, files: Files, directory: Path) -> None:
        """Loads the state. Without a file it is the initial state.

        Raises:
            BadState: there is a file, and it cannot be read or parsed.
        """
        self._files = files
        self._path = directory / STATE_FILE_NAME
        # Serialises changes.
        self._lock = threading.Lock()
        self._state = self._load()

    def _load(self) -> ServerState:
        try:
            raw = read_file(self._files, self._path)
            message = volume_server_pb2.VolumeServerState.FromString(raw or b"")
        except (OSError, DecodeError) as error:
            raise BadState(self._path, str(error)) from error
        return ServerState(message.maintenance, message.version)

    @property
    def current(self) -> ServerState:
        return self._state

    def change(self, new: ServerState | None) -> ServerState:
        """Makes `new` the state, under the next version, durably, and returns it. None changes nothing.

        Raises:
            StateVersionMismatch: `new` was not made from the current version.
            WriteFailed: the file could not be written; the old state stands, in memory and on disk.
        """
        with self._lock:
            if new is None:
                return self._state
            if new.version != self._state.version:
                raise StateVersionMismatch(self._state.version, new.version)
            changed = replace(new, version=new.version + 1)
            message = volume_server_pb2.VolumeServerState(maintenance=changed.maintenance, version=changed.version)
            try:
                replace_file(self._files, self._path, message.SerializeToString())
            except OSError as error:
                raise WriteFailed(self._path, 0, error) from error
            self._state = changed
            return changed
