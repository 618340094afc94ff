"""What a forwarded mount of erasure coding shards has to wait for, where both engines work on volumes."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from native_handlers.pb import volume_server_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.gateway.grpc_forward import ForwardedCall

LIMIT_S = 5.0
PAUSE_S = 0.01
_log = logging.getLogger(__name__)


def wait_until_reported(
    has_ec_shards: Callable[[int], bool], limit_s: float = LIMIT_S
) -> Callable[[ForwardedCall], None]:
    """For after a VolumeEcShardsMount: returns when the backend has reported the shards, or after `limit_s`.

    The report says that the volume is the backend's alone. Whoever mounts shards deletes the volume next, and a native
    read in between would say that it is not there.
    """

    def wait(call: ForwardedCall) -> None:
        assert call.request is not None, "it is a unary call"
        volume_id = pb.VolumeEcShardsMountRequest.FromString(call.request).volume_id
        for _ in range(int(limit_s / PAUSE_S)):
            if has_ec_shards(volume_id):
                return
            threading.Event().wait(PAUSE_S)
        _log.warning("the backend has mounted shards of volume %d, and has not reported them yet", volume_id)

    return wait
