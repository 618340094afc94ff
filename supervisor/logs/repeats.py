"""Decides which of many equal log lines are written. Pure: time is an argument.

A line may be written BURST times in WINDOW_S. Further lines are counted, and the count is written when the window is
over. So a thousand clients with the same failure cost a dozen lines, and a rare line does not get lost among them.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

BURST = 10
WINDOW_S = 10.0
MAX_KINDS = 512
"""How many kinds of line are remembered. Beyond it the oldest window is closed early."""
MAX_SHAPE_CHARS = 200

_VARYING = re.compile(r"(?:0x)?[0-9a-f]*\d[0-9a-f]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LineKind:
    """The properties that equal lines share: logger, place, level, and the text with every number replaced by #."""

    logger: str
    level: int
    file: str
    line: int
    shape: str
    backend: str | None = None


@dataclass(frozen=True, slots=True)
class Suppressed:
    """`count` lines of this kind were not written, the last of them at `until_s`."""

    kind: LineKind
    count: int
    until_s: float


@dataclass(slots=True)
class _RepeatWindow:
    started_s: float
    passed: int = 0
    suppressed: int = 0
    until_s: float = 0.0


class RepeatLimiter:
    """Remembers the recent lines. Not thread-safe: its caller holds a lock."""

    def __init__(self) -> None:
        self._windows: OrderedDict[LineKind, _RepeatWindow] = OrderedDict()

    @property
    def kind_count(self) -> int:
        """How many kinds of line are remembered now."""
        return len(self._windows)

    def admit(self, kind: LineKind, now_s: float) -> bool:
        """Whether a line of `kind` may be written at `now_s`. Call `take_due` first."""
        window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = _RepeatWindow(now_s)
        if window.passed < BURST:
            window.passed += 1
            return True
        window.suppressed += 1
        window.until_s = now_s
        return False

    def take_due(self, now_s: float) -> Iterator[Suppressed]:
        """Closes the windows that are over at `now_s`, and those that a clock set back has put into the future."""
        while self._windows:
            kind, window = next(iter(self._windows.items()))
            if 0 <= now_s - window.started_s < WINDOW_S and len(self._windows) <= MAX_KINDS:
                return
            yield from self._close(kind)

    def take_all(self) -> Iterator[Suppressed]:
        """Closes every window, over or not."""
        for kind in list(self._windows):
            yield from self._close(kind)

    def _close(self, kind: LineKind) -> Iterator[Suppressed]:
        window = self._windows.pop(kind)
        if window.suppressed:
            yield Suppressed(kind, window.suppressed, window.until_s)


def shape_of(message: str) -> str:
    """The first line of `message` with its numbers and ids taken out, cut to MAX_SHAPE_CHARS."""
    return _VARYING.sub("#", message[: 2 * MAX_SHAPE_CHARS].partition("\n")[0])[:MAX_SHAPE_CHARS]
