"""A thread for work that usually takes microseconds and may hang, such as a small write to a disk.

The event loop gives the thread some work and waits for it, for some milliseconds at most. That costs two changes of
threads, and no trip through the event loop. Where the work takes longer, the event loop goes on without it, and is
called when the work is done. So a disk that hangs delays the loop once, by those milliseconds.
"""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

WAIT_S = 0.004
"""How long the event loop waits for one piece of work. Small writes take some tens of microseconds. The limit is longer
than the turn of another process on a busy processor."""
FIRST_REST_S = 0.02
LONGEST_REST_S = 1.0
"""Where the work was not done in time, the thread gets no more work for a while. The while doubles with each further
delay, up to `LONGEST_REST_S`. So a slow disk costs the event loop a hundredth of its time at most."""


class BriefWork:
    """One piece of work. The event loop calls `wait` once, and `when_done` where the work was not done in time."""

    __slots__ = ("_called", "_done", "_work", "is_done")

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._called: Callable[[], None] | None = None
        self.is_done = False
        self._done = threading.Lock()
        self._done.acquire()

    def carry_out(self) -> None:
        """Does the work, in the thread. An error is a bug, and is logged."""
        try:
            self._work()
        except Exception:
            log.exception("a piece of work broke off by a bug of ours")
        finally:
            self.is_done = True
            self._done.release()
            if self._called is not None:
                self._called()

    def wait(self, limit_s: float) -> bool:
        """Waits for the work, for `limit_s` at most. Returns whether it is done."""
        return self._done.acquire(timeout=limit_s)

    def when_done(self, call: Callable[[], None]) -> None:
        """Calls `call` when the work is done, or now if it is. Any thread may call it, and more than once."""
        self._called = call
        if self.is_done:
            call()


class BriefThread:
    """One thread, which starts with its first work. Only one thread uses the methods. The caller closes it.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: SimpleQueue[BriefWork | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._late: BriefWork | None = None
        self._rest_s = FIRST_REST_S
        self._rests_until_s = 0.0

    @property
    def is_free(self) -> bool:
        """Whether the thread may get work: it has ended its last one, and has not been slow just now."""
        if self._late is not None:
            if not self._late.is_done:
                return False
            self._late = None
        return not self._rests_until_s or monotonic() >= self._rests_until_s

    def begin(self, work: Callable[[], None]) -> BriefWork:
        """Begins `work`. Only for a thread that is free."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        begun = BriefWork(work)
        self._queue.put(begun)
        return begun

    def wait(self, begun: BriefWork, limit_s: float) -> bool:
        """Waits for `begun`, for `limit_s` at most. Returns whether it is done."""
        if begun.wait(limit_s):
            self._rest_s, self._rests_until_s = FIRST_REST_S, 0.0
            return True
        self._late = begun
        self._rests_until_s = monotonic() + self._rest_s
        self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
        return False

    def close(self) -> None:
        """Ends the thread after the work that it has. Does not wait for that."""
        if self._thread is not None:
            self._queue.put(None)

    def _run(self) -> None:
        while (begun := self._queue.get()) is not None:
            begun.carry_out()
