"""HTTP to a host that a caller named: each connection looks at the address that it is about to dial.

The name of a host was looked up before, when the endpoint was checked. Its owner can have the name lead somewhere
else a moment later, so the address is found, checked and dialled in one step here. Proxies of the environment are not
used, for a proxy would look the name up once more. Source: weed/server/volume_grpc_remote.go (guardedDialerPolicy,
newGuardedHTTPClient).
"""

from __future__ import annotations

import socket
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError

from native_handlers.remote.endpoints import EndpointRefused, addresses_of, check_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.remote.endpoints import IpAddress

CONNECT_LIMIT_S = 30.0
READ_LIMIT_S = 60.0
"""How long a host may send nothing."""
MAX_CONNECTIONS = 64


class DialRefused(NewConnectionError):
    """The host leads to addresses that callers may not reach, or the call is over. Trying again changes nothing."""


class CallConnections:
    """The connections of one call. Ending the call breaks all of them. READ_LIMIT_S alone would not end a call to a
    host that sends one byte a minute. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects _sockets and _over
        # A weak set drops a closed socket by itself. The answer that reads a socket keeps the socket alive.
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._over = ""

    @property
    def over(self) -> str:
        """Why the call is over; "" while it is not."""
        return self._over

    def end(self, why: str) -> None:
        """Breaks all connections, and allows no new ones. Threads that read from one get an error. Does nothing when
        called again.
        """
        with self._lock:
            if self._over:
                return
            self._over = why
            sockets = list(self._sockets)
        for one in sockets:
            _break(one)

    def add(self, connected: socket.socket) -> None:
        """Breaks `connected` with the others, at once if the call is over."""
        with self._lock:
            if not self._over:
                self._sockets.add(connected)
                return
        _break(connected)


def _break(connected: socket.socket) -> None:
    # Not the method of an encrypted socket, which another thread may be reading from: that one drops its state first.
    with suppress(OSError):  # it is not connected any more
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def open_pool(
    endpoint: str, *, allows_private: bool = False, connections: CallConnections | None = None
) -> PoolManager:
    """Connections to the host of `endpoint` that refuse addresses which a caller must not reach. They are added to
    `connections`.

    A connection that refuses an address raises an error of urllib3 whose text says why.
    """

    def find(host: str) -> IpAddress:
        return first_allowed(endpoint, host, allows_private=allows_private)

    return _open(find, connections)


def open_free_pool(connections: CallConnections | None = None) -> PoolManager:
    """Connections without that check, for operators who allow any endpoint."""
    return _open(None, connections)


def _open(find: Callable[[str], IpAddress] | None, connections: CallConnections | None) -> PoolManager:
    timeout = Timeout(connect=CONNECT_LIMIT_S, read=READ_LIMIT_S)
    manager = PoolManager(num_pools=4, maxsize=MAX_CONNECTIONS, timeout=timeout, retries=False)
    call = connections or CallConnections()
    manager.pool_classes_by_scheme = {
        "http": _pool_class(HTTPConnectionPool, HTTPConnection, find, call),
        "https": _pool_class(HTTPSConnectionPool, HTTPSConnection, find, call),
    }
    return manager


def _pool_class(
    pool: Any,  # noqa: ANN401
    connection: Any,  # noqa: ANN401
    find: Callable[[str], IpAddress] | None,
    call: CallConnections,
) -> Any:  # noqa: ANN401
    """A kind of pool whose connections dial the address that `find` has for a host (None: any), and end with `call`."""

    class Guarded(connection):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            if call.over:
                raise DialRefused(self, call.over)
            if find is None:
                dialled: socket.socket = super()._new_conn()
                return dialled
            try:
                return socket.create_connection((str(find(self._dns_host)), self.port), CONNECT_LIMIT_S)
            except EndpointRefused as error:
                raise DialRefused(self, str(error)) from error
            except OSError as error:
                raise NewConnectionError(self, str(error)) from error

        def connect(self) -> None:
            # CONNECT_LIMIT_S bounds the connection and the whole TLS handshake, which replaces the socket.
            super().connect()
            call.add(self.sock)

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
