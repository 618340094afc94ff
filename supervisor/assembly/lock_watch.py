"""Ends a worker that holds the lock of a volume and hangs, so that the parent gets the lock and repairs the volume.

Workers wait for a lock for a moment only, and then leave the change to the parent. So the parent waits for each lock
that is held too long, and this is seen here. The kernel says which process holds the lock. A worker that waits for a
disk is not ended: the kernel would end it no sooner than the disk answers, and then the worker goes on by itself.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from native_handlers.storage.volume.volume import Volume
    from supervisor.assembly.shared_volumes import SharedVolumes
    from supervisor.workers.pool import Workers

log = logging.getLogger(__name__)

HOLD_S = 5.0
"""How long the parent waits for a lock before the worker that holds the lock is ended."""
LOOK_S = 0.5
"""The pause between two looks. While the same workers wait for a disk, the pause grows up to `HOLD_S`: a look goes over
all descriptors of all workers, and a disk may hang for hours."""
_PROC = Path("/proc")
_LOCK = re.compile(r"^lock:.*\bOFDLCK .*?([0-9a-f]+):([0-9a-f]+):([0-9]+) ", re.MULTILINE)
"""A lock of an open file description, as the kernel describes it in `fdinfo`: device and inode. Source: fs/locks.c,
lock_get_status."""
_WAITS_FOR_DISK = "D"


async def serve_lock_watch(shared: SharedVolumes, workers: Callable[[], Workers]) -> None:
    """Looks at the locks until cancelled."""
    told: set[tuple[int, int]] = set()
    pause_s = LOOK_S
    while True:
        await trio.sleep(pause_s)
        waiting, known = shared.waiting(HOLD_S), len(told)
        if not waiting:
            told.clear()
            pause_s = LOOK_S
            continue
        has_ended = await _end_holders(waiting, workers(), told)
        pause_s = LOOK_S if has_ended or len(told) != known else min(2 * pause_s, max(HOLD_S, LOOK_S))


async def _end_holders(waiting: Sequence[Volume], workers: Workers, told: set[tuple[int, int]]) -> bool:
    """Ends the workers that hold the locks of `waiting`. Returns whether it has ended one.

    Args:
        told: volumes and workers that the log has told of.
    """
    memories = {volume: memory for volume in waiting if (memory := volume.handle.share_memory) is not None}
    locked = await trio.to_thread.run_sync(find_locked, list(workers.pids.values()))
    has_ended = False
    for volume, memory in memories.items():
        for pid in [pid for pid, files in locked.items() if memory in files]:
            if await trio.to_thread.run_sync(is_waiting_for_disk, pid):
                if (volume.id, pid) not in told:
                    told.add((volume.id, pid))
                    log.warning("volume %d: worker with pid %d holds its lock, and waits for the disk", volume.id, pid)
            elif volume.handle.lock_wait_s > HOLD_S:
                has_ended = True
                await workers.end(pid, f"it has held the lock of volume {volume.id} for {HOLD_S:g} s")
    return has_ended


def find_locked(pids: Iterable[int]) -> dict[int, set[tuple[int, int]]]:
    """Device and inode of the files on which each of the processes holds a lock. One that has ended holds none."""
    return {pid: _locked_by(pid) for pid in pids}


def _locked_by(pid: int) -> set[tuple[int, int]]:
    directory = _PROC / str(pid) / "fdinfo"
    try:
        return {file for name in os.listdir(directory) for file in _locked_files(directory / name)}
    except OSError as error:
        log.debug("pid %d cannot be looked at: %s", pid, error)
        return set()


def _locked_files(info: Path) -> list[tuple[int, int]]:
    """Device and inode of the file of a descriptor, if the descriptor's open file description holds a lock on it.

    The kernel writes this: no file system is asked, so one that hangs does not matter.
    """
    try:
        found = _LOCK.findall(info.read_text())
    except FileNotFoundError:
        return []  # closed meanwhile
    return [(os.makedev(int(major, 16), int(minor, 16)), int(inode)) for major, minor, inode in found]


def is_waiting_for_disk(pid: int) -> bool:
    """Whether a thread of the process waits for a disk, and cannot be interrupted."""
    try:
        return any(_state_of(path) == _WAITS_FOR_DISK for path in (_PROC / str(pid) / "task").iterdir())
    except OSError:
        return False


def _state_of(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""
