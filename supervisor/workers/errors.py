"""The errors of the workers as a whole. `channel` has those of single calls."""

from __future__ import annotations


class WorkersGaveUp(Exception):
    """No worker can serve. None runs when this is raised."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the HTTP workers are given up: {why}")
        self.why = why
