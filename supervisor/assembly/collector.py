"""Keeps Python's collector of reference cycles from stopping all threads for long.

This is the one module that tells the collector anything. A full collection walks over all objects while every thread is
stopped: half a second with 10,000 connections, some 100 ms with 3,000 volumes, again and again while they come. So:

- while modules are loaded or many volumes are opened, whose objects stay, no collection runs; after that the objects
  are set apart (frozen): `without_collection`, `set_apart_volumes`;
- while the node serves, surviving objects are walked over once, in portions as they accumulate, and then set apart:
  `objects_set_apart`.

Reference counts free objects that are set apart as before. No object of a connection or of a volume is in a cycle at
its end (a test holds that). Cycles among objects that are set apart are found when twice as much
memory is in use.
"""

from __future__ import annotations

import gc
import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

MANY_VOLUMES = 500
"""Fewer volumes take a few milliseconds to walk over."""

PORTION = 1
"""A portion is the objects that this many collections of the middle generation leave: up to 8,000, some 10 ms."""

LEAST_GROWTH = 3_000_000
"""With fewer new blocks of memory than this, the objects that are set apart are not walked over again. An object has
some blocks."""

LOOK_EVERY = 8  # portions
_NEVER = 1 << 20  # collections of the middle generation


@contextmanager
def without_collection() -> Iterator[None]:
    """Inside the block no collection runs. For code that makes many objects that stay."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def set_apart() -> None:
    """Sets all present objects apart. Call this inside `without_collection`, before the first collection."""
    gc.freeze()


def set_apart_volumes(count: int) -> None:
    """Sets all present objects apart after `count` volumes were opened, if these are many."""
    if count >= MANY_VOLUMES:
        gc.freeze()


class Collector:
    """Sets objects apart while a node serves. One thread uses it; `objects_set_apart` connects it to the collector."""

    def __init__(self) -> None:
        self.portions = 0
        # Counts blocks, not the objects that are set apart: Python would walk over all of them to count them, 20 ms for
        # a million. The memory pool knows its count of blocks.
        self._blocks_at_first = sys.getallocatedblocks()

    def set_apart_portion(self) -> None:
        """Walks over the objects that survived since the last call, if they are a portion, and sets them apart."""
        if gc.get_count()[2] < PORTION:
            return
        gc.collect()
        gc.freeze()
        self.portions += 1
        if self.portions % LOOK_EVERY == 0 and sys.getallocatedblocks() > 2 * self._blocks_at_first + LEAST_GROWTH:
            self._go_over_all()

    def _go_over_all(self) -> None:
        gc.unfreeze()
        found = gc.collect()
        gc.freeze()
        self._blocks_at_first = sys.getallocatedblocks()
        log.info("went over all objects: %d were left over, %d blocks are in use", found, self._blocks_at_first)


@contextmanager
def objects_set_apart(call_soon: Callable[[Callable[[], object]], object]) -> Iterator[Collector]:
    """Inside the block, present objects and surviving new objects are set apart.

    Args:
        call_soon: makes the event loop call a function. Any thread may use it; many calls in a row cause one.
    """
    gc.freeze()
    collector, before = Collector(), gc.get_threshold()

    def after_collection(phase: str, info: dict[str, int]) -> None:
        # This runs in any thread at any place, so it only tells the event loop.
        if phase == "stop" and info["generation"] == 1 and gc.get_count()[2] >= PORTION:
            call_soon(collector.set_apart_portion)

    gc.set_threshold(before[0], before[1], _NEVER)
    gc.callbacks.append(after_collection)
    try:
        yield collector
    finally:
        gc.callbacks.remove(after_collection)
        gc.set_threshold(*before)
