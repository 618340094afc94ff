"""The erasure-coded volumes of a store, for the HTTP handlers."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from native_handlers.storage.erasure_coding.errors import NotAllHere
from native_handlers.storage.model.errors import VolumeClosed
from native_handlers.storage.system.files import NotCached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from native_handlers.format.needle import Needle
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.erasure_coding.reader import ReadMemory
    from native_handlers.storage.store import Store

T = TypeVar("T")

THREADS = 40
"""The threads of each pool; as many as one disk has for volumes."""
MEMORY_BYTES = 512 << 20
"""What the reads of one pool may hold together: 20 needles of 8 MiB that are computed. The largest needle that is
taken by default, 256 MiB, is read beside no other one."""


SMALL_BYTES = 1 << 20
"""A read that holds no more is made at once where its length is not known yet."""


class StoreEcVolumes:
    """Implements `EcVolumes` for a store.

    Args:
        threads: the threads of each pool.
        memory_bytes: how many bytes the reads of each pool may hold together. A read that needs more is made alone.
    """

    def __init__(self, store: Store, threads: int = THREADS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._store = store
        self._make_pool = partial(_Pool, threads, memory_bytes)
        # A read that waits for a disk takes neither a thread nor memory from other disks, one that waits for other
        # servers none from any disk, and a deletion none from reads. A deletion is noted on all disks of its volume,
        # and waits for each.
        self._of_disks: dict[int, _Pool] = {}
        self._of_reads_elsewhere = self._make_pool()
        self._of_deletions: dict[frozenset[int], _Pool] = {}

    def find(self, volume_id: int) -> EcVolume | None:
        """See `EcVolumes.find`."""
        return self._store.ec.find(volume_id)

    async def read_needle(self, volume: EcVolume, needle_id: int, cookie: int) -> Needle:
        """See `EcVolumes.read_needle`. Runs on the event loop where memory holds all of the needle, else in a
        thread.
        """
        return await self._in_open(volume, partial(self._read_needle, needle_id, cookie))

    async def _read_needle(self, needle_id: int, cookie: int, volume: EcVolume) -> Needle:
        read = partial(self._store.ec_reader.read_needle, volume.id, needle_id, cookie, volume=volume)
        may_be_here = False
        try:
            return read(cached_only=True)
        except NotAllHere:
            pass
        except NotCached:
            may_be_here = True
        if may_be_here:
            try:
                return await self._read_here(volume, needle_id, partial(read, here_only=True))
            except NotAllHere:
                pass
        memory = await self._memory_of(volume, needle_id)
        return await self._of_reads_elsewhere.run(read, memory.elsewhere_bytes)

    async def _read_here(self, volume: EcVolume, needle_id: int, read: Callable[[], Needle]) -> Needle:
        look = partial(self._store.ec_reader.memory_of, volume, needle_id)
        pool = self._of_disk(volume)
        try:
            memory = look(cached_only=True)
        except NotCached:
            # In one thread with the read, unless that is a large one.
            memory, needle = await pool.run(partial(_read_small, look, read), SMALL_BYTES)
            if needle is not None:
                return needle
        return await pool.run(read, memory.here_bytes)

    async def delete_needle(self, volume: EcVolume, needle_id: int, cookie: int) -> int:
        """See `EcVolumes.delete_needle`."""
        return await self._in_open(volume, partial(self._delete_needle, needle_id, cookie))

    async def _delete_needle(self, needle_id: int, cookie: int, volume: EcVolume) -> int:
        delete = partial(self._store.ec_reader.delete_needle, volume.id, needle_id, cookie, volume)
        # The needle is read for its cookie.
        memory = await self._memory_of(volume, needle_id)
        # With disks out of service: an earlier deletion of the volume may wait for one, and this one for that deletion.
        disk_ids = frozenset(one.place.disk_id for one in self._store.ec.copies(volume.id))
        pool = self._of_deletions.get(disk_ids) or self._of_deletions.setdefault(disk_ids, self._make_pool())
        return await pool.run(delete, memory.elsewhere_bytes)

    async def _in_open(self, volume: EcVolume, work: Callable[[EcVolume], Awaitable[T]]) -> T:
        """The result of `work` with `volume`, or with the volume that is open in its place by now."""
        try:
            return await work(volume)
        except VolumeClosed:
            present = self.find(volume.id)
            if present is None or present is volume:
                raise
        return await work(present)

    async def _memory_of(self, volume: EcVolume, needle_id: int) -> ReadMemory:
        look = partial(self._store.ec_reader.memory_of, volume, needle_id)
        try:
            return look(cached_only=True)
        except NotCached:
            return await self._of_disk(volume).run(look, 0)

    def _of_disk(self, volume: EcVolume) -> _Pool:
        """The pool of the disk with the volume's index; most of its shards that are here are on that disk too."""
        disk_id = volume.place.disk_id
        return self._of_disks.get(disk_id) or self._of_disks.setdefault(disk_id, self._make_pool())


def _read_small(look: Callable[[], ReadMemory], read: Callable[[], Needle]) -> tuple[ReadMemory, Needle | None]:
    memory = look()
    return memory, None if memory.here_bytes > SMALL_BYTES else read()


class _Pool:
    """Threads, and the memory that the work in them may hold together. For the event loop."""

    def __init__(self, threads: int, memory_bytes: int) -> None:
        self._threads = trio.CapacityLimiter(threads)
        self._memory_bytes = memory_bytes
        self._held_bytes = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()
        """Work that finds no memory, in the order of its coming: large work is not overtaken for ever."""

    async def run(self, work: Callable[[], T], held_bytes: int) -> T:
        """Runs `work`, which holds so many bytes at most, in a thread when there is room for them.

        Cancellation: only before `work` has begun.
        """
        async with self._holding(held_bytes):
            return await trio.to_thread.run_sync(work, limiter=self._threads)

    @asynccontextmanager
    async def _holding(self, held_bytes: int) -> AsyncIterator[None]:
        if held_bytes and (self._waiting or not self._fits(held_bytes)):
            await self._wait(held_bytes)
        else:
            self._held_bytes += held_bytes
        try:
            yield
        finally:
            self._give_back(held_bytes)

    async def _wait(self, held_bytes: int) -> None:
        turn = held_bytes, trio.Event()
        self._waiting.append(turn)
        try:
            await turn[1].wait()
        except trio.Cancelled:
            if turn[1].is_set():
                self._give_back(held_bytes)
            else:
                self._waiting.remove(turn)
                self._give_back(0)
            raise

    def _fits(self, held_bytes: int) -> bool:
        return not self._held_bytes or self._held_bytes + held_bytes <= self._memory_bytes

    def _give_back(self, held_bytes: int) -> None:
        self._held_bytes -= held_bytes
        while self._waiting and self._fits(self._waiting[0][0]):
            count_bytes, event = self._waiting.popleft()
            self._held_bytes += count_bytes
            event.set()
