"""Internal listeners of a server refuse other programs of the machine."""

import re
from pathlib import Path

import grpc
import pytest
from harness.calls import call
from support.descriptors import links_of
from support.waiting import LIMIT_S

from native_handlers.pb import master_pb2, methods
from native_handlers.pb import volume_server_pb2 as pb

LISTENING = "0A"


def listening_ports(pid):
    """The TCP ports on which the process listens."""
    inodes = {inode for link in links_of(pid).values() for inode in re.findall(r"^socket:\[(\d+)\]$", link)}
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == LISTENING and row[9] in inodes}


def inner_ports(server):
    own = {server.layout.http_port, server.layout.public_port, server.layout.grpc_port}
    return listening_ports(server.process.pid) - own


def code_of(rpc, request):
    try:
        for _ in rpc(request, timeout=LIMIT_S):
            pass
    except TypeError:
        return grpc.StatusCode.OK
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_a_stranger_on_this_machine_is_refused_at_every_inner_port(server):
    assert call(server, "Ping").start_time_ns
    ports = inner_ports(server)
    assert bool(ports) == (server.implementation.mode in {"proxy", "mixed"}), "the masters' relay of a backend has one"
    for port in ports:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            volumes, master = methods.volume_server(channel), methods.master(channel)
            seen = [
                code_of(volumes.Ping, pb.PingRequest()),
                code_of(volumes.VolumeServerLeave, pb.VolumeServerLeaveRequest()),
                code_of(master.GetMasterConfiguration, master_pb2.GetMasterConfigurationRequest()),
                code_of(master.SendHeartbeat, iter([master_pb2.Heartbeat(ip="192.0.2.1", port=1)])),
            ]
        assert set(seen) <= {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE}, port
    assert server.is_registered()


@pytest.mark.only(lambda implementation: implementation.mode == "native")
def test_a_server_of_its_own_volumes_has_no_inner_port(server):
    assert inner_ports(server) == set()
