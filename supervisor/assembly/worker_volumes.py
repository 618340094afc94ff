"""The volumes that a worker reads and changes: attached at their first use, and let go when the parent says so.

A volume is attached for reading, and once more for changes. So no read waits for a lock, a write or a disk that stalls.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from native_handlers.format.errors import FormatError
from native_handlers.storage.model.errors import DiskUnavailable, StorageError
from native_handlers.storage.settling import Settling

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from native_handlers.storage.volume.volume import Volume
    from supervisor.workers.board import ConnectionBoard
    from supervisor.workers.service import ParentVolumes, SharedVolume

log = logging.getLogger(__name__)

ASK_AGAIN_S = 2.0
"""How long a volume that the parent does not share is not asked for again."""
MAX_REFUSED = 10_000
"""How many such volumes are remembered. Clients may name any number of volumes."""
ATTACHING_THREADS = 4
"""How many volumes of one disk are attached at the same time."""
FOLLOW_EVERY_S = 0.1
"""How often the readers follow what other processes have written. The event loop itself follows some hundred changes at
most: a volume that is further behind would be read in threads, and no small deletion could be made here."""
MAX_WANTED = 256
"""How many volumes may wait for being attached. Meanwhile the parent answers their reads; they are wanted again."""


class WorkerVolumes:
    """The open volumes of a worker. See `AttachedVolumes`. Only the event loop uses it.

    Args:
        most: how many volumes may be open. Further ones are left to the parent.
        number, count: which worker this is, and of how many.
    """

    def __init__(self, parent: ParentVolumes, board: ConnectionBoard, most: int, number: int, count: int) -> None:
        self.settling = Settling()
        disks = partial(WorkerDisk, board, number, count)
        self._readers = _Attached(parent, partial(open_for_reading, disks, threading.get_ident()), most)
        self._writers = _Attached(parent, partial(open_for_writing, disks), most)

    def is_open(self, vid: int) -> bool:
        """Whether the volume is open here for reading. Asks for nothing."""
        return self._readers.is_open(vid)

    def is_asking(self, vid: int) -> bool:
        """Whether the parent is being asked for the volume, or the volume is being attached."""
        return self._readers.is_asking(vid) or self._writers.is_asking(vid)

    def find_volume(self, vid: int) -> Volume | None:
        """The volume for reading, if it is open here. Else it will be, if the parent shares it."""
        return self._readers.find(vid)

    def find_writer(self, vid: int) -> Volume | None:
        """The volume for changes, if it is open here. Else it will be, if the parent lets workers write to it."""
        return self._writers.find(vid)

    async def serve(self) -> None:
        """Attaches the volumes that are wanted, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._readers.serve)
            nursery.start_soon(self._writers.serve)
            nursery.start_soon(self._readers.keep_following)

    async def release(self, volume_ids: Sequence[int]) -> None:
        """Closes the volumes here. The next use of one of them asks the parent again."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._readers.release, volume_ids)
            nursery.start_soon(self._writers.release, volume_ids)

    async def close(self) -> None:
        """Closes all volumes."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._readers.close)
            nursery.start_soon(self._writers.close)


class _Attached:
    """The volumes that are open for one purpose.

    Args:
        attach: opens a volume that the parent shares, in a thread; None where that cannot be.
    """

    def __init__(self, parent: ParentVolumes, attach: Callable[[SharedVolume, int], Volume | None], most: int) -> None:
        self._parent = parent
        self._attach_volume = attach
        self._most = most
        self._open: dict[int, Volume] = {}
        self._has_some = trio.Event()
        self._asking: set[int] = set()
        self._attaching: dict[int, trio.Event] = {}
        """By id of a volume that is just being attached: set when that is over."""
        self._let_go: set[int] = set()
        """Volumes that are to be let go as soon as they are attached."""
        self._refused: dict[int, float] = {}
        self._want, self._wanted = trio.open_memory_channel[int](MAX_WANTED)
        self._threads: dict[int, trio.CapacityLimiter] = {}
        """By disk: one that hangs stops the attaching of its own volumes alone."""
        self._following: set[int] = set()
        """The disks whose volumes are just followed."""

    def is_open(self, vid: int) -> bool:
        """Whether the volume is open here. Asks for nothing."""
        return vid in self._open

    def is_asking(self, vid: int) -> bool:
        """Whether the parent is being asked for the volume, or the volume is being attached."""
        return vid in self._asking

    def find(self, vid: int) -> Volume | None:
        """The volume, if it is open here. Else it will be, if the parent shares it."""
        volume = self._open.get(vid)
        if volume is None:
            self._ask(vid)
        return volume

    def _ask(self, vid: int) -> None:
        if vid in self._asking or len(self._asking) >= MAX_WANTED or len(self._open) >= self._most:
            return
        until = self._refused.get(vid)
        if until is not None and trio.current_time() < until:
            return
        self._want.send_nowait(vid)
        self._asking.add(vid)

    async def serve(self) -> None:
        """Attaches the volumes that are wanted, until cancelled."""
        async with trio.open_nursery() as nursery:
            async for vid in self._wanted:
                nursery.start_soon(self._attach_wanted, vid)

    async def keep_following(self) -> None:
        """Follows what other processes write, until cancelled. A disk that hangs keeps volumes of other disks from
        nothing.
        """
        async with trio.open_nursery() as nursery:
            while True:
                await self._has_some.wait()
                await trio.sleep(FOLLOW_EVERY_S)
                behind: dict[int, list[Volume]] = {}
                for volume in self._open.values():
                    if volume.handle.is_behind and volume.disk_id not in self._following:
                        behind.setdefault(volume.disk_id, []).append(volume)
                for disk_id, volumes in behind.items():
                    self._following.add(disk_id)
                    nursery.start_soon(self._follow, disk_id, volumes)
                if not self._open:
                    self._has_some = trio.Event()

    async def _follow(self, disk_id: int, volumes: Sequence[Volume]) -> None:
        for volume in volumes:
            try:
                await trio.to_thread.run_sync(volume.handle.refresh, abandon_on_cancel=True)
            except (StorageError, FormatError) as error:
                log.debug("volume %d is not followed: %s", volume.id, error)
        self._following.discard(disk_id)

    async def _attach_wanted(self, vid: int) -> None:
        is_over = self._attaching[vid] = trio.Event()
        try:
            await self._attach(vid)
        finally:
            del self._attaching[vid]
            self._asking.discard(vid)
            self._let_go.discard(vid)
            is_over.set()

    async def _attach(self, vid: int) -> None:
        shared = await self._parent.share(vid)
        volume = None
        if shared is not None:
            # Not abandoned: its result must not be lost.
            threads = self._threads.setdefault(shared.disk_id, trio.CapacityLimiter(ATTACHING_THREADS))
            volume = await trio.to_thread.run_sync(self._attach_volume, shared, vid, limiter=threads)
        if volume is None:
            if len(self._refused) >= MAX_REFUSED:
                self._refused.clear()
            self._refused[vid] = trio.current_time() + ASK_AGAIN_S
        elif vid in self._let_go:
            await trio.to_thread.run_sync(volume.detach)
        else:
            self._refused.pop(vid, None)
            self._open[vid] = volume
            self._has_some.set()

    async def release(self, volume_ids: Sequence[int]) -> None:
        """Closes the volumes here. The next read of one of them asks the parent again."""
        closed = []
        for vid in volume_ids:
            self._refused.pop(vid, None)
            volume = self._open.pop(vid, None)
            if volume is not None:
                closed.append(volume)
        async with trio.open_nursery() as nursery:
            for volume in closed:
                nursery.start_soon(trio.to_thread.run_sync, volume.detach)
        for vid in volume_ids:
            if vid in self._attaching:
                self._let_go.add(vid)
                await self._attaching[vid].wait()

    async def close(self) -> None:
        """Closes all volumes."""
        await self.release(list(self._open))


def open_for_reading(
    disks: Callable[[SharedVolume], WorkerDisk], loop_thread: int, shared: SharedVolume, volume_id: int
) -> Volume | None:
    """The volume that the parent shares, open for reading; None where it was closed meanwhile, or cannot be opened.

    The parent may have closed its descriptor and given the number to another file, so what is opened is compared with
    what was wanted. In a share that was closed, no needle is found.

    The first call loads the modules that read volumes, a quarter of a worker's modules. An idle worker does without.
    """
    from native_handlers.storage.shared.reading import attach_for_reading  # noqa: PLC0415  (in this thread)

    def attach(descriptor: int) -> Volume:
        return attach_for_reading(descriptor, disks(shared), time.time_ns, loop_thread=loop_thread)

    return _open_shared(shared, volume_id, os.O_RDONLY, attach)


def open_for_writing(
    disks: Callable[[SharedVolume], WorkerDisk], shared: SharedVolume, volume_id: int
) -> Volume | None:
    """As `open_for_reading`, for changes; None also where the parent alone changes the volume."""
    if not shared.may_write:
        return None
    from native_handlers.storage.shared.writing import attach_for_writing  # noqa: PLC0415  (in this thread)

    disk = disks(shared)

    def attach(descriptor: int) -> Volume:
        return attach_for_writing(descriptor, disk, time.time_ns, appended=disk.appended)

    return _open_shared(shared, volume_id, os.O_RDWR, attach)


def _open_shared(shared: SharedVolume, volume_id: int, mode: int, attach: Callable[[int], Volume]) -> Volume | None:
    from native_handlers.storage.shared.state import ShareLost  # noqa: PLC0415

    try:
        descriptor = os.open(shared.path, mode | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            volume = attach(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ShareLost, StorageError, FormatError, ValueError) as error:
        log.warning("volume %d is left to the main process: %s", volume_id, error)
        return None
    if volume.id == volume_id:
        return volume
    volume.detach()
    return None


class WorkerDisk:
    """The facts of its disk that a volume in a worker needs. See `DiskContext`."""

    lost: Container[object] = ()

    def __init__(self, board: ConnectionBoard, number: int, count: int, shared: SharedVolume) -> None:
        self.disk_id, self.disk_type = shared.disk_id, shared.disk_type
        self._board = board
        self._number, self._count = number, count

    @property
    def is_space_low(self) -> bool:
        """Whether writes are left to the parent: the disk is full, or the parent has to look at it first."""
        return not self._board.has_room(self.disk_id, self._count)

    @property
    def is_unavailable(self) -> bool:
        return self._board.is_disk_out(self.disk_id)

    def appended(self, count_bytes: int) -> None:
        """Tells that this worker has appended bytes."""
        self._board.note_appended(self._number, count_bytes)

    def check_in_service(self) -> None:
        """Raises DiskUnavailable while the disk is out of service."""
        if self._board.is_disk_out(self.disk_id):
            raise DiskUnavailable(Path(str(self.disk_id)), "the main process says why")
