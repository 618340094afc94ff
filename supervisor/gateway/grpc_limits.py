"""How much one gRPC server carries: upstream's limits, and bounds on what a thread per call costs."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from supervisor.net.grpc_options import KEEPALIVE_OPTIONS, MESSAGE_OPTIONS, METADATA_OPTIONS, Options

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

MAX_STREAMS_PER_CONNECTION = 1000
MIN_CLIENT_PING_MS = 20_000
HANDSHAKE_TIMEOUT_MS = 20_000

SERVER_OPTIONS: Options = (
    *MESSAGE_OPTIONS,
    *METADATA_OPTIONS,
    ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
    *KEEPALIVE_OPTIONS,
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_CLIENT_PING_MS),
    # A client that never sends its preface is let go after this.
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    # Else another process of the same user could bind the same port and be handed some of our connections.
    ("grpc.so_reuseport", 0),
)
"""Source: weed/pb/grpc_client_server.go, NewGrpcServer."""


LONG_UNARY = frozenset(
    {
        "FetchAndWriteNeedle",
        "ScrubEcVolume",
        "ScrubVolume",
        "VolumeConsolidateIndex",
        "VolumeEcShardsCopy",
        "VolumeEcShardsGenerate",
        "VolumeEcShardsRebuild",
        "VolumeEcShardsToVolume",
        "VolumeTailReceiver",
    }
)
"""RPCs with one answer that may take as long as a stream: they follow other servers or go through whole volumes."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How many calls run at once; each holds a thread (a client-streaming one that is forwarded holds two).

    Unary and streaming calls are counted apart, so that open streams never keep a unary call waiting; `LONG_UNARY`
    count as streams. A call past its bound is refused with RESOURCE_EXHAUSTED. Threads start when they are first
    needed.
    """

    unary: int = 256
    streaming: int = 512


class CountedPool(ThreadPoolExecutor):
    """As many threads as calls are let in, so a call that is let in never waits for a thread.

    `has_room` is exact for whoever is the only one to submit: grpcio asks for a handler and submits in one thread.
    """

    def __init__(self, max_calls: int, name: str) -> None:
        super().__init__(max_workers=max_calls, thread_name_prefix=name)
        self.max_calls = max_calls
        self._count_lock = threading.Lock()  # protects _running
        self._running = 0

    @property
    def running(self) -> int:
        return self._running

    @property
    def has_room(self) -> bool:
        return self._running < self.max_calls

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with self._count_lock:
            self._running += 1
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._on_done)
        return future

    def _on_done(self, _future: Future[Any]) -> None:
        with self._count_lock:
            self._running -= 1
