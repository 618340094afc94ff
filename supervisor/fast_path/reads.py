"""The fast path of a read: a needle in memory is sent without making a `Request`.

The request is recognised (`read_request`), everything is checked that could change the answer (`RoutePolicy`, which the
ordinary way asks too), and the answer is made (`read_answer`). A request that is not answered here goes through
`HttpGateway`. Both ways give the same bytes.
"""

from __future__ import annotations

import logging
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from native_handlers.http_model.headers import CommonHeaders
from native_handlers.http_model.message import HeldAnswer, Listener
from supervisor.fast_path.head_fields import file_id_of, target_of
from supervisor.fast_path.read_answer import ReadAnswers
from supervisor.fast_path.read_request import ReadMatcher
from supervisor.gateway.route_policy import access_log, log_answer
from supervisor.net.http_send import http_date
from supervisor.routing.decision import Engine
from supervisor.routing.match import match_object
from supervisor.routing.registry import AccessKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.http.context import HttpContext
    from native_handlers.http_model.message import Answer
    from supervisor.gateway.http import HttpGateway
    from supervisor.gateway.throttle import InflightBytes
    from supervisor.net.http_connection import Client


class FastPathReads:
    """Answers simple reads of one listener.

    Args:
        gateway: the ordinary way. Its counts include the answers of this class.
    """

    def __init__(self, listener: Listener, context: HttpContext, gateway: HttpGateway) -> None:
        [self._route] = {match_object(listener, method) for method in ("GET", "HEAD")}
        self._volumes = context.open_volumes
        self._gateway = gateway
        self._policy = gateway.policy
        self._matcher = ReadMatcher()
        # A simple read has no Origin, so its head is the same with CORS and without.
        has_head = self._route.common_headers is not CommonHeaders.NONE
        self._is_read = has_head and self._route.access.kind is AccessKind.VOLUME_READ
        self._counted = self._route.name, Engine.NATIVE
        metrics, self._metrics = context.metrics, context.metrics if self._route.is_counted else None
        self._is_in_flight = listener is Listener.ADMIN
        self._count = metrics.count_at_once if self._is_in_flight else metrics.count_request
        self._answers = ReadAnswers(context.payload_buffers, context.settings)

    @property
    def known_heads(self) -> int:
        """How many different blocks of fields are remembered; see `ReadMatcher`."""
        return self._matcher.known_heads

    def answer(self, client: Client, data: bytes) -> Answer | None:
        """The whole answer, if `data` is exactly one simple read that can be answered at once; else None.

        Never waits. No act of a client or a disk makes it raise.
        """
        started_at_s = perf_counter()
        volumes = self._volumes
        terms = self._policy.fast_terms(self._route)
        if volumes is None or terms is None or not self._is_read:
            return None
        read = self._matcher.parse(data)
        if read is None:
            return None
        is_guarded, inflight, is_bounded = terms
        if is_guarded and not self._policy.admits(self._route, client.host, read.token, file_id_of(data)):
            return None
        if is_bounded and inflight is not None and inflight.must_wait():
            return None
        answer = self._answers.try_answer(volumes, read, http_date())
        if answer is None:
            return None
        status, head, body, release = answer
        self._gateway.counts[self._counted] += 1
        duration_s = perf_counter() - started_at_s
        if access_log.isEnabledFor(logging.DEBUG):
            client_name = client.host, client.port
            log_answer(client_name, read.method, target_of(data), status, self._route, Engine.NATIVE, duration_s)
        if release is None and not (is_bounded and body):
            if self._metrics is not None:
                self._count(read.method, status, duration_s)
            return head + body
        count = self._counting(inflight, len(body), read.method, status, started_at_s)
        return HeldAnswer(head, memoryview(body), count if release is None else partial(_both, release, count))

    def _counting(  # noqa: PLR0913, PLR0917  a part of `answer`
        self, inflight: InflightBytes | None, length_bytes: int, method: str, status: int, started_at_s: float
    ) -> Callable[[], None]:
        """Counts a request as in flight until the result is called, and then as answered."""
        if inflight is not None:
            inflight.add(length_bytes)
        if self._metrics is not None and self._is_in_flight:
            self._metrics.begin(method)

        def end() -> None:
            if inflight is not None:
                inflight.remove(length_bytes)
            if self._metrics is not None:
                if self._is_in_flight:
                    self._metrics.end(method)
                self._metrics.count_request(method, status, perf_counter() - started_at_s)

        return end


def _both(first: Callable[[], None], second: Callable[[], None]) -> None:
    first()
    second()
