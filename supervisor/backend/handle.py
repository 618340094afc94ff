"""The managed backend as the rest of the supervisor sees it: where it is, how it is, and how to end it."""

from __future__ import annotations

import logging
import signal
from enum import Enum
from typing import TYPE_CHECKING

import trio

from supervisor.backend.errors import BackendError
from supervisor.backend.ports import LOOPBACK, BackendPorts

if TYPE_CHECKING:
    from supervisor.backend.process import ChildProcess
    from supervisor.backend.restart_policy import Exit

LOG = logging.getLogger(__name__)


class BackendState(Enum):
    """STARTING, READY and BACKOFF alternate; STOPPING leads to STOPPED. STOPPED and FATAL are final."""

    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FATAL = "fatal"


class BackendNotRunning(BackendError):
    """The backend was waited for and will not come any more: it was stopped or given up."""

    def __init__(self, name: str, state: BackendState) -> None:
        super().__init__(f"the backend {name} is {state.value} and will not be ready again")
        self.name = name
        self.state = state


class BackendHandle:
    """The backend as the rest of the supervisor sees it. Attributes may be read from any thread; methods from trio's.

    `generation` counts the starts, so a change of it says that connections to the child are stale. `restarts` counts
    the starts after the first.
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
        self._state_changed = trio.Event()

    @property
    def http_address(self) -> str:
        """host:port of the child's admin HTTP. It stays the same unless another program took the port."""
        return f"{LOOPBACK}:{self.ports.http}"

    @property
    def public_address(self) -> str:
        """host:port of the child's public HTTP, meaningful when its command line opens one."""
        return f"{LOOPBACK}:{self.ports.public}"

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
        """The running child's process id."""
        return None if self._child is None else self._child.pid

    @property
    def is_ready(self) -> bool:
        return self.state is BackendState.READY

    async def wait_ready(self) -> None:
        """Returns while the child is READY, at once or when it is again.

        Raises:
            BackendNotRunning: it was stopped or given up.

        Cancellation: safe.
        """
        while not self.is_ready:
            if self.state in {BackendState.STOPPING, BackendState.STOPPED, BackendState.FATAL}:
                raise BackendNotRunning(self.name, self.state)
            await self._state_changed.wait()

    def signal_reload(self) -> None:
        """Passes a SIGHUP on: to a ready child at once, else when it is ready, for before that it could be fatal."""
        self._reload_pending = True
        self.deliver_reload()

    def request_stop(self) -> None:
        """Has the child stopped for good; `serve_backend` returns when that is done. Idempotent."""
        self._stop_requested.set()

    async def wait_stop_requested(self) -> None:
        """Returns once `request_stop` was called. Cancellation: safe."""
        await self._stop_requested.wait()

    @property
    def is_stop_requested(self) -> bool:
        return self._stop_requested.is_set()

    def enter(self, state: BackendState) -> None:
        """For `serve_backend` alone: sets the state and wakes who waits for one."""
        LOG.debug("backend %s: %s -> %s", self.name, self.state.value, state.value)
        self.state = state
        self._state_changed.set()
        self._state_changed = trio.Event()

    def deliver_reload(self) -> None:
        """For `serve_backend` alone: sends the SIGHUP that is due, if the child can take it."""
        if self._reload_pending and self.is_ready and self._child is not None:
            self._reload_pending = False
            self._child.send_signal(signal.SIGHUP)

    def attach(self, child: ChildProcess | None) -> None:
        """For `serve_backend` alone: the child that signals go to."""
        self._child = child
