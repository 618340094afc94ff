"""Errors in what the operator asked for. Unless an error says otherwise, nothing has been started when it is raised."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class CliError(Exception):
    """Base class of this package's errors."""


class UsageError(CliError):
    """The command line, the environment or a named directory cannot be used. The process exits with 2.

    `problems` are complete sentences, one for each problem.
    """

    def __init__(self, *problems: str) -> None:
        assert problems
        super().__init__("\n".join(problems))
        self.problems: tuple[str, ...] = problems


class BadValue(CliError):
    """A value cannot be parsed. `expected` completes the sentence "expected ..."."""

    def __init__(self, text: str, expected: str) -> None:
        super().__init__(f"{text!r} cannot be used; expected {expected}")
        self.text = text
        self.expected = expected


class BadConfigFile(UsageError):
    """A TOML file exists but cannot be parsed. At the start that is a warning; at a reload the old values stay."""

    def __init__(self, path: Path, cause: Exception) -> None:
        super().__init__(f"{path} cannot be read: {cause}")
        self.path = path
        self.cause = cause


class BackendProbeFailed(CliError):
    """The backend program did not answer a query about itself (its flags, its version)."""

    def __init__(self, command: Sequence[str], why: str) -> None:
        super().__init__(f"{' '.join(command)!r} gave no usable answer: {why}")
        self.command = tuple(command)
        self.why = why


class OutputFailed(CliError):
    """Standard output cannot be written. The work of the command may be done. The process exits with 1."""
