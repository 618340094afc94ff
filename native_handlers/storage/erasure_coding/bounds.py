"""Bounds for the reads and deletions of erasure-coded needles: how much memory they hold together, and how many go on.

Each disk has a bound of its own, so that one that hangs keeps only its own work waiting. Work that needs several disks
takes its share of all of them at once, when each has room. While the work waits, it holds nothing, and other work may
begin on the disks that have room.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MEMORY_BYTES = 512 << 20
"""What the reads of one disk may hold together: 20 needles of 8 MiB that are computed. The largest needle that is taken
by default, 256 MiB, is read beside no other one."""
DELETIONS = 40
"""How many deletions on one disk may go on at the same time: as many as one disk has threads for volumes."""

Part = int | None
"""What has a bound of its own: a disk, by its id, or None for all other servers together."""


class Share:
    """The share of some work. `is_held` is False while the work waits for it."""

    __slots__ = ("held_bytes", "is_held", "number", "parts", "wake")

    def __init__(self, number: int, parts: frozenset[Part], held_bytes: int, wake: Callable[[], None]) -> None:
        self.number, self.parts, self.held_bytes, self.wake = number, parts, held_bytes, wake
        self.is_held = False


class Bound:
    """What work of one kind holds together, for each part. Safe from any thread.

    Args:
        memory_bytes: how many bytes the work of one part may hold together. Work that needs more is done alone.
        places: how much work of one part may go on at the same time; None for any number.
    """

    def __init__(self, memory_bytes: int, places: int | None = None) -> None:
        self.memory_bytes, self.places = memory_bytes, places
        # Protects the fields below.
        self._lock = threading.Lock()
        self._numbers = count()
        self._used: dict[Part, tuple[int, int]] = {}
        """Bytes and places that are in use."""
        self._waiting: dict[frozenset[Part], deque[Share]] = {}
        """By the parts that the work needs, in the order of its coming."""

    @contextmanager
    def holding(self, parts: Iterable[Part], held_bytes: int) -> Iterator[None]:
        """Has a share inside the block. The calling thread waits for it."""
        is_held = threading.Event()
        share = self.begin(parts, held_bytes, is_held.set)
        try:
            if not share.is_held:
                is_held.wait()
            yield
        finally:
            self.end(share)

    def begin(self, parts: Iterable[Part], held_bytes: int, wake: Callable[[], None]) -> Share:
        """Takes a share where each of `parts` has room for it. Else the share is held later, and `wake` is called then,
        by any thread. The caller calls `end` in both cases, and when the caller waits no longer.
        """
        with self._lock:
            share = Share(next(self._numbers), frozenset(parts), held_bytes, wake)
            if not held_bytes and self.places is None:
                self._take(share)
            else:
                self._waiting.setdefault(share.parts, deque()).append(share)
                self._admit()
        return share

    def end(self, share: Share) -> None:
        """Gives a share back, or waits for it no longer."""
        with self._lock:
            if share.is_held:
                self._give_back(share)
            else:
                waiting = self._waiting[share.parts]
                waiting.remove(share)
                if not waiting:
                    del self._waiting[share.parts]
            admitted = self._admit()
        for one in admitted:
            one.wake()

    def _admit(self) -> list[Share]:
        """Has those that wait take their shares, in the order of their coming, as far as there is room."""
        admitted = []
        first = [(waiting[0].number, parts) for parts, waiting in self._waiting.items()]
        heapify(first)
        awaited: set[Part] = set()
        while first:
            _, parts = heappop(first)
            waiting = self._waiting[parts]
            full = {part for part in parts if not self._has_room(part, waiting[0])}
            if full or not awaited.isdisjoint(parts):
                # Large work is not overtaken for ever: what comes later leaves it the part.
                awaited |= full
                continue
            share = waiting.popleft()
            self._take(share)
            admitted.append(share)
            if waiting:
                heappush(first, (waiting[0].number, parts))
            else:
                del self._waiting[parts]
        return admitted

    def _has_room(self, part: Part, share: Share) -> bool:
        used_bytes, used_places = self._used.get(part, (0, 0))
        if self.places is not None and used_places >= self.places:
            return False
        return not share.held_bytes or not used_bytes or used_bytes + share.held_bytes <= self.memory_bytes

    def _take(self, share: Share) -> None:
        share.is_held = True
        for part in share.parts:
            used_bytes, used_places = self._used.get(part, (0, 0))
            self._used[part] = used_bytes + share.held_bytes, used_places + 1

    def _give_back(self, share: Share) -> None:
        for part in share.parts:
            used_bytes, used_places = self._used.pop(part)
            if used_places > 1:
                self._used[part] = used_bytes - share.held_bytes, used_places - 1


class EcBounds:
    """The bounds of one server.

    Attributes:
        reads: the parts are the disks, and all other servers: for reads of which a shard is not here.
        deletions: the parts are the disks on which a deletion is noted. A deletion reads the needle first.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES, deletions: int = DELETIONS) -> None:
        self.reads = Bound(memory_bytes)
        self.deletions = Bound(memory_bytes, deletions)
