"""The codings of a volume on the disks of a server. Shards of two codings must not be mixed.

A coding is known by its time (`encodeTsNs` in the .vif). 0 stands for a coding of an older server, which wrote no time.

Source: weed/storage/store_ec.go, which compares the times for reads alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.storage.erasure_coding.errors import EcRefused, RebuildFailed
from native_handlers.storage.erasure_coding.files_on_disk import info_on
from native_handlers.storage.erasure_coding.names import encode_ts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.erasure_coding.files_on_disk import EcFiles
    from native_handlers.storage.system.files import Files


def newest_on_disks(files: Files, found: Sequence[EcFiles]) -> list[EcFiles]:
    """The disks with the newest coding; all of them where there is one coding. Raises OSError."""
    times = [_time_on(files, one, found) for one in found]
    known = {time for time in times if time is not None}
    if len(known) < 2:
        return list(found)
    # A disk without .vif and index takes part in the only coding of the server. Among several none is certain.
    return [one for one, time in zip(found, times, strict=True) if time == max(known)]


def _time_on(files: Files, found: EcFiles, disks: Sequence[EcFiles]) -> int | None:
    """The time of the coding on a disk; None where the disk has neither a .vif nor an index. A disk without .vif has
    that of a disk with the same index directory.
    """
    info = info_on(files, found)
    if info is not None:
        return encode_ts_of(info)
    if not found.has_ecx:
        return None
    sharing = (one for one in disks if one.location.idx_path == found.location.idx_path)
    return encode_ts_of(next((info for one in sharing if (info := info_on(files, one)) is not None), None))


def check_enough(found: Sequence[EcFiles], left_out: Sequence[EcFiles], data_shards: int) -> None:
    """Raises RebuildFailed where disks with another coding were left out, and the others have too few shards."""
    shard_ids = {shard for one in found for shard in one.shard_ids}
    if left_out and len(shard_ids) < data_shards:
        others = ", ".join(str(one.path("")) for one in left_out)
        raise RebuildFailed(
            f"the shards of {others} belong to a different encode run, and the newest one has only"
            f" {len(shard_ids)} shards here, needs {data_shards}"
        )


def newest_open(volumes: Sequence[EcVolume]) -> list[EcVolume]:
    """Those of the newest coding, which has every data shard open here. `volumes` are one volume on several disks.

    Raises:
        EcRefused: a data shard is open in an older coding alone, or not at all.
    """
    newest = max(one.encode_ts_ns for one in volumes)
    chosen = [one for one in volumes if one.encode_ts_ns == newest]
    present = {shard for one in chosen for shard in one.shards}
    for shard in range(chosen[0].ratio.data):
        if shard not in present:
            is_elsewhere = any(shard in one.shards for one in volumes)
            name = f"ec shard {chosen[0].id}.{shard}"
            raise EcRefused(
                f"{name} belongs to a different encode run"
                if is_elsewhere
                else f"ec volume {chosen[0].id} missing shard {shard}"
            )
    return chosen
