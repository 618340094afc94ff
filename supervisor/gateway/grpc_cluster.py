"""Which clients are known to belong to the cluster. Their calls have places that no other client can take.

Any of these is enough: a client certificate that the configured authority signed, a name in the white list, the address
of a master, of a filer that the master lists, or of a volume server that the leader names as a holder of volumes. An
address that a caller names, as the source of a copy, is no evidence: a stranger may name its own.
"""

from __future__ import annotations

import logging
import socket
import threading
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


class ClusterHosts:
    """Knows the hosts of the cluster, and answers from memory for each call. Thread-safe.

    Args:
        filers: asks the master for the addresses of the filers. May block.
        is_listed: whether a white list that is not empty names a host.
    """

    def __init__(
        self, masters: MasterView, filers: Callable[[], Iterable[str]], is_listed: Callable[[str], bool]
    ) -> None:
        self._masters = masters
        self._filers = filers
        self._is_listed = is_listed
        self._lock = threading.Lock()  # protects _noted
        self._noted: OrderedDict[str, None] = OrderedDict()
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
        """Asks the master and the resolver of names. Blocks. A host whose address is not found now does not count."""
        view = self._masters
        names = {address.host for address in (*view.seeds, view.leader)}
        with self._lock:
            names.update(self._noted)
        try:
            names.update(parsed.host for parsed in map(parse_address, self._filers()) if parsed is not None)
        except RpcFailure as failure:
            log.debug("the filers are not known: %s", failure.message)
        self._hosts = frozenset(address for name in names for address in _addresses_of(name))


def _addresses_of(name: str) -> set[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        log.debug("the address of %s is not known: %s", name, error)
        return set()
    return {normal_host(str(address[0])) for *_, address in found}
