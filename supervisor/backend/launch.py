"""Starts a program through launcher.py, tied to the calling thread.

This module loads no trio, because HTTP workers start before trio is loaded.

`supervisor.backend.process` has the processes as the event loop sees them, and says how they end.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.backend.errors import BackendStartFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LAUNCHER = Path(__file__).with_name("launcher.py")


def launch(
    command: Sequence[str],
    descriptors: Sequence[int] = (),
    output: int | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> tuple[subprocess.Popen[bytes], int]:
    """Starts `command`, whose first word is a path. Returns the process and a pidfd of it, which the caller closes.

    Args:
        descriptors: the process inherits them under the same numbers.
        output: its stdout and stderr; None leaves it those of this process.

    Raises:
        BackendStartFailed: the program is missing or cannot be executed, or the system has no descriptor or process
            left. No process runs.
    """
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
