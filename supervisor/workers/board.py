"""Numbers of the parent and of all workers, in memory that all of them map.

How many connections each worker has, so that newcomers spread evenly. How many bytes of downloads and of uploads each
worker has in flight, because their bounds are the server's. Which disks are out of service. How many bytes the workers
have appended to volumes, and up to which number each disk has room.

All workers accept from the same sockets. The kernel wakes all of them for a newcomer, and the first one to accept gets
it. A worker that has more connections than another waits a moment before it accepts, so the other comes first. A number
here may be late by a moment. It decides who comes first, and never whether a client is served.
"""

from __future__ import annotations

import mmap
import os
import threading
from typing import TYPE_CHECKING

from supervisor.config.flags import WORKERS_MAX
from supervisor.net.seats import Seat, Seats

if TYPE_CHECKING:
    from collections.abc import Callable

_SLOT_NUMBERS = 8
"""Numbers of 8 bytes from one worker's to the next one's: a line of the processor's cache, which one process writes."""
_ABSENT = (1 << 64) - 1
_DOWNLOADS, _UPLOADS, _APPENDED = 1, 2, 3
"""Where in its slot a worker has the bytes of its downloads in flight, of its uploads, and those that the workers of
this number have appended since the start of the server."""
_DISKS_AT = WORKERS_MAX * _SLOT_NUMBERS
"""Where the numbers of the disks begin, which the parent writes: 1 for one that is out of service."""
MAX_DISKS = mmap.PAGESIZE // 8 - 1
_PARENT_AT = _DISKS_AT + MAX_DISKS
"""Where the parent has the bytes of its downloads in flight."""
_ROOM_AT = _PARENT_AT + 1
"""Where the second numbers of the disks begin: how many bytes the workers may have appended, all of them together,
before the parent has to look at the disk again. 0 where only the parent may write."""
_PARENTS_UPLOADS_AT = _ROOM_AT + MAX_DISKS
_BYTES = 3 * mmap.PAGESIZE

PAUSE_S = 0.001
"""The wait for each connection that this worker has more than the one with the fewest. The event loop measures in
milliseconds."""
MAX_PAUSE_S = 0.005
"""On a busy machine an idle process may need this long to wake. A worker that hangs holds a newcomer up for no longer
than this."""
LEAST_IN_A_ROW = 2
MOST_IN_A_ROW = 32
_PART_IN_A_ROW = 16


class ConnectionBoard:
    """The numbers of all workers. Each worker writes its own; the parent marks those of workers that do not run.

    `descriptor` is of a file in memory, of which the other processes get copies. `close` frees both.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, _BYTES)
        self._numbers = memoryview(self._map).cast("Q")
        # Threads of one worker append to several disks.
        self._appending = threading.Lock()

    @classmethod
    def create(cls, count: int) -> ConnectionBoard:
        """A board for `count` workers, none of which runs."""
        descriptor = os.memfd_create("workers", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, _BYTES)
            board = cls(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        for number in range(count):
            board.mark_absent(number)
        return board

    def publish(self, number: int, connections: int) -> None:
        """Says how many connections worker `number` has."""
        self._numbers[number * _SLOT_NUMBERS] = connections

    def mark_absent(self, number: int) -> None:
        """Says that worker `number` does not run."""
        self._numbers[number * _SLOT_NUMBERS] = _ABSENT
        self._numbers[number * _SLOT_NUMBERS + _DOWNLOADS] = 0
        self._numbers[number * _SLOT_NUMBERS + _UPLOADS] = 0

    def publish_downloads(self, number: int, in_flight_bytes: int) -> None:
        """Says how many bytes of downloads worker `number` has in flight."""
        self._numbers[number * _SLOT_NUMBERS + _DOWNLOADS] = in_flight_bytes

    def publish_parents_downloads(self, in_flight_bytes: int) -> None:
        """Says how many bytes of downloads the parent has in flight."""
        self._numbers[_PARENT_AT] = in_flight_bytes

    def downloads_of_workers(self, count: int, besides: int = -1) -> int:
        """How many bytes of downloads `count` workers have in flight, leaving out worker `besides`."""
        slots = (number * _SLOT_NUMBERS for number in range(count) if number != besides)
        return sum(self._numbers[slot + _DOWNLOADS] for slot in slots)

    def downloads_besides(self, count: int, number: int) -> int:
        """How many bytes of downloads the parent and all `count` workers but `number` have in flight."""
        return self._numbers[_PARENT_AT] + self.downloads_of_workers(count, number)

    def publish_uploads(self, number: int, in_flight_bytes: int) -> None:
        """Says how many bytes of uploads worker `number` has in flight."""
        self._numbers[number * _SLOT_NUMBERS + _UPLOADS] = in_flight_bytes

    def publish_parents_uploads(self, in_flight_bytes: int) -> None:
        """Says how many bytes of uploads the parent has in flight."""
        self._numbers[_PARENTS_UPLOADS_AT] = in_flight_bytes

    def uploads_of_workers(self, count: int, besides: int = -1) -> int:
        """How many bytes of uploads `count` workers have in flight, leaving out worker `besides`."""
        slots = (number * _SLOT_NUMBERS for number in range(count) if number != besides)
        return sum(self._numbers[slot + _UPLOADS] for slot in slots)

    def uploads_besides(self, count: int, number: int) -> int:
        """How many bytes of uploads the parent and all `count` workers but `number` have in flight."""
        return self._numbers[_PARENTS_UPLOADS_AT] + self.uploads_of_workers(count, number)

    def note_appended(self, number: int, count_bytes: int) -> None:
        """Worker `number` has appended bytes to a volume. Any thread of that worker calls it."""
        with self._appending:
            self._numbers[number * _SLOT_NUMBERS + _APPENDED] += count_bytes

    def appended_by_workers(self, count: int) -> int:
        """How many bytes `count` workers, and those before them, have appended, to any disk. Never shrinks."""
        return sum(self._numbers[number * _SLOT_NUMBERS + _APPENDED] for number in range(count))

    def set_room(self, disk_id: int, appended_bytes: int) -> None:
        """Says how much the workers may have appended before the parent has to look at the disk; 0: nothing. Bytes of
        other disks count as well, which makes the parent look too soon at most. `disk_id` is below MAX_DISKS.
        """
        self._numbers[_ROOM_AT + disk_id] = appended_bytes

    def has_room(self, disk_id: int, count: int) -> bool:
        """Whether `count` workers may append to volumes of a disk."""
        return self.appended_by_workers(count) < self._numbers[_ROOM_AT + disk_id]

    def set_disk(self, disk_id: int, *, is_out: bool) -> None:
        """Says whether a disk is out of service. `disk_id` is below MAX_DISKS."""
        self._numbers[_DISKS_AT + disk_id] = is_out

    def is_disk_out(self, disk_id: int) -> bool:
        """Whether a disk is out of service."""
        return bool(self._numbers[_DISKS_AT + disk_id])

    def fewest(self, count: int, besides: int) -> int | None:
        """The fewest connections of `count` workers, leaving out worker `besides`. None where no other one runs."""
        others = (self._numbers[number * _SLOT_NUMBERS] for number in range(count) if number != besides)
        found = min(others, default=_ABSENT)
        return None if found == _ABSENT else found

    def close(self) -> None:
        """Unmaps and closes the file. Other processes keep it."""
        self._numbers.release()
        self._map.close()
        os.close(self.descriptor)


class PublishedSeats(Seats):
    """The seats of a worker. Each change of their number is published.

    Args:
        count: how many workers there are.
        number: which of them this is.
    """

    def __init__(self, kind: str, most: int, board: ConnectionBoard, count: int, number: int) -> None:
        super().__init__(kind, lambda: most)
        self._board = board
        self._count = count
        self._number = number
        board.publish(number, 0)

    def take(self, host: str, give_up: Callable[[], object]) -> Seat | None:
        seat = super().take(host, give_up)
        self._board.publish(self._number, self.open_count)
        return seat

    def leave(self, seat: Seat) -> None:
        super().leave(seat)
        self._board.publish(self._number, self.open_count)

    def pause_s(self) -> float:
        """How long the other workers may accept first."""
        fewest = self._board.fewest(self._count, self._number)
        if fewest is None or fewest >= self.open_count:
            return 0.0
        return min((self.open_count - fewest) * PAUSE_S, MAX_PAUSE_S)

    def in_a_row(self) -> int:
        """How many newcomers may be accepted before the others are looked at again: few, while each counts."""
        return min(max(self.open_count // _PART_IN_A_ROW, LEAST_IN_A_ROW), MOST_IN_A_ROW)
