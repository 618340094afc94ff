"""A gRPC channel to the child, renewed when the child restarts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import grpc

from supervisor.net.grpc_options import MESSAGE_OPTIONS, METADATA_OPTIONS, NO_RETRIES, OWN_CONNECTION_OPTIONS, Options

if TYPE_CHECKING:
    from supervisor.backend.handle import BackendHandle

CHANNEL_OPTIONS: Options = (
    *MESSAGE_OPTIONS,
    *METADATA_OPTIONS,
    *OWN_CONNECTION_OPTIONS,
    *NO_RETRIES,
)
"""No proxy, because the child is on loopback. No retries, because a call that may have run is not repeated. A
connection of its own, so that the back-off after a dead child is not shared."""


class BackendChannel:
    """Gives the channel to the running child. Thread-safe.

    A channel that lost its server waits longer and longer before it connects again. So each start of the child gets a
    new channel. The old channel is dropped and not closed: closing would end calls that still have a status to deliver.
    """

    def __init__(self, handle: BackendHandle) -> None:
        self._handle = handle
        self._lock = threading.Lock()  # protects _channel and _made_for
        self._channel: grpc.Channel | None = None
        self._made_for: tuple[str, int] | None = None

    def get(self) -> grpc.Channel:
        """The channel of the current child. While no child runs, calls on it fail with UNAVAILABLE at once."""
        wanted = (self._handle.grpc_address, self._handle.generation)
        with self._lock:
            if self._channel is None or self._made_for != wanted:
                self._channel = grpc.insecure_channel(wanted[0], options=CHANNEL_OPTIONS)
                self._made_for = wanted
            return self._channel

    def close(self) -> None:
        """Closes the channel, and ends every call on it."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()
            self._channel = self._made_for = None
