"""Who may call which RPC: upstream's admin gate, on the true peer, for both engines.

Source: weed/server/volume_grpc_admin.go checkGrpcAdminAuth, and its coverage test, which says why the others are open:
volume servers call them on each other, and an operator's white list holds masters and shell hosts, not peers.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RpcFailure
from native_handlers.pb.methods import VOLUME_SERVER_METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.net.grpc_peers import Peer

log = logging.getLogger(__name__)

OPEN_TO_PEERS = frozenset(
    {
        "CopyFile",
        "ReadNeedleBlob",
        "ReadNeedleMeta",
        "ReadVolumeFileStatus",
        "ReceiveFile",
        "VolumeEcBlobDelete",
        "VolumeEcShardRead",
        "VolumeEcShardsInfo",
        "VolumeEcShardsMount",
        "VolumeIncrementalCopy",
        "VolumeStatus",
        "VolumeSyncStatus",
        "VolumeTailSender",
        "WriteNeedleBlob",
    }
)
OPEN_TO_ALL = frozenset({"GetState", "Ping", "Query", "VacuumVolumeCheck", "VolumeServerStatus"})
GATED = frozenset(VOLUME_SERVER_METHODS) - OPEN_TO_PEERS - OPEN_TO_ALL

MAX_REMEMBERED_REFUSALS = 1024
"""Each is logged once per peer and method; past this many the memory starts afresh rather than grow."""


class AdminGate:
    """Refuses gated RPCs to peers that the white list does not name. An empty white list names everyone.

    `allows` is asked on each call, so a reloaded white list counts at once.
    """

    def __init__(self, allows: Callable[[str], bool]) -> None:
        self._allows = allows
        self._lock = threading.Lock()  # protects _refused
        self._refused: set[tuple[str, str]] = set()

    def check(self, rpc_name: str, peer: Peer) -> None:
        """Raises RpcFailure (PERMISSION_DENIED, upstream's text) where `peer` may not call `rpc_name`."""
        if rpc_name not in GATED or self._allows(peer.host):
            return
        if self._is_first_refusal(peer.host, rpc_name):
            log.warning("gRPC admin auth failed: %s is not whitelisted (remote: %s, %s)", peer.host, peer, rpc_name)
        raise RpcFailure(f"not authorized: {peer.host}", grpc.StatusCode.PERMISSION_DENIED)

    def _is_first_refusal(self, host: str, rpc_name: str) -> bool:
        with self._lock:
            if (host, rpc_name) in self._refused:
                return False
            if len(self._refused) >= MAX_REMEMBERED_REFUSALS:
                self._refused.clear()
            self._refused.add((host, rpc_name))
            return True
