"""The main function of a worker, once its modules are loaded: it serves its parent's calls, in trio."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from supervisor.assembly.collector import objects_set_apart
from supervisor.logs.setup import set_up_logging
from supervisor.workers.channel import ControlChannel
from supervisor.workers.service import ParentLookup, ParentVolumes, WorkerService

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from supervisor.workers.service import Serving
    from supervisor.workers.settings import WorkerSettings


def make_serving(settings: WorkerSettings, channel: ControlChannel) -> Serving:
    """Makes the worker of the kind that these settings name. Only the modules of that kind are loaded.

    Raises:
        BadCertificate: a certificate cannot be used now.
    """
    if settings.backend is not None:
        from supervisor.assembly.forwarding_worker import ForwardingWorker  # noqa: PLC0415

        return ForwardingWorker(settings, settings.backend, ParentLookup(channel))
    from supervisor.assembly.native_worker import NativeWorker  # noqa: PLC0415

    return NativeWorker(settings, ParentVolumes(channel))


def run_worker(sock: socket.socket, descriptors: Mapping[int, int]) -> None:
    """Serves until the parent says that it is over, or is gone.

    Args:
        sock: this end of the control channel, non-blocking.
        descriptors: the parent's number of each descriptor -> the number here.
    """
    trio.run(_serve, sock, descriptors)


async def _serve(sock: socket.socket, descriptors: Mapping[int, int]) -> None:
    channel = ControlChannel(sock)

    def make(settings: WorkerSettings) -> Serving:
        set_up_logging(settings.log)
        return make_serving(settings.with_descriptors(descriptors), channel)

    token = trio.lowlevel.current_trio_token()
    with objects_set_apart(partial(token.run_sync_soon, idempotent=True)):
        await WorkerService(channel, make).run()
