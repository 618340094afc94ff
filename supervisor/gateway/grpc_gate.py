"""Upstream's admin gate: which client may call which RPC, for both engines. `Route.gate` names the gated RPCs.

The gate checks the true client, not the relay. Source: weed/server/volume_grpc_admin.go (checkGrpcAdminAuth).
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RpcFailure
from supervisor.routing.registry import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.net.grpc_clients import GrpcClient
    from supervisor.routing.registry import Route

log = logging.getLogger(__name__)

MAX_REMEMBERED_REFUSALS = 1024
"""Each refusal is logged once per client and method. When this many are remembered, the memory is cleared."""


class AdminGate:
    """Refuses gated RPCs to clients that the white list does not name. An empty white list names every client.

    `allows` is called for each call, so a reloaded white list counts at once.
    """

    def __init__(self, allows: Callable[[str], bool]) -> None:
        self._allows = allows
        self._lock = threading.Lock()  # protects _refused
        self._refused: set[tuple[str, str]] = set()

    def check(self, route: Route, client: GrpcClient) -> None:
        """Raises RpcFailure (PERMISSION_DENIED, with upstream's text) where `client` may not call `route`."""
        if route.gate is not Gate.WHITE_LIST or self._allows(client.host):
            return
        name = route.rpc_name
        if self._is_first_refusal(client.host, name):
            log.warning("gRPC admin auth failed: %s is not whitelisted (remote: %s, %s)", client.host, client, name)
        raise RpcFailure(f"not authorized: {client.host}", grpc.StatusCode.PERMISSION_DENIED)

    def _is_first_refusal(self, host: str, rpc_name: str) -> bool:
        with self._lock:
            if (host, rpc_name) in self._refused:
                return False
            if len(self._refused) >= MAX_REMEMBERED_REFUSALS:
                self._refused.clear()
            self._refused.add((host, rpc_name))
            return True
