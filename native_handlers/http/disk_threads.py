"""Threads for each disk by itself: requests that wait for a disk that hangs leave the other disks theirs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from native_handlers.storage.files import NotCached

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.needle_read import PayloadSlice
    from native_handlers.storage.volume import Volume

T = TypeVar("T")

THREADS_PER_DISK = 40
"""As many as trio gives a whole program by default."""


class DiskThreads:
    """Where needles are read and written that memory does not hold."""

    def __init__(self, per_disk: int = THREADS_PER_DISK) -> None:
        self._per_disk = per_disk
        self._limiters: dict[int, trio.CapacityLimiter] = {}

    async def run(self, volume: Volume, work: Callable[[], T]) -> T:
        """What `work`, which waits for the disk of `volume`, returns or raises.

        Raises:
            DiskUnavailable: the disk is out of service; `work` was not called, nor waited for a thread.

        Cancellation: before `work` has begun only.
        """
        volume.check_in_service()
        limiter = self._limiters.setdefault(volume.disk_id, trio.CapacityLimiter(self._per_disk))
        return await trio.to_thread.run_sync(work, limiter=limiter)


class PayloadSource:
    """A payload on disk as the source of an answer (message.FileSource): read in its disk's threads, and counted."""

    __slots__ = ("_payload", "_threads", "_volume")

    def __init__(self, payload: PayloadSlice, volume: Volume, threads: DiskThreads) -> None:
        self._payload = payload
        self._volume = volume
        self._threads = threads

    def read_cached_into(self, buffer: memoryview, offset_bytes: int) -> bool:
        """Fills `buffer` without waiting for the disk; whether memory held all of that."""
        try:
            self._payload.read_cached_into(offset_bytes, buffer)
        except NotCached:
            return False
        return True

    def send_cached(self, socket_fd: int, length_bytes: int, offset_bytes: int) -> int | None:
        """How much of the range went straight from memory to a socket; None where memory does not hold all of it.

        Raises:
            BlockingIOError, ConnectionError: from the socket.
            ReadFailed: the disk failed all the same.
        """
        try:
            return self._payload.send_cached(offset_bytes, length_bytes, socket_fd)
        except NotCached:
            return None

    async def read(self, length_bytes: int, offset_bytes: int) -> bytes:
        """The bytes at `offset_bytes`, fewer only where the file has been cut short.

        Raises:
            ReadFailed: the disk failed.
            DiskUnavailable: it is out of service; nothing was tried.
        """
        return await self._threads.run(self._volume, partial(self._payload.read, offset_bytes, length_bytes))
