"""The white list: which TCP peers may change anything. Source: weed/security/guard.go."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Whitelist:
    """Hosts that are allowed, by their exact text, and networks. With neither, everybody is.

    `skipped` holds the entries that are no network although they have a slash; they allow nobody.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    skipped: tuple[str, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """The list that `entries` make: "10.0.0.1", "::1", "10.0.0.0/8". Like upstream, none of them is trimmed."""
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
        """Whether the peer `host`, an IP address as text, may pass."""
        if self.is_empty or host in self.hosts:
            return True
        if not self.networks:
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)


def _parse_network(entry: str) -> Network | None:
    """Go's net.ParseCIDR takes a decimal prefix length only, never a mask; host bits may be set."""
    if not entry.partition("/")[2].isdigit():
        return None
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None
