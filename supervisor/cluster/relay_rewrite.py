"""Changes the addresses in messages that pass the relay, and nothing else. Pure functions over encoded messages.

The child must take the relay for the only master. In look-ups it must find itself under its own name, or it would
replicate to itself through this process. The master must get the child's volumes under this server's name. An RPC that
is not in REWRITES passes unchanged. Fields that the stubs do not know survive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from native_handlers.pb import master_pb2
from native_handlers.pb.methods import MASTER_METHODS
from native_handlers.records import dataclass
from supervisor.cluster.identity import NodeIdentity, parse_address
from supervisor.wire.server_address import join_host_port

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.wire.server_address import ServerAddress


@dataclass(frozen=True, slots=True)
class RelayNames:
    """The three identities: this server's in the cluster, the child's own (None before its first beat), the relay."""

    ours: NodeIdentity
    child: NodeIdentity | None
    relay: ServerAddress


Rewrite = Callable[[bytes, RelayNames], bytes]


@dataclass(frozen=True, slots=True)
class RpcRewrite:
    """The changes to the messages of one RPC, on the way to the master and back."""

    request: Rewrite | None = None
    response: Rewrite | None = None


def _is(url: str, node: NodeIdentity) -> bool:
    address = parse_address(url)
    return address is not None and address.http.lower() == node.http.lower()


def _point_to_child(location: master_pb2.Location | master_pb2.VolumeLocation, names: RelayNames) -> None:
    if names.child is not None and _is(location.url, names.ours):
        location.url = names.child.http
        location.public_url = names.child.public_url or names.child.http
        location.grpc_port = names.child.grpc_port


def _lookup_response(data: bytes, names: RelayNames) -> bytes:
    response = master_pb2.LookupVolumeResponse.FromString(data)
    for volume in response.volume_id_locations:
        for location in volume.locations:
            _point_to_child(location, names)
    _keep_from_being_remembered(response)
    return response.SerializeToString()


def _keep_from_being_remembered(response: master_pb2.LookupVolumeResponse) -> None:
    """Adds, for each volume, an answer without holders under another spelling of its id.

    Go's volume server keeps an answer for 10 minutes, and would not write to a moved copy for as long. It keeps an
    answer under the number of the volume id, and an entry without holders counts as no entry. The answer that it uses
    at once is found by the text of the id. So it asks again each time, and gets the current holders.
    Source: weed/operation/lookup.go (LookupVolumeIds), lookup_vid_cache.go.
    """
    for volume_id in [answer.volume_or_file_id for answer in response.volume_id_locations if answer.locations]:
        if volume_id.isascii() and volume_id.isdigit():
            response.volume_id_locations.add(volume_or_file_id=f"0{volume_id}")


def _lookup_ec_response(data: bytes, names: RelayNames) -> bytes:
    response = master_pb2.LookupEcVolumeResponse.FromString(data)
    for shard in response.shard_id_locations:
        for location in shard.locations:
            _point_to_child(location, names)
    return response.SerializeToString()


def _keep_connected_request(data: bytes, names: RelayNames) -> bytes:
    request = master_pb2.KeepConnectedRequest.FromString(data)
    if names.child is not None and _is(request.client_address, names.child):
        request.client_address = f"{join_host_port(names.ours.ip, names.ours.port)}.{names.ours.grpc_port}"
    return request.SerializeToString()


def _keep_connected_response(data: bytes, names: RelayNames) -> bytes:
    response = master_pb2.KeepConnectedResponse.FromString(data)
    if response.HasField("volume_location"):
        location = response.volume_location
        _point_to_child(location, names)
        if location.leader:
            location.leader = str(names.relay)
    return response.SerializeToString()


def _mark_readonly_request(data: bytes, names: RelayNames) -> bytes:
    request = master_pb2.VolumeMarkReadonlyRequest.FromString(data)
    if names.child is not None and _is(join_host_port(request.ip, request.port), names.child):
        request.ip = names.ours.ip
        request.port = names.ours.port
    return request.SerializeToString()


def configuration_for_child(
    response: master_pb2.GetMasterConfigurationResponse, names: RelayNames
) -> master_pb2.GetMasterConfigurationResponse:
    """A copy of `response` that names the relay in place of a leader, and no push gateway.

    The child would push its metrics under its loopback address, as another instance. They are pushed with this
    process's instead.
    """
    copy = master_pb2.GetMasterConfigurationResponse()
    copy.CopyFrom(response)
    if copy.leader:
        copy.leader = str(names.relay)
    copy.ClearField("metrics_address")
    copy.ClearField("metrics_interval_seconds")
    return copy


def _configuration_response(data: bytes, names: RelayNames) -> bytes:
    response = master_pb2.GetMasterConfigurationResponse.FromString(data)
    return configuration_for_child(response, names).SerializeToString()


REWRITES: Mapping[str, RpcRewrite] = {
    MASTER_METHODS[name].path: rewrite
    for name, rewrite in {
        "LookupVolume": RpcRewrite(response=_lookup_response),
        "LookupEcVolume": RpcRewrite(response=_lookup_ec_response),
        "KeepConnected": RpcRewrite(_keep_connected_request, _keep_connected_response),
        "VolumeMarkReadonly": RpcRewrite(request=_mark_readonly_request),
        "GetMasterConfiguration": RpcRewrite(response=_configuration_response),
    }.items()
}
"""The changes by method path."""
