"""Signals and the stop request. `supervisor.app` decides the order in which parts stop.

TERM, INT and ALRM ask for a drain, as in upstream (weed/util/grace). A second one ends the wait at once. HUP reloads.
Source of the order: weed/command/volume.go (grace.OnInterrupt).
"""

from __future__ import annotations

import logging
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio

from native_handlers.storage.model.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
DRAIN_HTTP_S = 30.0
"""As upstream on the admin port. Source: weed/command/volume.go (startClusterHttpService)."""
DRAIN_GRPC_S = 30.0


class Reloads:
    """The work of a node's running parts at SIGHUP, after the security files and the routing table were read."""

    def __init__(self) -> None:
        self._parts: list[Callable[[], Awaitable[object]]] = []

    @contextmanager
    def including(self, part: Callable[[], Awaitable[object]]) -> Iterator[None]:
        """Inside the block, each reload calls `part`."""
        self._parts.append(part)
        try:
            yield
        finally:
            self._parts.remove(part)

    async def run(self) -> None:
        """Calls every part, side by side, and returns when all have ended. If one fails, the log says so.

        A part may wait for a disk that hangs, and another one tells workers of keys that are not valid any more.
        """
        async with trio.open_nursery() as nursery:
            for part in list(self._parts):
                nursery.start_soon(_run_part, part)


async def _run_part(part: Callable[[], Awaitable[object]]) -> None:
    try:
        await part()
    except (OSError, StorageError) as error:
        log.error("a part of the reload failed: %s", error)
    except Exception:
        # The other parts go on, and so does the server, as where the whole reload fails.
        log.exception("a part of the reload failed")


class StopRequest:
    """Says that the process must end: with a drain after the first request, at once after the second.

    Attributes:
        is_asked: whether a stop was asked for.
        reason: why; "" before that.
    """

    def __init__(self) -> None:
        self._gently = trio.Event()
        self._at_once = trio.Event()
        self.is_asked = False
        self.reason = ""

    def ask(self, reason: str) -> None:
        """The first call starts the drain. The second call ends its waits."""
        if self._gently.is_set():
            log.warning("%s again: not waiting for what is in flight", reason)
            self._at_once.set()
            return
        self.reason = reason
        self.is_asked = True
        self._gently.set()

    async def wait(self) -> None:
        await self._gently.wait()

    async def wait_forced(self) -> None:
        """Returns after a stop was asked for twice."""
        await self._at_once.wait()

    async def sleep_unless_forced(self, duration_s: float) -> None:
        """Waits for `duration_s`, or until the second stop request."""
        with trio.move_on_after(duration_s):
            await self._at_once.wait()


async def serve_signals(
    stop: StopRequest, reload: Callable[[], Awaitable[None]], *, task_status: trio.TaskStatus[None]
) -> None:
    """Turns signals into `stop` and `reload`, until cancelled. `started` is called when the signals are caught.

    A reload that fails ends nothing. A reload that hangs delays no stop signal. Of further SIGHUPs during a reload one
    is kept.
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
                # The server goes on with the old configuration, because ending it over a reload would be worse.
                log.exception("SIGHUP: the reload failed; what it had not reached stays as it was")
