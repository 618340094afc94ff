"""The gRPC side of an embedded master. Source: weed/server/master_grpc_server*.go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc

from native_handlers.pb import master_pb2
from native_handlers.pb.methods import MASTER_METHODS
from supervisor.embedded_master.config import AssignRefused
from supervisor.embedded_master.heartbeats import HeartbeatService
from supervisor.embedded_master.options import VolumeOptions
from supervisor.embedded_master.topology_info import topology_info
from supervisor.embedded_master.watchers import serve_watcher
from supervisor.wire.server_address import join_host_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.embedded_master.assign import Assigner
    from supervisor.embedded_master.calls import MasterCalls
    from supervisor.embedded_master.config import EmbeddedMasterConfig
    from supervisor.embedded_master.state_file import MasterState
    from supervisor.embedded_master.topology import Topology, VolumeNode


def location_of(node: VolumeNode) -> master_pb2.Location:
    """The address of `node` for clients."""
    identity = node.identity
    return master_pb2.Location(
        url=identity.http,
        public_url=identity.public_url,
        grpc_port=identity.grpc_port,
        data_center=identity.data_center,
    )


class MasterService(grpc.GenericRpcHandler):
    """All RPCs of the embedded master; others are unimplemented. `leader` is the master's own address.

    `calls` admits the clients.
    """

    def __init__(
        self,
        config: EmbeddedMasterConfig,
        state: MasterState,
        topology: Topology,
        assigner: Assigner,
        leader: str,
        calls: MasterCalls,
    ) -> None:
        self._calls = calls
        self._config = config
        self._topology = topology
        self._assigner = assigner
        self._leader = leader
        self._heartbeats = HeartbeatService(topology, state, config.volume_size_limit_bytes)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        name = handler_call_details.method.rpartition("/")[2]
        method = MASTER_METHODS.get(name)
        if method is None or method.path != handler_call_details.method:
            return None
        parse = method.request_class.FromString
        if name == "SendHeartbeat":
            return self._calls.streaming(self._heartbeat, parse)
        if name == "KeepConnected":
            return self._calls.streaming(self._keep_connected, parse)
        answer = getattr(self, f"_answer_{name}", None)
        if answer is None:
            return None
        return self._calls.unary(answer, parse, method.response_class.SerializeToString)

    def _heartbeat(self, beats: Iterator[master_pb2.Heartbeat], context: grpc.ServicerContext) -> Iterator[bytes]:
        return map(master_pb2.HeartbeatResponse.SerializeToString, self._heartbeats.serve(beats, context))

    def _keep_connected(
        self, requests: Iterator[master_pb2.KeepConnectedRequest], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        if next(requests, None) is not None:
            yield from serve_watcher(self._topology, self._leader, context)

    def _answer_GetMasterConfiguration(  # noqa: N802  named after the RPC
        self, _request: master_pb2.GetMasterConfigurationRequest, _context: grpc.ServicerContext
    ) -> master_pb2.GetMasterConfigurationResponse:
        return master_pb2.GetMasterConfigurationResponse(
            default_replication=str(self._config.default_replication),
            volume_size_limit_m_b=self._config.volume_size_limit_bytes >> 20,
            leader=self._leader,
        )

    def _answer_LookupVolume(  # noqa: N802
        self, request: master_pb2.LookupVolumeRequest, _context: grpc.ServicerContext
    ) -> master_pb2.LookupVolumeResponse:
        response = master_pb2.LookupVolumeResponse()
        for wanted in request.volume_or_file_ids:
            volume_text, comma, _ = wanted.partition(",")
            row = response.volume_id_locations.add(volume_or_file_id=volume_text)
            if not (volume_text.isascii() and volume_text.isdigit()):
                row.error = f"Unknown volume id {volume_text}"
                continue
            row.locations.extend(map(location_of, self._topology.holders(int(volume_text), request.collection)))
            if not row.locations:
                row.error = f"volume id {volume_text} not found"
            elif comma:
                row.auth = self._assigner.write_token(wanted)
        return response

    def _answer_LookupEcVolume(  # noqa: N802
        self, request: master_pb2.LookupEcVolumeRequest, context: grpc.ServicerContext
    ) -> master_pb2.LookupEcVolumeResponse:
        holders = self._topology.shard_holders(request.volume_id)
        if not holders:
            context.abort(grpc.StatusCode.UNKNOWN, f"ec volume {request.volume_id} not found")
        response = master_pb2.LookupEcVolumeResponse(volume_id=request.volume_id)
        for shard, nodes in holders.items():
            response.shard_id_locations.add(shard_id=shard, locations=map(location_of, nodes))
        return response

    def _answer_Assign(  # noqa: N802
        self, request: master_pb2.AssignRequest, context: grpc.ServicerContext
    ) -> master_pb2.AssignResponse:
        try:
            options = VolumeOptions.parse(
                request.collection, request.replication, request.ttl, request.disk_type, request.data_center,
                request.rack, request.data_node, self._config.default_replication,
            )  # fmt: skip
            assigned = self._assigner.assign(options, request.count or 1)
        except AssignRefused as refusal:
            context.abort(grpc.StatusCode.UNKNOWN, str(refusal))
        first, *rest = map(location_of, assigned.nodes)
        return master_pb2.AssignResponse(
            fid=str(assigned.fid), count=assigned.count, auth=assigned.token, location=first, replicas=rest
        )

    def _answer_VolumeList(  # noqa: N802
        self, request: master_pb2.VolumeListRequest, _context: grpc.ServicerContext
    ) -> master_pb2.VolumeListResponse:
        def is_shown(volume: master_pb2.VolumeInformationMessage) -> bool:
            wanted_name = request.collection or ("" if request.default_collection_only else volume.collection)
            return volume.collection == wanted_name and request.volume_id in {0, volume.id}

        return master_pb2.VolumeListResponse(
            topology_info=topology_info(self._topology.nodes(), is_shown),
            volume_size_limit_mb=self._config.volume_size_limit_bytes >> 20,
        )

    def _answer_CollectionList(  # noqa: N802
        self, request: master_pb2.CollectionListRequest, _context: grpc.ServicerContext
    ) -> master_pb2.CollectionListResponse:
        names: set[str] = set()
        for node in self._topology.nodes():
            if request.include_normal_volumes:
                names |= {volume.message.collection for volume in node.held.volumes.values()}
            if request.include_ec_volumes:
                names |= {row.collection for row in node.held.ec_shards.values()}
        return master_pb2.CollectionListResponse(
            collections=[master_pb2.Collection(name=name) for name in sorted(names)]
        )

    def _answer_VolumeMarkReadonly(  # noqa: N802
        self, request: master_pb2.VolumeMarkReadonlyRequest, _context: grpc.ServicerContext
    ) -> master_pb2.VolumeMarkReadonlyResponse:
        node = self._topology.node_at(join_host_port(request.ip, request.port))
        held = [] if node is None else [row.message for row in node.held.volumes.values()]
        for message in held:
            if node is not None and message.id == request.volume_id:
                changed = master_pb2.VolumeInformationMessage()
                changed.CopyFrom(message)
                changed.read_only = request.is_readonly
                self._topology.add_volume(node, changed)
        return master_pb2.VolumeMarkReadonlyResponse()

    def _answer_Statistics(  # noqa: N802
        self, request: master_pb2.StatisticsRequest, _context: grpc.ServicerContext
    ) -> master_pb2.StatisticsResponse:
        nodes = self._topology.nodes()
        slots = sum(sum(node.held.facts.max_volume_counts.values()) for node in nodes)
        everything = [volume.message for node in nodes for volume in node.held.volumes.values()]
        asked = [row for row in everything if row.collection == request.collection or not request.collection]
        total = slots * self._config.volume_size_limit_bytes
        used = sum(row.size for row in asked)
        return master_pb2.StatisticsResponse(
            total_size=total,
            used_size=used,
            file_count=sum(row.file_count for row in asked),
            logical_total_size=used + max(0, total - sum(row.size for row in everything)),
            logical_used_size=used,
        )

    def _answer_Ping(  # noqa: N802
        self, request: master_pb2.PingRequest, context: grpc.ServicerContext
    ) -> master_pb2.PingResponse:
        now_ns = time.time_ns()
        if request.target:
            why = f"unknown ping target {request.target} of type {request.target_type}"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)
        return master_pb2.PingResponse(start_time_ns=now_ns, stop_time_ns=time.time_ns())
