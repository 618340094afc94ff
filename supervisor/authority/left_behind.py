"""What a forwarded RPC leaves in the backend's memory, where no hand-over carries it by itself.

A compaction is known to the open volume that made it: closed and opened anew, the volume takes the commit for a failure
and stays without its files, and what was written in between is not in the compacted copy. So from the compaction to its
commit or clean-up the volume is pinned to the backend, which takes the writes meanwhile, as it does alone. A mark that
was not persisted is in no file; a hand-over carries it.

Source: weed/storage/volume_vacuum.go (CommitCompact, makeupDiff), volume.go (Close), weed/server/volume_grpc_admin.go.
"""

from __future__ import annotations

import grpc

from native_handlers.pb import volume_server_pb2 as pb
from supervisor.authority.ledger import Left, Mark

COMPACT = "grpc.VacuumVolumeCompact"
COMMIT = "grpc.VacuumVolumeCommit"
_FORGETS = frozenset(
    f"grpc.{name}"
    for name in (
        "DeleteCollection",
        "VolumeConfigure",
        "VolumeCopy",
        "VolumeDelete",
        "VolumeEcShardsToVolume",
        "VolumeUnmount",
    )
)
"""What makes the backend close the volume, or have another one of that id."""
_UNSURE = frozenset(
    {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
    | {grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED}
)


def left_behind(route_name: str, code: grpc.StatusCode, first_message: bytes) -> Left | None:
    """What the call of `route_name`, which ended with `code`, has left in the backend; None for nothing new.

    A compaction that was broken off goes on for a while, and closing its volume would wait for it, with every volume
    of that disk: it pins as one that was made.
    """
    is_ok = code is grpc.StatusCode.OK
    if route_name == COMPACT:
        return Left(pin=is_ok or code in _UNSURE)
    if route_name == COMMIT:
        return Left(pin=False, is_broken=not is_ok)
    if route_name == "grpc.VacuumVolumeCleanup":
        return Left(pin=False)
    if route_name in _FORGETS and (is_ok or code in _UNSURE):
        return Left(pin=False, mark=Mark.WRITABLE)
    if route_name == "grpc.VolumeMarkWritable" and is_ok:
        return Left(mark=Mark.WRITABLE)
    if route_name == "grpc.VolumeMarkReadonly" and is_ok:
        return Left(mark=_mark_asked_for(first_message))
    return None


def _mark_asked_for(message: bytes) -> Mark:
    request = pb.VolumeMarkReadonlyRequest.FromString(message)
    if request.persist:
        return Mark.WRITABLE
    return Mark.READ_ONLY_CAN_DELETE if request.can_delete else Mark.READ_ONLY
