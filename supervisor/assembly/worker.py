"""An HTTP worker as a program: `python -m supervisor.assembly.worker DESCRIPTOR`. The parent starts it; see
docs/workers.md.

It makes the same objects that serve HTTP in the server's own process, out of the settings that the parent sends over
the socket with this descriptor. It loads neither grpcio nor Pillow, and numpy only to read volumes: a test holds that.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING

import trio

from supervisor.assembly.collector import settled_objects
from supervisor.logs.setup import set_up_logging
from supervisor.workers.channel import ControlChannel
from supervisor.workers.service import ParentLookup, ParentVolumes, WorkerService

if TYPE_CHECKING:
    from supervisor.workers.service import Serving
    from supervisor.workers.settings import WorkerSettings

PARENTS_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGHUP)
"""Signals that only the parent acts on. A service manager sends them to all processes of the service at once; the
workers must go on until the parent says how."""


def make_serving(settings: WorkerSettings, channel: ControlChannel) -> Serving:
    """What a worker with these settings serves with. Only the modules of its kind are loaded.

    Raises:
        BadCertificate: a certificate cannot be used now.
    """
    if settings.backend is not None:
        from supervisor.assembly.forwarding_worker import ForwardingWorker  # noqa: PLC0415

        return ForwardingWorker(settings, settings.backend, ParentLookup(channel))
    from supervisor.assembly.native_worker import NativeWorker  # noqa: PLC0415

    return NativeWorker(settings, ParentVolumes(channel))


async def serve_worker(descriptor: int) -> None:
    """Serves until the parent says that it is over, or is gone."""
    channel = ControlChannel(socket.socket(fileno=descriptor))

    def make(settings: WorkerSettings) -> Serving:
        set_up_logging(settings.log)
        return make_serving(settings, channel)

    token = trio.lowlevel.current_trio_token()
    with settled_objects(partial(token.run_sync_soon, idempotent=True)):
        await WorkerService(channel, make).run()


def main(arguments: list[str]) -> int:
    """Runs one worker. Returns the exit status: 0 after a drain, or when the parent has gone."""
    for number in PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(int(arguments[0]), False)
    trio.run(serve_worker, int(arguments[0]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
