"""The effects of a forwarded RPC in the backend's memory that a hand-over would lose.

Only the open volume that made a compaction knows of it. If that volume is closed and opened anew, the commit fails and
leaves it without its files, and the compacted copy lacks the writes that came in between. So from the compaction to its
commit or clean-up the volume is pinned to the backend, and the backend takes its writes.

A mark that was not persisted is in no file. The disk type that a mount of shards named is in no file either. A
hand-over carries both.

Source: weed/storage/volume_vacuum.go (CommitCompact, makeupDiff), volume.go (Close), weed/server/volume_grpc_admin.go.
"""

from __future__ import annotations

import grpc

from native_handlers.pb import volume_server_pb2 as pb
from supervisor.authority.form import Mark
from supervisor.authority.ledger import BackendEffect
from supervisor.routing.registry import Leaves

_UNSURE = frozenset(
    {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
    | {grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED}
)


def backend_effects(leaves: Leaves, code: grpc.StatusCode, first_message: bytes) -> BackendEffect | None:
    """The effect of a call that ended with `code` on the backend; None where nothing has changed.

    A compaction that the client broke off goes on for a while. Closing its volume would wait for the compaction, and
    block every volume of that disk. So it pins the volume like a finished one.

    Args:
        leaves: the field `leaves` of the call's route.
        first_message: the first message of the call's request.
    """
    is_ok = code is grpc.StatusCode.OK
    match leaves:
        case Leaves.COMPACTION:
            return BackendEffect(pin=is_ok or code in _UNSURE)
        case Leaves.COMMIT:
            return BackendEffect(pin=False, is_broken=not is_ok)
        case Leaves.CLEANUP:
            return BackendEffect(pin=False)
        case Leaves.CLOSED if is_ok or code in _UNSURE:
            return BackendEffect(pin=False, mark=Mark.WRITABLE)
        case Leaves.WRITABLE if is_ok:
            return BackendEffect(mark=Mark.WRITABLE)
        case Leaves.READ_ONLY if is_ok:
            return BackendEffect(mark=_mark_asked_for(first_message))
        case Leaves.SHARDS if is_ok:
            named = pb.VolumeEcShardsMountRequest.FromString(first_message).source_disk_type
            return BackendEffect(shard_disk_type=named) if named else None
    return None


def _mark_asked_for(message: bytes) -> Mark:
    request = pb.VolumeMarkReadonlyRequest.FromString(message)
    if request.persist:
        return Mark.WRITABLE
    return Mark.READ_ONLY_CAN_DELETE if request.can_delete else Mark.READ_ONLY
