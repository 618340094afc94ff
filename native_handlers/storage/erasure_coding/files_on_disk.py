"""The files of an erasure-coded volume on the disks of a server, open or not, and their removal.

Only a file that is known to be absent counts as absent; where that is not known, the functions raise OSError. Source:
weed/server/volume_grpc_erasure_coding.go (checkEcVolumeStatus, removeStaleEcArtifacts).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.volume_name import format_volume_name
from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.names import checksum_names, load_info, parse_shard_name
from native_handlers.storage.model.file_kinds import MAX_SHARDS, SHARD_EXTENSIONS
from native_handlers.storage.model.report import FindingKind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from native_handlers.format.vif import VolumeInfo
    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.system.files import Files


@dataclass(frozen=True, slots=True)
class EcFiles:
    """The files of one volume on one disk.

    Args:
        shard_ids: the shards with a file.
        has_index: whether there is an .ecx or an .ecj.
        has_volume: whether there is the .idx of a regular volume of that name, which then owns the .vif.
    """

    location: DiskLocation
    name: str
    shard_ids: tuple[int, ...]
    has_index: bool
    has_ecx: bool
    has_volume: bool

    def path(self, extension: str) -> Path:
        """The path beside the data."""
        return self.location.path / (self.name + extension)

    def on_either_side(self, extension: str) -> list[Path]:
        """The paths in the index directory and beside the data."""
        directories = dict.fromkeys((self.location.idx_path, self.location.path))
        return [directory / (self.name + extension) for directory in directories]


def look(files: Files, location: DiskLocation, collection: str, volume_id: int) -> EcFiles:
    """Lists the files on that disk. Raises OSError, DiskUnavailable."""
    location.check_in_service()
    name = format_volume_name(collection, volume_id)
    directories = dict.fromkeys((location.path, location.idx_path))
    present = {one for directory in directories for one in files.list_directory(directory) if one.startswith(name)}
    found = (parse_shard_name(one) for one in present)
    shard_ids = sorted(one[1] for one in found if one is not None and one[0] == (collection, volume_id))
    return EcFiles(
        location,
        name,
        tuple(shard for shard in shard_ids if shard < MAX_SHARDS),
        bool({name + ".ecx", name + ".ecj"} & present),
        name + ".ecx" in present,
        name + ".idx" in present,
    )


def remove_paths(files: Files, paths: Iterable[Path]) -> None:
    """Removes the existing files among `paths`, durably. Raises OSError at the first that stays."""
    directories: dict[Path, None] = {}
    for path in paths:
        if files.facts(path) is not None:
            files.unlink(path)
            directories[path.parent] = None
    for directory in directories:
        files.sync_directory(directory)


def remove_all(  # noqa: PLR0913  what stays
    files: Files,
    location: DiskLocation,
    collection: str,
    volume_id: int,
    *,
    keeps_vif: bool = False,
    keeps_shared_index: bool = False,
) -> None:
    """Removes all files of an erasure-coded volume on that disk. The .vif stays where a regular volume owns it.

    The index is removed first: shards without it beside a whole .dat are known to be useless.

    Args:
        keeps_shared_index: leaves the files in the index directory, which belong to shards of other disks too.

    Raises OSError; the files that were not removed stay.
    """
    found = look(files, location, collection, volume_id)
    paths = [*found.on_either_side(".ecx"), *found.on_either_side(".ecj")]
    paths += [found.path(extension) for extension in SHARD_EXTENSIONS]
    paths += checksum_paths(files, found)
    if not keeps_vif and not found.has_volume:
        paths += found.on_either_side(".vif")
    if keeps_shared_index:
        paths = [path for path in paths if path.parent == location.path]
    remove_paths(files, paths)
    forget_findings(found)


def shares_index(files: Files, location: DiskLocation, collection: str, volume_id: int) -> bool:
    """Whether another disk has the same index directory and shards of the volume. A disk out of service may have some.

    Raises OSError.
    """
    shared = location.idx_path
    others = (one for one in location.others if one.idx_path == shared)
    return shared != location.path and any(
        one.is_unavailable or look(files, one, collection, volume_id).shard_ids for one in others
    )


def forget_findings(found: EcFiles) -> None:
    """Drops the findings about the shards on a disk, whose files are gone."""
    found.location.findings.drop(found.path(""), FindingKind.SHARDS_KEPT, FindingKind.SHARDS_NOT_OPENED)


def checksum_paths(files: Files, found: EcFiles) -> list[Path]:
    """The volume's .ecsum files in both directories. Raises OSError."""
    directories = dict.fromkeys((found.location.idx_path, found.location.path))
    return [
        directory / name
        for directory in directories
        for name in checksum_names(files.list_directory(directory), found.name)
    ]


def info_on(files: Files, found: EcFiles) -> VolumeInfo | None:
    """The content of the .vif on that disk. Raises OSError."""
    return load_info(files, reversed(found.on_either_side(".vif")))
