"""The fast paths of the native engine, for all listeners: small reads, small writes and deletes.

`forwards` is the fast path of requests for the backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http_model.message import Listener
from supervisor.fast_path.reads import FastPathReads
from supervisor.fast_path.write_batch import DiskBatches
from supervisor.fast_path.writes import FastPathWrites

if TYPE_CHECKING:
    from native_handlers.http.context import HttpContext
    from native_handlers.http_model.message import FastAnswer
    from supervisor.gateway.http import HttpGateway
    from supervisor.net.http_connection import Client

_READS = (b"GET ", b"HEAD ")


class FastPath:
    """Answers of the native engine that need no `Request`; none where this process has no volumes. To be closed.

    Args:
        gateway: the ordinary way.
        batches: makes the changes of each turn.
    """

    def __init__(self, context: HttpContext, gateway: HttpGateway, batches: DiskBatches | None = None) -> None:
        self._has_volumes = context.open_volumes is not None
        self._batches = batches or DiskBatches()
        self._reads = {listener: FastPathReads(listener, context, gateway) for listener in Listener}
        writes = [FastPathWrites(listener, context, gateway, self._batches) for listener in Listener]
        self._writes = {one.listener: one for one in writes if one.has_routes}

    def answer(self, client: Client, data: bytes) -> FastAnswer:
        """See `FastPathReads.answer` and `FastPathWrites.answer`."""
        if not self._has_volumes:
            return None
        if data.startswith(_READS):
            return self._reads[client.listener].answer(client, data)
        writes = self._writes.get(client.listener)
        return None if writes is None else writes.answer(client, data)

    def close(self) -> None:
        """Ends the threads that write."""
        self._batches.close()
