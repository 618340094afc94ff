"""A bounded cache of costly results about stored records.

Requests that need the same result at the same time get it from the first of them, whether or not it is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from native_handlers.format.needle import Needle

T = TypeVar("T")

RecordKey = tuple[int, int, int, int, int, int, int]


def record_key(volume_id: int, needle: Needle) -> RecordKey:
    """Identifies a record. A needle that is written again has another key."""
    return (
        volume_id,
        needle.needle_id,
        needle.cookie,
        needle.checksum,
        needle.append_at_ns,
        needle.last_modified_s,
        needle.data_size,
    )


class _SharedSearch(Generic[T]):
    """One search for a result, and the tasks that wait for it."""

    __slots__ = ("found", "waiting")

    def __init__(self) -> None:
        self.waiting = trio.lowlevel.ParkingLot()
        self.found: list[T] = []
        """The result, once there is one."""


class KeptResults(Generic[T]):
    """Results by record. The result that was unused longest goes first. For the tasks of one event loop.

    Args:
        max_bytes: the bound for all results together.
        memory_of: the memory of a result, in bytes. A result of more than `max_bytes` is not kept: only the requests
            that wait for it get it.
    """

    def __init__(self, max_bytes: int, memory_of: Callable[[T], int]) -> None:
        self._max_bytes = max_bytes
        self._memory_of = memory_of
        self._kept: dict[RecordKey, T] = {}
        self._kept_bytes = 0
        self._under_way: dict[RecordKey, _SharedSearch[T]] = {}

    async def get(self, key: RecordKey, find_out: Callable[[], Awaitable[T]]) -> T:
        """Returns the kept result for `key`, or that of a search under way, or else calls `find_out` and keeps its
        result.

        Raises:
            Exception: from `find_out`; then nothing is kept, and one waiting request calls its `find_out`, for which
                the others wait.
        Cancellation: as that of `find_out`, with the same consequence.
        """
        if key in self._kept:
            found = self._kept[key] = self._kept.pop(key)
            return found
        search = self._under_way.get(key)
        if search is None:
            search = self._under_way[key] = _SharedSearch()
        else:
            await search.waiting.park()
            if search.found:
                return search.found[0]
        return await self._find_out(key, search, find_out)

    async def _find_out(self, key: RecordKey, search: _SharedSearch[T], find_out: Callable[[], Awaitable[T]]) -> T:
        try:
            found = await find_out()
        except BaseException:
            # The woken task gets its turn even if it is cancelled meanwhile, so it takes over for sure.
            if not search.waiting.unpark():
                del self._under_way[key]
            raise
        del self._under_way[key]
        search.found.append(found)
        search.waiting.unpark_all()
        self._keep(key, found)
        return found

    def _keep(self, key: RecordKey, found: T) -> None:
        if self._memory_of(found) > self._max_bytes:
            return
        self._kept[key] = found
        self._kept_bytes += self._memory_of(found)
        while self._kept_bytes > self._max_bytes:
            oldest = next(iter(self._kept))
            self._kept_bytes -= self._memory_of(self._kept.pop(oldest))
