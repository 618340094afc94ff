"""What a worker serves where the parent has the volumes: it hands requests on to the parent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from native_handlers.runtime.server_counts import ServerCounts
from supervisor.assembly.worker_ports import WorkerPorts
from supervisor.fast_path.hand_on import HandOn, client_field
from supervisor.net.http_client import Address, HttpPool, PoolLimits
from supervisor.net.http_connect import UnixConnector
from supervisor.net.http_forward import Forwarder

if TYPE_CHECKING:
    from supervisor.workers.counts import WorkerCounts
    from supervisor.workers.settings import AccessRules, BackendAddress, WorkerSettings

CLOSE_S = 2.0
"""How long closing the kept connections may take."""
_PARENT = Address("the main process", 0)


class NativeWorker:
    """Serves HTTP of one worker of a native server. See `supervisor.workers.service.Serving`.

    Raises:
        BadCertificate: the certificate of the admin port cannot be used now.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        assert settings.parent_descriptor is not None, "the server has a backend, or the parent has a socket"
        connect = UnixConnector(Path(f"/proc/self/fd/{settings.parent_descriptor}"))
        self._pool = HttpPool(PoolLimits(max_connections=settings.links), connect=connect)
        forwarder = Forwarder(self._pool, lambda _listener: _PARENT, first_field=client_field, name=_PARENT.host)
        self._hand_on = HandOn(forwarder)
        self._counts = ServerCounts()
        self._ports = WorkerPorts(settings)

    def set_access(self, rules: AccessRules) -> None:
        """Changes nothing: the parent checks each request."""

    def set_backend(self, address: BackendAddress) -> None:
        raise AssertionError(f"there is no backend, and now one at {address}")

    def set_stopping(self) -> None:
        """Changes nothing: the parent answers health checks."""

    def counts(self) -> WorkerCounts:
        return self._ports.counts(Counter(), self._counts, handed_on=self._hand_on.count)

    async def serve(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        try:
            await self._ports.serve(self._hand_on.handle, forward=self._hand_on.begin, task_status=task_status)
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._pool.drop_idle()
