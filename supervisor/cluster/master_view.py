"""The last settings and leader that the masters announced. Heartbeat, relay, look-ups and native store share them."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.pb import master_pb2
from native_handlers.records import dataclass
from supervisor.cluster.identity import is_same_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from supervisor.wire.server_address import ServerAddress


@dataclass(frozen=True, slots=True)
class MasterSettings:
    """The settings of a master for its volume servers. A size limit of 0 and an empty address mean "not said yet"."""

    volume_size_limit_bytes: int = 0
    preallocate: bool = False
    metrics_address: str = ""
    metrics_interval_s: int = 0
    storage_backends: tuple[master_pb2.StorageBackend, ...] = ()

    def updated_by(self, response: master_pb2.HeartbeatResponse) -> MasterSettings:
        """These settings after `response`. `preallocate` is a plain bool, so every response states it.

        Source: weed/server/volume_grpc_client_to_master.go (doHeartbeatWithRetry).
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
        """These settings after the answer to GetMasterConfiguration, which each server asks for at its start."""
        return replace(
            self,
            metrics_address=response.metrics_address,
            metrics_interval_s=response.metrics_interval_seconds,
            storage_backends=tuple(response.storage_backends),
        )


class MasterView:
    """The masters as this process knows them: seeds, the current one, its settings. Thread-safe."""

    def __init__(self, seeds: Sequence[ServerAddress], own_backends: Sequence[master_pb2.StorageBackend] = ()) -> None:
        """`own_backends` are tiers of this server's own configuration. They come before a master's of the same name."""
        self.seeds = tuple(seeds)
        self.own_backends = tuple(own_backends)
        self._lock = threading.Lock()  # protects everything below
        self._connected: ServerAddress | None = None
        self._leader: ServerAddress | None = None
        self._settings = MasterSettings(storage_backends=self.own_backends)
        self._configuration: master_pb2.GetMasterConfigurationResponse | None = None
        self._listeners: list[Callable[[MasterSettings], None]] = []
        self._awaiting_master: list[Callable[[], None]] = []

    @property
    def connected(self) -> ServerAddress | None:
        """The master of the open heartbeat stream; None while there is none."""
        with self._lock:
            return self._connected

    @property
    def leader(self) -> ServerAddress:
        """Where requests go: the leader that was named last, else the connected master, else the first seed."""
        with self._lock:
            return self._leader or self._connected or self.seeds[0]

    @property
    def settings(self) -> MasterSettings:
        with self._lock:
            return self._settings

    @property
    def configuration(self) -> master_pb2.GetMasterConfigurationResponse | None:
        """The last GetMasterConfiguration answer of any master, with this server's own tiers; None before the first."""
        with self._lock:
            return self._configuration

    def add_settings_listener(self, callback: Callable[[MasterSettings], None]) -> Callable[[], None]:
        """Calls `callback` with the settings now, and after each change, from the thread that makes the change.

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
        """Notes that the heartbeat stream reached `master`, or broke (None).

        A connected master counts as the leader.
        """
        awaiting: list[Callable[[], None]] = []
        with self._lock:
            self._connected = master
            if master is not None:
                self._leader = master
                awaiting, self._awaiting_master = self._awaiting_master, []
        for callback in awaiting:
            callback()

    def when_connected(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once when a master has taken this node: now, or from the thread of the heartbeat."""
        with self._lock:
            is_connected = self._connected is not None
            if not is_connected:
                self._awaiting_master.append(callback)
        if is_connected:
            callback()

    def note_leader(self, leader: ServerAddress) -> None:
        """Notes that a master named `leader`. Requests go there until the heartbeat connects."""
        with self._lock:
            self._leader = leader

    def note_unreachable(self, master: ServerAddress) -> None:
        """Notes that a request could not reach `master`. If requests would go there, the next seed is chosen."""
        with self._lock:
            choice = self._leader or self._connected or self.seeds[0]
            if is_same_server(choice, master):
                at = next((at for at, seed in enumerate(self.seeds) if is_same_server(seed, master)), -1)
                self._leader = self.seeds[(at + 1) % len(self.seeds)]

    def note_response(self, response: master_pb2.HeartbeatResponse) -> None:
        """Takes the settings of a heartbeat response."""
        settings = self.settings.updated_by(response)
        self._set(replace(settings, storage_backends=self._with_own(settings.storage_backends)))

    def note_configuration(self, response: master_pb2.GetMasterConfigurationResponse) -> None:
        """Takes a GetMasterConfiguration answer, except for its leader."""
        completed = master_pb2.GetMasterConfigurationResponse()
        completed.CopyFrom(response)
        del completed.storage_backends[:]
        completed.storage_backends.extend(self._with_own(response.storage_backends))
        with self._lock:
            self._configuration = completed
        self._set(self.settings.configured_by(completed))

    def _with_own(self, told: Iterable[master_pb2.StorageBackend]) -> tuple[master_pb2.StorageBackend, ...]:
        own = {(backend.type, backend.id) for backend in self.own_backends}
        return (*self.own_backends, *(backend for backend in told if (backend.type, backend.id) not in own))

    def _set(self, settings: MasterSettings) -> None:
        with self._lock:
            is_changed = settings != self._settings
            self._settings = settings
            listeners = list(self._listeners) if is_changed else []
        for listener in listeners:
            listener(settings)
