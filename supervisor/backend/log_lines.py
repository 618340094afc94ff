"""The child's output as log records: bytes in, bounded lines with a level out. This module does no I/O and no logging.

Upstream writes glog headers, `I0823 10:11:12.123456 volume.go:123 text`, with I, W, E or F in front. A line without a
header (a panic and its stacks, a wrapped message) continues the line before and takes its level.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE_BYTES = 8192
"""A longer line is cut here and its rest is dropped: a log record must not hold a whole payload."""

_GLOG = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +(?:\d+ )?(.*)", re.DOTALL)
_FATAL_STARTS = ("panic:", "fatal error:", "Traceback (most recent call last)", "launcher:")
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}


@dataclass(frozen=True, slots=True)
class ChildLine:
    """One line: its `logging` level, and its text without the time stamp, which the log record has anyway."""

    level: int
    text: str


class LineSplitter:
    """Cuts a byte stream into lines of at most MAX_LINE_BYTES, and holds no more than that."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._pending = bytearray()
        self._overflow_bytes = 0

    def feed(self, data: bytes) -> Iterator[str]:
        """Yields each line that `data` completes."""
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._add(piece)
            yield self._take()
        self._add(rest)

    def flush(self) -> Iterator[str]:
        """Yields the unfinished last line, if there is one."""
        if self._pending:
            yield self._take()

    def _add(self, piece: bytes) -> None:
        room = self._max_line_bytes - len(self._pending)
        self._pending += piece[:room]
        self._overflow_bytes += max(0, len(piece) - room)

    def _take(self) -> str:
        text = self._pending.decode("utf-8", "backslashreplace").rstrip("\r")
        if self._overflow_bytes:
            text += f" ... ({self._overflow_bytes} more bytes)"
        self._pending.clear()
        self._overflow_bytes = 0
        return text


class LevelParser:
    """Gives each line its level. A line without a header gets the level of the last header."""

    def __init__(self) -> None:
        self._level = logging.INFO

    def parse(self, line: str) -> ChildLine:
        header = _GLOG.fullmatch(line)
        if header is not None:
            self._level = _LEVELS[header[1]]
            return ChildLine(self._level, header[2])
        if line.startswith(_FATAL_STARTS):
            self._level = logging.ERROR
        return ChildLine(self._level, line)
