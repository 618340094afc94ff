"""The one client of the real master's heartbeat stream: which master to talk to, when to try again, when to stop.

Source: weed/server/volume_grpc_client_to_master.go, heartbeat. Wilful difference: the wait after an error is jittered,
so that a fleet does not come back to a restarted master in step.
"""

from __future__ import annotations

import logging
import random
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from supervisor.cluster.errors import DuplicateDirectories
from supervisor.cluster.heartbeat_session import (
    Broken,
    Duplicated,
    HeartbeatSession,
    HeartbeatTimings,
    Redirected,
    SessionEnd,
    Stopped,
)
from supervisor.cluster.master_view import MasterView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from supervisor.cluster.dial import Dial
    from supervisor.cluster.identity import NodeIdentity
    from supervisor.cluster.node_model import NodeModel
    from supervisor.wire.server_address import ServerAddress

_log = logging.getLogger(__name__)
DEFAULT_TIMINGS = HeartbeatTimings()
_JITTER = 0.4  # the wait after an error is a pulse, plus up to this part of it


class HeartbeatHandle:
    """What others may ask of the heartbeat, from any thread."""

    def __init__(self, view: MasterView) -> None:
        self.view = view
        self._lock = threading.Lock()  # protects everything below
        self._session: HeartbeatSession | None = None
        self._has_left = False
        self._disconnections: dict[str, int] = {}
        self._wake: Callable[[], None] = lambda: None

    @property
    def is_heartbeating(self) -> bool:
        """True until we leave or stop, also while no master is reachable: health checks rely on that."""
        with self._lock:
            return not self._has_left

    @property
    def is_connected(self) -> bool:
        """Whether a master has accepted us on the stream that is open now."""
        return self.view.connected is not None

    @property
    def disconnections(self) -> dict[str, int]:
        """Failed or broken heartbeat streams by master, as ``host:port``."""
        with self._lock:
            return dict(self._disconnections)

    def leave(self) -> bool:
        """Sends the last beat and ends heartbeats for good.

        Returns: False where that had been asked before.
        """
        with self._lock:
            if self._has_left:
                return False
            self._has_left = True
            session, wake = self._session, self._wake
        if session is not None:
            session.stop()
        wake()
        return True

    def _set_wake(self, wake: Callable[[], None]) -> None:
        with self._lock:
            self._wake = wake

    def _begin(self, session: HeartbeatSession) -> None:
        with self._lock:
            self._session = session
            has_left = self._has_left
        if has_left:
            session.stop()

    def _count_disconnection(self, master: ServerAddress) -> None:
        with self._lock:
            self._session = None
            self._disconnections[master.http] = self._disconnections.get(master.http, 0) + 1


async def serve_heartbeat(
    model: NodeModel,
    identity: NodeIdentity,
    masters: Sequence[ServerAddress],
    dial: Dial,
    *,
    view: MasterView | None = None,
    timings: HeartbeatTimings = DEFAULT_TIMINGS,
    task_status: trio.TaskStatus[HeartbeatHandle] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keeps this node registered with the current leader until cancelled or told to leave.

    Starts at once, and registers when every source of `model` has given its full volume list: a partial list would
    read as lost volumes.

    Args:
        masters: the seeds, at least one; the leader is found from any of them.
        dial: makes a channel to a master; each stream gets its own.
        view: where the master's answers are noted; made from `masters` when not given.

    Raises:
        DuplicateDirectories: the master refused our directories, also after three pauses. The process should end.

    Cancellation: safe; the last beat is sent first, within `timings.final_beat_s`.
    """
    loop = _HeartbeatLoop(model, identity, masters, dial, view or MasterView(masters), timings)
    task_status.started(loop.handle)
    await loop.run()


class _HeartbeatLoop:
    def __init__(  # noqa: PLR0913, PLR0917  the seams of serve_heartbeat
        self,
        model: NodeModel,
        identity: NodeIdentity,
        masters: Sequence[ServerAddress],
        dial: Dial,
        view: MasterView,
        timings: HeartbeatTimings,
    ) -> None:
        self._model = model
        self._identity = identity
        self._masters = tuple(masters)
        self._dial = dial
        self._view = view
        self._timings = timings
        # Its own thread: a heartbeat waits for nobody, and a session has it for as long as it lasts.
        self._thread = trio.CapacityLimiter(1)
        self._duplicates_in_a_row = 0
        self._next_seed = 0
        self._leaving = trio.Event()
        self.handle = HeartbeatHandle(view)
        token = trio.lowlevel.current_trio_token()
        self.handle._set_wake(partial(_set_soon, token, self._leaving))

    async def run(self) -> None:
        try:
            await self._wait_for_sources()
            redirect: ServerAddress | None = None
            while self.handle.is_heartbeating:
                master = redirect or self._take_seed()
                end = await self._talk_to(master)
                redirect = end.leader if isinstance(end, Redirected) else None
                await self._pause_after(master, end)
        finally:
            self.handle.leave()
            self.handle._set_wake(lambda: None)

    def _take_seed(self) -> ServerAddress:
        seed = self._masters[self._next_seed % len(self._masters)]
        self._next_seed += 1
        return seed

    async def _wait_for_sources(self) -> None:
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:
            changed = trio.Event()

            def wake() -> None:
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(lambda: changed.set())  # noqa: PLW0108  `changed` is replaced each round

            remove = self._model.add_listener(wake)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._cancel_when_leaving, scope)
                    while not self._model.has_all_volumes:
                        await changed.wait()
                        changed = trio.Event()
                    nursery.cancel_scope.cancel()
            finally:
                remove()

    async def _cancel_when_leaving(self, scope: trio.CancelScope) -> None:
        await self._leaving.wait()
        scope.cancel()

    async def _talk_to(self, master: ServerAddress) -> SessionEnd:
        _log.info("heartbeat to master %s", master)
        try:
            channel = await trio.to_thread.run_sync(self._dial, master, limiter=self._thread)
        except OSError as error:  # a certificate that is being replaced, perhaps
            return Broken(f"no channel: {error}")
        try:
            session = HeartbeatSession(self._model, self._identity, master, channel, self._view, self._timings)
            self.handle._begin(session)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_when_cancelled, session)
                # Not abandoned: `stop` ends the thread within final_beat_s.
                end = await trio.to_thread.run_sync(session.run, limiter=self._thread)
                nursery.cancel_scope.cancel()
            return end
        finally:
            channel.close()

    async def _pause_after(self, master: ServerAddress, end: SessionEnd) -> None:
        """Waits as long as `end` asks for before the next attempt; less when we are leaving."""
        if not isinstance(end, Duplicated):
            self._duplicates_in_a_row = 0
        match end:
            case Stopped():
                return
            case Redirected(leader):
                _log.info("master %s names %s as the leader", master, leader)
                pause_s = self._timings.redirect_pause_s
            case Duplicated(uuids):
                pause_s = self._next_duplicate_pause(master, uuids)
                self.handle._count_disconnection(master)
            case Broken(why):
                _log.warning("heartbeat to master %s failed: %s", master, why)
                pause_s = self._timings.pulse_s * (1 + random.uniform(0, _JITTER))
                self.handle._count_disconnection(master)
        with trio.move_on_after(pause_s):
            await self._leaving.wait()

    def _next_duplicate_pause(self, master: ServerAddress, uuids: tuple[str, ...]) -> float:
        attempt = self._duplicates_in_a_row
        pauses_s = self._timings.duplicate_pauses_s
        self._duplicates_in_a_row += 1
        if attempt >= len(pauses_s):
            raise DuplicateDirectories(master, uuids, attempt + 1)
        _log.warning(
            "master %s says that another server has our directories %s; it may still hold our old stream, retry %d of "
            "%d in %g s", master, ", ".join(uuids), attempt + 1, len(pauses_s), pauses_s[attempt],
        )  # fmt: skip
        return pauses_s[attempt]


def _set_soon(token: trio.lowlevel.TrioToken, event: trio.Event) -> None:
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(event.set)


async def _stop_when_cancelled(session: HeartbeatSession) -> None:
    try:
        await trio.sleep_forever()
    finally:
        session.stop()
