"""Calls to the masters: their configuration at the start, and where volumes are.

Source: weed/server/volume_grpc_client_to_master.go (checkWithMaster), weed/operation/lookup.go.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import grpc
import trio

from native_handlers.http.context import Location, LookupFailed
from native_handlers.pb import master_pb2
from native_handlers.pb.methods import master as master_client
from native_handlers.runtime.trio_events import set_soon
from supervisor.cluster.channels import ChannelCache
from supervisor.cluster.errors import MasterUnavailable
from supervisor.cluster.identity import parse_address
from supervisor.cluster.location_cache import LocationCache
from supervisor.cluster.location_feed import LocationFeed

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from supervisor.cluster.dial import Dial
    from supervisor.cluster.master_view import MasterView
    from supervisor.wire.server_address import ServerAddress

_log = logging.getLogger(__name__)
_ROUND_PAUSE_S = 1.79  # upstream's pause after each seed was asked in vain
_CALL_S = 5.0  # weed/wdclient/masterclient.go, grpcTimeout
_MAX_DIALS = 4  # at one time; more than one runs only while masters change


class MasterClient:
    """Asks the current leader, and remembers where volumes are until the leader announces a change.

    Native handlers use it as their `VolumeLookup`. It belongs to one trio loop.
    """

    def __init__(self, view: MasterView, dial: Dial, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._view = view
        self._channels = ChannelCache(dial)
        # Threads of their own: with TLS a dial takes seconds when a master does not answer.
        self._dials = trio.CapacityLimiter(_MAX_DIALS)
        self._cache = LocationCache(clock_s)
        self._feed = LocationFeed(view, self._channels, self._cache)

    def listen(self, on_server: Callable[[str], None] | None = None) -> None:
        """Listens to announcements from now on, not only from the first look-up on.

        For `on_server` see `LocationFeed`.
        """
        if on_server is not None:
            self._feed.on_server = on_server
        self._feed.start()

    @property
    def leader(self) -> ServerAddress:
        """The master that is asked first: the leader, as far as is known."""
        return self._view.leader

    @property
    def is_listening(self) -> bool:
        """Whether the thread that listens to announcements runs."""
        return self._feed.is_running

    @property
    def is_told(self) -> bool:
        """Whether the leader announces changes now, so that remembered answers stay valid."""
        return self._cache.is_told

    def remembered(self, vid: int) -> list[Location] | None:
        """The remembered holders of volume `vid`; None where a master has to be asked."""
        return self._cache.get(vid)

    async def wait_for_configuration(self) -> master_pb2.GetMasterConfigurationResponse:
        """The configuration of the first seed that answers. Asks again and again until one does.

        Cancellation: safe.
        """
        while True:
            for seed in self._view.seeds:
                response: master_pb2.GetMasterConfigurationResponse
                try:
                    response = await self._call(seed, "GetMasterConfiguration", _CONFIGURATION_REQUEST)
                except MasterUnavailable as failure:
                    _log.warning("waiting for a master: %s", failure)
                    continue
                self._note_configuration(seed, response)
                return response
            await trio.sleep(_ROUND_PAUSE_S)

    async def locations(self, vid: int, *, refresh: bool = False) -> list[Location]:
        """The holders of volume `vid`, this server included. `refresh` drops the remembered answer first.

        Raises:
            LookupFailed: no master answers, or the leader knows no holder.

        Cancellation: safe.
        """
        self._feed.start()
        if refresh:
            self.invalidate(vid)
        cached = self._cache.get(vid)
        if cached is not None:
            return cached
        question, found = self._cache.begin(vid), None
        try:
            found = await self._look_up(vid)
        finally:
            self._cache.end(question, found)
        return list(found)

    def invalidate(self, vid: int) -> None:
        """Forgets the holders of volume `vid`, for example after finding fewer replicas than there should be."""
        self._cache.forget((vid,))

    def close(self) -> None:
        """Closes the channels. Running calls fail."""
        self._feed.stop()
        self._channels.close()

    async def _look_up(self, vid: int) -> list[Location]:
        request = master_pb2.LookupVolumeRequest(volume_or_file_ids=[str(vid)])
        response = await self._ask_leader(vid, request)
        answers = [answer for answer in response.volume_id_locations if answer.volume_or_file_id == str(vid)]
        if not answers:
            raise LookupFailed(vid, f"the master's answer lacks volume {vid}")
        if answers[0].error:
            raise LookupFailed(vid, answers[0].error)
        return [Location(found.url, found.public_url, found.grpc_port) for found in answers[0].locations]

    async def _ask_leader(self, vid: int, request: master_pb2.LookupVolumeRequest) -> master_pb2.LookupVolumeResponse:
        """Asks the leader. Where it cannot be reached, asks the next seed, and each seed once."""
        last: MasterUnavailable | None = None
        for _ in range(len(self._view.seeds) + 1):
            leader = self._view.leader
            try:
                response: master_pb2.LookupVolumeResponse = await self._call(leader, "LookupVolume", request)
                return response
            except MasterUnavailable as failure:
                last = failure
                self._view.note_unreachable(leader)
        raise LookupFailed(vid, str(last)) from last

    async def _call(self, address: ServerAddress, name: str, request: Message) -> Any:  # noqa: ANN401
        channel = self._channels.known(address)
        if channel is None:
            try:
                channel = await trio.to_thread.run_sync(self._channels.to, address, limiter=self._dials)
            except OSError as error:
                raise MasterUnavailable(address, name, f"no channel: {error}") from error
        future = getattr(master_client(channel), name).future(request, timeout=_CALL_S)
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()
        future.add_done_callback(lambda _future: set_soon(token, done))
        try:
            await done.wait()
        finally:
            future.cancel()
        try:
            return future.result()
        except grpc.RpcError as failure:
            if failure.code() is grpc.StatusCode.UNAVAILABLE:
                self._channels.forget(address, channel)
            why = f"rpc error: code = {failure.code().name} desc = {failure.details()}"
            raise MasterUnavailable(address, name, why) from failure

    def _note_configuration(self, seed: ServerAddress, response: master_pb2.GetMasterConfigurationResponse) -> None:
        self._view.note_configuration(response)
        self._view.note_leader(parse_address(response.leader) or seed)


_CONFIGURATION_REQUEST = master_pb2.GetMasterConfigurationRequest()
