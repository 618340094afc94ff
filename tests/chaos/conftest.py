"""The chaos suite's fixtures, which are the contract suite's; see tests/contract/harness/fixtures.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))

from harness.fixtures import *  # noqa: E402, F403  pytest looks for fixtures and hooks here
