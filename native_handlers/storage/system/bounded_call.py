"""Calls into a file system with a time limit: a file system that hangs holds one thread, and no caller.

A call that hangs in the kernel cannot be ended. So the call has a thread of its own, which is abandoned after the
limit. While that call is under way no other call is made: a dead disk must not cost a thread for each call. Source:
weed/stats/disk.go (one outstanding statfs).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class CallTimedOut(Exception):
    """The call did not end in time, or an earlier call has not ended yet. The call may still take effect."""


class BoundedCall:
    """Makes one call at a time and waits at most `wait_s` for each. Safe from any thread."""

    def __init__(self, name: str, wait_s: float) -> None:
        self._name = name
        self._wait_s = wait_s
        self._started_at_s = 0.0
        # Held while a call is under way. The call's thread releases it, so a caller that gave up does not.
        self._under_way = threading.Lock()

    def run(self, call: Callable[[], T]) -> T:
        """Makes `call` and returns its result or raises its error. First waits for a call of another thread, within
        that call's limit.

        Raises:
            CallTimedOut: the call took too long, or an earlier call still runs.
        """
        if not self._under_way.acquire(timeout=self._time_left_s()):
            raise CallTimedOut(f"{self._name} still in progress")
        self._started_at_s = time.monotonic()
        outcome: _CallResult[T] = _CallResult(call)
        try:
            threading.Thread(target=self._run, args=(outcome,), name=self._name, daemon=True).start()
        except BaseException:
            self._under_way.release()
            raise
        if not wait(outcome.is_known, self._wait_s):
            raise CallTimedOut(f"{self._name} timeout")
        return outcome.result()

    def _time_left_s(self) -> float:
        return max(self._started_at_s + self._wait_s - time.monotonic(), 0.0)

    def _run(self, outcome: _CallResult[T]) -> None:
        try:
            outcome.make()
        finally:
            self._under_way.release()


def wait(is_known: threading.Lock, limit_s: float) -> bool:
    """Waits for the end of a call. Returns whether it has come in time."""
    return is_known.acquire(timeout=limit_s)


class _CallResult(Generic[T]):
    """The result of a call, or its error. `is_known` is a lock that the end of the call releases: a fifth of a Future's
    time, and each scrape of the metrics waits for one of these.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._results: list[T] = []
        self._error: BaseException | None = None
        self.is_known = threading.Lock()
        self.is_known.acquire()

    def make(self) -> None:
        """Makes the call."""
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001  `result` raises it again
            self._error = error
        finally:
            self.is_known.release()

    def result(self) -> T:
        """The result of the call. Raises its error."""
        if self._error is not None:
            raise self._error
        return self._results[0]
