"""The errors of a routing table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: where (`line` counts from 1; None for the file as a whole), what, and a suggestion."""

    file: Path | None
    line: int | None
    text: str
    suggestion: str = ""

    def __str__(self) -> str:
        where = str(self.file) if self.file else "the routing table"
        if self.line is not None:
            where += f":{self.line}"
        return f"{where}: {self.text}" + (f"; {self.suggestion}" if self.suggestion else "")


class TableError(Exception):
    """A routing table was refused as a whole, because of all `problems`. The table in force stays in force."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
