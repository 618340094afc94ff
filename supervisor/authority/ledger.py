"""Who has each volume, who works on it, and who waits for it: the rules of authority, without threads or I/O.

The backend has every volume that is not named here: it opens all of them when it starts. An operation asks for a
volume with a `Ticket`. It is granted at once where its engine has the volume and nobody waits; otherwise tickets wait
in the order in which they came. When the first of them needs the other engine, the operations under way are let finish
and a `HandOver` is asked for. Whoever executes it says how it ended.

The backend can do whatever this process can, but not the other way round. So where the backend cannot give a volume up
soon, or not without losing work, native operations are told to go `ELSEWHERE`, to the backend, rather than wait: while
one of its long operations runs, and while the volume is pinned to it, as it is from a compaction to its commit.

Every method returns `Effects`: what has to be told to others. Callers serialise the calls.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind

if TYPE_CHECKING:
    from collections.abc import Iterable


class TicketState(Enum):
    """WAITING leads to any other; GRANTED to OVER. ELSEWHERE: the backend has the volume and is to do it."""

    WAITING = "waiting"
    GRANTED = "granted"
    REFUSED = "refused"
    ELSEWHERE = "elsewhere"
    OVER = "over"


@dataclass(eq=False, slots=True)
class Ticket:
    """One operation on one volume. `refusal` says why it was refused. Changed by the ledger alone.

    `is_nested`: part of another operation of the same engine, which will not end before this one. On a volume on which
    the engine works already it waits for nobody, for they might wait for it.
    `is_long`: it may take minutes.
    """

    volume_id: int
    engine: Engine
    kind: AccessKind
    state: TicketState = TicketState.WAITING
    refusal: str = ""
    is_nested: bool = False
    is_long: bool = False

    @property
    def is_change(self) -> bool:
        """Whether the operation may write to the volume's files."""
        return self.kind is not AccessKind.VOLUME_READ


class Mark(Enum):
    """A mark of a volume that its files do not tell, so that a hand-over has to carry it."""

    WRITABLE = "none"
    READ_ONLY = "read-only"
    READ_ONLY_CAN_DELETE = "read-only, but for deletes"


@dataclass(frozen=True, slots=True)
class HandOver:
    """A volume is to be closed at `source` and opened at `target`; no operation is under way on it.

    `is_reopening`: an earlier hand-over left it closed. It must be opened at `target` in any case, which may be
    `source` itself. `mark`: what is known of the mark that it has, or had when it was open.
    """

    volume_id: int
    source: Engine
    target: Engine
    is_reopening: bool = False
    mark: Mark = Mark.WRITABLE


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a hand-over ended.

    Args:
        owner: who has authority now. Where it cannot be known whether the backend opened or closed the volume, the
            backend has it.
        is_open: False where the owner should have it open and may not have.
        is_vacant: nobody had such a volume open, so nothing was opened.
        refusal: why the volume did not get to the target; empty where it did.
        mark: how it is marked, or was when it was open.
    """

    owner: Engine
    is_open: bool = True
    is_vacant: bool = False
    refusal: str = ""
    mark: Mark = Mark.WRITABLE


@dataclass(frozen=True, slots=True)
class Left:
    """What an operation of the backend leaves in its memory alone, lost when it starts anew. None: as it was.

    Args:
        pin: whether there is something that a hand-over would spoil.
        mark: the mark that the volume has from now on.
        is_broken: the volume has to be closed and opened before it can be used.
    """

    pin: bool | None = None
    mark: Mark | None = None
    is_broken: bool = False


@dataclass(slots=True)
class Effects:
    """What a step of the ledger asks for: tickets whose state has changed, hand-overs to be executed."""

    settled: list[Ticket] = field(default_factory=list)
    hand_overs: list[HandOver] = field(default_factory=list)


@dataclass(slots=True)
class _Volume:
    owner: Engine = Engine.BACKEND
    is_open: bool = True
    is_vacant: bool = False
    is_pinned: bool = False
    mark: Mark = Mark.WRITABLE
    running: int = 0
    long_at_backend: int = 0
    waiting: deque[Ticket] = field(default_factory=deque)
    moving: HandOver | None = None

    @property
    def is_bound(self) -> bool:
        """Whether it stays with the backend for now."""
        return self.is_pinned or bool(self.long_at_backend)

    @property
    def is_forgettable(self) -> bool:
        is_default = self.is_open and (self.owner is Engine.BACKEND or self.is_vacant)
        is_plain = self.mark is Mark.WRITABLE and not self.is_pinned
        return is_default and is_plain and not (self.running or self.waiting or self.moving)


class Ledger:
    """The authority over all volumes. Its memory is bounded by volumes that are native and operations under way."""

    def __init__(self) -> None:
        self._volumes: dict[int, _Volume] = {}
        self._is_frozen = False
        self._native_changes = 0
        self._hand_overs = 0

    # ---- facts

    def owner_of(self, volume_id: int) -> Engine:
        volume = self._volumes.get(volume_id)
        return volume.owner if volume is not None else Engine.BACKEND

    def native_volumes(self) -> list[int]:
        """The volumes that are not the backend's, by id."""
        return sorted(vid for vid, volume in self._volumes.items() if volume.owner is Engine.NATIVE)

    def is_pinned(self, volume_id: int) -> bool:
        """Whether the volume is to stay with the backend: see `end`."""
        volume = self._volumes.get(volume_id)
        return volume is not None and volume.is_pinned

    @property
    def is_quiet(self) -> bool:
        """Whether no native operation that writes and no hand-over is under way."""
        return not (self._native_changes or self._hand_overs)

    # ---- operations

    def ask(self, ticket: Ticket) -> Effects:
        """A new operation. Unless `ticket` is settled right away, it waits."""
        volume = self._volumes.setdefault(ticket.volume_id, _Volume())
        if ticket.is_nested and volume.running and ticket.engine is volume.owner:
            volume.waiting.appendleft(ticket)
        else:
            volume.waiting.append(ticket)
        return self._advanced(ticket.volume_id)

    def end(self, ticket: Ticket, left: Left | None = None) -> Effects:
        """The operation is over, or nobody waits for it any more. Repeating it does nothing.

        Args:
            left: what it left behind, where it was the backend's.
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
            self._native_changes -= _is_native_change(ticket)
            if left is not None and ticket.engine is Engine.BACKEND:
                volume.is_pinned = volume.is_pinned if left.pin is None else left.pin
                volume.mark = left.mark or volume.mark
                volume.is_open = volume.is_open and not left.is_broken
        return self._advanced(ticket.volume_id)

    def lose_patience(self, ticket: Ticket) -> Effects:
        """A native operation has waited for a while: where it waits for what the backend has under way, it goes there,
        for whoever keeps that going may take his time. Nothing happens where it waits for anything else.
        """
        volume = self._volumes.get(ticket.volume_id)
        if volume is None or ticket.state is not TicketState.WAITING or ticket.engine is not Engine.NATIVE:
            return Effects()
        if volume.owner is not Engine.BACKEND or not volume.is_open or not volume.running or volume.moving:
            return Effects()
        volume.waiting.remove(ticket)
        ticket.state = TicketState.ELSEWHERE
        effects = Effects(settled=[ticket])
        self._advance(ticket.volume_id, volume, effects)
        return effects

    # ---- hand-overs

    def hand_over_ended(self, hand_over: HandOver, outcome: Outcome) -> Effects:
        """Whoever waits for the target gets the volume or, with the reason, a refusal. Others go on."""
        volume = self._volumes[hand_over.volume_id]
        assert volume.moving is hand_over, "only the hand-over that was asked for can end"
        volume.moving = None
        self._hand_overs -= 1
        volume.owner, volume.is_open, volume.is_vacant = outcome.owner, outcome.is_open, outcome.is_vacant
        # The native store knows the marks of what it has open.
        volume.mark = Mark.WRITABLE if outcome.owner is Engine.NATIVE and outcome.is_open else outcome.mark
        effects = Effects()
        for ticket in [ticket for ticket in volume.waiting if ticket.engine is hand_over.target]:
            # All who wait for this engine go first, wherever they stand: the next hand-over is the dearer for them.
            if outcome.refusal:
                volume.waiting.remove(ticket)
                ticket.state, ticket.refusal = TicketState.REFUSED, outcome.refusal
                effects.settled.append(ticket)
            elif not self._is_held_back(volume, ticket):
                self._grant(volume, ticket, effects)
        self._advance(hand_over.volume_id, volume, effects)
        return effects

    # ---- the backend's restarts

    def freeze(self) -> Effects:
        """The backend is about to start, and to open every volume, the native ones too: natively they are only read,
        and none is opened, for opening repairs. What the last one left unfinished is lost.

        Wait for `is_quiet` then.
        """
        self._is_frozen = True
        effects = Effects()
        for volume_id, volume in list(self._volumes.items()):
            volume.is_pinned = False
            if volume.owner is Engine.BACKEND:
                volume.mark = Mark.WRITABLE
            self._advance(volume_id, volume, effects)
        return effects

    def thaw(self) -> Effects:
        """The backend has started, and has no native volume open any more. It has all the others."""
        self._is_frozen = False
        effects = Effects()
        for volume_id, volume in list(self._volumes.items()):
            volume.is_pinned = False
            if volume.owner is Engine.BACKEND:
                volume.is_open = True
            self._advance(volume_id, volume, effects)
        return effects

    # ---- rules

    def _advanced(self, volume_id: int) -> Effects:
        effects = Effects()
        self._advance(volume_id, self._volumes[volume_id], effects)
        return effects

    def _advance(self, volume_id: int, volume: _Volume, effects: Effects) -> None:
        """Does what can be done for those who wait, in their order; forgets a volume about which nothing is special."""
        for ticket in self._in_order(volume):
            if ticket.engine is Engine.NATIVE and volume.is_bound:
                volume.waiting.remove(ticket)
                ticket.state = TicketState.ELSEWHERE
                effects.settled.append(ticket)
                continue
            if ticket.engine is volume.owner and volume.is_open:
                self._grant(volume, ticket, effects)
                continue
            if not volume.running:
                volume.moving = HandOver(
                    volume_id, volume.owner, ticket.engine, is_reopening=not volume.is_open, mark=volume.mark
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
        """Natively nothing is written while frozen, nor is a native volume opened that was left closed.

        (A volume that the backend has may be asked for: with the backend away, no hand-over of one is begun.)
        """
        if not self._is_frozen or ticket.engine is not Engine.NATIVE:
            return False
        return ticket.is_change or (volume.owner is Engine.NATIVE and not volume.is_open)

    def _grant(self, volume: _Volume, ticket: Ticket, effects: Effects) -> None:
        volume.waiting.remove(ticket)
        volume.running += 1
        volume.long_at_backend += _is_long_at_backend(ticket)
        if ticket.kind is AccessKind.VOLUME_EXCLUSIVE:
            volume.is_vacant = False  # it may make the volume
        self._native_changes += _is_native_change(ticket)
        ticket.state = TicketState.GRANTED
        effects.settled.append(ticket)


def _is_native_change(ticket: Ticket) -> bool:
    return ticket.engine is Engine.NATIVE and ticket.is_change


def _is_long_at_backend(ticket: Ticket) -> bool:
    return ticket.engine is Engine.BACKEND and ticket.is_long
