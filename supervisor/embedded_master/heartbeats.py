"""The heartbeat streams of an embedded master. Source: weed/server/master_grpc_server.go (SendHeartbeat)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import grpc

from native_handlers.pb import master_pb2
from supervisor.embedded_master.topology import DirectoriesTaken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.embedded_master.state_file import MasterState
    from supervisor.embedded_master.topology import Topology, VolumeNode

_log = logging.getLogger(__name__)


class HeartbeatService:
    """Serves SendHeartbeat streams, each in the thread of its call."""

    def __init__(self, topology: Topology, state: MasterState, size_limit_bytes: int) -> None:
        self._topology = topology
        self._state = state
        self._size_limit_bytes = size_limit_bytes

    def serve(
        self, beats: Iterator[master_pb2.Heartbeat], context: grpc.ServicerContext
    ) -> Iterator[master_pb2.HeartbeatResponse]:
        """Serves one stream: registers its sender, applies its beats, unregisters it at the end."""
        node: VolumeNode | None = None
        try:
            for beat in beats:
                if node is None:
                    if not beat.ip:
                        continue  # a beat without an address registers no server
                    try:
                        node = self._topology.register(beat, context)
                    except DirectoriesTaken as taken:
                        yield master_pb2.HeartbeatResponse(duplicated_uuids=taken.uuids)
                        context.abort(grpc.StatusCode.UNKNOWN, f"volume: {taken}")
                    _log.info("volume server %s registered", beat.ip)
                    yield self._options(volume_digest_supported=True)
                if self._take(node, beat):
                    yield self._options(resend_full_volume_list=True)
        finally:
            if node is not None:
                _log.info("volume server %s is gone", node.identity.http)
                self._topology.unregister(node)

    def _take(self, node: VolumeNode, beat: master_pb2.Heartbeat) -> bool:
        self._state.note_file_key(beat.max_file_key)
        volume_ids = [row.id for rows in (beat.volumes, beat.changed_volumes) for row in rows]
        volume_ids += [row.id for row in beat.new_volumes]
        volume_ids += [row.id for rows in (beat.ec_shards, beat.new_ec_shards) for row in rows]
        if volume_ids:
            self._state.note_volume_id(max(volume_ids))
        return self._topology.apply(node, beat)

    def _options(
        self, *, volume_digest_supported: bool = False, resend_full_volume_list: bool = False
    ) -> master_pb2.HeartbeatResponse:
        """A response. It states all options, because a volume server takes the options of every response."""
        return master_pb2.HeartbeatResponse(
            volume_size_limit=self._size_limit_bytes,
            volume_digest_supported=volume_digest_supported,
            resend_full_volume_list=resend_full_volume_list,
        )
