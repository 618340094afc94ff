"""The registry of clients, and clients' names as white lists and operators spell them."""

from __future__ import annotations

import pytest

from supervisor.net.grpc_client_names import common_name_of
from supervisor.net.grpc_clients import ClientRegistry, GrpcClient, normal_host


def test_find_reads_what_grpcio_says():
    registry = ClientRegistry()
    client = GrpcClient("2001:db8::1", 5, "name")
    registry.add(b"\0a1b2c", client)
    assert registry.find("unix-abstract:a1b2c") is client
    for other in ("unix-abstract:a1b2d", "unix:a1b2c", "unix:", "", "ipv4:127.0.0.1:41234", "unix-abstract:"):
        assert registry.find(other) is None
    registry.remove(b"\0a1b2c")
    assert registry.find("unix-abstract:a1b2c") is None


def test_a_name_stands_for_one_client():
    registry = ClientRegistry()
    registry.add(b"\0a1b2c", GrpcClient("a", 1))
    with pytest.raises(ValueError, match="unix-abstract:a1b2c already stands for a:1"):
        registry.add(b"\0a1b2c", GrpcClient("b", 1))


@pytest.mark.parametrize("name", [b"", b"\0", b"/tmp/socket"])
def test_a_socket_without_an_abstract_name_is_nobodys(name):
    with pytest.raises(ValueError, match="is not an abstract name"):
        ClientRegistry().add(name, GrpcClient("a", 1))


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


def test_clients_print_as_addresses():
    assert str(GrpcClient("192.0.2.1", 5)) == "192.0.2.1:5"
    assert str(GrpcClient("2001:db8::1", 5)) == "[2001:db8::1]:5"


def test_common_name_of():
    subject = ((("organizationName", "o"),), (("commonName", "first"),), (("commonName", "last"),))
    assert common_name_of({"subject": subject}) == "last"
    assert common_name_of({"subject": ()}) is None
    assert common_name_of({}) is None
    assert common_name_of(None) is None
