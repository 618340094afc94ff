"""Errors of the managed backend as a whole. Errors of single forwarded requests belong to the forwarders."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.backend.restart_policy import Exit


class BackendError(Exception):
    """Base class of this package's errors."""


class BackendStartFailed(BackendError):
    """The program cannot be executed: missing, no permission, wrong format. No process runs. Retrying does not help."""

    def __init__(self, command: Sequence[str], cause: OSError) -> None:
        super().__init__(f"cannot start the backend {command[0]!r}: {cause.strerror or cause}")
        self.command = tuple(command)


class BackendGaveUp(BackendError):
    """The backend ended more often than the restart policy allows. No child runs when this is raised."""

    def __init__(self, name: str, why: str, exits: Sequence[Exit], last_lines: Sequence[str]) -> None:
        tail = "".join(f"\n    {line}" for line in last_lines)
        said = f"; its last words were:{tail}" if last_lines else "; it printed nothing"
        super().__init__(f"the backend {name} is given up: {why}{said}")
        self.name = name
        self.why = why
        self.exits = tuple(exits)
        self.last_lines = tuple(last_lines)
