"""The authority over volumes as trio tasks and threads use it: the ledger with a lock, and threads that hand over."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from supervisor.authority.errors import AccessRefused, HolderFailed, ServedElsewhere
from supervisor.authority.hand_over import HandOverSteps
from supervisor.authority.ledger import Effects, HandOver, Ledger, Left, Outcome, Ticket, TicketState
from supervisor.routing.decision import Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from supervisor.authority.holders import VolumeHolder
    from supervisor.routing.registry import AccessKind

_log = logging.getLogger(__name__)
MAX_HAND_OVERS = 8
"""Hand-overs at one time; they wait for disks more than they compute."""
PATIENCE_S = 1.0
"""How long a native operation waits for what the backend has under way, before it is the backend's too."""
RETRY_S = 0.5
"""Between attempts to have a started backend close what is native."""


class Authority:
    """Gives volumes to operations of either engine. Thread-safe; `close` it at the end."""

    def __init__(
        self,
        holders: Mapping[Engine, VolumeHolder],
        hold: Callable[[HandOver], AbstractContextManager[None]],
        is_backend_ready: Callable[[], bool],
    ) -> None:
        self._backend = holders[Engine.BACKEND]
        self._steps = HandOverSteps(holders, hold, is_backend_ready)
        self._lock = threading.Lock()  # protects the fields below
        self._ledger = Ledger()
        self._wakers: dict[Ticket, Callable[[], None]] = {}
        self._quiet_wakers: list[Callable[[], None]] = []
        self._is_closed = False
        self._threads = ThreadPoolExecutor(MAX_HAND_OVERS, "hand-over")

    def close(self) -> None:
        """Waits for hand-overs under way. Operations that still wait are not answered any more."""
        with self._lock:
            self._is_closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)

    def owner_of(self, volume_id: int) -> Engine:
        """The engine that has authority now. It may be another the moment after."""
        with self._lock:
            return self._ledger.owner_of(volume_id)

    def native_volumes(self) -> list[int]:
        """The volumes that are not the backend's now."""
        with self._lock:
            return self._ledger.native_volumes()

    def is_pinned(self, volume_id: int) -> bool:
        """Whether the volume is to stay with the backend: see `Left`."""
        with self._lock:
            return self._ledger.is_pinned(volume_id)

    # ---- operations

    async def enter(
        self, volume_id: int, engine: Engine, kind: AccessKind, *, is_nested: bool = False, is_long: bool = False
    ) -> Ticket:
        """Returns when `engine` may work on the volume; to be given back by `leave`. The flags: see `Ticket`.

        Raises:
            AccessRefused: it does not get it.
            ServedElsewhere: the other engine is to do it.

        Cancellation: safe; the operation then no longer waits.
        """
        ticket = Ticket(volume_id, engine, kind, is_nested=is_nested, is_long=is_long)
        granted = trio.Event()
        token = trio.lowlevel.current_trio_token()
        if self._ask(ticket, partial(_set_in_trio, token, granted)):
            try:
                with trio.move_on_after(PATIENCE_S):
                    await granted.wait()
                self._lose_patience(ticket)
                await granted.wait()
            except BaseException:
                self.leave(ticket)
                raise
        return _granted(ticket)

    def enter_blocking(
        self, volume_id: int, engine: Engine, kind: AccessKind, timeout_s: float, *, is_long: bool = False
    ) -> Ticket:
        """The same for a thread.

        Raises:
            AccessRefused: also where the volume is not to be had within `timeout_s`.
            ServedElsewhere: as `enter`.
        """
        ticket = Ticket(volume_id, engine, kind, is_long=is_long)
        granted = threading.Event()
        if self._ask(ticket, granted.set) and not self._wait_in_thread(ticket, granted, timeout_s):
            with self._lock:
                if ticket.state is TicketState.WAITING:
                    self._apply(self._ledger.end(ticket))
                    raise AccessRefused(volume_id, f"it is in use by the other engine, for {timeout_s:.1f} s by now")
        return _granted(ticket)

    def leave(self, ticket: Ticket, left: Left | None = None) -> None:
        """The operation is over, and has `left` something behind. Repeating it does nothing."""
        with self._lock:
            self._wakers.pop(ticket, None)
            self._apply(self._ledger.end(ticket, left))

    @asynccontextmanager
    async def access(self, volume_id: int, engine: Engine, kind: AccessKind) -> AsyncIterator[None]:
        """Inside, `engine` may work on the volume. Errors and cancellation as `enter`."""
        ticket = await self.enter(volume_id, engine, kind)
        try:
            yield
        finally:
            self.leave(ticket)

    def enter_all(
        self, volume_ids: Iterable[int], engine: Engine, kind: AccessKind, timeout_s: float, *, is_long: bool = False
    ) -> list[Ticket]:
        """For a thread, several volumes; taken by ascending id, so that two who do so never wait for each other.

        Raises:
            AccessRefused, ServedElsewhere: of one of them; none is had.
        """
        tickets: list[Ticket] = []
        try:
            for volume_id in sorted(set(volume_ids)):
                tickets.append(self.enter_blocking(volume_id, engine, kind, timeout_s, is_long=is_long))  # noqa: PERF401
        except BaseException:
            for ticket in tickets:
                self.leave(ticket)
            raise
        return tickets

    def _wait_in_thread(self, ticket: Ticket, granted: threading.Event, timeout_s: float) -> bool:
        patience_s = min(PATIENCE_S, timeout_s)
        if granted.wait(patience_s):
            return True
        self._lose_patience(ticket)
        return granted.wait(timeout_s - patience_s)

    def _lose_patience(self, ticket: Ticket) -> None:
        with self._lock:
            self._apply(self._ledger.lose_patience(ticket))

    def _ask(self, ticket: Ticket, wake: Callable[[], None]) -> bool:
        """Whether there is something to wait for."""
        with self._lock:
            self._wakers[ticket] = wake
            self._apply(self._ledger.ask(ticket))
            return ticket.state is TicketState.WAITING

    # ---- the backend's restarts

    async def before_backend_start(self) -> None:
        """Returns when the backend may start and open every volume: nothing is written natively until it is ready.

        Cancellation: safe; natively nothing is written until a backend is ready.
        """
        while True:
            quiet = trio.Event()
            token = trio.lowlevel.current_trio_token()
            with self._lock:
                self._apply(self._ledger.freeze())
                if self._ledger.is_quiet:
                    return
                self._quiet_wakers.append(partial(_set_in_trio, token, quiet))
            await quiet.wait()

    async def before_backend_ready(self) -> None:
        """Has the backend, which serves but was not announced yet, close the volumes that are native. Then they are
        written again.

        Cancellation: safe, as above.
        """
        while not await trio.to_thread.run_sync(self._close_at_backend, abandon_on_cancel=True):  # noqa: ASYNC110
            await trio.sleep(RETRY_S)  # the other process says nothing by itself
        with self._lock:
            self._apply(self._ledger.thaw())

    def _close_at_backend(self) -> bool:
        for volume_id in self.native_volumes():
            try:
                if self._backend.mark_of(volume_id) is not None:
                    self._backend.close_volume(volume_id)
            except HolderFailed as failure:
                _log.warning("the backend has started and keeps a native volume open: %s; trying again", failure)
                return False
        return True

    # ---- what the ledger asks for

    def _apply(self, effects: Effects) -> None:
        """To be called with the lock held."""
        for ticket in effects.settled:
            wake = self._wakers.pop(ticket, None)
            if wake is not None:
                wake()
        for hand_over in effects.hand_overs:
            if not self._is_closed:
                self._threads.submit(self._carry_out, hand_over)
        if self._quiet_wakers and self._ledger.is_quiet:
            wakers, self._quiet_wakers = self._quiet_wakers, []
            for wake in wakers:
                wake()

    def _carry_out(self, hand_over: HandOver) -> None:
        try:
            outcome = self._steps.carry_out(hand_over)
        except Exception as error:  # a bug: those who wait must hear of it, and nobody may rely on what was done
            _log.exception("handing volume %d over failed", hand_over.volume_id)
            why = f"internal error: {error!r}"
            outcome = Outcome(hand_over.source, is_open=False, refusal=why, mark=hand_over.mark)
        with self._lock:
            self._apply(self._ledger.hand_over_ended(hand_over, outcome))


def _granted(ticket: Ticket) -> Ticket:
    if ticket.state is TicketState.ELSEWHERE:
        raise ServedElsewhere(ticket.volume_id)
    if ticket.state is TicketState.REFUSED:
        raise AccessRefused(ticket.volume_id, ticket.refusal)
    return ticket


def _set_in_trio(token: trio.lowlevel.TrioToken, event: trio.Event) -> None:
    with suppress(trio.RunFinishedError):  # nobody is left to wait
        token.run_sync_soon(event.set)
