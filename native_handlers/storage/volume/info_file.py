"""Reads and writes .vif files. Source: weed/storage/volume_info/volume_info.go, weed/storage/volume_tier.go."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadVolumeInfo
from native_handlers.format.vif import VolumeInfo, encode_volume_info, parse_volume_info
from native_handlers.records import dataclass
from native_handlers.storage.model.file_kinds import SHARD_EXTENSIONS
from native_handlers.storage.system.files import read_file, replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.format.ttl import Ttl
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths


@dataclass(frozen=True, slots=True)
class LoadedInfo:
    """A loaded .vif. `is_present` is False for no file and for an empty one; `error` is set when the file cannot be
    parsed.
    """

    info: VolumeInfo
    is_present: bool
    error: BadVolumeInfo | None = None


def load_volume_info(files: Files, path: Path | str) -> LoadedInfo:
    """The content of the .vif at `path`. A .vif that this process may not read counts as not understood, as upstream.

    Raises OSError where reading it fails in another way.
    """
    try:
        text = read_file(files, path)
    except PermissionError as error:
        return LoadedInfo(VolumeInfo(), is_present=True, error=BadVolumeInfo(f"it may not be read: {error.strerror}"))
    if not text:
        return LoadedInfo(VolumeInfo(), is_present=False)
    try:
        return LoadedInfo(parse_volume_info(text), is_present=True)
    except BadVolumeInfo as error:
        return LoadedInfo(VolumeInfo(), is_present=True, error=error)


def names_object(files: Files, paths: VolumePaths) -> bool:
    """Whether the .vif of the volume names an object in a remote tier, or may have named one; see `may_name_object`.
    Raises OSError.
    """
    loaded = load_volume_info(files, paths.file(".vif"))
    return bool(loaded.info.files) or may_name_object(files, paths, loaded)


def may_name_object(files: Files, paths: VolumePaths, loaded: LoadedInfo, *, beside_shards: bool = False) -> bool:
    """Whether a .vif that cannot be parsed may be that of a volume whose data is in a remote tier: the volume has an
    .idx and no .dat here, and no shards. Nothing else says where the data is.

    Args:
        loaded: what `load_volume_info` says of the .vif.
        beside_shards: whether shards do not matter.

    Raises OSError.
    """
    if loaded.error is None or files.facts(paths.file(".dat")) is not None:
        return False
    has_index = any(files.facts(path) is not None for path in paths.sidecars(".idx"))
    return has_index and (beside_shards or not has_shards(files, paths))


def is_coded(files: Files, paths: VolumePaths) -> bool:
    """Whether a .vif of the volume, in either directory, says that the volume is erasure-coded. Raises OSError."""
    return any(load_volume_info(files, path).info.ec_shard_config is not None for path in paths.sidecars(".vif"))


def has_shard_index(files: Files, paths: VolumePaths) -> bool:
    """Whether the index of erasure coding shards lies beside the volume, in either directory. Raises OSError."""
    return any(files.facts(path) is not None for path in paths.sidecars(".ecx"))


def has_shards(files: Files, paths: VolumePaths) -> bool:
    """Whether erasure coding shards, or their index, lie beside the volume: they share its .vif. The index of shards
    may be on another disk. An empty file is no shard. Raises OSError.

    Wilful difference: upstream looks for the .ecx alone.
    """
    if has_shard_index(files, paths):
        return True
    found = (files.facts(paths.file(extension)) for extension in SHARD_EXTENSIONS)
    return any(facts is not None and facts.size_bytes and not facts.is_directory for facts in found)


def save_volume_info(files: Files, path: Path, info: VolumeInfo, ttl: Ttl, now_s: int) -> VolumeInfo:
    """Replaces the .vif at `path` and returns its new content: the time of expiry is counted anew from `now_s`.

    The coding of shards that share the .vif is the one in the present file: they may have been made since the volume
    was opened. Without it they would be taken for shards of an older server, and perhaps of another ratio. Wilful
    difference: upstream writes what the volume knows.

    Raises OSError; the old file then still stands.
    """
    present = load_volume_info(files, path)
    if present.is_present and present.error is None:
        info = replace(info, dat_file_size=present.info.dat_file_size, ec_shard_config=present.info.ec_shard_config)
    if ttl:
        info = replace(info, expire_at_s=now_s + ttl.seconds)
    replace_file(files, path, encode_volume_info(info).encode())
    return info
