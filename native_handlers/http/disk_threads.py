"""Threads for each disk and each remote tier: requests that wait for one that hangs take no threads from the others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from native_handlers.storage.model.errors import NotFound, VolumeClosed
from native_handlers.storage.system.files import NotCached

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.store import Store
    from native_handlers.storage.volume.record_reader import PayloadSlice
    from native_handlers.storage.volume.volume import Volume

T = TypeVar("T")

THREADS_PER_DISK = 40
"""trio's default for a whole program."""


class DiskThreads:
    """Runs reads and writes of needles that wait for a disk, or for the tier of a volume in remote storage."""

    def __init__(self, per_disk: int = THREADS_PER_DISK) -> None:
        self._per_disk = per_disk
        self._limiters: dict[int | str, trio.CapacityLimiter] = {}

    async def run(self, volume: Volume, work: Callable[[], T]) -> T:
        """Runs `work`, which waits for the disk or the tier of `volume`, in a thread. Returns its result, or raises its
        error.

        Raises:
            DiskUnavailable: the disk is out of service; `work` was not called and no thread was waited for.

        Cancellation: only before `work` has begun.
        """
        volume.check_in_service()
        limiter = self._limiters.setdefault(_place_of(volume), trio.CapacityLimiter(self._per_disk))
        return await trio.to_thread.run_sync(work, limiter=limiter)


def _place_of(volume: Volume) -> int | str:
    """The id of the disk, or the name of the tier, where the needles are read."""
    files = volume.info.files
    return files[0].backend_name if volume.is_tiered and files else volume.disk_id


def on_present_volume(store: Store, volume: Volume, act: Callable[[Volume], T], where: str = "") -> T:
    """`act` on `volume`, or once more on the volume that has taken its place, where it was closed meanwhile.

    Raises:
        VolumeNotFound: the volume went, as at the end of a move; `where` as in `Store.get_volume`.
    """
    try:
        return act(volume)
    except (NotFound, VolumeClosed):
        if not volume.is_closed:
            raise
        return act(store.get_volume(volume.id, where))


class PayloadSource:
    """A payload on disk as the source of an answer (message.FileSource). Its disk's threads read it; the volume counts
    failures.
    """

    __slots__ = ("_payload", "_threads", "_volume")

    def __init__(self, payload: PayloadSlice, volume: Volume, threads: DiskThreads) -> None:
        self._payload = payload
        self._volume = volume
        self._threads = threads

    def read_cached_into(self, buffer: memoryview, offset_bytes: int) -> bool:
        """Fills `buffer` without waiting for the disk. Returns whether memory held all of those bytes."""
        try:
            self._payload.read_cached_into(offset_bytes, buffer)
        except NotCached:
            return False
        return True

    def send_cached(self, socket_fd: int, length_bytes: int, offset_bytes: int) -> int | None:
        """Sends part of the range from memory to a socket. Returns the number of bytes sent, or None where memory lacks
        some of them.

        Raises:
            BlockingIOError, ConnectionError: from the socket.
            ReadFailed: the disk failed nevertheless.
        """
        try:
            return self._payload.send_cached(offset_bytes, length_bytes, socket_fd)
        except NotCached:
            return None

    async def read(self, length_bytes: int, offset_bytes: int) -> bytes:
        """The bytes at `offset_bytes`, fewer only where the file has been cut short.

        Raises:
            ReadFailed: the disk failed.
            DiskUnavailable: the disk is out of service; nothing was read.
        """
        return await self._threads.run(self._volume, partial(self._payload.read, offset_bytes, length_bytes))
