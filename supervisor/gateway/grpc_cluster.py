"""Which clients are known to belong to the cluster. Their calls have places that no other client can take.

Any of these is enough: a client certificate that the configured authority signed, a name in the white list, the address
of a master, of a filer that the master lists, or of a volume server that the leader names as a holder of volumes. An
address that a caller names, as the source of a copy, is no evidence: a stranger may name its own.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from native_handlers.grpc.context import RpcFailure
from supervisor.cluster.identity import parse_address
from supervisor.net.grpc_clients import normal_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from supervisor.cluster.master_view import MasterView
    from supervisor.net.grpc_clients import GrpcClient

log = logging.getLogger(__name__)

REFRESH_S = 30.0
MAX_NOTED = 4096
"""How many names of volume servers are kept: the latest ones."""
RESOLVE_S = 10.0
"""After so long no further name is resolved in one refresh. A name without an answer takes the resolver several
seconds, and there may be thousands of them."""


class ClusterHosts:
    """Knows the hosts of the cluster, and answers from memory for each call. Thread-safe.

    Args:
        filers: asks the master for the addresses of the filers. May block.
        is_listed: whether a white list that is not empty names a host.
    """

    def __init__(
        self,
        masters: MasterView,
        filers: Callable[[], Iterable[str]],
        is_listed: Callable[[str], bool],
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._masters = masters
        self._filers = filers
        self._is_listed = is_listed
        self._clock_s = clock_s
        self._lock = threading.Lock()  # protects _noted
        self._noted: OrderedDict[str, None] = OrderedDict()
        self._addresses: dict[str, frozenset[str]] = {}
        """The addresses of each name. The name that was resolved longest ago is the first. Only `refresh` uses it."""
        self._hosts: frozenset[str] = frozenset()

    def includes(self, client: GrpcClient) -> bool:
        """Whether `client` is known to belong to the cluster."""
        return client.common_name is not None or client.host in self._hosts or self._is_listed(client.host)

    def note(self, address: str) -> None:
        """Notes that there is a volume server at `address`. It counts from the next refresh on."""
        parsed = parse_address(address)
        if parsed is None:
            return
        with self._lock:
            self._noted[parsed.host] = None
            self._noted.move_to_end(parsed.host)
            if len(self._noted) > MAX_NOTED:
                self._noted.popitem(last=False)

    async def keep_fresh(self) -> None:
        """Refreshes the addresses twice a minute, until cancelled.

        Cancellation: safe. A query that hangs is left to its thread.
        """
        limiter = trio.CapacityLimiter(1)
        while True:
            with trio.move_on_after(REFRESH_S):
                await trio.to_thread.run_sync(self.refresh, abandon_on_cancel=True, limiter=limiter)
                await trio.sleep_forever()

    def refresh(self) -> None:
        """Asks the master and the resolver of names. Blocks. A host whose address is not found now does not count.

        Names are resolved for `RESOLVE_S`, and the rest in the next refreshes: new names first, then the names that
        were resolved longest ago. Until its turn a name keeps the addresses that it had.
        """
        names = self._names()
        known = {name: found for name, found in self._addresses.items() if name in names}
        turns = [*(name for name in names if name not in known), *known]
        until_s = self._clock_s() + RESOLVE_S
        # An address needs no resolver.
        for name in sorted(turns, key=lambda name: not _is_address(name)):
            if self._clock_s() >= until_s:
                log.info("resolving the names of the cluster's hosts takes long; the rest has its turn later")
                break
            known.pop(name, None)
            known[name] = _addresses_of(name)
        self._addresses = known
        self._hosts = frozenset(address for found in known.values() for address in found)

    def _names(self) -> dict[str, None]:
        """The hosts of the cluster as others name them, the most important ones first."""
        view = self._masters
        names = dict.fromkeys(address.host for address in (view.leader, *view.seeds))
        try:
            names |= {parsed.host: None for parsed in map(parse_address, self._filers()) if parsed is not None}
        except RpcFailure as failure:
            log.debug("the filers are not known: %s", failure.message)
        with self._lock:
            names |= dict.fromkeys(reversed(self._noted))
        return names


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _addresses_of(name: str) -> frozenset[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        log.debug("the address of %s is not known: %s", name, error)
        return frozenset()
    return frozenset(normal_host(str(address[0])) for *_, address in found)
