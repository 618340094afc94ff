"""RPCs that ask about the server or steer it. None works on a volume.

Source: weed/server/volume_grpc_admin.go, volume_grpc_state.go.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.status_text import shortened
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.disk.space import DiskUsage, MinFree
from native_handlers.storage.system.files import OS_FILES

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.model.report import DiskStatus

log = logging.getLogger(__name__)

_MASTER = "master"
_OTHER_SERVERS = frozenset({"filer", "volumeServer"})
"""Upstream's names of other kinds of servers that Ping may address."""


def get_state(node: GrpcNode, _context: RpcContext, _request: pb.GetStateRequest) -> pb.GetStateResponse:
    """The server's flags and their version."""
    return pb.GetStateResponse(state=node.state.state())


def set_state(node: GrpcNode, _context: RpcContext, request: pb.SetStateRequest) -> pb.SetStateResponse:
    """Replaces the flags if the caller knows their present version. A request without flags changes nothing."""
    state = node.state.update(request.state) if request.HasField("state") else node.state.state()
    return pb.SetStateResponse(state=state)


def volume_server_status(
    node: GrpcNode, _context: RpcContext, _request: pb.VolumeServerStatusRequest
) -> pb.VolumeServerStatusResponse:
    """Disks, memory, version, place in the topology, flags."""
    return pb.VolumeServerStatusResponse(
        disk_statuses=[_disk_status(status) for status in _disk_statuses(node)],
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
    """This server's time, and that of a master if the request names one. Only known masters are asked; otherwise a
    client could use this server to probe other hosts. A target that is longer than any address is refused, and the
    error shows only its beginning.

    Wilful difference: a type without a target makes upstream dial the empty address; here the same error is given
    without dialing.
    """
    response = pb.PingResponse(start_time_ns=node.clock_ns())
    # A cut text equals no address.
    target, kind = shortened(request.target), shortened(request.target_type)
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


def _disk_status(status: DiskStatus) -> pb.DiskStatus:
    """The sizes of the directory's file system; zeros where the file system has never answered. Upstream sends no disk
    type here.
    """
    if not status.all:
        log.warning("the file system of %s cannot be asked for its size", status.dir)
    return pb.DiskStatus(
        dir=status.dir,
        all=status.all,
        used=status.used,
        free=status.free,
        percent_free=status.percent_free,
        percent_used=status.percent_used,
        error=status.error,
    )


def _disk_statuses(node: GrpcNode) -> list[DiskStatus]:
    """The status of each directory. Waits half a second at most for a file system that hangs."""
    if node.store is not None:
        return node.store.disk_statuses()
    return [usage.status("") for usage in _usages(node.facts.directories)]


@lru_cache(maxsize=4)
def _usages(directories: tuple[Path, ...]) -> tuple[DiskUsage, ...]:
    """Cached, so that a directory whose file system hangs has one query under way, not one for each call."""
    return tuple(DiskUsage(OS_FILES, directory, MinFree(None, None)) for directory in directories)
