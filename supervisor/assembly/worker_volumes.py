"""The volumes that a worker reads: attached at their first read, and let go when the parent says so."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from native_handlers.format.errors import FormatError
from native_handlers.storage.model.errors import DiskUnavailable, StorageError
from native_handlers.storage.settling import Settling
from native_handlers.storage.shared.reading import attach_for_reading
from native_handlers.storage.shared.state import ShareLost

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from native_handlers.storage.volume.volume import Volume
    from supervisor.workers.board import ConnectionBoard
    from supervisor.workers.service import ParentVolumes, SharedVolume

log = logging.getLogger(__name__)

ASK_AGAIN_S = 2.0
"""How long a volume that the parent does not share is not asked for again."""
MAX_REFUSED = 10_000
"""How many such volumes are remembered. Clients may name any number of volumes."""
ATTACHING_TASKS = 4
MAX_WANTED = 256
"""How many volumes may wait for being attached. Meanwhile the parent answers their reads; they are wanted again."""


class WorkerVolumes:
    """The open volumes of a worker. See `ReadableVolumes`. Only the event loop uses it.

    Args:
        most: how many volumes may be open. Further ones are left to the parent.
    """

    def __init__(self, parent: ParentVolumes, board: ConnectionBoard, most: int) -> None:
        self.settling = Settling()
        self._parent = parent
        self._board = board
        self._most = most
        self._open: dict[int, Volume] = {}
        self._asking: set[int] = set()
        self._attaching: dict[int, trio.Event] = {}
        """By id of a volume that is just being attached: set when that is over."""
        self._let_go: set[int] = set()
        """Volumes that are to be let go as soon as they are attached."""
        self._refused: dict[int, float] = {}
        self._want, self._wanted = trio.open_memory_channel[int](MAX_WANTED)

    def is_open(self, vid: int) -> bool:
        """Whether the volume is open here. Asks for nothing."""
        return vid in self._open

    def is_asking(self, vid: int) -> bool:
        """Whether the parent is being asked for the volume, or the volume is being attached."""
        return vid in self._asking

    def find_volume(self, vid: int) -> Volume | None:
        """The volume, if it is open here. Else it will be, if the parent shares it."""
        volume = self._open.get(vid)
        if volume is None:
            self._ask(vid)
        return volume

    def _ask(self, vid: int) -> None:
        if vid in self._asking or len(self._open) >= self._most:
            return
        until = self._refused.get(vid)
        if until is not None and trio.current_time() < until:
            return
        try:
            self._want.send_nowait(vid)
        except trio.WouldBlock:
            return
        self._asking.add(vid)

    async def serve(self) -> None:
        """Attaches the volumes that are wanted, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(ATTACHING_TASKS):
                nursery.start_soon(self._serve_wanted)

    async def _serve_wanted(self) -> None:
        async for vid in self._wanted:
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
            loop_thread = threading.get_ident()
            # Not abandoned: its result must not be lost.
            volume = await trio.to_thread.run_sync(open_shared_volume, shared, vid, self._board, loop_thread)
        if volume is None:
            if len(self._refused) >= MAX_REFUSED:
                self._refused.clear()
            self._refused[vid] = trio.current_time() + ASK_AGAIN_S
        elif vid in self._let_go:
            await trio.to_thread.run_sync(volume.detach)
        else:
            self._refused.pop(vid, None)
            self._open[vid] = volume

    async def release(self, volume_ids: Sequence[int]) -> None:
        """Closes the volumes here. The next read of one of them asks the parent again."""
        closed = []
        for vid in volume_ids:
            self._refused.pop(vid, None)
            volume = self._open.pop(vid, None)
            if volume is not None:
                closed.append(volume)
        for volume in closed:
            await trio.to_thread.run_sync(volume.detach)
        for vid in volume_ids:
            if vid in self._attaching:
                self._let_go.add(vid)
                await self._attaching[vid].wait()

    async def close(self) -> None:
        """Closes all volumes."""
        await self.release(list(self._open))


def open_shared_volume(shared: SharedVolume, volume_id: int, board: ConnectionBoard, loop_thread: int) -> Volume | None:
    """The volume that the parent shares, open for reading; None where it was closed meanwhile, or cannot be opened.

    The parent may have closed its descriptor and given the number to another file, so what is opened is compared with
    what was wanted. In a share that was closed, no needle is found.
    """
    try:
        descriptor = os.open(shared.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            volume = attach_for_reading(descriptor, _WorkerDisk(shared, board), time.time_ns, loop_thread=loop_thread)
        finally:
            os.close(descriptor)
    except (OSError, ShareLost, StorageError, FormatError, ValueError) as error:
        log.warning("volume %d is left to the main process: %s", volume_id, error)
        return None
    if volume.id == volume_id:
        return volume
    volume.detach()
    return None


class _WorkerDisk:
    """What a volume in a worker needs to know of its disk. See `DiskContext`."""

    is_space_low = False
    lost: Container[object] = ()

    def __init__(self, shared: SharedVolume, board: ConnectionBoard) -> None:
        self.disk_id, self.disk_type = shared.disk_id, shared.disk_type
        self._board = board

    @property
    def is_unavailable(self) -> bool:
        return self._board.is_disk_out(self.disk_id)

    def check_in_service(self) -> None:
        """Raises DiskUnavailable while the disk is out of service."""
        if self._board.is_disk_out(self.disk_id):
            raise DiskUnavailable(Path(str(self.disk_id)), "the main process says why")
