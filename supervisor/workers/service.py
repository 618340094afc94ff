"""A worker's side of the control channel: what the parent may ask a worker, and what a worker asks the parent.

What serves is given as an object, made from the settings: `supervisor.assembly.worker_run` makes it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from native_handlers.http.context import Location, LookupFailed
from native_handlers.runtime.version import OWN_VERSION
from supervisor.net.errors import BadCertificate
from supervisor.workers.channel import CallRefused, ChannelClosed, ChannelError, ControlChannel
from supervisor.workers.messages import PROTOCOL_VERSION, Fields
from supervisor.workers.settings import AccessRules, BackendAddress, WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from supervisor.workers.counts import WorkerCounts
    from supervisor.workers.messages import JsonObject

log = logging.getLogger(__name__)

TELL_EVERY_S = 1.0
"""How often the parent is told the counts, if they have changed."""
HOLDERS_S = 60.0
"""How long a worker waits for the holders of a volume. The parent asks each master once, with a deadline of its own."""


class Serving(Protocol):
    """The part of a worker that serves clients. The calls of the parent steer it."""

    def set_access(self, rules: AccessRules) -> None:
        """Puts other access rules in force for all requests that come from now on."""
        ...

    def set_backend(self, address: BackendAddress) -> None:
        """Forwards to another address from now on. Is called only where there is a backend."""
        ...

    def set_stopping(self) -> None:
        """Lets health checks say from now on that the server stops."""
        ...

    async def release(self, volume_ids: Sequence[int]) -> None:
        """Lets go of volumes that were closed, or have other files now. Returns when no file of them is open, except
        for reads under way.
        """
        ...

    def counts(self) -> WorkerCounts:
        """The counts so far."""
        ...

    async def serve(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """Serves until the reported scope is cancelled, then drains and returns."""
        ...


def start_body(settings: WorkerSettings) -> JsonObject:
    """The body of the call `start`."""
    return {"protocol": PROTOCOL_VERSION, "version": OWN_VERSION, "settings": settings.as_data()}


class ParentLookup:
    """The holders of volumes, which the parent asks the master for. A `VolumeLookup`."""

    def __init__(self, channel: ControlChannel) -> None:
        self._channel = channel

    async def locations(self, vid: int, *, refresh: bool = False) -> list[Location]:
        """See `VolumeLookup.locations`."""
        with trio.move_on_after(HOLDERS_S):
            try:
                answer = await self._channel.call("holders", {"volume_id": vid, "refresh": refresh})
            except ChannelError as error:
                raise LookupFailed(vid, str(error)) from error
            return [
                Location(one.text("url"), one.text("public_url"), one.integer("grpc_port"))
                for one in answer.objects("holders")
            ]
        raise LookupFailed(vid, f"no answer within {HOLDERS_S:g} s")


class SharedVolume(NamedTuple):
    """A volume that the parent shares. `path` leads to the share, while the parent runs and the volume is open.
    `may_write`: whether workers may change the volume.
    """

    path: str
    disk_id: int
    disk_type: str
    may_write: bool = False

    def as_data(self) -> JsonObject:
        return self._asdict()

    @classmethod
    def from_data(cls, data: Fields) -> SharedVolume:
        """Raises BadControlMessage."""
        return cls(data.text("path"), data.integer("disk_id"), data.text("disk_type"), data.boolean("may_write"))


SHARE_S = 30.0
"""How long a worker waits for a volume. The parent may have to wait for a write, and writes the index once more."""


class ParentVolumes:
    """The volumes that the parent has."""

    def __init__(self, channel: ControlChannel) -> None:
        self._channel = channel

    async def share(self, volume_id: int) -> SharedVolume | None:
        """Asks the parent for a volume. None where the parent does not share it now."""
        with trio.move_on_after(SHARE_S):
            try:
                return SharedVolume.from_data(await self._channel.call("share", {"volume_id": volume_id}))
            except ChannelError as error:
                log.debug("volume %d is not read here: %s", volume_id, error)
        return None


class WorkerService:
    """One worker. `run` serves until the parent says that it is over, or is gone."""

    def __init__(self, channel: ControlChannel, make: Callable[[WorkerSettings], Serving]) -> None:
        self._channel = channel
        self._make = make
        self._serving: Serving | None = None
        self._accepting = trio.CancelScope()
        self._told: JsonObject = {}

    async def run(self) -> None:
        """Returns when the parent has closed the channel, or when this worker has drained.

        Cancellation: cuts all connections.
        """
        async with trio.open_nursery() as nursery:

            async def start(body: Fields) -> JsonObject:
                return await self._start(body, nursery)

            await self._channel.run(
                {
                    "start": start,
                    "access": self._set_access,
                    "backend": self._set_backend,
                    "stopping": self._set_stopping,
                    "release": self._release,
                    "counts": self._give_counts,
                    "drain": self._drain,
                }
            )
            nursery.cancel_scope.cancel()

    async def _start(self, body: Fields, nursery: trio.Nursery) -> JsonObject:
        if body.integer("protocol") != PROTOCOL_VERSION or body.text("version") != OWN_VERSION:
            raise CallRefused(
                f"this worker is version {OWN_VERSION}, and the server is {body.text('version')}: the program was"
                " changed while it ran; restart it"
            )
        try:
            self._serving = self._make(WorkerSettings.from_data(body.object("settings")))
        except (ValueError, OSError, BadCertificate) as error:
            raise CallRefused(str(error)) from error
        await nursery.start(self._serve, self._serving, nursery.cancel_scope)
        return {}

    async def _serve(self, serving: Serving, whole: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as telling:
            telling.start_soon(self._keep_telling, serving)
            async with trio.open_nursery() as nursery:
                self._accepting = await nursery.start(serving.serve)
                task_status.started()
            telling.cancel_scope.cancel()
        try:
            # Told in any case: what was sent before has then arrived too, the answer to `drain` among it.
            await self._channel.call("counted", serving.counts().as_data())
        except ChannelError as error:
            log.warning("the last counts are lost: %s", error)
        whole.cancel()

    async def _keep_telling(self, serving: Serving) -> None:
        while True:
            await trio.sleep(TELL_EVERY_S)
            try:
                await self._tell(serving)
            except ChannelClosed:
                return  # `run` returns, too

    async def _tell(self, serving: Serving) -> None:
        """Tells the parent the counts, if they have changed."""
        counts = serving.counts().as_data()
        if counts != self._told:
            await self._channel.call("counted", counts)
            self._told = counts

    async def _set_access(self, body: Fields) -> JsonObject:
        self._ready.set_access(AccessRules.from_data(body))
        return await _done()

    async def _set_backend(self, body: Fields) -> JsonObject:
        self._ready.set_backend(BackendAddress.from_data(body))
        return await _done()

    async def _set_stopping(self, _body: Fields) -> JsonObject:
        self._ready.set_stopping()
        return await _done()

    async def _release(self, body: Fields) -> JsonObject:
        await self._ready.release(body.integers("volume_ids"))
        return await _done()

    async def _give_counts(self, _body: Fields) -> JsonObject:
        await trio.lowlevel.checkpoint()
        return self._ready.counts().as_data()

    async def _drain(self, _body: Fields) -> JsonObject:
        self._accepting.cancel()
        return await _done()

    @property
    def _ready(self) -> Serving:
        if self._serving is None:
            raise CallRefused("this worker was not started")
        return self._serving


async def _done() -> JsonObject:
    await trio.lowlevel.checkpoint()
    return {}
