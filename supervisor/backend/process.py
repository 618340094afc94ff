"""One run of the child as an operating system process: start, wait, signal, reap. Knows nothing of volume servers.

Life and death, whatever ends whom:

- The child is started through launcher.py, which ties it to the thread that forks: if that thread ends, the kernel
  kills the child. `trio.lowlevel.open_process` forks in a worker thread that may end any time, so the fork happens here
  directly in the thread that runs trio. It outlives every task, and with it every child. The fork blocks the loop for
  the milliseconds until execve, which costs no more than it would elsewhere: the interpreter's lock is held meanwhile.
- The child leads its own process group (set before execve, hence no moment without it), so Ctrl-C in a terminal
  reaches us alone and the order of the shutdown is ours, and what it may have started can be killed with it.
- Signals go through a pidfd and to the group only while the leader is not reaped: neither can hit a reused number.
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


class ChildProcess:
    """A running (or ended, not yet reaped) child. `output` is the read end of its stdout and stderr.

    Whoever makes one calls `reap` in the end, in every case; that also closes what it holds.
    """

    def __init__(self, popen: subprocess.Popen[bytes], pidfd: int, output: trio.lowlevel.FdStream) -> None:
        self._popen = popen
        self._pidfd = pidfd
        self.output = output

    @property
    def pid(self) -> int:
        return self._popen.pid

    async def wait_exit(self) -> None:
        """Returns when the process has ended. It stays a zombie, so its number stays taken, until `reap`.

        Cancellation: safe.
        """
        await trio.lowlevel.wait_readable(self._pidfd)

    def send_signal(self, number: signal.Signals) -> None:
        """Signals the child itself; nothing happens when it has ended."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def kill_group(self) -> None:
        """Ends the child and everything in its process group. Call before `reap`."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def reap(self) -> int:
        """Kills what is left of the group, waits for the leader and returns its status (minus a signal's number).

        Blocks only for the kernel to finish a killed process.
        """
        self.kill_group()
        try:
            return self._popen.wait()
        finally:
            os.close(self._pidfd)


def start_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None,
    directory: Path | None,
    descriptors: Sequence[int] = (),
) -> ChildProcess:
    """Starts `command` (its first word a path) tied to the calling thread, which must outlive it. `descriptors` are
    inherited under their numbers.

    Raises:
        BackendStartFailed: the program is not there or cannot be executed; nothing runs.
    """
    program = os.path.abspath(command[0])
    _check_executable(command, program)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        popen = subprocess.Popen(
            [sys.executable, "-I", "-S", "-E", str(LAUNCHER), str(os.getpid()), program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            cwd=directory,
            env=environment,
            process_group=0,
            pass_fds=tuple(descriptors),
        )
    except OSError as error:
        os.close(read_end)
        raise BackendStartFailed(command, error) from error
    finally:
        os.close(write_end)
    return ChildProcess(popen, _open_pidfd(popen, read_end), trio.lowlevel.FdStream(read_end))


def _open_pidfd(popen: subprocess.Popen[bytes], read_end: int) -> int:
    """A pidfd of the fresh child; without one (no descriptor left) the child cannot be managed and is ended."""
    try:
        return os.pidfd_open(popen.pid)
    except OSError as error:
        popen.kill()
        popen.wait()
        os.close(read_end)
        raise BackendStartFailed([str(LAUNCHER)], error) from error


def _check_executable(command: Sequence[str], program: str) -> None:
    """Finds out beforehand what execve would find out in the child, where it could only be guessed from the output."""
    try:
        os.stat(program)
    except OSError as error:
        raise BackendStartFailed(command, error) from error
    if not os.access(program, os.X_OK) or os.path.isdir(program):
        raise BackendStartFailed(command, PermissionError(errno.EACCES, "it is not an executable file"))
