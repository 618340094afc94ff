"""How the front is wired: which callers count as members of the cluster."""

from __future__ import annotations

from contextlib import ExitStack

import grpc
import pytest
from support.fake_master import FakeMaster, know
from support.grpc_servers import VID, Everyone, serving
from support.stores import open_at

from native_handlers.pb import master_pb2
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import volume_server
from native_handlers.runtime.server_counts import ServerCounts
from supervisor.assembly.engines import Engines
from supervisor.assembly.front import make_grpc_gateway
from supervisor.assembly.lifecycle import StopRequest
from supervisor.assembly.metrics import node_numbers
from supervisor.assembly.node import make_node
from supervisor.assembly.tasks import Tasks, make_throttle
from supervisor.cli.load import Surroundings, load_config
from supervisor.cluster.master_view import MasterView
from supervisor.control.metrics import NodeExposition, Registry, SupervisorMetrics
from supervisor.control.volume_metrics import VolumeMetrics
from supervisor.gateway.grpc_cluster import ClusterHosts
from supervisor.gateway.grpc_masters import ClusterMasters
from supervisor.gateway.guard import Guard
from supervisor.net.grpc_clients import GrpcClient
from supervisor.wire.server_address import ServerAddress

OWN_PORT = 8123
SOURCE, STRANGER, MASTER = "127.0.0.1", "127.0.0.6", "192.0.2.1"


@pytest.fixture
def master():
    """A master that names this server as the holder of the volume."""
    master = FakeMaster()
    know(master, **{f"v{VID}": [master_pb2.Location(url=f"192.0.2.7:{OWN_PORT}", grpc_port=OWN_PORT + 1)]})
    yield master
    master.stop()


@pytest.fixture
def node(tmp_path, master):
    directory = tmp_path / "here"
    directory.mkdir()
    ports = [f"-port={OWN_PORT}", f"-port.grpc={OWN_PORT + 1}"]
    flags = ["-mode=native", f"-dir={directory}", f"-master={master.address}", *ports]
    return make_node(load_config(flags, {}, tmp_path, Surroundings(detect_address=lambda: "192.0.2.7")), StopRequest())


@pytest.fixture
def front(tmp_path, node):
    """A client of the gateway that the front makes, and what that gateway knows of the cluster."""
    store, registry, counts = open_at(tmp_path / "here"), Registry(), ServerCounts()
    throttle = make_throttle(node.config)
    metrics = SupervisorMetrics(registry)
    volumes = VolumeMetrics(store, counts, node_numbers(node, throttle))
    tasks = Tasks(metrics, registry, counts, throttle, NodeExposition(registry, volumes, None))
    guard, masters = Guard(node.security.current()), ClusterMasters(node.masters, node.dial)
    # The played master listens on the address of the source.
    elsewhere = MasterView([ServerAddress.parse(f"{MASTER}:9333")])
    cluster = ClusterHosts(elsewhere, list, guard.names)
    gateway = make_grpc_gateway(node, Engines(store, None), tasks, guard, Everyone(), masters, cluster)
    channel = grpc.insecure_channel(f"127.0.0.1:{gateway.listen('127.0.0.1:0')}")
    with ExitStack() as ends:
        for end in (store.close, masters.close, lambda: gateway.drain(0), channel.close):
            ends.callback(end)
        yield volume_server(channel), cluster


def test_a_caller_makes_no_host_a_member_by_naming_it_as_a_source(tmp_path, front):
    """The copy may fail or succeed: a stranger can play a volume server too."""
    rpc, cluster = front
    request = pb.VolumeCopyRequest(volume_id=VID, source_data_node=f"{STRANGER}:1.1")
    with pytest.raises(grpc.RpcError):
        list(rpc.VolumeCopy(request))
    with serving(tmp_path / "source") as source:
        source.write(1)
        source.rpc.VolumeMarkReadonly(pb.VolumeMarkReadonlyRequest(volume_id=VID))
        request.source_data_node = source.address
        assert list(rpc.VolumeCopy(request))
    cluster.refresh()
    assert [cluster.includes(GrpcClient(host, 1)) for host in (STRANGER, SOURCE, MASTER)] == [False, False, True]
