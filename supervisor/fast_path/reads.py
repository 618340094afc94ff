"""The fast path of a read: a needle in memory is sent without making a `Request`.

The request is recognised (`read_request`), everything is checked that could change the answer (`RoutePolicy`, which the
ordinary way asks too), and the answer is made (`read_answer`). A request that is not answered here goes through
`HttpGateway`. Both ways give the same bytes.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from native_handlers.http_model.headers import CommonHeaders
from native_handlers.http_model.message import HeldAnswer
from supervisor.fast_path.head_fields import file_id_of
from supervisor.fast_path.read_answer import try_answer
from supervisor.fast_path.read_request import ReadMatcher
from supervisor.net.http_send import http_date
from supervisor.routing.decision import Engine
from supervisor.routing.match import match_object
from supervisor.routing.registry import AccessKind

if TYPE_CHECKING:
    from native_handlers.http.context import HttpContext
    from native_handlers.http_model.message import Answer, Listener
    from supervisor.gateway.http import HttpGateway
    from supervisor.net.http_connection import Client


class FastPathReads:
    """Answers simple reads of one listener.

    Args:
        gateway: the ordinary way. Its counts include the answers of this class.
    """

    def __init__(self, listener: Listener, context: HttpContext, gateway: HttpGateway) -> None:
        [self._route] = {match_object(listener, method) for method in ("GET", "HEAD")}
        self._context = context
        self._gateway = gateway
        self._policy = gateway.policy
        self._matcher = ReadMatcher()
        # A simple read has no Origin, so its head is the same with CORS and without.
        has_head = self._route.common_headers is not CommonHeaders.NONE
        self._is_read = has_head and self._route.access.kind is AccessKind.VOLUME_READ
        self._counted = self._route.name, Engine.NATIVE
        self._version = context.settings.version
        self._buffers = context.payload_buffers

    @property
    def known_heads(self) -> int:
        """How many different blocks of fields are remembered; see `ReadMatcher`."""
        return self._matcher.known_heads

    def answer(self, client: Client, data: bytes) -> Answer | None:
        """The whole answer, if `data` is exactly one simple read that can be answered at once; else None.

        Never waits. No act of a client or a disk makes it raise.
        """
        started_at_s = perf_counter()
        store = self._context.store
        terms = self._policy.fast_terms(self._route)
        if store is None or terms is None or not self._is_read:
            return None
        read = self._matcher.parse(data)
        if read is None:
            return None
        if terms.is_guarded and not self._policy.admits(self._route, client.host, read.token, file_id_of(data)):
            return None
        answer = try_answer(store, read, self._buffers, version=self._version, date=http_date())
        if answer is None:
            return None
        status, head, body, release = answer
        self._gateway.counts[self._counted] += 1
        if self._route.is_counted:
            self._context.metrics.count_request(read.method, status, perf_counter() - started_at_s)
        return head + body if release is None else HeldAnswer(head, memoryview(body), release)
