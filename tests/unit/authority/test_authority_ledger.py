"""The rules of authority: single steps by hand, and random histories."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervisor.authority.form import Mark, Shards, VolumeForm
from supervisor.authority.ledger import BackendEffect, HandOver, Ledger, Outcome, Ticket, TicketState
from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind

NATIVE, BACKEND = Engine.NATIVE, Engine.BACKEND
READ, WRITE, EXCLUSIVE = AccessKind.VOLUME_READ, AccessKind.VOLUME_WRITE, AccessKind.VOLUME_EXCLUSIVE


def ask(ledger, engine, kind=READ, volume_id=3):
    ticket = Ticket(volume_id, engine, kind)
    return ticket, ledger.ask(ticket)


def native_ledger():
    """A ledger whose volume 3 is native, with nothing under way."""
    ledger = Ledger()
    ticket, effects = ask(ledger, NATIVE)
    ledger.hand_over_ended(effects.hand_overs[0], Outcome(NATIVE))
    ledger.end(ticket)
    return ledger


def test_the_backend_has_every_volume_at_first():
    ledger = Ledger()
    ticket, effects = ask(ledger, BACKEND, WRITE)
    assert ticket.state is TicketState.GRANTED
    assert effects.to_wake == [ticket]
    assert effects.hand_overs == []
    assert ledger.grants_at_once(Ticket(3, BACKEND, EXCLUSIVE))
    assert not ledger.grants_at_once(Ticket(3, NATIVE, READ))


def test_the_other_engine_gets_a_volume_by_hand_over():
    ledger = Ledger()
    ticket, effects = ask(ledger, NATIVE)
    assert effects.hand_overs == [HandOver(3, BACKEND, NATIVE)]
    assert ticket.state is TicketState.WAITING
    assert ledger.hand_over_ended(effects.hand_overs[0], Outcome(NATIVE)).to_wake == [ticket]
    assert ticket.state is TicketState.GRANTED
    assert ledger.native_volumes() == [3]


def test_operations_under_way_are_let_finish_and_new_ones_wait_behind():
    ledger = Ledger()
    running, _ = ask(ledger, BACKEND)
    wanting, effects = ask(ledger, NATIVE)
    assert effects.hand_overs == []
    late, _ = ask(ledger, BACKEND)
    assert late.state is TicketState.WAITING
    (hand_over,) = ledger.end(running).hand_overs
    back = ledger.hand_over_ended(hand_over, Outcome(NATIVE))
    assert (wanting.state, late.state, back.hand_overs) == (TicketState.GRANTED, TicketState.WAITING, [])
    assert ledger.end(wanting).hand_overs == [HandOver(3, NATIVE, BACKEND)]


def test_all_who_wait_for_an_engine_are_served_by_one_hand_over():
    ledger = Ledger()
    first, effects = ask(ledger, NATIVE)
    between, _ = ask(ledger, BACKEND)
    second, _ = ask(ledger, NATIVE)
    ledger.hand_over_ended(effects.hand_overs[0], Outcome(NATIVE))
    assert (first.state, second.state) == (TicketState.GRANTED, TicketState.GRANTED)
    assert between.state is TicketState.WAITING


def test_a_part_of_an_operation_does_not_wait_for_those_who_wait_for_the_whole():
    ledger = Ledger()
    whole, _ = ask(ledger, BACKEND)
    wanting, _ = ask(ledger, NATIVE)
    part = Ticket(3, BACKEND, WRITE, is_nested=True)
    assert ledger.ask(part).to_wake == [part]
    ledger.end(part)
    assert len(ledger.end(whole).hand_overs) == 1
    assert wanting.state is TicketState.WAITING


def test_one_who_gives_up_holds_nobody_up():
    ledger = Ledger()
    ask(ledger, BACKEND)
    wanting, _ = ask(ledger, NATIVE)
    late, _ = ask(ledger, BACKEND)
    assert ledger.end(wanting).to_wake == [late]
    assert wanting.state is TicketState.OVER


def test_a_failed_hand_over_refuses_who_wanted_it_and_leaves_the_volume_with_its_owner():
    ledger = Ledger()
    wanting, effects = ask(ledger, NATIVE)
    late, _ = ask(ledger, BACKEND)
    ledger.hand_over_ended(effects.hand_overs[0], Outcome(BACKEND, refusal="no"))
    assert (wanting.state, wanting.refusal) == (TicketState.REFUSED, "no")
    assert late.state is TicketState.GRANTED
    assert ledger.owner_of(3) is BACKEND


@pytest.mark.parametrize("engine", Engine)
def test_a_volume_left_closed_is_opened_before_anything_else(engine):
    ledger = Ledger()
    _, effects = ask(ledger, NATIVE)
    ledger.hand_over_ended(effects.hand_overs[0], Outcome(BACKEND, is_open=False, refusal="no"))
    ticket, effects = ask(ledger, engine)
    assert effects.hand_overs == [HandOver(3, BACKEND, engine, is_reopening=True)]
    assert ticket.state is TicketState.WAITING


def test_a_started_backend_has_opened_what_was_left_closed():
    ledger = Ledger()
    _, effects = ask(ledger, NATIVE)
    ledger.hand_over_ended(effects.hand_overs[0], Outcome(BACKEND, is_open=False, refusal="no"))
    ledger.freeze()
    ledger.thaw()
    ticket, _ = ask(ledger, BACKEND)
    assert ticket.state is TicketState.GRANTED


def test_while_frozen_native_volumes_are_read_and_not_written():
    ledger = native_ledger()
    writing, _ = ask(ledger, NATIVE, WRITE)
    ledger.freeze()
    assert not ledger.is_idle
    ledger.end(writing)
    assert ledger.is_idle
    held, _ = ask(ledger, NATIVE, WRITE)
    read, _ = ask(ledger, NATIVE, READ)
    assert (held.state, read.state) == (TicketState.WAITING, TicketState.GRANTED)
    assert ledger.thaw().to_wake == [held]


def test_who_may_enter_would_be_granted_at_once():
    ledger = native_ledger()

    def may(engine):
        return tuple(ledger.grants_at_once(Ticket(3, engine, kind)) for kind in (READ, WRITE))

    assert (may(NATIVE), may(BACKEND)) == ((True, True), (False, False))
    assert not ledger.grants_at_once(Ticket(4, NATIVE, READ))
    running, _ = ask(ledger, NATIVE, WRITE)
    assert may(NATIVE) == (True, True)
    ledger.freeze()
    assert may(NATIVE) == (True, False)
    ledger.thaw()
    ask(ledger, BACKEND)
    assert may(NATIVE) == (False, False)
    (hand_over,) = ledger.end(running).hand_overs
    assert may(NATIVE) == (False, False)
    ledger.hand_over_ended(hand_over, Outcome(BACKEND))
    assert may(NATIVE) == (False, False)


def test_volumes_that_do_not_exist_leave_no_trace():
    ledger = Ledger()
    for volume_id in range(100):
        ticket, effects = ask(ledger, NATIVE, WRITE, volume_id)
        ledger.hand_over_ended(effects.hand_overs[0], Outcome(NATIVE, is_vacant=True))
        ledger.end(ticket)
    assert ledger.native_volumes() == []


def test_a_volume_that_was_made_natively_stays_native():
    ledger = Ledger()
    ticket, effects = ask(ledger, NATIVE, EXCLUSIVE)
    ledger.hand_over_ended(effects.hand_overs[0], Outcome(NATIVE, is_vacant=True))
    ledger.end(ticket)
    assert ledger.native_volumes() == [3]


@pytest.mark.parametrize("form", [VolumeForm(mark=Mark.READ_ONLY), VolumeForm(False, shards=Shards("c", (0, 13)))])
def test_what_was_left_closed_is_to_be_opened_as_it_was(form):
    ledger = Ledger()
    _, effects = ask(ledger, NATIVE)
    ledger.hand_over_ended(effects.hand_overs[0], Outcome(BACKEND, is_open=False, refusal="no", form=form))
    _, effects = ask(ledger, BACKEND)
    assert effects.hand_overs[0].form == form


def test_of_what_the_backend_has_open_only_what_it_cannot_say_is_kept():
    ledger = native_ledger()
    ticket, effects = ask(ledger, BACKEND)
    form = VolumeForm(False, Mark.READ_ONLY, Shards("c", (0, 13), "ssd"))
    ledger.hand_over_ended(effects.hand_overs[0], Outcome(BACKEND, form=form))
    ledger.end(ticket)
    _, effects = ask(ledger, NATIVE)
    assert effects.hand_overs[0].form == VolumeForm(mark=Mark.READ_ONLY, shards=Shards(disk_type="ssd"))


def test_a_pin_outlives_the_operation_and_ends_with_the_backend():
    ledger = Ledger()
    ticket, _ = ask(ledger, BACKEND, EXCLUSIVE)
    ledger.end(ticket, BackendEffect(pin=True))
    assert ledger.is_pinned(3)
    assert ask(ledger, NATIVE)[0].state is TicketState.ELSEWHERE
    assert ask(ledger, BACKEND)[0].state is TicketState.GRANTED
    ledger.freeze()
    assert not ledger.is_pinned(3)


def test_what_a_native_operation_leaves_pins_nothing():
    ledger = native_ledger()
    ticket, _ = ask(ledger, NATIVE, EXCLUSIVE)
    ledger.end(ticket, BackendEffect(pin=True, mark=Mark.READ_ONLY))
    assert ask(ledger, NATIVE)[0].state is TicketState.GRANTED


def test_those_behind_a_long_operation_are_told_when_it_begins():
    ledger = native_ledger()
    running, _ = ask(ledger, NATIVE)
    long = Ticket(3, BACKEND, WRITE, is_long=True)
    ledger.ask(long)
    native, _ = ask(ledger, NATIVE)
    short, _ = ask(ledger, BACKEND)
    (hand_over,) = ledger.end(running).hand_overs
    ledger.hand_over_ended(hand_over, Outcome(BACKEND))
    assert [t.state for t in (long, native, short)] == [
        TicketState.GRANTED,
        TicketState.ELSEWHERE,
        TicketState.GRANTED,
    ]


def test_while_frozen_a_native_volume_that_was_left_closed_is_not_opened():
    ledger = native_ledger()
    _, effects = ask(ledger, BACKEND)
    ledger.hand_over_ended(effects.hand_overs[0], Outcome(NATIVE, is_open=False, refusal="no"))
    ledger.freeze()
    read, effects = ask(ledger, NATIVE, READ)
    assert (read.state, effects.hand_overs) == (TicketState.WAITING, [])
    assert ledger.thaw().hand_overs == [HandOver(3, NATIVE, NATIVE, is_reopening=True)]


def test_a_wait_that_is_too_long_ends_where_the_volume_is_and_lets_others_pass():
    ledger = Ledger()
    ask(ledger, BACKEND)
    native, _ = ask(ledger, NATIVE)
    behind, _ = ask(ledger, BACKEND)
    assert ledger.fall_back_to_backend(native).to_wake == [native, behind]
    assert (native.state, behind.state) == (TicketState.ELSEWHERE, TicketState.GRANTED)
    assert ledger.fall_back_to_backend(native).to_wake == []


def test_nobody_goes_elsewhere_while_the_volume_is_on_its_way():
    ledger = Ledger()
    native, effects = ask(ledger, NATIVE)
    assert ledger.fall_back_to_backend(native).to_wake == []
    ledger.hand_over_ended(effects.hand_overs[0], Outcome(NATIVE))
    backend, _ = ask(ledger, BACKEND)
    assert ledger.fall_back_to_backend(backend).to_wake == []
    assert (native.state, backend.state) == (TicketState.GRANTED, TicketState.WAITING)


class LedgerMachine(RuleBasedStateMachine):
    """Operations, hand-overs with every outcome, and restarts, in any order."""

    def __init__(self):
        super().__init__()
        self.ledger = Ledger()
        self.tickets: list[Ticket] = []
        self.moves: list[HandOver] = []
        self.is_frozen = False
        self.pinned: set[int] = set()

    def note(self, effects):
        for move in effects.hand_overs:
            assert move.volume_id not in self.bound(), "it is to stay where it is"
            assert not (self.is_frozen and move.source is move.target is NATIVE), "opened while a backend starts"
        self.moves += effects.hand_overs
        for ticket in effects.to_wake:
            assert ticket.state in {TicketState.GRANTED, TicketState.REFUSED, TicketState.ELSEWHERE}
            assert ticket.state is not TicketState.ELSEWHERE or ticket.engine is NATIVE

    def bound(self):
        """The volumes that the backend keeps: with state that it has left there, or with a long operation under way."""
        long = {t.volume_id for t in self.running() if t.is_long and t.engine is BACKEND}
        return long | {volume_id for volume_id in self.pinned if self.ledger.owner_of(volume_id) is BACKEND}

    @rule(
        volume_id=st.integers(1, 3),
        engine=st.sampled_from(Engine),
        kind=st.sampled_from([READ, WRITE, EXCLUSIVE]),
        is_nested=st.booleans(),
        is_long=st.booleans(),
    )
    def ask(self, volume_id, engine, kind, is_nested, is_long):
        ticket = Ticket(volume_id, engine, kind, is_nested=is_nested, is_long=is_long)
        self.tickets.append(ticket)
        is_sure = self.ledger.grants_at_once(ticket)
        effects = self.ledger.ask(ticket)
        assert not is_sure or (ticket.state is TicketState.GRANTED and effects.to_wake == [ticket])
        assert not (is_sure and effects.hand_overs)
        self.note(effects)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), pin=st.sampled_from([None, True, False]))
    def end(self, data, pin):
        ticket = data.draw(st.sampled_from(self.tickets))
        self.tickets.remove(ticket)
        if pin is not None and ticket.state is TicketState.GRANTED and ticket.engine is BACKEND:
            (self.pinned.add if pin else self.pinned.discard)(ticket.volume_id)
        self.note(self.ledger.end(ticket, BackendEffect(pin=pin)))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def fall_back_to_backend(self, data):
        self.note(self.ledger.fall_back_to_backend(data.draw(st.sampled_from(self.tickets))))

    @precondition(lambda self: self.moves)
    @rule(data=st.data(), owner=st.sampled_from(Engine), is_open=st.booleans(), is_vacant=st.booleans())
    def finish(self, data, owner, is_open, is_vacant):
        move = data.draw(st.sampled_from(self.moves))
        self.moves.remove(move)
        if owner is move.target and is_open:
            outcome = Outcome(owner, is_vacant=is_vacant)
        else:
            outcome = Outcome(owner, is_open=is_open, refusal="failed")
        self.note(self.ledger.hand_over_ended(move, outcome))

    @rule()
    def freeze(self):
        self.is_frozen = True
        self.pinned.clear()
        self.note(self.ledger.freeze())

    @rule()
    def thaw(self):
        self.is_frozen = False
        self.pinned.clear()
        self.note(self.ledger.thaw())

    def running(self):
        return [ticket for ticket in self.tickets if ticket.state is TicketState.GRANTED]

    def waiting(self, volume_id):
        return [t for t in self.tickets if t.state is TicketState.WAITING and t.volume_id == volume_id]

    @invariant()
    def only_the_owner_works_on_a_volume(self):
        for ticket in self.running():
            assert ticket.engine is self.ledger.owner_of(ticket.volume_id)

    @invariant()
    def nobody_works_on_a_volume_that_moves(self):
        moving = [move.volume_id for move in self.moves]
        assert len(moving) == len(set(moving))
        assert not {ticket.volume_id for ticket in self.running()} & set(moving)

    @invariant()
    def who_waits_waits_for_something(self):
        busy = {ticket.volume_id for ticket in self.running()} | {move.volume_id for move in self.moves}
        for volume_id in range(1, 4):
            is_native = self.ledger.owner_of(volume_id) is NATIVE
            for ticket in self.waiting(volume_id):
                is_held = self.is_frozen and ticket.engine is NATIVE and (ticket.is_change or is_native)
                assert volume_id in busy or is_held

    @invariant()
    def natively_nobody_waits_for_what_takes_long(self):
        assert {one for one in range(1, 4) if self.ledger.is_kept_by_backend(one)} >= self.bound()
        for volume_id in self.bound():
            waiting = [t for t in self.waiting(volume_id) if t.engine is NATIVE and not self.is_frozen]
            assert not waiting

    @invariant()
    def idle_means_idle(self):
        changes = [t for t in self.running() if t.engine is NATIVE and t.is_change]
        assert self.ledger.is_idle == (not changes and not self.moves)
        assert set(self.ledger.native_changes()) == set(changes)

    def teardown(self):
        """From any state: if every hand-over succeeds and every operation ends, every waiting operation gets its
        turn.
        """
        self.is_frozen = False
        self.pinned.clear()
        self.note(self.ledger.thaw())
        while self.tickets:
            for move in list(self.moves):
                self.moves.remove(move)
                self.note(self.ledger.hand_over_ended(move, Outcome(move.target)))
            done = [ticket for ticket in self.tickets if ticket.state is not TicketState.WAITING]
            assert done or self.moves, "somebody waits for ever"
            for ticket in done:
                self.tickets.remove(ticket)
                self.note(self.ledger.end(ticket))


TestLedgerHistories = pytest.mark.slow(LedgerMachine.TestCase)
"""Slow: each example is a history of operations, hand-overs and restarts."""
