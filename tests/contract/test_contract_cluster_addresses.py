"""Server addresses, listening addresses, and the ways to name the masters: every allowed difference. All addresses are
loopback: 127.0.0.0/8, and ::1 where the machine has it.
"""

import socket

import pytest
from harness.cluster import Cluster
from harness.http1 import fetch
from harness.implementations import LOOPBACK, find_weed
from support.ports import free_port
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1])
OTHER_LOOPBACK = "127.0.0.2"
OURS = pytest.mark.parametrize("name", ["native", pytest.param("proxy-go", marks=pytest.mark.slow)])


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def cluster(weed, tmp_path_factory):
    """A master with an unusual gRPC port, and a Go server with which the others work."""
    made = Cluster(tmp_path_factory.mktemp("addresses"), weed, master_ports=(free_port(), free_port()))
    made.go = made.add("go")
    yield made
    made.end()


def assert_works_with(cluster, server):
    """The master assigns its address, and copies go to it and come from it."""
    other = cluster.go
    volume_id = cluster.allocate(server, other, replication="001")
    for writer, copy in ((server, other), (other, server)):
        fid = writer.store(b"by " + writer.name.encode(), fid=writer.new_fid(volume_id))
        assert copy.read(fid).body == b"by " + writer.name.encode()
        assert writer.http("DELETE", f"/{fid}").status == 202
        assert copy.read(fid).status == 404
    query = f"/dir/assign?writableVolumeCount=1&collection=for{server.layout.http_port}&dataNode={server.url}"
    assigned = cluster.master.get(query)
    assert assigned["url"] == server.url, assigned
    server.store(b"assigned", fid=assigned["fid"])


@OURS
def test_a_name_is_told_where_an_address_is_listened_on(cluster, name):
    server = cluster.add(name, f"-ip.bind={LOOPBACK}", ip="localhost")
    assert server.url == f"localhost:{server.layout.http_port}"
    assert_works_with(cluster, server)


@OURS
def test_it_listens_on_the_address_that_it_is_bound_to_alone(cluster, name):
    server = cluster.add(name, ip=OTHER_LOOPBACK, host=OTHER_LOOPBACK)
    assert_works_with(cluster, server)
    for port in (server.layout.http_port, server.layout.grpc_port, server.layout.public_port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, port), timeout=5).close()


@pytest.mark.skipif(not has_ipv6(), reason="the machine has no ::1")
@OURS
def test_an_ipv6_address_has_its_brackets_everywhere(cluster, name):
    server = cluster.add(name, ip="::1", host="::1")
    assert server.url == f"[::1]:{server.layout.http_port}"
    assert_works_with(cluster, server)
    said = cluster.shell("cluster.check")
    assert f"volume server [::1]:{server.layout.http_port}" in said


@OURS
def test_the_gRPC_port_can_be_any_and_masters_that_are_away_are_passed_over(cluster, name):
    away = f"{LOOPBACK}:{free_port()}"
    port_grpc = free_port()
    flags = (f"-master={away},{cluster.master.address}", "-publicUrl=cdn.example")
    server = cluster.add(name, *flags, grpc_port=port_grpc)
    assert cluster.node(server).grpc_port == port_grpc
    assert_works_with(cluster, server)
    lookup = cluster.master.get(f"/dir/lookup?volumeId={next(iter(cluster.volumes(server)))}")
    assert "cdn.example" in {location["publicUrl"] for location in lookup["locations"]}
    assert fetch(server.public, "GET", "/favicon.ico").status in {200, 404}


def test_the_usual_gRPC_port_of_a_master_need_not_be_named(weed, tmp_path):
    cluster = Cluster(tmp_path, weed)
    try:
        server = cluster.add("native", f"-master={LOOPBACK}:{cluster.master.http_port}")
        wait_until(server.is_registered, "it to be registered")
    finally:
        cluster.end()
