"""Decides which hosts a caller may make this server fetch from, or write to.

A server can reach hosts of its own network that its callers cannot: the machine itself, services that give credentials
to any client inside, other machines. So an address in a request is refused when it is one of these.
`-volume.allowUntrustedRemoteEndpoints` removes all these checks. Source: weed/server/volume_grpc_remote.go
(validateRemoteEndpoint, checkBlockedIPPolicy, validateReplicaTarget).
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Resolve = Callable[[str], Sequence[str]]
    """Returns the addresses of a host, as texts. Raises OSError."""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata"})
_METADATA_ADDRESS = ipaddress.IPv4Address("169.254.169.254")
_SHARED = ipaddress.IPv4Network("100.64.0.0/10")
"""Carrier-grade NAT. Source: RFC 6598."""
_PRIVATE = tuple(ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
"""Source: RFC 1918, RFC 4193."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_TEREDO = ipaddress.IPv6Network("2001::/32")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_LINK_LOCAL_MULTICAST = (ipaddress.IPv4Network("224.0.0.0/24"), 0x2)
_INTERFACE_LOCAL_SCOPE = 0x1


class EndpointRefused(Exception):
    """Callers may not name this host. Nothing was sent."""


def resolve(host: str) -> list[str]:
    """The addresses of `host`. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def check_endpoint(endpoint: str, resolve_host: Resolve = resolve) -> None:
    """Raises EndpointRefused unless `endpoint` is an http or https URL of a public host. Blocks."""
    if not endpoint.strip():
        raise EndpointRefused("remote endpoint is empty")
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname or ""
    except ValueError as error:
        raise EndpointRefused(f'parse remote endpoint "{endpoint}": {error}') from error
    if parts.scheme.lower() not in {"http", "https"}:
        raise EndpointRefused(f'remote endpoint "{endpoint}" must use http or https, got "{parts.scheme}"')
    if not host:
        raise EndpointRefused(f'remote endpoint "{endpoint}" has no host')
    _check_host(endpoint, host, resolve_host, allows_private=False)


def check_replica(target: str, resolve_host: Resolve = resolve) -> None:
    """Raises EndpointRefused unless `target` is a bare host:port that may be a volume server. Blocks.

    Private networks are allowed, because volume servers are in them.
    """
    if not target.strip():
        raise EndpointRefused("replica target is empty")
    host, colon, port = target.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if set(target) & set("/?#@\\") or not colon or not port.isdecimal() or (":" in host and not is_bracketed):
        raise EndpointRefused(f'replica target "{target}" must be a bare host:port')
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise EndpointRefused(f'replica target "{target}" has no host')
    _check_host(target, host, resolve_host, allows_private=True)


def _check_host(endpoint: str, host: str, resolve_host: Resolve, *, allows_private: bool) -> None:
    if host.lower() in _METADATA_HOSTS:
        raise EndpointRefused(f'remote endpoint "{endpoint}" targets instance metadata service')
    for address in addresses_of(endpoint, host, resolve_host):
        check_address(endpoint, address, allows_private=allows_private)


def addresses_of(endpoint: str, host: str, resolve_host: Resolve = resolve) -> list[IpAddress]:
    """The addresses of `host`, which may be an address itself. Raises EndpointRefused where there are none. Blocks."""
    try:
        return [_parse(host)]
    except ValueError:
        pass
    try:
        found = [_parse(text) for text in resolve_host(host)]
    except (OSError, UnicodeError, ValueError) as error:
        raise EndpointRefused(f'resolve remote endpoint host "{host}": {error}') from error
    if not found:
        raise EndpointRefused(f'resolve remote endpoint host "{host}": no addresses')
    return found


def _parse(text: str) -> IpAddress:
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def check_address(endpoint: str, address: IpAddress, *, allows_private: bool) -> None:
    """Raises EndpointRefused, with `endpoint` in the text, for an address that must not be dialled for a caller."""
    kind = _kind_of(address, allows_private=allows_private)
    if kind is None:
        embedded = embedded_ipv4(address)
        if embedded is not None:
            check_address(endpoint, embedded, allows_private=allows_private)
        return
    if kind == "metadata":
        raise EndpointRefused(f'remote endpoint "{endpoint}" targets instance metadata service {address}')
    raise EndpointRefused(f'remote endpoint "{endpoint}" resolves to {kind} address {address}')


def _kind_of(address: IpAddress, *, allows_private: bool) -> str | None:
    """The reason against an address, or None."""
    if address == _METADATA_ADDRESS:
        return "metadata"
    if address.is_loopback:
        return "loopback"
    if address.is_unspecified:
        return "unspecified"
    if address.is_link_local or _scope_of(address) == "link-local":
        return "link-local"
    if _scope_of(address) == "interface-local":
        return "interface-local"
    if allows_private:
        return None
    if any(address in network for network in _PRIVATE if network.version == address.version):
        return "private"
    return "CGNAT" if address in _SHARED else None


def _scope_of(address: IpAddress) -> str:
    """The scope of a multicast address, where it is the link or less; else ""."""
    network, link_scope = _LINK_LOCAL_MULTICAST
    if isinstance(address, ipaddress.IPv4Address):
        return "link-local" if address in network else ""
    first, second = address.packed[:2]
    if first != 0xFF:
        return ""
    scope = second & 0xF
    if scope == link_scope:
        return "link-local"
    return "interface-local" if scope == _INTERFACE_LOCAL_SCOPE else ""


def embedded_ipv4(address: IpAddress) -> ipaddress.IPv4Address | None:
    """The IPv4 address inside an IPv6 address of a transition mechanism; None for all other addresses.

    Source: RFC 6052 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo, whose client address is inverted), RFC 4291.
    """
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    packed = address.packed
    if address in _NAT64:
        return ipaddress.IPv4Address(packed[12:])
    if address in _SIX_TO_FOUR:
        return ipaddress.IPv4Address(packed[2:6])
    if address in _TEREDO:
        return ipaddress.IPv4Address(bytes(byte ^ 0xFF for byte in packed[12:]))
    return ipaddress.IPv4Address(packed[12:]) if address in _COMPATIBLE else None
