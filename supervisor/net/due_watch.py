"""Watches what the idle poller does without a task: what takes too long is left to the task of its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LEAVE_AFTER_S = 0.25
"""How long an answer, or the next piece of one, or the rest of an upload may take. A task takes over then: only a task
keeps the time limits of a connection, and sees that a client goes away."""
LOOK_EVERY_S = 0.1
"""How often is looked for what takes too long."""
_LEFT_IN_A_ROW = 8


class Watched(Protocol):
    """An exchange or an upload under way. It is left to a task at `due` (trio time) at the latest."""

    due: float

    def leave(self) -> None: ...


class DueWatch:
    """The exchanges and uploads under way in one poller. Only the poller's trio thread uses it.

    Args:
        wake_waiting: wakes the tasks to which something was left.
    """

    def __init__(self, wake_waiting: Callable[[], Awaitable[None]]) -> None:
        self._wake_waiting = wake_waiting
        self._items: dict[Watched, None] = {}  # the longest under way first
        self._wakes = trio.Event()
        self._is_parked = False

    def add(self, item: Watched) -> None:
        """Watches `item` from now on."""
        self._items[item] = None
        if self._is_parked:
            self._wakes.set()

    def discard(self, item: Watched) -> None:
        """Ends the watch, if there is one."""
        self._items.pop(item, None)

    def leave_soon(self, item: Watched) -> None:
        """Leaves `item` to its task soon."""
        item.due = trio.current_time()
        self._wakes.set()

    async def run(self) -> None:
        """Leaves what takes long to its task, until cancelled."""
        while True:
            self._wakes = trio.Event()
            if self._items:
                with trio.move_on_after(LOOK_EVERY_S):
                    await self._wakes.wait()
            else:
                self._is_parked = True
                await self._wakes.wait()
                self._is_parked = False
            await self._leave_due()

    async def _leave_due(self) -> None:
        now = trio.current_time()
        for number, item in enumerate([one for one in self._items if one.due <= now], 1):
            # Tasks run between two of these, so an item may have ended.
            if item in self._items:
                item.leave()
            if number % _LEFT_IN_A_ROW == 0:
                await self._wake_waiting()
        await self._wake_waiting()

    def leave_all(self) -> None:
        """Leaves everything to its task."""
        for item in list(self._items):
            item.leave()
