"""HTTP to a host that a caller named: each connection looks at the address that it is about to dial.

The name of a host was looked up before, when the endpoint was checked. Its owner can have the name lead somewhere
else a moment later, so the address is found, checked and dialled in one step here. Proxies of the environment are not
used, for a proxy would look the name up once more. Source: weed/server/volume_grpc_remote.go (guardedDialerPolicy,
newGuardedHTTPClient).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError

from native_handlers.remote.endpoints import EndpointRefused, addresses_of, check_address

if TYPE_CHECKING:
    from native_handlers.remote.endpoints import IpAddress

CONNECT_LIMIT_S = 30.0
READ_LIMIT_S = 60.0
"""How long a host may send nothing."""
MAX_CONNECTIONS = 64


class DialRefused(NewConnectionError):
    """The host leads to addresses that callers may not reach. Trying again changes nothing."""


def open_pool(endpoint: str, *, allows_private: bool = False) -> PoolManager:
    """Connections to the host of `endpoint` that refuse addresses which a caller must not reach.

    What such a connection raises is a urllib3 error whose text says why.
    """
    manager = open_free_pool()
    manager.pool_classes_by_scheme = {
        "http": _pool_class(HTTPConnectionPool, HTTPConnection, endpoint, allows_private=allows_private),
        "https": _pool_class(HTTPSConnectionPool, HTTPSConnection, endpoint, allows_private=allows_private),
    }
    return manager


def open_free_pool() -> PoolManager:
    """Connections without that check, for operators who allow any endpoint."""
    timeout = Timeout(connect=CONNECT_LIMIT_S, read=READ_LIMIT_S)
    return PoolManager(num_pools=4, maxsize=MAX_CONNECTIONS, timeout=timeout, retries=False)


def _pool_class(pool: Any, connection: Any, endpoint: str, *, allows_private: bool) -> Any:  # noqa: ANN401
    """A kind of pool whose connections dial only what may be dialled for `endpoint`."""

    class Guarded(connection):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            try:
                address = first_allowed(endpoint, self._dns_host, allows_private=allows_private)
                return socket.create_connection((str(address), self.port), CONNECT_LIMIT_S)
            except EndpointRefused as error:
                raise DialRefused(self, str(error)) from error
            except OSError as error:
                raise NewConnectionError(self, str(error)) from error

    class GuardedPool(pool):  # type: ignore[misc]
        ConnectionCls = Guarded

    return GuardedPool


def first_allowed(endpoint: str, host: str, *, allows_private: bool) -> IpAddress:
    """The first address of `host` that may be dialled. Raises EndpointRefused, with the first reason, for none."""
    refused: EndpointRefused | None = None
    for address in addresses_of(endpoint, host):
        try:
            check_address(endpoint, address, allows_private=allows_private)
        except EndpointRefused as error:
            refused = refused or error
        else:
            return address
    assert refused is not None
    raise refused
