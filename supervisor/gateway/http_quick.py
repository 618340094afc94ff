"""The short way of a request: a plain GET of a needle that memory holds is answered without making a request of it.

Everything that could make a difference is looked at first: the table, the read key, the limits, the access log. What
is not answered here goes the long way through `HttpGateway`, to which no answer of this one can be told apart.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from native_handlers.http.quick_read import quick_answer
from supervisor.gateway.http import access_log
from supervisor.net.http_send import http_date
from supervisor.routing.decision import Engine
from supervisor.routing.match import match_object
from supervisor.routing.states import State
from supervisor.wire.http1_quick import PlainGets

if TYPE_CHECKING:
    from native_handlers.http.context import HttpContext
    from native_handlers.http.message import Answer, Listener
    from supervisor.gateway.guard import Guard
    from supervisor.gateway.http import HttpGateway
    from supervisor.routing.live import LiveTable


class QuickReads:
    """Answers plain GETs of one listener.

    Args:
        gateway: the long way. It counts what is answered here too.
    """

    def __init__(
        self,
        listener: Listener,
        table: LiveTable,
        context: HttpContext,
        guard: Guard,
        gateway: HttpGateway,
    ) -> None:
        self._route = match_object(listener, "GET").name
        self._table = table
        self._context = context
        self._guard = guard
        self._gateway = gateway
        self._gets = PlainGets()
        self._version = context.settings.version
        self._buffers = context.payload_buffers
        self._counted = self._route, Engine.NATIVE

    def answer(self, data: bytes) -> Answer | None:
        """The whole answer to `data`, if that is all of a plain GET that can be answered at once; else None.

        Never waits, never raises for what a client or a disk does.
        """
        store = self._context.store
        if store is None or not self._is_open():
            return None
        file_id = self._gets.file_id_in(data)
        if file_id is None:
            return None
        answer = quick_answer(store, file_id, self._buffers, version=self._version, date=http_date())
        if answer is not None:
            self._gateway.counts[self._counted] += 1
        return answer

    def _is_open(self) -> bool:
        """Whether each read is the native handler's, is open to all at any time, and leaves no line in the log."""
        table = self._table.current()
        if table.states[self._route] is not State.NATIVE or self._route in table.absent:
            return False
        if self._guard.auth_keys().read_key or self._gateway.limits_downloads:
            return False
        return not access_log.isEnabledFor(logging.DEBUG)
