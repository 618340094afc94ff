"""Bounds for the reads and deletions of erasure-coded needles: how much memory they hold together, and how many go on.

Each disk has a bound of its own, so that one that hangs keeps only its own work waiting. Work that needs several disks
takes its share of all of them at once, when each has room. While the work waits, it holds nothing, and other work may
begin on the disks that have room. Nothing waits for a disk that is out of service: what hangs there may hold its share
for hours. Other work that holds memory uses `Bound` too: `grpc/fetched_memory`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MEMORY_BYTES = 512 << 20
"""The memory of all reads of one disk together: 20 needles of 8 MiB that are computed. The largest needle that is taken
by default, 256 MiB, is read beside no other one."""
DELETIONS = 40
"""How many deletions on one disk may go on at the same time: as many as one disk has threads for volumes."""

Refusal = Callable[[], Exception]
Part = int | None
"""The key of a bound: a disk, by its id, or None for all other servers together."""


class Share:
    """The share of some work. `is_held` is False while the work waits for it, and where it is refused.

    `refusal` makes the error that says why the work does not get its share; None where it may get it.
    """

    __slots__ = ("held_bytes", "is_held", "number", "parts", "refusal", "wake")

    def __init__(self, number: int, parts: frozenset[Part], held_bytes: int, wake: Callable[[], None]) -> None:
        self.number, self.parts, self.held_bytes, self.wake = number, parts, held_bytes, wake
        self.is_held = False
        self.refusal: Refusal | None = None


class Bound:
    """Bounds the memory and the number of works of one kind, for each part. Safe from any thread.

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
        self._waiting: dict[frozenset[Part], OrderedDict[int, Share]] = {}
        """By the parts that the work needs, and by number, which is the order of its coming. Any of thousands may wait
        no longer, and is taken out in one step.
        """
        self._out: dict[Part, Refusal] = {}
        """The parts for which nothing waits."""

    @property
    def waiting_count(self) -> int:
        """How much work waits for its share."""
        with self._lock:
            return sum(map(len, self._waiting.values()))

    @contextmanager
    def holding(self, parts: Iterable[Part], held_bytes: int) -> Iterator[None]:
        """Has a share inside the block. The calling thread waits for it. Raises the error of `put_out`."""
        is_held = threading.Event()
        share = self.begin(parts, held_bytes, is_held.set)
        try:
            if not share.is_held and share.refusal is None:
                is_held.wait()
            if share.refusal is not None:
                raise share.refusal()
            yield
        finally:
            self.end(share)

    def begin(self, parts: Iterable[Part], held_bytes: int, wake: Callable[[], None]) -> Share:
        """Takes a share where each of `parts` has room for it. Else the share is held later, or refused where one of
        the parts is out, and `wake` is called then, by any thread. A share that is refused at once has its `refusal`
        when this returns. The caller calls `end` in all cases, and when the caller waits no longer.
        """
        with self._lock:
            share = Share(next(self._numbers), frozenset(parts), held_bytes, wake)
            if not held_bytes and self.places is None:
                self._take(share)
            else:
                self._waiting.setdefault(share.parts, OrderedDict())[share.number] = share
                self._admit()
                if not share.is_held:
                    self._refuse(share.parts)
        return share

    def put_out(self, part: Part, refusal: Refusal) -> None:
        """Nothing waits for that part until `take_back`: work that waits for it, or would have to, gets the error that
        `refusal` makes. Work that has its share keeps it, and work for which there is room gets it.
        """
        with self._lock:
            self._out[part] = refusal
            told = [share for parts in list(self._waiting) if part in parts for share in self._refuse(parts)]
            # What has waited behind them may have room.
            told += self._admit()
        for one in told:
            one.wake()

    def take_back(self, part: Part) -> None:
        """Ends `put_out`."""
        with self._lock:
            self._out.pop(part, None)

    def _refuse(self, parts: frozenset[Part]) -> Sequence[Share]:
        """Refuses all that waits for these parts, if one of them is out. Returns what was refused."""
        refusal = next((self._out[part] for part in parts if part in self._out), None)
        if refusal is None:
            return ()
        refused = list(self._waiting.pop(parts).values())
        for share in refused:
            share.refusal = refusal
        return refused

    def end(self, share: Share) -> None:
        """Gives a share back, or waits for it no longer."""
        with self._lock:
            if share.is_held:
                self._give_back(share)
            elif share.refusal is None:
                waiting = self._waiting[share.parts]
                del waiting[share.number]
                if not waiting:
                    del self._waiting[share.parts]
            admitted = self._admit()
        for one in admitted:
            one.wake()

    def _admit(self) -> list[Share]:
        """Has those that wait take their shares, in the order of their coming, as far as there is room."""
        admitted = []
        first = [(next(iter(waiting)), parts) for parts, waiting in self._waiting.items()]
        heapify(first)
        awaited: set[Part] = set()
        while first:
            _, parts = heappop(first)
            waiting = self._waiting[parts]
            number, share = next(iter(waiting.items()))
            full = {part for part in parts if not self._has_room(part, share)}
            if full or not awaited.isdisjoint(parts):
                # Later work does not take this part. So large work gets its turn.
                awaited |= full
                continue
            del waiting[number]
            self._take(share)
            admitted.append(share)
            if waiting:
                heappush(first, (next(iter(waiting)), parts))
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

    def put_out(self, disk_id: int, refusal: Refusal) -> None:
        """See `Bound.put_out`."""
        for bound in (self.reads, self.deletions):
            bound.put_out(disk_id, refusal)

    def take_back(self, disk_id: int) -> None:
        """See `Bound.take_back`."""
        for bound in (self.reads, self.deletions):
            bound.take_back(disk_id)
