"""Asks a file system something without waiting longer than told: one that hangs keeps one thread, and nobody else.

A call that hangs in the kernel cannot be ended. So it has a thread of its own, which is given up, and as long as it is
under way nothing else is asked: a dead disk must not cost a thread a question.
Source: weed/stats/disk.go (one outstanding statfs).
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class NoAnswer(Exception):
    """The call did not end in time, or an earlier one has not yet ended. It may still take effect."""


class Patience:
    """Makes one call at a time, each waited for `wait_s` at most. Safe from any thread."""

    def __init__(self, name: str, wait_s: float) -> None:
        self._name = name
        self._wait_s = wait_s
        self._started_at_s = 0.0
        # Held while a call is under way; freed by its thread, so not by whoever has given it up.
        self._under_way = threading.Lock()

    def ask(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. A call of somebody else that is under way is waited for, within its time.

        Raises:
            NoAnswer: it took too long, or the one before it still does.
        """
        if not self._under_way.acquire(timeout=self._time_left_s()):
            raise NoAnswer(f"{self._name} still in progress")
        self._started_at_s = time.monotonic()
        outcome: Future[T] = Future()
        try:
            threading.Thread(target=self._run, args=(call, outcome), name=self._name, daemon=True).start()
        except BaseException:
            self._under_way.release()
            raise
        if not wait([outcome], self._wait_s).done:
            raise NoAnswer(f"{self._name} timeout")
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
