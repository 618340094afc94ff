"""The masters, as native RPC handlers use them.

Source: weed/server/volume_grpc_admin.go (isKnownPingTarget, notifyMasterVolumeReadonly),
weed/operation/lookup_raft_leader.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.status_text import go_error_text
from native_handlers.pb import master_pb2
from native_handlers.pb.methods import master
from supervisor.cluster.channels import ChannelCache
from supervisor.cluster.identity import is_same_server, parse_address
from supervisor.wire.server_address import BadServerAddress, ServerAddress

if TYPE_CHECKING:
    from supervisor.cluster.dial import Dial
    from supervisor.cluster.master_view import MasterView

PING_TIMEOUT_S = 30.0
MARK_TIMEOUT_S = 30.0
"""For callers without a deadline: a master that hangs must not keep a thread for ever."""
LEADER_TIMEOUT_S = 5.0
_NOT_LEADER = "Not current leader"


class ClusterMasters:
    """Implements `native_handlers.grpc.node.Masters` over the view that the heartbeat keeps. `dial` may block."""

    def __init__(self, view: MasterView, dial: Dial) -> None:
        self._view = view
        self._channels = ChannelCache(dial)

    def is_known(self, target: str) -> bool:
        try:
            address = ServerAddress.parse(target)
        except BadServerAddress:
            return False
        connected = self._view.connected
        known = self._view.seeds if connected is None else (*self._view.seeds, connected)
        return any(is_same_server(address, each) for each in known)

    def ping(self, target: str, timeout_s: float | None) -> int:
        timeout_s = _bounded(timeout_s, PING_TIMEOUT_S)
        try:
            with self._channels.calling(ServerAddress.parse(target)) as channel:
                response = master(channel).Ping(master_pb2.PingRequest(), timeout=timeout_s)
        except OSError as error:
            raise RpcFailure(f"no channel to master {target}: {error}") from error
        except grpc.RpcError as error:
            raise RpcFailure(go_error_text(error)) from error
        time_ns: int = response.start_time_ns
        return time_ns

    def holds(self, volume_id: int, ip: str, port: int, timeout_s: float) -> bool:
        leader = self._view.leader
        request = master_pb2.LookupVolumeRequest(volume_or_file_ids=[str(volume_id)])
        try:
            with self._channels.calling(leader) as channel:
                response = master(channel).LookupVolume(request, timeout=timeout_s)
        except OSError as error:
            raise RpcFailure(f"no channel to master {leader.http}: {error}") from error
        except grpc.RpcError as error:
            raise RpcFailure(go_error_text(error)) from error
        own = ServerAddress(ip.removeprefix("[").removesuffix("]"), port, 0)
        found = [location.url for answer in response.volume_id_locations for location in answer.locations]
        return any(address is not None and is_same_server(address, own) for address in map(parse_address, found))

    def mark_readonly(self, request: master_pb2.VolumeMarkReadonlyRequest, timeout_s: float | None) -> None:
        timeout_s = _bounded(timeout_s, MARK_TIMEOUT_S)
        followed = self._view.connected or self._view.leader
        try:
            self._mark_on(followed, request, timeout_s)
        except RpcFailure as failure:
            if _NOT_LEADER not in failure.message:
                raise
            self._mark_on(self._ask_for_leader(followed), request, timeout_s)

    def filers(self) -> list[str]:
        """The addresses of the filers that the connected master lists.

        Raises:
            RpcFailure: the master did not answer.
        """
        followed = self._view.connected or self._view.leader
        try:
            with self._channels.calling(followed) as channel:
                response = master(channel).ListClusterNodes(
                    master_pb2.ListClusterNodesRequest(client_type="filer"), timeout=LEADER_TIMEOUT_S
                )
        except OSError as error:
            raise RpcFailure(f"no channel to master {followed.http}: {error}") from error
        except grpc.RpcError as error:
            raise RpcFailure(go_error_text(error)) from error
        return [node.address for node in response.cluster_nodes]

    def close(self) -> None:
        """Closes the channels. Running calls fail."""
        self._channels.close()

    def _mark_on(self, address: ServerAddress, request: master_pb2.VolumeMarkReadonlyRequest, timeout_s: float) -> None:
        try:
            with self._channels.calling(address) as channel:
                master(channel).VolumeMarkReadonly(request, timeout=timeout_s)
        except OSError as error:
            raise RpcFailure(f"no channel to master {address.http}: {error}") from error
        except grpc.RpcError as error:
            raise RpcFailure(
                f"grpc VolumeMarkReadonly with master {address.http}: "
                f"set volume {request.volume_id} to read only on master: {go_error_text(error)}"
            ) from error

    def _ask_for_leader(self, followed: ServerAddress) -> ServerAddress:
        why = "no master peers configured"
        for seed in self._view.seeds:
            try:
                with self._channels.calling(seed) as channel:
                    response = master(channel).GetMasterConfiguration(
                        master_pb2.GetMasterConfigurationRequest(), timeout=LEADER_TIMEOUT_S
                    )
                return ServerAddress.parse(response.leader)
            except OSError as error:
                why = f"no channel: {error}"
            except grpc.RpcError as error:
                why = go_error_text(error)
            except BadServerAddress:
                why = f"master {seed.http} returned empty leader"
        raise RpcFailure(
            f"heartbeat master {followed.http} rejected mark-readonly and leader lookup failed: "
            f"lookup raft leader from {len(self._view.seeds)} master peer(s): {why}"
        )


def _bounded(timeout_s: float | None, limit_s: float) -> float:
    return limit_s if timeout_s is None else min(timeout_s, limit_s)
