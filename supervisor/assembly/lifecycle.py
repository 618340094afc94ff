"""Signals and the order of stopping. What is stopped is the composition root's business (`supervisor.app`).

TERM, INT and ALRM ask for a drain, as upstream does (weed/util/grace); a second TERM or INT ends the wait at once.
HUP reloads. Source of the order: weed/command/volume.go, grace.OnInterrupt.
"""

from __future__ import annotations

import logging
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
DRAIN_HTTP_S = 30.0
"""As upstream on the admin port. Source: weed/command/volume.go, startClusterHttpService."""
DRAIN_GRPC_S = 30.0


class StopRequest:
    """Says that the process is to end: `gently` first, `at_once` when asked a second time."""

    def __init__(self) -> None:
        self._gently = trio.Event()
        self._at_once = trio.Event()
        self.reason = ""

    def ask(self, reason: str) -> None:
        """The first call starts the drain, the second ends its waits."""
        if self._gently.is_set():
            log.warning("%s again: not waiting for what is in flight", reason)
            self._at_once.set()
            return
        self.reason = reason
        self._gently.set()

    @property
    def is_asked(self) -> bool:
        return self._gently.is_set()

    async def wait(self) -> None:
        await self._gently.wait()

    async def wait_hurried(self) -> None:
        """Returns once a stop was asked for twice."""
        await self._at_once.wait()

    async def sleep_unless_hurried(self, duration_s: float) -> None:
        """Waits `duration_s`, or until a second request."""
        with trio.move_on_after(duration_s):
            await self._at_once.wait()


async def serve_signals(
    stop: StopRequest, reload: Callable[[], Awaitable[None]], *, task_status: trio.TaskStatus[None]
) -> None:
    """Turns signals into `stop` and `reload` until cancelled; started() once they are caught.

    A reload that fails ends nothing, and one that hangs keeps no stop signal waiting. Of hang-ups that come meanwhile
    one is kept.
    """
    ask, asked = trio.open_memory_channel[None](1)
    with ask, trio.open_signal_receiver(*STOP_SIGNALS, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve_reloads, asked, reload)
            task_status.started()
            async for number in signals:
                if number != signal.SIGHUP:
                    stop.ask(signal.Signals(number).name)
                    continue
                with suppress(trio.WouldBlock):
                    ask.send_nowait(None)


async def _serve_reloads(asked: trio.MemoryReceiveChannel[None], reload: Callable[[], Awaitable[None]]) -> None:
    with asked:
        async for _ in asked:
            log.info("SIGHUP: reloading")
            try:
                await reload()
            except Exception:
                # A server that goes on with what it had is worth more than one that ended over a reload.
                log.exception("SIGHUP: the reload failed; what it had not reached stays as it was")
