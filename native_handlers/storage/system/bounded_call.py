"""Calls into a file system with a time limit: a file system that hangs holds one thread, and no caller.

A call that hangs in the kernel cannot be ended. So the call has a thread of its own, which is abandoned after the
limit. While that call is under way no other call is made: a dead disk must not cost a thread for each call. Source:
weed/stats/disk.go (one outstanding statfs).
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, TypeVar

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
        outcome: Future[T] = Future()
        try:
            threading.Thread(target=self._run, args=(call, outcome), name=self._name, daemon=True).start()
        except BaseException:
            self._under_way.release()
            raise
        if not wait([outcome], self._wait_s).done:
            raise CallTimedOut(f"{self._name} timeout")
        return outcome.result()

    def _time_left_s(self) -> float:
        return max(self._started_at_s + self._wait_s - time.monotonic(), 0.0)

    def _run(self, call: Callable[[], T], outcome: Future[T]) -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001  raised again by whoever waits
            outcome.set_exception(error)
        finally:
            self._under_way.release()
