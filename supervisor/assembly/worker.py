"""An HTTP worker as a program: `python -m supervisor.assembly.worker DESCRIPTOR [KIND]`. The parent starts it; see
docs/workers.md.

DESCRIPTOR is the worker's end of the control channel. KIND names the modules that it will need. It makes the same
objects that serve HTTP in the server's own process, out of the settings that the parent sends. It loads neither grpcio
nor Pillow, and numpy only to read volumes: a test holds that.
"""

from __future__ import annotations

import importlib
import signal
import socket
import sys

from supervisor.assembly.collector import set_apart, without_collection
from supervisor.assembly.descriptors import raise_limit
from supervisor.workers.spawn import WorkerKind, receive_descriptors

PARENTS_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGHUP)
"""Signals that only the parent acts on. A service manager sends them to all processes of the service at once; the
workers must go on until the parent says how."""

MODULES_OF = {
    WorkerKind.NATIVE: "supervisor.assembly.native_worker",
    WorkerKind.FORWARDING: "supervisor.assembly.forwarding_worker",
}


def main(arguments: list[str]) -> int:
    """Runs one worker. Returns the exit status: 0 after a drain, or when the parent has gone."""
    for number in PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=int(arguments[0]))
    channel.set_inheritable(False)
    raise_limit()  # the parent has not raised its own if it started this worker early
    with without_collection():
        # After the signals: loading takes most of a worker's start.
        from supervisor.assembly.worker_run import run_worker  # noqa: PLC0415

        for kind in arguments[1:]:
            importlib.import_module(MODULES_OF[WorkerKind(kind)])
        set_apart()
    descriptors = receive_descriptors(channel)
    if descriptors is not None:
        run_worker(channel, descriptors)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
