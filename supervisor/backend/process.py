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

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from supervisor.backend.errors import BackendStartFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LAUNCHER = Path(__file__).with_name("launcher.py")


class TiedProcess:
    """A process that runs, or has ended and is not reaped.

    The owner must call `reap` in every case. `reap` also closes what the object holds.
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
        popen, pidfd = _start(command, environment, directory, descriptors, write_end)
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    return ChildProcess(popen, pidfd, trio.lowlevel.FdStream(read_end))


def start_tied(command: Sequence[str], descriptors: Sequence[int]) -> TiedProcess:
    """As `start_child`, for a process that writes to the standard error of this process."""
    return TiedProcess(*_start(command, None, None, descriptors, None))


def _start(
    command: Sequence[str],
    environment: Mapping[str, str] | None,
    directory: Path | None,
    descriptors: Sequence[int],
    output: int | None,
) -> tuple[subprocess.Popen[bytes], int]:
    """Starts `command` with `output` as its stdout and stderr; None leaves it those of this process."""
    program = os.path.abspath(command[0])
    _check_executable(command, program)
    try:
        popen = subprocess.Popen(
            [sys.executable, "-I", "-S", "-E", str(LAUNCHER), str(os.getpid()), program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env=environment,
            process_group=0,
            pass_fds=tuple(descriptors),
        )
    except OSError as error:
        raise BackendStartFailed(command, error) from error
    return popen, _open_pidfd(popen)


def _open_pidfd(popen: subprocess.Popen[bytes]) -> int:
    """A pidfd of the new child. Without one (no descriptor is left) the child cannot be managed, and is killed."""
    try:
        return os.pidfd_open(popen.pid)
    except OSError as error:
        popen.kill()
        popen.wait()
        raise BackendStartFailed([str(LAUNCHER)], error) from error


def _check_executable(command: Sequence[str], program: str) -> None:
    """Checks what execve checks in the child: there only the child's output would show the failure."""
    try:
        os.stat(program)
    except OSError as error:
        raise BackendStartFailed(command, error) from error
    if not os.access(program, os.X_OK) or os.path.isdir(program):
        raise BackendStartFailed(command, PermissionError(errno.EACCES, "it is not an executable file"))
