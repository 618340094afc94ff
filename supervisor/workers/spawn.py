"""Starts workers as processes, and sends them the descriptors that they serve with.

A worker loads its modules before it asks for anything. So the first workers are started before this process loads its
own modules, and both load side by side: `EarlyWorkers`. This module loads no trio, because that would be waited for.

The descriptors are sent over the worker's end of the control channel, as its first bytes. A worker that inherited them
could not start before they are open.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from supervisor.backend.errors import BackendStartFailed
from supervisor.backend.launch import launch
from supervisor.workers.errors import WorkersGaveUp

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

WORKER_MODULE = "supervisor.assembly.worker"
MAX_DESCRIPTORS = 253
"""The kernel passes no more in one message. Two listeners, the board and the parent's private socket are four, and each
data directory has one. Source: include/net/scm.h, SCM_MAX_FD."""
_NUMBERS = struct.Struct(f"<{MAX_DESCRIPTORS}i")
_NONE = -1


class WorkerKind(StrEnum):
    """The kind of a worker, by which it loads its modules. See docs/workers.md."""

    NATIVE = "native"
    FORWARDING = "forwarding"


class SpawnedWorker(NamedTuple):
    """A worker that runs, and this end of its control channel. The owner ends the process and closes the rest."""

    popen: subprocess.Popen[bytes]
    pidfd: int
    channel: socket.socket

    def end(self) -> None:
        """Kills the worker, waits until it is gone, and closes what belongs to it."""
        self.popen.kill()
        self.popen.wait()
        os.close(self.pidfd)
        self.channel.close()


def spawn_worker(kind: WorkerKind | None) -> SpawnedWorker:
    """Starts a worker, which loads its modules and then waits for `send_descriptors`. None: the kind is not known yet.

    Raises:
        BackendStartFailed: the system has no process or descriptor left. Nothing runs.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise BackendStartFailed([WORKER_MODULE], error) from error
    with theirs:
        ours.setblocking(False)
        # -P: a directory `supervisor` in the working directory must not be imported.
        command = [sys.executable, "-P", "-m", WORKER_MODULE, str(theirs.fileno()), *([kind] if kind else [])]
        try:
            return SpawnedWorker(*launch(command, [theirs.fileno()]), ours)
        except BaseException:
            ours.close()
            raise


def check_sendable(descriptors: Sequence[int]) -> None:
    """Raises WorkersGaveUp where there are more descriptors than a worker can be sent."""
    if len(descriptors) > MAX_DESCRIPTORS:
        raise WorkersGaveUp(
            f"each of them needs {len(descriptors)} descriptors of the server, one for each data directory, and the"
            f" kernel passes {MAX_DESCRIPTORS} at most: serve fewer directories, or leave -workers out"
        )


def send_descriptors(worker: SpawnedWorker, descriptors: Sequence[int]) -> None:
    """Gives `worker` copies of `descriptors`, which `check_sendable` lets through. Call it once.

    Raises:
        BackendStartFailed: the worker has ended already, or the system has no room. The worker is ended.
    """
    numbers = _NUMBERS.pack(*descriptors, *[_NONE] * (MAX_DESCRIPTORS - len(descriptors)))
    try:
        socket.send_fds(worker.channel, [numbers], descriptors)
    except OSError as error:
        worker.end()
        raise BackendStartFailed([WORKER_MODULE], error) from error


def receive_descriptors(channel: socket.socket) -> dict[int, int] | None:
    """Waits for what the parent sends by `send_descriptors`: the parent's number of each descriptor -> the number here.

    None where the parent has closed the channel instead. `channel` is non-blocking afterwards.
    """
    channel.setblocking(True)
    data, received, _, _ = socket.recv_fds(channel, _NUMBERS.size, MAX_DESCRIPTORS, socket.MSG_WAITALL)
    channel.setblocking(False)
    for number in received:
        os.set_inheritable(number, False)
    if not data:
        return None
    sent = [number for number in _NUMBERS.unpack(data) if number != _NONE]
    return dict(zip(sent, received, strict=True))


class EarlyWorkers:
    """Workers that were started before the server. They load modules while it starts, and it takes them then.

    The caller calls `end` in every case.
    """

    def __init__(self) -> None:
        self._spawned: list[SpawnedWorker] = []

    def spawn(self, count: int, kind: WorkerKind | None) -> None:
        """Starts `count` workers, or as many as the system has room for: later starts report what is missing."""
        try:
            for _ in range(count):
                self._spawned.append(spawn_worker(kind))
        except BackendStartFailed:
            return

    def take(self) -> SpawnedWorker | None:
        """One of the workers, which belongs to the caller from now on; None when all are taken."""
        return self._spawned.pop(0) if self._spawned else None

    def end(self) -> None:
        """Ends the workers that nobody has taken."""
        while worker := self.take():
            worker.end()
