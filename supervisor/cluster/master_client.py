"""Questions to the masters: their configuration at the start, and where volumes are.

Source: weed/server/volume_grpc_client_to_master.go (checkWithMaster), weed/operation/lookup.go.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import trio

from native_handlers.http.context import Location, LookupFailed
from native_handlers.pb import master_pb2
from native_handlers.pb.methods import master as master_client
from supervisor.cluster.channels import ChannelCache
from supervisor.cluster.errors import MasterUnavailable
from supervisor.cluster.identity import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from supervisor.cluster.dial import Dial
    from supervisor.cluster.master_view import MasterView
    from supervisor.wire.server_address import ServerAddress

_log = logging.getLogger(__name__)
_ROUND_PAUSE_S = 1.79  # upstream's, after each seed was asked in vain
_CALL_S = 5.0  # weed/wdclient/masterclient.go, grpcTimeout
_MAX_DIALS = 4  # at the same time; more than one only while masters change
_CACHE_S = 600.0  # weed/operation/lookup.go
_CACHE_SIZE = 100_000  # volumes; about 40 MB at worst


class MasterClient:
    """Asks the current leader, and remembers where volumes are. Belongs to one trio loop.

    It is the `VolumeLookup` that native handlers use.
    """

    def __init__(self, view: MasterView, dial: Dial, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._view = view
        self._channels = ChannelCache(dial)
        self._clock_s = clock_s
        # Their own threads: with TLS a dial takes seconds when a master does not answer.
        self._dials = trio.CapacityLimiter(_MAX_DIALS)
        self._cache: OrderedDict[int, tuple[float, list[Location]]] = OrderedDict()

    async def wait_for_configuration(self) -> master_pb2.GetMasterConfigurationResponse:
        """The configuration of the first seed that answers; asks on until one does.

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
        """The holders of volume `vid`, this server included; `refresh` drops what was cached first.

        Raises:
            LookupFailed: no master answers, or the leader knows no holder.

        Cancellation: safe.
        """
        if refresh:
            self.invalidate(vid)
        cached = self._cache.get(vid)
        if cached is not None and self._clock_s() < cached[0]:
            return list(cached[1])
        found = await self._look_up(vid)
        self._cache[vid] = (self._clock_s() + _CACHE_S, found)
        self._cache.move_to_end(vid)
        if len(self._cache) > _CACHE_SIZE:
            self._cache.popitem(last=False)
        return list(found)

    def invalidate(self, vid: int) -> None:
        """Forgets where volume `vid` is, as after finding fewer replicas than it should have."""
        self._cache.pop(vid, None)

    def close(self) -> None:
        """Closes the channels. Calls under way fail."""
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
        """Asks the leader; where it cannot be reached, the next seed, and so on once around."""
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
        future.add_done_callback(partial(_set_soon, trio.lowlevel.current_trio_token(), done))
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


def _set_soon(token: trio.lowlevel.TrioToken, event: trio.Event, _future: object) -> None:
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(event.set)
