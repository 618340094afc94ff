"""The registry of peers, and names as white lists and operators spell them."""

from __future__ import annotations

import pytest

from supervisor.net.grpc_client_names import common_name_of
from supervisor.net.grpc_peers import Peer, PeerRegistry, normal_host


def test_find_reads_what_grpcio_says():
    registry = PeerRegistry()
    peer = Peer("2001:db8::1", 5, "name")
    registry.add(41234, peer)
    assert registry.find("ipv4:127.0.0.1:41234") is peer
    assert registry.find("ipv6:%5B::1%5D:41234") is peer
    for other in ("ipv4:127.0.0.1:41235", "unix:", "", "ipv4:127.0.0.1:", "ipv4:127.0.0.1:٤"):
        assert registry.find(other) is None
    registry.remove(41234)
    assert registry.find("ipv4:127.0.0.1:41234") is None


def test_a_port_stands_for_one_peer():
    registry = PeerRegistry()
    registry.add(1, Peer("a", 1))
    with pytest.raises(ValueError, match="port 1 already stands for a:1"):
        registry.add(1, Peer("b", 1))


@pytest.mark.parametrize(
    ("host", "normal"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("not an address", "not an address"),
    ],
)
def test_normal_host(host, normal):
    assert normal_host(host) == normal


def test_peers_print_as_addresses():
    assert str(Peer("192.0.2.1", 5)) == "192.0.2.1:5"
    assert str(Peer("2001:db8::1", 5)) == "[2001:db8::1]:5"


def test_common_name_of():
    subject = ((("organizationName", "o"),), (("commonName", "first"),), (("commonName", "last"),))
    assert common_name_of({"subject": subject}) == "last"
    assert common_name_of({"subject": ()}) is None
    assert common_name_of({}) is None
    assert common_name_of(None) is None
