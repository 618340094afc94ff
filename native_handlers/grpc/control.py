"""RPCs that ask about the server or steer it, rather than work on a volume.

Source: weed/server/volume_grpc_admin.go, volume_grpc_state.go.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode

log = logging.getLogger(__name__)

_MASTER = "master"
_OTHER_SERVERS = frozenset({"filer", "volumeServer"})
"""Upstream's spellings of what it could ping, were there any such server that it knows."""


def get_state(node: GrpcNode, _context: RpcContext, _request: pb.GetStateRequest) -> pb.GetStateResponse:
    """The server's flags and their version."""
    return pb.GetStateResponse(state=node.state.state())


def set_state(node: GrpcNode, _context: RpcContext, request: pb.SetStateRequest) -> pb.SetStateResponse:
    """Replaces the flags if the caller has seen the present ones; without flags it changes nothing."""
    state = node.state.update(request.state) if request.HasField("state") else node.state.state()
    return pb.SetStateResponse(state=state)


def volume_server_status(
    node: GrpcNode, _context: RpcContext, _request: pb.VolumeServerStatusRequest
) -> pb.VolumeServerStatusResponse:
    """Disks, memory, version, place in the topology, flags."""
    return pb.VolumeServerStatusResponse(
        disk_statuses=[_disk_status(directory) for directory in node.facts.directories],
        memory_status=node.memory(),
        version=node.facts.version,
        data_center=node.facts.data_center,
        rack=node.facts.rack,
        state=node.state.state(),
    )


def volume_server_leave(
    node: GrpcNode, _context: RpcContext, _request: pb.VolumeServerLeaveRequest
) -> pb.VolumeServerLeaveResponse:
    """Ends the heartbeats; data is served as before. Leaving again is no error."""
    node.leave()
    return pb.VolumeServerLeaveResponse()


def ping(node: GrpcNode, context: RpcContext, request: pb.PingRequest) -> pb.PingResponse:
    """This server's time, and that of a master if one is named. Only known masters are asked, else anyone could use
    this server to probe others.

    Wilful difference: a type without a target makes upstream dial the empty address; here the same error is given
    without dialing.
    """
    response = pb.PingResponse(start_time_ns=node.clock_ns())
    target, kind = request.target, request.target_type
    if target and not (kind == _MASTER and node.masters.is_known(target)):
        raise RpcFailure(f"unknown ping target {target} of type {kind}", grpc.StatusCode.INVALID_ARGUMENT)
    if kind == _MASTER or kind in _OTHER_SERVERS:
        try:
            response.remote_time_ns = _remote_time_ns(node, context, target)
        except RpcFailure as failure:
            raise RpcFailure(f"ping {kind} {target}: {failure.message}") from failure
    response.stop_time_ns = node.clock_ns()
    return response


def _remote_time_ns(node: GrpcNode, context: RpcContext, target: str) -> int:
    if not target:
        raise RpcFailure(
            "rpc error: code = Unavailable desc = connection error: "
            'desc = "transport: Error while dialing: dial tcp: missing address"'
        )
    return node.masters.ping(target, context.time_remaining_s())


def _disk_status(directory: Path) -> pb.DiskStatus:
    """Sizes of the directory's file system; none where it cannot be asked. Source: weed/stats/disk_supported.go.

    Free is what an unprivileged user may still take, used is all the rest.
    """
    try:
        file_system = os.statvfs(directory)
    except OSError as error:
        log.warning("the file system of %s cannot be asked: %s", directory, error.strerror)
        return pb.DiskStatus(dir=str(directory))
    size_bytes = file_system.f_blocks * file_system.f_frsize
    free_bytes = file_system.f_bavail * file_system.f_frsize
    return pb.DiskStatus(
        dir=str(directory),
        all=size_bytes,
        used=size_bytes - free_bytes,
        free=free_bytes,
        percent_free=100 * free_bytes / size_bytes if size_bytes else 0,
        percent_used=100 * (size_bytes - free_bytes) / size_bytes if size_bytes else 0,
    )
