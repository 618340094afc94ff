"""The fast path of a request: a simple GET of a needle in memory is answered without making a `Request`.

First everything is checked that could change the answer: `RoutePolicy` says whether reads of the route are free. The
ordinary way asks the same policy. A request that is not answered here goes through `HttpGateway`. Both ways give the
same bytes.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import TYPE_CHECKING

from native_handlers.http_model.headers import CommonHeaders
from native_handlers.http_model.target import SIMPLE_PATH
from supervisor.fast_path.ignored_fields import IGNORED_FIELDS
from supervisor.fast_path.read_answer import try_answer
from supervisor.net.http_send import http_date
from supervisor.routing.decision import Engine
from supervisor.routing.match import match_object
from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1 import ServerConnection
from supervisor.wire.http1_events import RequestHead

if TYPE_CHECKING:
    from native_handlers.http.context import HttpContext
    from native_handlers.http_model.message import Answer, Listener
    from supervisor.gateway.http import HttpGateway


class FastPathReads:
    """Answers simple GETs of one listener.

    Args:
        gateway: the ordinary way. Its counts include the answers of this class.
    """

    def __init__(self, listener: Listener, context: HttpContext, gateway: HttpGateway) -> None:
        self._route = match_object(listener, "GET")
        self._context = context
        self._gateway = gateway
        self._policy = gateway.policy
        # A simple GET has no Origin, so its head is the same with CORS and without.
        self._has_head = self._route.common_headers is not CommonHeaders.NONE
        self._gets = SimpleGetMatcher()
        self._version = context.settings.version
        self._buffers = context.payload_buffers
        self._counted = self._route.name, Engine.NATIVE

    @property
    def known_heads(self) -> int:
        """How many different header blocks are remembered; see `SimpleGetMatcher`."""
        return self._gets.known_heads

    def answer(self, data: bytes) -> Answer | None:
        """The whole answer, if `data` is exactly one simple GET that can be answered at once; else None.

        Never waits. No act of a client or a disk makes it raise.
        """
        started_at_s = perf_counter()
        store = self._context.store
        if store is None or not self._has_head or not self._policy.is_free_read(self._route):
            return None
        file_id = self._gets.file_id_in(data)
        if file_id is None:
            return None
        answer = try_answer(store, file_id, self._buffers, version=self._version, date=http_date())
        if answer is not None:
            self._gateway.counts[self._counted] += 1
            if self._route.is_counted:
                self._context.metrics.count_request("GET", 200, perf_counter() - started_at_s)
        return answer


# ---- Recognises the common request: a whole GET of a file id with no field that matters.
#
# The fields of such requests are mostly the same bytes again. So each block of fields is parsed once, by
# `ServerConnection`, and the verdict is remembered. All bytes that are not known as a simple GET go to
# `ServerConnection`.

_LINE = re.compile(b"GET " + SIMPLE_PATH.encode() + rb" HTTP/1\.1\r\n")
_MAX_BLOCK_BYTES = 2048
_MAX_BLOCKS = 256


class SimpleGetMatcher:
    """Recognises simple GETs. Its memory is bounded; all connections of a listener may share it."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: dict[bytes, bool] = {}

    @property
    def known_heads(self) -> int:
        """How many different header blocks are remembered; at most 256."""
        return len(self._blocks)

    def file_id_in(self, data: bytes) -> tuple[int, int, int] | None:
        """Volume id, needle id and cookie, if `data` is exactly one simple GET; else None."""
        match = _LINE.match(data)
        if match is None:
            return None
        block = data[match.end() :]
        is_simple = self._blocks.get(block)
        if is_simple is None:
            is_simple = self._learn(block)
        if not is_simple:
            return None
        volume_id, needle_id, cookie = match.groups()
        return int(volume_id), int(needle_id, 16), int(cookie, 16)

    def _learn(self, block: bytes) -> bool:
        if len(block) > _MAX_BLOCK_BYTES:
            return False
        if len(self._blocks) >= _MAX_BLOCKS:
            self._blocks.clear()
        self._blocks[block] = is_simple = _is_simple(block)
        return is_simple


def _is_simple(block: bytes) -> bool:
    connection = ServerConnection()
    connection.receive_data(b"GET / HTTP/1.1\r\n" + block)
    try:
        head = connection.next_event()
    except RemoteProtocolError:
        return False
    if not isinstance(head, RequestHead) or connection.buffered_bytes:
        return False
    names = {name.lower() for name, _ in head.headers}
    return head.keep_alive and head.body_length_bytes == 0 and not head.expects_continue and names <= IGNORED_FIELDS
