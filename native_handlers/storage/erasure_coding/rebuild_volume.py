"""Makes the missing shards of an erasure-coded volume anew, from the shards on the disks of this server.

Source: weed/server/volume_grpc_erasure_coding.go (VolumeEcShardsRebuild).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from native_handlers.storage.erasure_coding.bitrot import Protection, encode_checksums, load_checksums
from native_handlers.storage.erasure_coding.codings import check_enough, newest_on_disks
from native_handlers.storage.erasure_coding.errors import (
    RebuildFailed,
    VerifyFailed,
    WorkEnded,
)
from native_handlers.storage.erasure_coding.files_on_disk import (
    EcFiles,
    checksum_paths,
    look,
)
from native_handlers.storage.erasure_coding.fold import fold
from native_handlers.storage.erasure_coding.layout import DEFAULT_RATIO, Ratio
from native_handlers.storage.erasure_coding.names import ratio_of, shard_extension
from native_handlers.storage.erasure_coding.rebuild import ShardFiles, rebuild
from native_handlers.storage.erasure_coding.verify import verify
from native_handlers.storage.system.files import replace_file
from native_handlers.storage.volume.info_file import load_volume_info

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
    from native_handlers.storage.system.files import Files

_log = logging.getLogger(__name__)


def rebuild_missing(ec: EcVolumeSet, collection: str, volume_id: int, *, ignores_checksums: bool = False) -> list[int]:
    """Rebuilds the shards that this server lacks and can compute, on the disk with the index and the most shards.

    Returns their ids; none where no disk has the index. Where the disks have several codings, the newest one is rebuilt
    of its own shards.

    Raises:
        StorageError: no shard was changed.
        OSError: no shard was changed, or all were made and an index lacks deletions that the journals have.
    """
    with ec.exclusive(volume_id):
        present = [look(ec.files, location, collection, volume_id) for location in ec.locations]
        present = [one for one in present if one.shard_ids or one.has_ecx]
        found = newest_on_disks(ec.files, present)
        left_out = [one for one in present if one not in found]
        chosen = max((one for one in found if one.has_ecx), key=lambda one: len(one.shard_ids), default=None)
        if chosen is None:
            return []
        found = [chosen, *(one for one in found if one is not chosen)]
        base = chosen.path("")
        try:
            ratio = _ratio_for_rebuild(ec.files, found)
            check_enough(found, left_out, ratio.data)
            shards = _shard_files(ec.files, base, ratio, found)
            protection, checksums = load_checksums(ec.files, [one.path(".ecsum") for one in found], ratio)
            rebuilt = rebuild(ec.files, shards, ratio, protection, checksums, ignores_checksums=ignores_checksums)
        except OSError as error:
            raise RebuildFailed(f"RebuildEcFiles {base}: {error}") from error
        except RebuildFailed as error:
            raise RebuildFailed(f"RebuildEcFiles {base}: {error}") from error
        fold(ec, found, collection, volume_id)
        if protection is Protection.OFF:
            _add_checksums(ec, ratio, [look(ec.files, one.location, collection, volume_id) for one in found])
        return rebuilt


def _add_checksums(ec: EcVolumeSet, ratio: Ratio, found: Sequence[EcFiles]) -> None:
    """Writes an .ecsum on the first disk for shards without one, if all shards agree.

    A failure is logged with its reason; the shards then stay without an .ecsum. Deliberate difference: upstream
    computes the checksums from the shards unverified, so that checksums may confirm wrong data.
    """
    path = found[0].path(".ecsum")
    if any(checksum_paths(ec.files, one) for one in found):
        return
    shards = _shard_files(ec.files, found[0].path(""), ratio, found)
    try:
        verdict = verify(ec.files, shards, ratio)
        if verdict.checksums is None:
            _log.warning("%s is not written: shards do not fit each other (ec-verify tells which)", path)
            return
        replace_file(ec.files, path, encode_checksums(verdict.checksums))
    except (VerifyFailed, WorkEnded, OSError) as error:
        _log.warning("%s is not written: %s", path, error)


def _ratio_for_rebuild(files: Files, found: Sequence[EcFiles]) -> Ratio:
    """The ratio in the first .vif on these disks that has one: of disks with one index, only one may have a .vif.

    Raises RebuildFailed for a .vif that cannot be parsed: a wrong ratio would make wrong shards.
    """
    for path in (path for one in found for path in reversed(one.on_either_side(".vif"))):
        loaded = load_volume_info(files, path)
        if loaded.error is not None:
            raise RebuildFailed(f"cannot load .vif: {loaded.error}")
        if loaded.info.ec_shard_config is not None:
            return ratio_of(loaded.info)
    return DEFAULT_RATIO


def _shard_files(files: Files, base: Path, ratio: Ratio, found: Sequence[EcFiles]) -> ShardFiles:
    """The file of each shard on these disks: the first one with content. An empty file is no shard. It is replaced
    where no other disk has the shard.
    """
    present: dict[int, tuple[Path, int]] = {}
    places: dict[int, Path] = {}
    for shard in range(ratio.total):
        extension = shard_extension(shard)
        paths = [one.path(extension) for one in found if shard in one.shard_ids]
        sizes = [(path, facts.size_bytes) for path in paths if (facts := files.facts(path)) is not None]
        places[shard] = sizes[0][0] if sizes else found[0].path(extension)
        filled = next((one for one in sizes if one[1]), None)
        if filled is not None:
            present[shard], places[shard] = filled, filled[0]
    return ShardFiles(base, present, places)
