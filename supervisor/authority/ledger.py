"""The rules of authority: which engine has each volume, who works on it, who waits for it. No threads and no I/O.

The backend has every volume that the ledger does not name, because the backend opens all volumes when it starts. An
operation asks for a volume with a `Ticket`. The ticket is granted at once where its engine has the volume and no ticket
waits. Otherwise tickets wait in the order in which they came. When the first one needs the other engine, the running
operations finish, and then the ledger asks for a `HandOver`. The caller carries the hand-over out and reports its end.

The backend can execute every native operation, but not the other way round. So a native operation does not wait where
the backend cannot give the volume up soon, or not without losing work. It goes `ELSEWHERE`, to the backend, while a
long operation of the backend runs, and while the volume is pinned to the backend (from a compaction to its commit).

Every method returns `Effects`, which the caller carries out. The caller makes one call at a time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from supervisor.authority.form import PLAIN, Mark, VolumeForm
from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class TicketState(Enum):
    """WAITING leads to any other state; GRANTED leads to OVER. ELSEWHERE: the backend must execute the operation."""

    WAITING = "waiting"
    GRANTED = "granted"
    REFUSED = "refused"
    ELSEWHERE = "elsewhere"
    OVER = "over"


@dataclass(eq=False, slots=True)
class Ticket:
    """One operation on one volume. `refusal` is the reason of a refusal. Only the ledger changes a ticket.

    `is_nested`: the operation is a part of another operation of the same engine, which cannot end before this one. On a
    volume on which the engine works already, it waits for no other ticket, because that ticket might wait for it.
    `is_long`: the operation may take minutes.
    `cancel`: ends the operation early, from any thread; None where it cannot be ended.
    """

    volume_id: int
    engine: Engine
    kind: AccessKind
    state: TicketState = TicketState.WAITING
    refusal: str = ""
    is_nested: bool = False
    is_long: bool = False
    cancel: Callable[[], object] | None = None

    @property
    def is_change(self) -> bool:
        """Whether the operation may write to the volume's files."""
        return self.kind is not AccessKind.VOLUME_READ


@dataclass(frozen=True, slots=True)
class HandOver:
    """A volume must be closed at `source` and opened at `target`. No operation runs on it.

    `is_reopening`: an earlier hand-over left the volume closed. It must be opened at `target`, which may be the engine
    `source`. `form`: with `is_reopening` the form in which to open the volume. Otherwise only the facts that the source
    cannot tell.
    """

    volume_id: int
    source: Engine
    target: Engine
    is_reopening: bool = False
    form: VolumeForm = PLAIN


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a hand-over ended.

    Args:
        owner: the engine with authority now. Where it is unknown whether the backend opened or closed the volume, the
            backend.
        is_open: False where the owner should have the volume open but may not have it open.
        is_vacant: whether neither engine had such a volume open, so that none was opened.
        refusal: why the volume did not get to the target; empty where it did.
        form: the form in which the volume is open, or was open last.
    """

    owner: Engine
    is_open: bool = True
    is_vacant: bool = False
    refusal: str = ""
    form: VolumeForm = PLAIN


@dataclass(frozen=True, slots=True)
class BackendEffect:
    """The effect of an operation on the backend's memory, until the backend restarts. None means unchanged.

    Args:
        pin: whether the backend holds something that a hand-over would lose.
        mark: the mark that the volume has from now on.
        shard_disk_type: what heartbeats say of the disk of its shards from now on.
        is_broken: the volume has to be closed and opened before it can be used.
    """

    pin: bool | None = None
    mark: Mark | None = None
    shard_disk_type: str | None = None
    is_broken: bool = False


@dataclass(slots=True)
class Effects:
    """The work that a step of the ledger leaves to its caller.

    `to_wake`: the tickets that wait no longer. `hand_overs`: the hand-overs to carry out.
    """

    to_wake: list[Ticket] = field(default_factory=list)
    hand_overs: list[HandOver] = field(default_factory=list)


@dataclass(slots=True)
class _Volume:
    owner: Engine = Engine.BACKEND
    is_open: bool = True
    is_vacant: bool = False
    is_pinned: bool = False
    form: VolumeForm = PLAIN
    running: int = 0
    long_at_backend: int = 0
    waiting: deque[Ticket] = field(default_factory=deque)
    moving: HandOver | None = None

    @property
    def is_bound(self) -> bool:
        """Whether the volume stays with the backend for now."""
        return self.is_pinned or bool(self.long_at_backend)

    @property
    def is_at_rest(self) -> bool:
        """Whether the volume is native and no operation waits for it."""
        return self.owner is Engine.NATIVE and not (self.is_vacant or self.is_pinned or self.waiting or self.moving)

    @property
    def is_forgettable(self) -> bool:
        is_default = self.is_open and (self.owner is Engine.BACKEND or self.is_vacant)
        is_plain = self.form == PLAIN and not self.is_pinned
        return is_default and is_plain and not (self.running or self.waiting or self.moving)


class Ledger:
    """The authority over all volumes. It holds the native volumes, and those with operations or a mark; no others."""

    def __init__(self) -> None:
        self._volumes: dict[int, _Volume] = {}
        self._is_frozen = False
        self._native_changes: set[Ticket] = set()
        self._hand_overs = 0

    # ---- facts

    def owner_of(self, volume_id: int) -> Engine:
        volume = self._volumes.get(volume_id)
        return volume.owner if volume is not None else Engine.BACKEND

    def native_volumes(self) -> list[int]:
        """The volumes over which the native engine has authority, sorted by id."""
        return sorted(vid for vid, volume in self._volumes.items() if volume.owner is Engine.NATIVE)

    def is_pinned(self, volume_id: int) -> bool:
        """Whether the volume must stay with the backend; see `end`."""
        volume = self._volumes.get(volume_id)
        return volume is not None and volume.is_pinned

    def is_kept_by_backend(self, volume_id: int) -> bool:
        """Whether a native operation would go `ELSEWHERE` at once."""
        volume = self._volumes.get(volume_id)
        return volume is not None and volume.is_bound

    def native_changes(self) -> list[Ticket]:
        """The native operations that run and may write."""
        return list(self._native_changes)

    @property
    def is_idle(self) -> bool:
        """Whether no native write and no hand-over runs."""
        return not (self._native_changes or self._hand_overs)

    # ---- operations

    def grants_at_once(self, ticket: Ticket) -> bool:
        """Whether `ask` would grant `ticket`, and would do nothing else."""
        volume = self._volumes.get(ticket.volume_id)
        if volume is None:
            return ticket.engine is Engine.BACKEND
        if volume.waiting or volume.moving or not volume.is_open or ticket.engine is not volume.owner:
            return False
        return not self._is_held_back(volume, ticket) and not (ticket.engine is Engine.NATIVE and volume.is_bound)

    def ask(self, ticket: Ticket) -> Effects:
        """Takes a new operation. `ticket` is granted, refused or sent elsewhere at once, or it waits."""
        volume = self._volumes.setdefault(ticket.volume_id, _Volume())
        if ticket.is_nested and volume.running and ticket.engine is volume.owner:
            volume.waiting.appendleft(ticket)
        else:
            volume.waiting.append(ticket)
        return self._advanced(ticket.volume_id)

    def end(self, ticket: Ticket, left: BackendEffect | None = None) -> Effects:
        """Ends an operation, whether it was granted or still waits. A second call does nothing.

        Args:
            left: what an operation of the backend has left there.
        """
        state, ticket.state = ticket.state, TicketState.OVER
        if state not in {TicketState.GRANTED, TicketState.WAITING}:
            return Effects()
        volume = self._volumes[ticket.volume_id]
        if state is TicketState.WAITING:
            volume.waiting.remove(ticket)
        else:
            volume.running -= 1
            volume.long_at_backend -= _is_long_at_backend(ticket)
            self._native_changes.discard(ticket)
            if left is not None and ticket.engine is Engine.BACKEND:
                volume.is_pinned = volume.is_pinned if left.pin is None else left.pin
                if left.mark is not None:
                    volume.form = volume.form.with_mark(left.mark)
                if left.shard_disk_type is not None:
                    volume.form = volume.form.with_disk_type(left.shard_disk_type)
                volume.is_open = volume.is_open and not left.is_broken
        return self._advanced(ticket.volume_id)

    def fall_back_to_backend(self, ticket: Ticket) -> Effects:
        """Sends a native operation that has waited for a while to the backend, if it waits for the backend's
        operations.

        Such operations may take minutes. If the operation waits for anything else, nothing happens.
        """
        volume = self._volumes.get(ticket.volume_id)
        if volume is None or ticket.state is not TicketState.WAITING or ticket.engine is not Engine.NATIVE:
            return Effects()
        if volume.owner is not Engine.BACKEND or not volume.is_open or not volume.running or volume.moving:
            return Effects()
        volume.waiting.remove(ticket)
        ticket.state = TicketState.ELSEWHERE
        effects = Effects(to_wake=[ticket])
        self._advance(ticket.volume_id, volume, effects)
        return effects

    # ---- hand-overs

    def hand_over_ended(self, hand_over: HandOver, outcome: Outcome) -> Effects:
        """Takes the outcome of a hand-over. Tickets for the target are granted, or refused with the reason."""
        volume = self._volumes[hand_over.volume_id]
        assert volume.moving is hand_over, "only the hand-over that was asked for can end"
        volume.moving = None
        self._hand_overs -= 1
        volume.owner, volume.is_open, volume.is_vacant = outcome.owner, outcome.is_open, outcome.is_vacant
        if not outcome.is_open:
            volume.form = outcome.form
        else:  # The native store can report the whole form.
            volume.form = PLAIN if outcome.owner is Engine.NATIVE else outcome.form.unsaved
        effects = Effects()
        for ticket in [ticket for ticket in volume.waiting if ticket.engine is hand_over.target]:
            # All tickets for the target are granted now, wherever they stand: this saves hand-overs back and forth.
            if outcome.refusal:
                volume.waiting.remove(ticket)
                ticket.state, ticket.refusal = TicketState.REFUSED, outcome.refusal
                effects.to_wake.append(ticket)
            elif not self._is_held_back(volume, ticket):
                self._grant(volume, ticket, effects)
        self._advance(hand_over.volume_id, volume, effects)
        return effects

    # ---- the backend's restarts

    def freeze(self) -> Effects:
        """Prepares for a start of the backend, which opens every volume, also the native ones.

        From now on native volumes are only read, and none is opened, because opening may repair files. Unfinished work
        of the last backend is lost. The caller then waits for `is_idle`.
        """
        self._is_frozen = True
        effects = Effects()
        for volume_id, volume in self._not_at_rest():
            volume.is_pinned = False
            if volume.owner is Engine.BACKEND:
                volume.form = PLAIN
            self._advance(volume_id, volume, effects)
        return effects

    def thaw(self) -> Effects:
        """Ends `freeze`: the backend has started, has closed the native volumes, and has all the others open."""
        self._is_frozen = False
        effects = Effects()
        for volume_id, volume in self._not_at_rest():
            volume.is_pinned = False
            if volume.owner is Engine.BACKEND:
                volume.is_open = True
            self._advance(volume_id, volume, effects)
        return effects

    # ---- rules

    def _not_at_rest(self) -> list[tuple[int, _Volume]]:
        """The volumes for which a start of the backend may matter.

        There may be thousands of others: native volumes at rest. They are skipped because all operations wait here.
        """
        return [pair for pair in self._volumes.items() if not pair[1].is_at_rest]

    def _advanced(self, volume_id: int) -> Effects:
        effects = Effects()
        self._advance(volume_id, self._volumes[volume_id], effects)
        return effects

    def _advance(self, volume_id: int, volume: _Volume, effects: Effects) -> None:
        """Grants what can be granted, in the order of waiting. Forgets a volume that is in the default state."""
        for ticket in self._in_order(volume):
            if ticket.engine is Engine.NATIVE and volume.is_bound:
                volume.waiting.remove(ticket)
                ticket.state = TicketState.ELSEWHERE
                effects.to_wake.append(ticket)
                continue
            if ticket.engine is volume.owner and volume.is_open:
                self._grant(volume, ticket, effects)
                continue
            if not volume.running:
                volume.moving = HandOver(
                    volume_id, volume.owner, ticket.engine, is_reopening=not volume.is_open, form=volume.form
                )
                self._hand_overs += 1
                effects.hand_overs.append(volume.moving)
            break
        if volume.is_forgettable:
            del self._volumes[volume_id]

    def _in_order(self, volume: _Volume) -> Iterable[Ticket]:
        if volume.moving:
            return ()
        return [ticket for ticket in volume.waiting if not self._is_held_back(volume, ticket)]

    def _is_held_back(self, volume: _Volume, ticket: Ticket) -> bool:
        """Whether `ticket` must wait for `thaw`: a native write, or a native volume that was left closed.

        A volume of the backend may be asked for: while the backend is away, no hand-over of it is begun.
        """
        if not self._is_frozen or ticket.engine is not Engine.NATIVE:
            return False
        return ticket.is_change or (volume.owner is Engine.NATIVE and not volume.is_open)

    def _grant(self, volume: _Volume, ticket: Ticket, effects: Effects) -> None:
        volume.waiting.remove(ticket)
        volume.running += 1
        volume.long_at_backend += _is_long_at_backend(ticket)
        if ticket.kind is AccessKind.VOLUME_EXCLUSIVE:
            volume.is_vacant = False  # the operation may create the volume
        if ticket.engine is Engine.NATIVE and ticket.is_change:
            self._native_changes.add(ticket)
        ticket.state = TicketState.GRANTED
        effects.to_wake.append(ticket)


def _is_long_at_backend(ticket: Ticket) -> bool:
    return ticket.engine is Engine.BACKEND and ticket.is_long
