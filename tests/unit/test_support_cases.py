"""The choice of cases of the profile `quick`: few, always the same, the first and the last among them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.cases import spread
from support.waiting import LIMIT_S

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("count", "most", "chosen"),
    [
        (0, 3, []),
        (1, 3, [0]),
        (3, 3, [0, 1, 2]),
        (4, 3, [0, 1, 3]),
        (11, 3, [0, 5, 10]),
        (100, 4, [0, 33, 66, 99]),
        (5, 2, [0, 4]),
        (5, 1, [0]),
    ],
)
def test_cases_are_chosen_at_equal_distances(count, most, chosen):
    assert spread(range(count), most) == chosen


@pytest.mark.parametrize("count", range(3, 40))
def test_as_many_cases_are_chosen_as_may_be(count):
    chosen = spread(range(count), 3)
    assert len(set(chosen)) == 3
    assert chosen == sorted(chosen)
    assert (chosen[0], chosen[-1]) == (0, count - 1)


@pytest.mark.parametrize(("profile", "count"), [("quick", 2), ("fast", 8)])
@pytest.mark.slow
def test_the_profile_quick_alone_leaves_cases_out(profile, count):
    """Slow: starts pytest."""
    test = "tests/unit/test_support_cases.py::test_cases_are_chosen_at_equal_distances"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "-p", "no:cacheprovider", test],
        cwd=ROOT,
        env={**os.environ, "HYPOTHESIS_PROFILE": profile},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert sum(line.startswith(test) for line in done.stdout.splitlines()) == count, done.stdout
