"""The ports of an HTTP worker: what all kinds of workers do in the same way."""

from __future__ import annotations

import socket
import time
from functools import partial
from typing import TYPE_CHECKING

from supervisor.assembly.http_service import HEALTH_REQUESTS, turn_away
from supervisor.fast_path.long_requests import LONG_REQUESTS
from supervisor.net.http_limits import HttpLimits
from supervisor.net.http_server import serve_http
from supervisor.net.listeners import BoundListener, SharedAccept
from supervisor.net.tls import TlsContextSource
from supervisor.workers.board import ConnectionBoard, PublishedSeats
from supervisor.workers.counts import WorkerCounts

if TYPE_CHECKING:
    from collections import Counter

    import trio

    from native_handlers.runtime.server_counts import ServerCounts
    from supervisor.net.http_server import Handle, TryAnswer, TryForward
    from supervisor.routing.decision import Engine
    from supervisor.workers.settings import InheritedListener, WorkerSettings


class WorkerPorts:
    """The ports that a worker serves, its seats, and the board. The caller calls `close`.

    Raises:
        BadCertificate: the certificate of the admin port cannot be used now.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._limits = HttpLimits(idle_timeout_s=settings.idle_timeout_s, drain_s=settings.drain_s)
        self._listeners = [_listener(one) for one in settings.listeners]
        self.board = ConnectionBoard(settings.board_descriptor)
        self._seats = PublishedSeats("HTTP", settings.seats, self.board, settings.count, settings.number)

    def counts(
        self, requests: Counter[tuple[str, Engine]], counts: ServerCounts, *, handed_on: int = 0
    ) -> WorkerCounts:
        """The counts of the worker: `requests` and `counts`, and its connections."""
        seats = self._seats
        return WorkerCounts(requests, counts.snapshot(), seats.open_count, seats.given_up, seats.refused, handed_on)

    def close(self) -> None:
        """Frees the board."""
        self.board.close()

    async def serve(
        self,
        handle: Handle,
        *,
        fast_path: TryAnswer | None = None,
        forward: TryForward | None = None,
        task_status: trio.TaskStatus[trio.CancelScope],
    ) -> None:
        """As `serve_http`, on these ports."""
        await serve_http(
            self._listeners,
            handle,
            limits=self._limits,
            fast_path=fast_path,
            forward=forward,
            seats=self._seats,
            turn_away=partial(turn_away, handle),
            urgent=HEALTH_REQUESTS,
            long_requests=LONG_REQUESTS,
            shared=SharedAccept(self._seats.pause_s, self._seats.in_a_row),
            task_status=task_status,
        )


def _listener(inherited: InheritedListener) -> BoundListener:
    tls = None if inherited.tls is None else TlsContextSource(inherited.tls, time.monotonic)
    return BoundListener(socket.socket(fileno=inherited.descriptor), inherited.kind, tls)
