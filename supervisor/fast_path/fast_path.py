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


_ADMIN = Listener.ADMIN
"""Looking a member of an enum up by its name takes a call in Python 3.11: too much for each request."""


class FastPath:
    """Answers of the native engine that need no `Request`; none where this process has no store. To be closed.

    Args:
        gateway: the ordinary way.
        batches: makes the changes of each turn.
    """

    def __init__(self, context: HttpContext, gateway: HttpGateway, batches: DiskBatches | None = None) -> None:
        self._has_store = context.store is not None
        self._batches = batches or DiskBatches()
        self._reads = {listener: FastPathReads(listener, context, gateway) for listener in Listener}
        self._writes = FastPathWrites(Listener.ADMIN, context, gateway, self._batches)

    def answer(self, listener: Listener, data: bytes) -> FastAnswer:
        """See `FastPathReads.answer` and `FastPathWrites.answer`."""
        if not self._has_store:
            return None
        if data.startswith(b"G"):
            return self._reads[listener].answer(data)
        # The public listener takes no writes.
        return self._writes.answer(data) if listener is _ADMIN else None

    def close(self) -> None:
        """Ends the threads that write."""
        self._batches.close()
