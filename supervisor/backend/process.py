"""One run of the child as an operating system process: start, wait, signal, reap. Nothing here is about volume servers.

How the processes end:

- launcher.py ties the child to the thread that forks: if that thread ends, the kernel kills the child.
  `trio.lowlevel.open_process` forks in a worker thread that may end at any time. So this module forks in the thread
  that runs trio. That thread outlives every task, and so every child. The fork blocks the event loop for the
  milliseconds until execve. A worker thread would block it as long, because the fork holds the interpreter lock.
- The child leads its own process group, set before execve. So Ctrl-C in a terminal reaches this process alone, and this
  process decides the order of the shutdown. Processes that the child has started are killed with the group.
- Signals go through a pidfd, and to the group only before the leader is reaped. So neither can hit a reused number.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import trio

from supervisor.backend.errors import BackendStartFailed
from supervisor.backend.launch import launch

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class TiedProcess:
    """A process that runs, or has ended and is not reaped.

    The owner must call `end` or `reap` in every case. Both also close what the object holds.
    """

    def __init__(self, popen: subprocess.Popen[bytes], pidfd: int) -> None:
        self._popen = popen
        self._pidfd = pidfd

    @property
    def pid(self) -> int:
        return self._popen.pid

    async def wait_exit(self) -> None:
        """Returns when the process has ended. Until `reap` it stays a zombie, so its number stays taken.

        Cancellation: safe.
        """
        await trio.lowlevel.wait_readable(self._pidfd)

    def send_signal(self, number: signal.Signals) -> None:
        """Signals the child itself. Does nothing when the child has ended."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def kill_group(self) -> None:
        """Kills the child and its whole process group. Call this before `reap`."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def reap(self) -> int:
        """Kills the rest of the group, waits for the leader, and returns its status (minus a signal's number).

        Blocks only until the kernel has finished the killed process.
        """
        self.kill_group()
        try:
            return self._popen.wait()
        finally:
            os.close(self._pidfd)

    async def end(self, limit_s: float) -> int:
        """As `reap`, but keeps no other task waiting. A process that waits for a disk ends only when the disk answers:
        after `limit_s` a thread goes on waiting for it, and the status is that of the kill.

        Cancellation: none of it is left out.
        """
        self.kill_group()
        with trio.move_on_after(limit_s, shield=True):
            await self.wait_exit()
            return self.reap()
        threading.Thread(target=self.reap, name=f"reap {self.pid}", daemon=True).start()
        return -signal.SIGKILL


class ChildProcess(TiedProcess):
    """A process whose stdout and stderr this process reads from `output`."""

    def __init__(self, popen: subprocess.Popen[bytes], pidfd: int, output: trio.lowlevel.FdStream) -> None:
        super().__init__(popen, pidfd)
        self.output = output


def start_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None,
    directory: Path | None,
    descriptors: Sequence[int] = (),
) -> ChildProcess:
    """Starts `command`, whose first word is a path, tied to the calling thread. The thread must outlive the child.

    The child inherits `descriptors` under the same numbers.

    Raises:
        BackendStartFailed: the program is missing or cannot be executed, or the system has no descriptor or process
            left. No process runs.
    """
    try:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise BackendStartFailed(command, error) from error
    try:
        popen, pidfd = launch(command, descriptors, write_end, environment=environment, directory=directory)
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    return ChildProcess(popen, pidfd, trio.lowlevel.FdStream(read_end))
