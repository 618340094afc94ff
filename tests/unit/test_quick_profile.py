"""The profile `quick` runs one case of each parametrised test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import LIMIT_S

ROOT = Path(__file__).resolve().parents[2]
CASES = ["first", "second", "third"]


@pytest.mark.parametrize("case", CASES)
def test_of_several_cases(case):
    """The cases that are counted below."""
    assert case in CASES


@pytest.mark.parametrize(("profile", "left"), [("quick", CASES[:1]), ("fast", CASES)])
@pytest.mark.slow
def test_it_alone_leaves_cases_out(profile, left):
    """Slow: starts pytest."""
    test = "tests/unit/test_quick_profile.py::test_of_several_cases"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "-p", "no:cacheprovider", test],
        cwd=ROOT,
        env={**os.environ, "HYPOTHESIS_PROFILE": profile},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    found = [line.strip() for line in done.stdout.splitlines() if line.startswith(test)]
    assert found == [f"{test}[{case}]" for case in left]
