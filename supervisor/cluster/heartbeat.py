"""The one client of the real master's heartbeat stream: which master to call, when to try again, when to stop.

Source: weed/server/volume_grpc_client_to_master.go (heartbeat). Wilful difference: the wait after an error has jitter,
so that many servers do not come back to a restarted master at the same moment.
"""

from __future__ import annotations

import logging
import random
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.runtime.trio_events import set_soon
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
_JITTER = 0.4  # the wait after an error is one pulse, plus up to this part of a pulse


class HeartbeatHandle:
    """The control of the heartbeat by other code, from any thread. The handle is made before the heartbeat begins.

    Args:
        view: where the masters' answers are entered.
    """

    def __init__(self, view: MasterView) -> None:
        self.view = view
        self._lock = threading.Lock()  # protects everything below
        self._session: HeartbeatSession | None = None
        self._has_begun = False
        self._has_left = False
        self._disconnections: dict[str, int] = {}
        self._wake: Callable[[], None] = lambda: None

    @property
    def is_heartbeating(self) -> bool:
        """True until the node leaves or stops, also while no master is reachable. Health checks depend on that."""
        with self._lock:
            return not self._has_left

    @property
    def is_connected(self) -> bool:
        """Whether a master has accepted this node on the stream that is open now."""
        return self.view.connected is not None

    @property
    def disconnections(self) -> dict[str, int]:
        """Counts of failed or broken heartbeat streams by master, as `host:port`."""
        with self._lock:
            return dict(self._disconnections)

    def leave(self) -> bool:
        """Sends the last beat and ends heartbeats for good.

        Returns: False where this was called before, or the heartbeat has not begun. Then nothing happens.
        """
        with self._lock:
            if self._has_left or not self._has_begun:
                return False
            self._has_left = True
            session, wake = self._session, self._wake
        if session is not None:
            session.stop()
        wake()
        return True

    # ---- for `serve_heartbeat` alone

    def begin(self, wake: Callable[[], None]) -> None:
        """Notes that the heartbeat has begun. `wake` is called when the node leaves."""
        with self._lock:
            self._has_begun, self._wake = True, wake

    def end(self) -> None:
        """Notes that the heartbeat has ended, whether or not the node was asked to leave."""
        self.leave()
        with self._lock:
            self._wake = lambda: None

    def begin_session(self, session: HeartbeatSession) -> None:
        """Notes an open stream to a master. Stops it at once where the node was asked to leave before."""
        with self._lock:
            self._session = session
            has_left = self._has_left
        if has_left:
            session.stop()

    def count_disconnection(self, master: ServerAddress) -> None:
        """Counts a failed or broken stream to `master`."""
        with self._lock:
            self._session = None
            self._disconnections[master.http] = self._disconnections.get(master.http, 0) + 1


async def serve_heartbeat(
    model: NodeModel,
    identity: NodeIdentity,
    masters: Sequence[ServerAddress],
    dial: Dial,
    *,
    handle: HeartbeatHandle | None = None,
    timings: HeartbeatTimings = DEFAULT_TIMINGS,
    task_status: trio.TaskStatus[HeartbeatHandle] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keeps this node registered with the current leader, until cancelled or told to leave.

    `started` is called at once. The node registers when every source of `model` has given its full volume list, because
    a partial list would look like lost volumes.

    Args:
        masters: the seeds, at least one. Each of them knows the leader.
        dial: makes a channel to a master. Each stream has its own channel.
        handle: the handle to use; made from `masters` by default.

    Raises:
        DuplicateDirectories: the master refused this server's directories, also after three pauses. The process should
            end.

    Cancellation: safe. The last beat is sent first, within `timings.final_beat_s`.
    """
    handle = handle or HeartbeatHandle(MasterView(masters))
    loop = _HeartbeatLoop(model, identity, masters, dial, handle, timings)
    task_status.started(handle)
    await loop.run()


class _HeartbeatLoop:
    def __init__(  # noqa: PLR0913, PLR0917  the seams of serve_heartbeat
        self,
        model: NodeModel,
        identity: NodeIdentity,
        masters: Sequence[ServerAddress],
        dial: Dial,
        handle: HeartbeatHandle,
        timings: HeartbeatTimings,
    ) -> None:
        self._model = model
        self._identity = identity
        self._masters = tuple(masters)
        self._dial = dial
        self._handle = handle
        self._timings = timings
        # A thread of its own, which a session keeps as long as it lasts: a heartbeat must not wait for other work.
        self._thread = trio.CapacityLimiter(1)
        self._duplicates_in_a_row = 0
        self._next_seed = 0
        self._leaving = trio.Event()
        token = trio.lowlevel.current_trio_token()
        handle.begin(partial(set_soon, token, self._leaving))

    async def run(self) -> None:
        try:
            await self._wait_for_sources()
            redirect: ServerAddress | None = None
            while self._handle.is_heartbeating:
                master = redirect or self._take_seed()
                end = await self._talk_to(master)
                redirect = end.leader if isinstance(end, Redirected) else None
                await self._pause_after(master, end)
        finally:
            self._handle.end()

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
        except OSError as error:  # a certificate may be being replaced
            return Broken(f"no channel: {error}")
        try:
            session = HeartbeatSession(self._model, self._identity, master, channel, self._handle.view, self._timings)
            self._handle.begin_session(session)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_when_cancelled, session)
                # The thread is not abandoned on cancel: `stop` ends it within final_beat_s.
                end = await trio.to_thread.run_sync(session.run, limiter=self._thread)
                nursery.cancel_scope.cancel()
            return end
        finally:
            channel.close()

    async def _pause_after(self, master: ServerAddress, end: SessionEnd) -> None:
        """Waits before the next attempt as long as `end` demands, or until the node leaves."""
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
                self._handle.count_disconnection(master)
            case Broken(why):
                _log.warning("heartbeat to master %s failed: %s", master, why)
                pause_s = self._timings.pulse_s * (1 + random.uniform(0, _JITTER))
                self._handle.count_disconnection(master)
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


async def _stop_when_cancelled(session: HeartbeatSession) -> None:
    try:
        await trio.sleep_forever()
    finally:
        session.stop()
