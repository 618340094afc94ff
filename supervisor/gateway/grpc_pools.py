"""The threads of the gRPC gateway: how many calls run at once, and how large their messages may be."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import field
from math import inf
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from native_handlers.records import dataclass
from supervisor.gateway.grpc_shares import ShareRule, StallLimits
from supervisor.net.grpc_options import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.routing.registry import Route

P = ParamSpec("P")
T = TypeVar("T")

MAX_SMALL_REQUEST_BYTES = 16 << 20
"""The longest request of an RPC without `Route.takes_large_requests`. Such a request names some volumes and has a few
options. Upstream accepts a gigabyte there too. A message is decoded, and repeated in errors, while other calls wait."""


def max_request_bytes(route: Route) -> int:
    """The longest message of a request, in bytes."""
    return MAX_MESSAGE_BYTES if route.takes_large_requests else MAX_SMALL_REQUEST_BYTES


DECIDING_THREADS = 16
"""More threads than places: a call needs a thread until it has a place or is refused, which takes no time."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How many calls run at once. Each holds a thread; a forwarded client-streaming call holds two.

    Unary and streaming calls are counted apart, so that open streams never keep a unary call waiting. `Route.pool` says
    which unary calls count as streams. `rule` says how much of that one client may have. `stalls` says when a call that
    waits for its client is ended; see `grpc_shares`. A call beyond its bound is refused with RESOURCE_EXHAUSTED.
    Threads start when they are first needed.
    """

    unary: int = 256
    streaming: int = 512
    rule: ShareRule = field(default_factory=ShareRule)
    stalls: StallLimits = field(default_factory=StallLimits)


BEHIND_A_FRONT = CallLimits(
    unary=512,
    streaming=1024,
    rule=ShareRule(connection=1, host=1, strangers=1),
    stalls=StallLimits(yields_first_s=inf, yields_later_s=inf),
)
"""For a native child, whose clients all come over the one connection of the front. The front has given each client its
share, and ends calls to make room. The child has more places than the front, for calls that the front has just
ended."""


class CountedPool(ThreadPoolExecutor):
    """As many threads as calls are admitted, and some for calls that are not decided yet."""

    def __init__(self, max_calls: int, name: str) -> None:
        super().__init__(max_workers=max_calls + DECIDING_THREADS, thread_name_prefix=name)
        self._count_lock = threading.Lock()  # protects _running
        self._running = 0

    @property
    def running(self) -> int:
        return self._running

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with self._count_lock:
            self._running += 1
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._on_done)
        return future

    def _on_done(self, _future: Future[Any]) -> None:
        with self._count_lock:
            self._running -= 1
