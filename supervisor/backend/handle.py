"""The managed backend as the rest of the supervisor sees it: its addresses, its state, and how to stop it."""

from __future__ import annotations

import logging
import signal
from enum import Enum
from typing import TYPE_CHECKING

import trio

from supervisor.backend.ports import LOOPBACK, BackendPorts

if TYPE_CHECKING:
    from supervisor.backend.process import ChildProcess
    from supervisor.backend.restart_policy import Exit

LOG = logging.getLogger(__name__)


class BackendState(Enum):
    """STARTING, READY and BACKOFF alternate. STOPPING leads to STOPPED. STOPPED and FATAL are final."""

    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FATAL = "fatal"


class BackendHandle:
    """The state of the backend. Any thread may read the attributes; only trio's thread may call methods.

    `generation` counts the starts. When it changes, connections to the child are stale. `restarts` counts the starts
    after the first one.
    """

    def __init__(self, name: str, ports: BackendPorts) -> None:
        self.name = name
        self.ports = ports
        self.state = BackendState.STARTING
        self.last_exit: Exit | None = None
        self.generation = 0
        self._child: ChildProcess | None = None
        self._reload_pending = False
        self._stop_requested = trio.Event()
        self._changed = trio.Event()

    @property
    def http_address(self) -> str:
        """host:port of the child's admin HTTP listener. It stays the same unless another program took the port."""
        return f"{LOOPBACK}:{self.ports.http}"

    @property
    def grpc_address(self) -> str:
        return f"{LOOPBACK}:{self.ports.grpc}"

    @property
    def metrics_address(self) -> str:
        return f"{LOOPBACK}:{self.ports.metrics}"

    @property
    def restarts(self) -> int:
        return max(0, self.generation - 1)

    @property
    def pid(self) -> int | None:
        """The running child's process id; None while no child runs."""
        return None if self._child is None else self._child.pid

    @property
    def is_ready(self) -> bool:
        return self.state is BackendState.READY

    def signal_reload(self) -> None:
        """Passes a SIGHUP on: at once to a ready child, else when it becomes ready.

        Before that a SIGHUP may kill it.
        """
        self._reload_pending = True
        self.deliver_reload()

    def request_stop(self) -> None:
        """Stops the child for good. `serve_backend` returns when the child has ended. A second call does nothing."""
        self._stop_requested.set()

    async def wait_stop_requested(self) -> None:
        """Returns after `request_stop` was called. Cancellation: safe."""
        await self._stop_requested.wait()

    @property
    def is_stop_requested(self) -> bool:
        return self._stop_requested.is_set()

    def enter(self, state: BackendState) -> None:
        """Sets the state. Only `serve_backend` calls this."""
        LOG.debug("backend %s: %s -> %s", self.name, self.state.value, state.value)
        self.state = state
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_changed(self) -> None:
        """Returns when the next state is entered. Cancellation: safe."""
        await self._changed.wait()

    def deliver_reload(self) -> None:
        """Sends a SIGHUP that is due, if the child can take it. Only `serve_backend` calls this."""
        if self._reload_pending and self.is_ready and self._child is not None:
            self._reload_pending = False
            self._child.send_signal(signal.SIGHUP)

    def attach(self, child: ChildProcess | None) -> None:
        """Sets the child that gets signals. Only `serve_backend` calls this."""
        self._child = child
