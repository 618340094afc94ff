"""Reads and writes .vif files. Source: weed/storage/volume_info/volume_info.go, weed/storage/volume_tier.go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadVolumeInfo
from native_handlers.format.vif import VolumeInfo, encode_volume_info, parse_volume_info
from native_handlers.storage.files import read_file, replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.format.ttl import Ttl
    from native_handlers.storage.files import Files
    from native_handlers.storage.volume_paths import VolumePaths


@dataclass(frozen=True, slots=True)
class LoadedInfo:
    """`is_present` is False for no file and for an empty one; `error` is set when the file is not to be understood."""

    info: VolumeInfo
    is_present: bool
    error: BadVolumeInfo | None = None


def load_volume_info(files: Files, path: Path) -> LoadedInfo:
    """What the .vif at `path` says. Raises OSError when it is there and cannot be read."""
    text = read_file(files, path)
    if not text:
        return LoadedInfo(VolumeInfo(), is_present=False)
    try:
        return LoadedInfo(parse_volume_info(text), is_present=True)
    except BadVolumeInfo as error:
        return LoadedInfo(VolumeInfo(), is_present=True, error=error)


def is_coded(files: Files, paths: VolumePaths) -> bool:
    """Whether a .vif of the volume, in either directory, says that it is erasure-coded. Raises OSError."""
    return any(load_volume_info(files, path).info.ec_shard_config is not None for path in paths.sidecars(".vif"))


def save_volume_info(files: Files, path: Path, info: VolumeInfo, ttl: Ttl, now_s: int) -> VolumeInfo:
    """Replaces the .vif at `path` and returns what it now says: the time of expiry is counted anew from `now_s`.

    Raises OSError; the old file then still stands.
    """
    if ttl:
        info = replace(info, expire_at_s=now_s + ttl.seconds)
    replace_file(files, path, encode_volume_info(info).encode())
    return info
