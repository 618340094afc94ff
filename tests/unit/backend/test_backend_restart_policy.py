import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.backend.restart_policy import Delay, Exit, GiveUp, RestartPolicy, next_step, relevant_exits

POLICY = RestartPolicy(first_delay_s=1, factor=2, max_delay_s=10, jitter=0.25, window_s=100, max_exits_in_window=6)
NO_JITTER = 0.5


def crash(at_s, *, was_ready=True, status=-signal.SIGKILL):
    return Exit(at_s=at_s, status=status, was_ready=was_ready, lifetime_s=1.0)


def test_the_delay_grows_with_the_exits_in_the_window_up_to_its_limit():
    exits, delays = [], []
    for at_s in range(5):
        exits.append(crash(at_s))
        step = next_step(POLICY, exits, at_s, NO_JITTER)
        assert isinstance(step, Delay)
        delays.append(step.seconds)
    assert delays == [1, 2, 4, 8, 10]


def test_old_exits_are_forgiven():
    exits = [crash(at_s) for at_s in (0, 1, 2, 3, 4)]
    assert next_step(POLICY, [*exits, crash(500)], 500, NO_JITTER) == Delay(1)


def test_too_many_exits_in_the_window_end_it():
    step = next_step(POLICY, [crash(at_s) for at_s in range(6)], 5, NO_JITTER)
    assert step == GiveUp("it ended 6 times within 100 s, the last time with SIGKILL")


def test_starts_that_fail_have_a_smaller_budget_and_any_success_resets_it():
    failed = [crash(at_s, was_ready=False, status=1) for at_s in (0, 1, 2, 3)]
    step = next_step(POLICY, failed, 3, NO_JITTER)
    assert step == GiveUp("4 starts in a row ended before it was ready, the last with exit code 1")
    assert isinstance(next_step(POLICY, [failed[0], failed[1], crash(2), failed[2], failed[3]], 3, NO_JITTER), Delay)


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_its_share(chance):
    step = next_step(POLICY, [crash(0)], 0, chance)
    assert isinstance(step, Delay)
    assert 0.75 <= step.seconds <= 1.25


@given(st.lists(st.tuples(st.integers(0, 300), st.booleans()), min_size=1, max_size=20))
def test_forgetting_what_is_irrelevant_changes_no_decision(history):
    exits = [crash(at_s, was_ready=ready) for at_s, ready in sorted(history)]
    now_s = exits[-1].at_s
    kept = relevant_exits(POLICY, exits, now_s)
    assert next_step(POLICY, kept, now_s, NO_JITTER) == next_step(POLICY, exits, now_s, NO_JITTER)


def test_history_stays_bounded():
    exits = []
    for at_s in range(0, 100_000, 50):
        exits = relevant_exits(POLICY, [*exits, crash(at_s)], at_s)
    assert len(exits) <= 3


@pytest.mark.parametrize(
    ("status", "text"), [(0, "exit code 0"), (-signal.SIGSEGV, "SIGSEGV"), (-77, "signal 77"), (2, "exit code 2")]
)
def test_an_exit_is_described(status, text):
    assert crash(0, status=status).description == text
