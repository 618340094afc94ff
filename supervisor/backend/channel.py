"""A gRPC channel to the child that follows its restarts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import grpc

from supervisor.net.grpc_options import MESSAGE_OPTIONS, METADATA_OPTIONS, OWN_CONNECTION_OPTIONS, Options

if TYPE_CHECKING:
    from supervisor.backend.handle import BackendHandle

CHANNEL_OPTIONS: Options = (
    *MESSAGE_OPTIONS,
    *METADATA_OPTIONS,
    *OWN_CONNECTION_OPTIONS,
    ("grpc.enable_retries", 0),
)
"""No proxy, for the child is on loopback; no retries, for what may have been executed is not repeated; an own
connection, so that a dead child's back-off is not shared."""


class BackendChannel:
    """Hands out the channel to the running child; thread-safe.

    A channel that lost its peer waits out a growing back-off before it connects again, so each start of the child gets
    a fresh one. The old one is let go, not closed: closing would end calls that still have a true status to deliver.
    """

    def __init__(self, handle: BackendHandle) -> None:
        self._handle = handle
        self._lock = threading.Lock()  # protects _channel and _made_for
        self._channel: grpc.Channel | None = None
        self._made_for: tuple[str, int] | None = None

    def get(self) -> grpc.Channel:
        """The channel of the present child. Calls on it fail with UNAVAILABLE at once while none is running."""
        wanted = (self._handle.grpc_address, self._handle.generation)
        with self._lock:
            if self._channel is None or self._made_for != wanted:
                self._channel = grpc.insecure_channel(wanted[0], options=CHANNEL_OPTIONS)
                self._made_for = wanted
            return self._channel

    def close(self) -> None:
        """Ends the channel and every call on it."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()
            self._channel = self._made_for = None
