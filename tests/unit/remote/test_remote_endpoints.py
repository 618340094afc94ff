"""Which hosts callers may have this server dial."""

from __future__ import annotations

import ipaddress

import pytest

from native_handlers.remote.endpoints import EndpointRefused, check_endpoint, check_replica, embedded_ipv4
from native_handlers.remote.guarded_http import first_allowed

PUBLIC = "93.184.216.34"


def resolving_to(*addresses):
    return lambda _host: list(addresses)


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("", "remote endpoint is empty"),
        ("  ", "remote endpoint is empty"),
        ("ftp://host", 'must use http or https, got "ftp"'),
        ("host:9000", "must use http or https"),
        ("http://", "has no host"),
        ("http://[::1", "parse remote endpoint"),
        ("http://127.0.0.1:9000", "resolves to loopback address 127.0.0.1"),
        ("http://127.9.9.9", "loopback"),
        ("https://[::1]:1", "resolves to loopback address ::1"),
        ("http://[::ffff:127.0.0.1]", "loopback"),
        ("http://0.0.0.0", "unspecified"),
        ("http://[::]", "unspecified"),
        ("http://169.254.169.254/latest", "targets instance metadata service 169.254.169.254"),
        ("http://169.254.0.1", "link-local"),
        ("http://[fe80::1]", "link-local"),
        ("http://224.0.0.7", "link-local"),
        ("http://[ff02::1]", "link-local"),
        ("http://[ff01::1]", "interface-local"),
        ("http://10.0.0.1", "private"),
        ("http://172.31.0.1", "private"),
        ("http://192.168.1.1", "private"),
        ("http://[fd00::1]", "private"),
        ("http://100.64.0.1", "CGNAT"),
        ("http://[64:ff9b::7f00:1]", "loopback address 127.0.0.1"),
        ("http://[64:ff9b::a9fe:a9fe]", "metadata"),
        ("http://[2002:7f00:1::]", "loopback"),
        ("http://[2001:0:1:2:3:4:80ff:fffe]", "loopback"),
        ("http://[::a00:1]", "private"),
        ("http://metadata.google.internal", "targets instance metadata service"),
        ("http://METADATA/x", "targets instance metadata service"),
    ],
)
def test_refused_endpoints(endpoint, why):
    with pytest.raises(EndpointRefused, match=r".") as caught:
        check_endpoint(endpoint, resolving_to(PUBLIC))
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["http://storage.example:9000", "https://93.184.216.34", "HTTPS://[2606:2800::1]/"]
)
def test_public_endpoints(endpoint):
    check_endpoint(endpoint, resolving_to(PUBLIC))


def test_every_address_of_a_name_counts():
    with pytest.raises(EndpointRefused, match=r"private address 10\.0\.0\.8"):
        check_endpoint("http://two.example", resolving_to(PUBLIC, "10.0.0.8"))


def test_a_name_that_leads_nowhere():
    def fails(_host):
        raise OSError("no such name")

    with pytest.raises(EndpointRefused, match=r'resolve remote endpoint host "a\.example": no such name'):
        check_endpoint("http://a.example", fails)
    with pytest.raises(EndpointRefused, match="no addresses"):
        check_endpoint("http://a.example", resolving_to())


@pytest.mark.parametrize(
    "target",
    [
        "",
        "host",
        "http://host:1",
        "host:1/x",
        "host:1?x",
        "host:1#x",
        "u@host:1",
        "host:\\1",
        "host:x",
        ":80",
        "::1:80",
    ],
)
def test_replicas_are_bare_hosts_and_ports(target):
    with pytest.raises(EndpointRefused):
        check_replica(target, resolving_to(PUBLIC))


@pytest.mark.parametrize(
    "target", ["10.0.0.1:8080", "192.168.0.1:1", "100.64.0.1:1", "[fd00::1]:8080", "volume.example:8080"]
)
def test_replicas_may_be_private(target):
    check_replica(target, resolving_to("10.1.1.1"))


@pytest.mark.parametrize("target", ["127.0.0.1:8080", "169.254.169.254:80", "[::1]:80", "metadata:80", "0.0.0.0:1"])
def test_replicas_may_not_be_this_machine(target):
    with pytest.raises(EndpointRefused):
        check_replica(target, resolving_to(PUBLIC))


def test_a_name_that_changes_is_refused_where_it_is_dialled(monkeypatch):
    monkeypatch.setattr(
        "native_handlers.remote.endpoints.socket.getaddrinfo", lambda *_a, **_k: [(0, 0, 0, "", ("127.0.0.1", 0))]
    )
    with pytest.raises(EndpointRefused, match="loopback"):
        first_allowed("http://changes.example", "changes.example", allows_private=False)


@pytest.mark.parametrize(
    ("text", "embedded"),
    [
        ("64:ff9b::102:304", "1.2.3.4"),
        ("2002:102:304::1", "1.2.3.4"),
        ("2001:0:9:9:9:9:fefd:fcfb", "1.2.3.4"),
        ("::1.2.3.4", "1.2.3.4"),
        ("2606:4700::1", None),
        ("1.2.3.4", None),
    ],
)
def test_addresses_inside_addresses(text, embedded):
    found = embedded_ipv4(ipaddress.ip_address(text))
    assert (None if found is None else str(found)) == embedded
