"""A bounded cache of costly results about stored records.

Requests that need the same result at the same time wait for the first of them.
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


class KeptResults(Generic[T]):
    """Results by record. The result that was unused longest goes first. For the tasks of one event loop.

    Args:
        max_bytes: the bound for all results together.
        memory_of: the memory of a result, in bytes. A result of more than `max_bytes` is not kept.
    """

    def __init__(self, max_bytes: int, memory_of: Callable[[T], int]) -> None:
        self._max_bytes = max_bytes
        self._memory_of = memory_of
        self._kept: dict[RecordKey, T] = {}
        self._kept_bytes = 0
        self._under_way: dict[RecordKey, trio.Event] = {}

    async def get(self, key: RecordKey, find_out: Callable[[], Awaitable[T]]) -> T:
        """Returns the kept result for `key`, or calls `find_out` and keeps its result.

        Raises:
            Exception: from `find_out`; then nothing is kept, and the next waiting request calls `find_out` anew.
        Cancellation: as that of `find_out`, with the same consequence.
        """
        while key not in self._kept:
            begun = self._under_way.get(key)
            if begun is None:
                return await self._find_out(key, find_out)
            await begun.wait()
        found = self._kept[key] = self._kept.pop(key)
        return found

    async def _find_out(self, key: RecordKey, find_out: Callable[[], Awaitable[T]]) -> T:
        over = self._under_way[key] = trio.Event()
        try:
            found = await find_out()
            self._keep(key, found)
            return found
        finally:
            del self._under_way[key]
            over.set()

    def _keep(self, key: RecordKey, found: T) -> None:
        if self._memory_of(found) > self._max_bytes:
            return
        self._kept[key] = found
        self._kept_bytes += self._memory_of(found)
        while self._kept_bytes > self._max_bytes:
            oldest = next(iter(self._kept))
            self._kept_bytes -= self._memory_of(self._kept.pop(oldest))
