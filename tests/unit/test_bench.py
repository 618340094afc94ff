"""The measurements are run by hand; this test only imports them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_measurements_load():
    """Slow: starts a program."""
    asked = [sys.executable, "-m", "tests.bench", "--help"]
    ended = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert "sweep-volumes" in ended.stdout
