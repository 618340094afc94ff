"""The file names of an erasure-coded volume.

Source: weed/storage/erasure_coding/ec_shard.go, ec_bitrot.go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadVolumeName
from native_handlers.format.volume_name import parse_volume_name
from native_handlers.storage.erasure_coding.layout import DEFAULT_RATIO, Ratio
from native_handlers.storage.model.file_kinds import MAX_SHARDS, SHARD_EXTENSIONS
from native_handlers.storage.volume.info_file import load_volume_info

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from native_handlers.format.vif import VolumeInfo
    from native_handlers.storage.system.files import Files

_SHARD = re.compile(r"(.+)\.ec([0-9]{2,3})", re.ASCII)
_CHECKSUMS = re.compile(r"\.ecsum(\.v[0-9]+)?", re.ASCII)


def shard_extension(shard_id: int) -> str:
    """The extension of a shard file: ``.ec00``."""
    return SHARD_EXTENSIONS[shard_id] if shard_id < MAX_SHARDS else f".ec{shard_id:02d}"


def parse_shard_name(name: str) -> tuple[tuple[str, int], int] | None:
    """(collection, volume id) and shard id of a shard file; None for any other name."""
    match = _SHARD.fullmatch(name)
    if match is None or int(match[2]) > 255:
        return None
    key = parse_base_name(match[1])
    return None if key is None else (key, int(match[2]))


def parse_base_name(name: str) -> tuple[str, int] | None:
    """(collection, volume id) of a name without extension; None where it is no volume's."""
    try:
        collection, volume_id = parse_volume_name(name)
    except BadVolumeName:
        return None
    return collection, int(volume_id)


def checksum_names(names: Iterable[str], base: str) -> list[str]:
    """The .ecsum files among `names` that belong to `base`, those of other generations too."""
    return [name for name in names if name.startswith(base) and _CHECKSUMS.fullmatch(name, len(base))]


def ratio_of(info: VolumeInfo | None) -> Ratio:
    """The ratio in a .vif; upstream's default where it has none, or an unusable one."""
    config = info.ec_shard_config if info is not None else None
    ratio = DEFAULT_RATIO if config is None else Ratio(config.data_shards, config.parity_shards)
    return ratio if ratio.is_valid else DEFAULT_RATIO


def encode_ts_of(info: VolumeInfo | None) -> int:
    """The time of the coding in a .vif; 0 where the .vif has none."""
    config = info.ec_shard_config if info is not None else None
    return config.encode_ts_ns if config is not None else 0


def load_info(files: Files, paths: Iterable[Path]) -> VolumeInfo | None:
    """The content of the first .vif among `paths` that exists and can be parsed. Raises OSError."""
    for path in dict.fromkeys(paths):
        loaded = load_volume_info(files, path)
        if loaded.is_present and loaded.error is None:
            return loaded.info
    return None
