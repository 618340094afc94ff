"""Becomes the backend, tied to the life of the supervisor: `python -I -S -E launcher.py PARENT_PID PROGRAM [ARG...]`.

This file runs as a program; the supervisor never imports it. It uses the standard library only, so it starts in
milliseconds. First it asks the kernel to send SIGKILL to this process when the parent ends (prctl PR_SET_PDEATHSIG). An
execve of an ordinary program keeps this setting; an execve of a setuid or capability-bearing file clears it. Then it
checks that the parent is still the same, because a death before the prctl would go unnoticed. Then it executes PROGRAM
in its own place: same process, same group, same descriptors.

Two facts about PR_SET_PDEATHSIG. "Parent" means the *thread* that forked, so the caller must fork in a thread that
lives as long as the child (see process.py). And the child's own children do not inherit the setting. `weed volume` has
no children. A process of this program starts further processes through this launcher, so all of them end with the
first.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
EXIT_PARENT_GONE = 125
EXIT_CANNOT_EXECUTE = 126
EXIT_NOT_FOUND = 127


def main(arguments: list[str]) -> int:
    """Executes the program. Returns only where that is impossible, with the exit code to end with."""
    parent_pid, command = int(arguments[0]), arguments[1:]
    tie_to_parent()
    if os.getppid() != parent_pid:
        return EXIT_PARENT_GONE
    restore_signals()
    try:
        os.execve(command[0], command, os.environ)
    except FileNotFoundError as error:
        print(f"launcher: {command[0]}: {error.strerror}", file=sys.stderr)
        return EXIT_NOT_FOUND
    except OSError as error:
        print(f"launcher: {command[0]}: {error.strerror}", file=sys.stderr)
        return EXIT_CANNOT_EXECUTE


def tie_to_parent() -> None:
    """Makes the kernel kill this process when the thread that forked it ends.

    Raises:
        OSError: prctl refused. The process is not tied.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def restore_signals() -> None:
    """Resets signal dispositions to those that a shell would give the program.

    Python ignores two signals, and a shell makes background processes ignore two more. execve would pass that on.
    """
    for number in (
        signal.SIGPIPE,
        signal.SIGXFSZ,
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
    ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
