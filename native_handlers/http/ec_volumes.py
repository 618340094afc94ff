"""The erasure-coded volumes of a store, for the HTTP handlers."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from native_handlers.storage.erasure_coding.errors import NotAllHere
from native_handlers.storage.model.errors import VolumeClosed
from native_handlers.storage.system.files import NotCached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from native_handlers.format.needle import Needle
    from native_handlers.storage.erasure_coding.bounds import Bound, Part
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.erasure_coding.reader import ReadMemory
    from native_handlers.storage.store import Store

T = TypeVar("T")

THREADS = 40
"""The threads for reads of each disk; as many as one disk has for volumes."""


SMALL_BYTES = 1 << 20
"""A read that holds no more is made at once where its length is not known yet."""


class StoreEcVolumes:
    """Implements `EcVolumes` for a store. Reads and deletions wait until the bounds of the store's reader have room.

    Args:
        threads: the threads for reads of each disk, and of other servers.
    """

    def __init__(self, store: Store, threads: int = THREADS) -> None:
        self._store, self._threads = store, threads
        # A read that waits for a disk takes no thread from other disks, one that waits for other servers none from any
        # disk, and a deletion none from reads.
        self._of_reads: dict[Part, trio.CapacityLimiter] = {}
        # As many as the bound lets begin.
        self._of_deletions = trio.CapacityLimiter(math.inf)

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
        return await self._run_read(None, read, memory.elsewhere_bytes)

    async def _read_here(self, volume: EcVolume, needle_id: int, read: Callable[[], Needle]) -> Needle:
        look = partial(self._store.ec_reader.memory_of, volume, needle_id)
        # Most shards that are here are on the disk with the index.
        disk_id = volume.place.disk_id
        try:
            memory = look(cached_only=True)
        except NotCached:
            # In one thread with the read, unless that is a large one.
            memory, needle = await self._run_read(disk_id, partial(_read_small, look, read), SMALL_BYTES)
            if needle is not None:
                return needle
        return await self._run_read(disk_id, read, memory.here_bytes)

    async def delete_needle(self, volume: EcVolume, needle_id: int, cookie: int, *, is_exact: bool = False) -> int:
        """See `EcVolumes.delete_needle`."""
        return await self._in_open(volume, partial(self._delete_needle, needle_id, cookie, is_exact))

    async def _delete_needle(self, needle_id: int, cookie: int, is_exact: bool, volume: EcVolume) -> int:  # noqa: FBT001
        delete = partial(self._store.ec_reader.delete_needle, volume.id, needle_id, cookie, volume, is_exact=is_exact)
        # The needle is read for its cookie.
        memory = await self._memory_of(volume, needle_id)
        disk_ids = self._store.ec.disks_of_deletions(volume.id)
        async with _holding(self._store.ec_reader.bounds.deletions, disk_ids, memory.elsewhere_bytes):
            return await trio.to_thread.run_sync(delete, limiter=self._of_deletions)

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
            return await self._run_read(volume.place.disk_id, look, 0)

    async def _run_read(self, part: Part, work: Callable[[], T], held_bytes: int) -> T:
        """Runs `work`, which holds so many bytes at most, in a thread when there is room for them.

        Cancellation: only before `work` has begun.
        """
        limiter = self._of_reads.get(part) or self._of_reads.setdefault(part, trio.CapacityLimiter(self._threads))
        async with _holding(self._store.ec_reader.bounds.reads, [part], held_bytes):
            return await trio.to_thread.run_sync(work, limiter=limiter)


def _read_small(look: Callable[[], ReadMemory], read: Callable[[], Needle]) -> tuple[ReadMemory, Needle | None]:
    memory = look()
    return memory, None if memory.here_bytes > SMALL_BYTES else read()


@asynccontextmanager
async def _holding(bound: Bound, parts: Iterable[Part], held_bytes: int) -> AsyncIterator[None]:
    """As `Bound.holding`. The calling task waits, and other tasks go on. Raises as that."""
    loop, is_held = trio.lowlevel.current_trio_token(), trio.Event()

    def wake() -> None:
        # Any thread calls this, perhaps when the loop has ended.
        with suppress(trio.RunFinishedError):
            loop.run_sync_soon(is_held.set)

    share = bound.begin(parts, held_bytes, wake)
    try:
        if not share.is_held and share.refusal is None:
            await is_held.wait()
        if share.refusal is not None:
            raise share.refusal()
        yield
    finally:
        bound.end(share)
