"""The white list: which clients, by their TCP address, may change anything. Source: weed/security/guard.go."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Self

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAPPED_BITS = 96
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Whitelist:
    """Allowed hosts, by their exact text, and allowed networks. With neither, every client is allowed.

    `skipped` holds the entries with a slash that are no network. Such an entry allows no client.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    skipped: tuple[str, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """The list of `entries`: "10.0.0.1", "::1", "10.0.0.0/8". As in upstream, blanks are not trimmed."""
        hosts, networks, skipped = set(), [], []
        for entry in entries:
            if "/" not in entry:
                hosts.add(entry)
            elif (network := _parse_network(entry)) is not None:
                networks.append(network)
            else:
                skipped.append(entry)
        return cls(frozenset(hosts), tuple(networks), tuple(skipped))

    @property
    def is_empty(self) -> bool:
        return not self.hosts and not self.networks

    def allows(self, host: str) -> bool:
        """Whether the client with the IP address `host`, as text, is allowed."""
        if self.is_empty or host in self.hosts:
            return True
        if not self.networks or "%" in host:
            # As in upstream, no network contains an address with a zone (fe80::1%eth0): only its exact text allows it.
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)


def _parse_network(entry: str) -> Network | None:
    """The network of `entry`, as Go's net.ParseCIDR reads it; None where Go reads none.

    Go accepts a decimal prefix length only, never a mask, and no zone. Host bits may be set. A network of IPv4
    addresses that is written in IPv6 (::ffff:10.0.0.0/104) is the IPv4 network.
    """
    if not entry.partition("/")[2].isdigit() or "%" in entry:
        return None
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network
