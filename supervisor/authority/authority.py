"""The authority over volumes, for trio tasks and threads: the ledger with a lock, and the threads that hand over."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.runtime.trio_events import set_soon
from supervisor.authority.errors import AccessRefused, HolderFailed, ServedElsewhere
from supervisor.authority.hand_over import HandOverSteps
from supervisor.authority.ledger import BackendEffect, Effects, HandOver, Ledger, Outcome, Ticket, TicketState
from supervisor.routing.decision import Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from supervisor.authority.holders import VolumeHolder
    from supervisor.routing.registry import AccessKind

_log = logging.getLogger(__name__)
MAX_HAND_OVERS = 8
"""The most hand-overs at one time. A hand-over waits for disks more than it computes."""
FALL_BACK_AFTER_S = 1.0
"""How long a native operation waits while the backend works on its volume. After that the backend executes it."""
CHANGES_END_WITHIN_S = 5.0
"""How long native writes may go on while the backend is to start. After that those that can be ended are ended. All new
native writes wait meanwhile, for any volume, and are refused after half a minute."""
RETRY_S = 0.5
"""The pause between attempts to make a started backend close the native volumes."""


class Authority:
    """Grants volumes to operations of either engine. Thread-safe. The owner calls `close` at the end."""

    def __init__(
        self,
        holders: Mapping[Engine, VolumeHolder],
        suppress: Callable[[HandOver], AbstractContextManager[Callable[[], None]]],
        is_backend_ready: Callable[[], bool],
        forget: Callable[[int], None] = lambda _volume_id: None,
    ) -> None:
        """`forget` gets the id of a volume that was taken away: the master must now hear of its removal."""
        self.forget = forget
        self._backend = holders[Engine.BACKEND]
        self._steps = HandOverSteps(holders, suppress, is_backend_ready)
        self._lock = threading.Lock()  # protects the fields below
        self._ledger = Ledger()
        self._wakers: dict[Ticket, Callable[[], None]] = {}
        self._idle_wakers: list[Callable[[], None]] = []
        self._is_closed = False
        self._threads = ThreadPoolExecutor(MAX_HAND_OVERS, "hand-over")

    def close(self) -> None:
        """Waits for running hand-overs. Operations that still wait are not answered any more."""
        with self._lock:
            self._is_closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)

    def owner_of(self, volume_id: int) -> Engine:
        """The engine that has authority over the volume now. The next moment it may be the other engine."""
        with self._lock:
            return self._ledger.owner_of(volume_id)

    def native_volumes(self) -> list[int]:
        """The volumes over which the native engine has authority now."""
        with self._lock:
            return self._ledger.native_volumes()

    def is_pinned(self, volume_id: int) -> bool:
        """Whether the volume must stay with the backend; see `BackendEffect`."""
        with self._lock:
            return self._ledger.is_pinned(volume_id)

    def is_kept_by_backend(self, volume_id: int) -> bool:
        """Whether the backend keeps the volume for now, and so must execute native operations."""
        with self._lock:
            return self._ledger.is_kept_by_backend(volume_id)

    # ---- operations

    async def enter(
        self,
        volume_id: int,
        engine: Engine,
        kind: AccessKind,
        *,
        is_nested: bool = False,
        is_long: bool = False,
        cancel: Callable[[], object] | None = None,
    ) -> Ticket:
        """Returns when `engine` may work on the volume. The caller gives the ticket back with `leave`.

        `Ticket` explains the keywords.

        Raises:
            AccessRefused: the engine does not get the volume.
            ServedElsewhere: the backend must execute the operation.

        Cancellation: safe; the operation waits no longer.
        """
        ticket = Ticket(volume_id, engine, kind, is_nested=is_nested, is_long=is_long, cancel=cancel)
        granted = trio.Event()
        token = trio.lowlevel.current_trio_token()
        if self._ask(ticket, partial(set_soon, token, granted)):
            try:
                with trio.move_on_after(FALL_BACK_AFTER_S):
                    await granted.wait()
                self._fall_back_to_backend(ticket)
                await granted.wait()
            except BaseException:
                self.leave(ticket)
                raise
        return _granted(ticket)

    def try_enter(self, volume_id: int, engine: Engine, kind: AccessKind) -> Ticket | None:
        """As `enter`, without waiting; None where the operation would wait, be refused or be sent elsewhere."""
        ticket = Ticket(volume_id, engine, kind)
        with self._lock:
            if not self._ledger.grants_at_once(ticket):
                return None
            self._apply(self._ledger.ask(ticket))
        return _granted(ticket)

    def enter_blocking(
        self,
        volume_id: int,
        engine: Engine,
        kind: AccessKind,
        timeout_s: float,
        *,
        is_long: bool = False,
        cancel: Callable[[], object] | None = None,
    ) -> Ticket:
        """As `enter`, for a thread.

        Raises:
            AccessRefused: also where the engine does not get the volume within `timeout_s`.
            ServedElsewhere: as `enter`.
        """
        ticket = Ticket(volume_id, engine, kind, is_long=is_long, cancel=cancel)
        granted = threading.Event()
        if self._ask(ticket, granted.set) and not self._wait_in_thread(ticket, granted, timeout_s):
            with self._lock:
                if ticket.state is TicketState.WAITING:
                    self._apply(self._ledger.end(ticket))
                    raise AccessRefused(volume_id, f"it is in use by the other engine, for {timeout_s:.1f} s by now")
        return _granted(ticket)

    def leave(self, ticket: Ticket, left: BackendEffect | None = None) -> None:
        """Ends the operation of `ticket`, which has `left` something in the backend. A second call does nothing."""
        with self._lock:
            self._wakers.pop(ticket, None)
            self._apply(self._ledger.end(ticket, left))

    @asynccontextmanager
    async def access(self, volume_id: int, engine: Engine, kind: AccessKind) -> AsyncIterator[None]:
        """Inside the block `engine` may work on the volume. Errors and cancellation are those of `enter`."""
        ticket = await self.enter(volume_id, engine, kind)
        try:
            yield
        finally:
            self.leave(ticket)

    def enter_all(
        self,
        volume_ids: Iterable[int],
        engine: Engine,
        kind: AccessKind,
        timeout_s: float,
        *,
        is_long: bool = False,
        cancel: Callable[[], object] | None = None,
    ) -> list[Ticket]:
        """Several volumes for a thread. They are taken by ascending id, so two callers never wait for each other.

        Raises:
            AccessRefused, ServedElsewhere: for one of the volumes. None is taken then.
        """
        tickets: list[Ticket] = []
        try:
            for volume_id in sorted(set(volume_ids)):
                ticket = self.enter_blocking(volume_id, engine, kind, timeout_s, is_long=is_long, cancel=cancel)
                tickets.append(ticket)
        except BaseException:
            for ticket in tickets:
                self.leave(ticket)
            raise
        return tickets

    def _wait_in_thread(self, ticket: Ticket, granted: threading.Event, timeout_s: float) -> bool:
        first_wait_s = min(FALL_BACK_AFTER_S, timeout_s)
        if granted.wait(first_wait_s):
            return True
        self._fall_back_to_backend(ticket)
        return granted.wait(timeout_s - first_wait_s)

    def _fall_back_to_backend(self, ticket: Ticket) -> None:
        with self._lock:
            self._apply(self._ledger.fall_back_to_backend(ticket))

    def _ask(self, ticket: Ticket, wake: Callable[[], None]) -> bool:
        """Asks the ledger. Returns whether the operation has to wait."""
        with self._lock:
            self._wakers[ticket] = wake
            self._apply(self._ledger.ask(ticket))
            return ticket.state is TicketState.WAITING

    # ---- the backend's restarts

    async def before_backend_start(self) -> None:
        """Returns when the backend may start and open every volume. No native write runs from then on.

        Native writes that go on for `CHANGES_END_WITHIN_S` are ended. One that cannot be ended is waited for.

        Cancellation: safe. Native writes stay suspended until a backend is ready.
        """
        ends_at_s = trio.current_time() + CHANGES_END_WITHIN_S
        while (idle := self._freeze()) is not None:
            with trio.move_on_at(ends_at_s):
                await idle.wait()
            if not idle.is_set():
                self._cancel_changes()
                await idle.wait()

    def _freeze(self) -> trio.Event | None:
        """Suspends native writes. Returns None where the backend may start at once, else the event of the end of what
        runs.
        """
        idle = trio.Event()
        token = trio.lowlevel.current_trio_token()
        with self._lock:
            self._apply(self._ledger.freeze())
            if self._ledger.is_idle:
                return None
            self._idle_wakers.append(partial(set_soon, token, idle))
        return idle

    def _cancel_changes(self) -> None:
        with self._lock:
            running = self._ledger.native_changes()
        for ticket in running:
            what = "is waited for, for it cannot be ended" if ticket.cancel is None else "is ended"
            _log.warning("the backend is to start: the native work on volume %d %s", ticket.volume_id, what)
            if ticket.cancel is not None:
                ticket.cancel()

    async def before_backend_ready(self) -> None:
        """Makes the backend, which serves but is not announced yet, close the native volumes. Then native writes
        resume.

        Cancellation: safe. Native writes stay suspended until a backend is ready.
        """
        while not await trio.to_thread.run_sync(self._close_at_backend, abandon_on_cancel=True):  # noqa: ASYNC110
            await trio.sleep(RETRY_S)  # no event says when the backend can close a volume
        with self._lock:
            self._apply(self._ledger.thaw())

    def _close_at_backend(self) -> bool:
        for volume_id in self.native_volumes():
            try:
                form = self._backend.form_of(volume_id)
                if form is not None:
                    self._backend.close_volume(volume_id, form)
            except HolderFailed as failure:
                _log.warning("the backend has started and keeps a native volume open: %s; trying again", failure)
                return False
        return True

    # ---- what the ledger asks for

    def _apply(self, effects: Effects) -> None:
        """Carries out what the ledger asks for. The caller holds the lock."""
        for ticket in effects.to_wake:
            wake = self._wakers.pop(ticket, None)
            if wake is not None:
                wake()
        for hand_over in effects.hand_overs:
            if not self._is_closed:
                self._threads.submit(self._carry_out, hand_over)
        if self._idle_wakers and self._ledger.is_idle:
            wakers, self._idle_wakers = self._idle_wakers, []
            for wake in wakers:
                wake()

    def _carry_out(self, hand_over: HandOver) -> None:
        try:
            outcome = self._steps.carry_out(hand_over)
        except Exception as error:  # a bug: waiting operations must get an answer, and the volume counts as not open
            _log.exception("handing volume %d over failed", hand_over.volume_id)
            why = f"internal error: {error!r}"
            outcome = Outcome(hand_over.source, is_open=False, refusal=why, form=hand_over.form)
        with self._lock:
            self._apply(self._ledger.hand_over_ended(hand_over, outcome))


def _granted(ticket: Ticket) -> Ticket:
    if ticket.state is TicketState.ELSEWHERE:
        raise ServedElsewhere(ticket.volume_id)
    if ticket.state is TicketState.REFUSED:
        raise AccessRefused(ticket.volume_id, ticket.refusal)
    return ticket
