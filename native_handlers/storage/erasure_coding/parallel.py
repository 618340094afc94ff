"""Processes pieces in several threads: while one thread waits for the disk another computes.

The system may refuse a thread (`ulimit -u`, `pids.max`). Then the threads that there are do all of the work.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from native_handlers.storage.erasure_coding.errors import WorkEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

_log = logging.getLogger(__name__)
MAX_THREADS = 4
"""The bound of what one disk and the memory bandwidth can use."""


_is_wanted: ContextVar[Callable[[], bool]] = ContextVar("is_wanted", default=lambda: True)


@contextmanager
def ended_early(is_wanted: Callable[[], bool]) -> Iterator[None]:
    """Inside the block `in_parallel` asks `is_wanted` before each item, and `check_wanted` asks it at once. Both raise
    WorkEnded after the answer was False.
    """
    before = _is_wanted.set(is_wanted)
    try:
        yield
    finally:
        _is_wanted.reset(before)


def check_wanted() -> None:
    """Raises WorkEnded, see `ended_early`. Call it between long steps: a sync may take minutes."""
    if not _is_wanted.get()():
        raise WorkEnded


def thread_count() -> int:
    """The number of processors, at least two so that reading and writing overlap."""
    return min(max(len(os.sched_getaffinity(0)), 2), MAX_THREADS)


def in_parallel(items: Iterable[T], make_worker: Callable[[], Callable[[T], None]]) -> None:
    """Processes each of `items` in one of several workers, which take the items in order.

    Raises:
        WorkEnded: see `ended_early`.
        Exception: the first error of a worker.
        In each case no work is under way any more.
    """
    _Crowd(items, make_worker).run()


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Does `work` in a thread of its own while the body of the context runs, and waits for both. Without a thread
    `work` is done after the body, where that has not failed.

    Raises:
        Exception: the error of the body, else that of `work`.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised again in the waiting thread
            failures.append(error)

    thread = threading.Thread(target=run, name="ec-beside", daemon=True)
    has_started = _start(thread)
    try:
        yield
    finally:
        if has_started:
            thread.join()
    if not has_started:
        run()
    if failures:
        raise failures[0]


def _start(thread: threading.Thread) -> bool:
    """Starts the thread. Returns whether the system gave one."""
    try:
        thread.start()
    except RuntimeError as error:
        _log.warning("erasure coding goes on with fewer threads: %s", error)
        return False
    return True


class _Crowd:
    def __init__(self, items: Iterable[T], make_worker: Callable[[], Callable[[T], None]]) -> None:
        self._items = iter(items)
        self._make_worker = make_worker
        self._is_wanted = _is_wanted.get()
        # Protects the fields below, and `_items`.
        self._lock = threading.Lock()
        self._failure: BaseException | None = None

    def run(self) -> None:
        # Once this returns or raises, the caller closes the files that the workers use.
        started: list[threading.Thread] = []
        try:
            for _ in range(thread_count() - 1):
                thread = threading.Thread(target=self._work, name="ec-worker", daemon=True)
                if not _start(thread):
                    break
                started.append(thread)
            self._work()
        finally:
            for thread in started:
                thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            worker = self._make_worker()
            while True:
                with self._lock:
                    if self._failure is not None:
                        return
                    if not self._is_wanted():
                        raise WorkEnded
                    try:
                        item = next(self._items)
                    except StopIteration:
                        return
                worker(item)
        except BaseException as error:  # noqa: BLE001  raised again in the waiting thread
            with self._lock:
                self._failure = self._failure or error
