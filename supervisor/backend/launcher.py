"""Becomes the backend, tied to the life of the supervisor: `python -I -S -E launcher.py PARENT_PID PROGRAM [ARG...]`.

Run as a program, never imported by the supervisor; standard library only, so that it starts in milliseconds.
It asks the kernel to send SIGKILL to this process when the parent ends (prctl PR_SET_PDEATHSIG, which an execve of an
ordinary program keeps; one of a setuid or capability-bearing file clears it), then looks whether the parent is still
the one it was started by, for a parent that died before the prctl would never be noticed, and then executes PROGRAM in
its own place: same process, same group, same descriptors.

Two things to know about PR_SET_PDEATHSIG. "Parent" means the *thread* that forked, so the caller must fork in a
thread that lives as long as the child (see process.py). And the setting is not inherited by the child's own
children: `weed volume` has none, and whatever of ours starts further processes starts them through this launcher, so
that the ties form a chain and all fall with the first.
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
    """Executes the program; comes back only when that is impossible, with the exit code to end with."""
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
    """Has the kernel kill this process when the thread that forked it ends.

    Raises:
        OSError: prctl refused; nothing is tied.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def restore_signals() -> None:
    """Gives the program the dispositions that a shell would: Python ignores two signals, and a shell two more for what
    it starts in the background, which execve would pass on.
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
