"""What the real master last said, shared by the heartbeat, the relay, look-ups and the native store."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from supervisor.cluster.identity import is_same_server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from native_handlers.pb import master_pb2
    from supervisor.wire.server_address import ServerAddress


@dataclass(frozen=True, slots=True)
class MasterSettings:
    """What a master asks of its volume servers. A size limit of 0 and an empty address mean "not said yet"."""

    volume_size_limit_bytes: int = 0
    preallocate: bool = False
    metrics_address: str = ""
    metrics_interval_s: int = 0
    storage_backends: tuple[master_pb2.StorageBackend, ...] = ()

    def updated_by(self, response: master_pb2.HeartbeatResponse) -> MasterSettings:
        """These settings after `response`. `preallocate` is a bare bool: every response states it.

        Source: weed/server/volume_grpc_client_to_master.go, doHeartbeatWithRetry.
        """
        return replace(
            self,
            volume_size_limit_bytes=response.volume_size_limit or self.volume_size_limit_bytes,
            preallocate=response.preallocate,
            metrics_address=response.metrics_address or self.metrics_address,
            metrics_interval_s=response.metrics_interval_seconds or self.metrics_interval_s,
            storage_backends=tuple(response.storage_backends) or self.storage_backends,
        )

    def configured_by(self, response: master_pb2.GetMasterConfigurationResponse) -> MasterSettings:
        """These settings after the answer to the question that each server asks at its start."""
        return replace(
            self,
            metrics_address=response.metrics_address,
            metrics_interval_s=response.metrics_interval_seconds,
            storage_backends=tuple(response.storage_backends),
        )


class MasterView:
    """The masters as seen from here: seeds, the current one, its settings. Thread-safe."""

    def __init__(self, seeds: Sequence[ServerAddress]) -> None:
        self.seeds = tuple(seeds)
        self._lock = threading.Lock()  # protects everything below
        self._connected: ServerAddress | None = None
        self._leader: ServerAddress | None = None
        self._settings = MasterSettings()
        self._configuration: master_pb2.GetMasterConfigurationResponse | None = None
        self._listeners: list[Callable[[MasterSettings], None]] = []

    @property
    def connected(self) -> ServerAddress | None:
        """The master that the heartbeat stream goes to now; None while there is none."""
        with self._lock:
            return self._connected

    @property
    def leader(self) -> ServerAddress:
        """Where to send requests: the leader last named, else the connected master, else the first seed."""
        with self._lock:
            return self._leader or self._connected or self.seeds[0]

    @property
    def settings(self) -> MasterSettings:
        with self._lock:
            return self._settings

    @property
    def configuration(self) -> master_pb2.GetMasterConfigurationResponse | None:
        """The last GetMasterConfiguration answer that any master gave."""
        with self._lock:
            return self._configuration

    def add_settings_listener(self, callback: Callable[[MasterSettings], None]) -> Callable[[], None]:
        """Calls `callback` with the settings now and after each change, from the thread that brings it.

        Returns: a function that ends this.
        """
        with self._lock:
            self._listeners = [*self._listeners, callback]
            settings = self._settings
        callback(settings)

        def remove() -> None:
            with self._lock:
                self._listeners = [listener for listener in self._listeners if listener is not callback]

        return remove

    def set_connected(self, master: ServerAddress | None) -> None:
        """The heartbeat stream reached `master`, or broke. A master that accepts heartbeats outdates older hints."""
        with self._lock:
            self._connected = master
            if master is not None:
                self._leader = master

    def note_leader(self, leader: ServerAddress) -> None:
        """Some master named `leader`; requests go there until the heartbeat knows better."""
        with self._lock:
            self._leader = leader

    def note_unreachable(self, master: ServerAddress) -> None:
        """A request could not reach `master`: if it is still the choice, the next seed is chosen."""
        with self._lock:
            choice = self._leader or self._connected or self.seeds[0]
            if is_same_server(choice, master):
                at = next((at for at, seed in enumerate(self.seeds) if is_same_server(seed, master)), -1)
                self._leader = self.seeds[(at + 1) % len(self.seeds)]

    def note_response(self, response: master_pb2.HeartbeatResponse) -> None:
        """Takes the settings that a heartbeat response carries."""
        self._set(self.settings.updated_by(response))

    def note_configuration(self, response: master_pb2.GetMasterConfigurationResponse) -> None:
        """Takes what a GetMasterConfiguration answer carries, its leader excepted."""
        with self._lock:
            self._configuration = response
        self._set(self.settings.configured_by(response))

    def _set(self, settings: MasterSettings) -> None:
        with self._lock:
            is_changed = settings != self._settings
            self._settings = settings
            listeners = list(self._listeners) if is_changed else []
        for listener in listeners:
            listener(settings)
