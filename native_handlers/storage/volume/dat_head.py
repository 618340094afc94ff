"""The head of a .dat file before the volume is opened: its super block, and whether the file is a volume at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from native_handlers.format.errors import FormatError
from native_handlers.format.super_block import SUPER_BLOCK_BYTES, parse_super_block, super_block_size
from native_handlers.storage.volume.info_file import is_coded

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.format.vif import VolumeInfo
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths


def read_super_block(files: Files, dat_fd: int) -> SuperBlock:
    """The super block of an open .dat file. Raises OSError, and FormatError where there is none."""
    head = files.read(dat_fd, SUPER_BLOCK_BYTES, 0)
    return parse_super_block(files.read(dat_fd, super_block_size(head), 0))


def super_block_of(files: Files, dat: Path) -> SuperBlock | None:
    """The super block of a .dat file; None where there is none, or no such file. Raises OSError."""
    if files.facts(dat) is None:
        return None
    fd = files.open(dat, os.O_RDONLY)
    try:
        return read_super_block(files, fd)
    except FormatError:
        return None
    finally:
        files.close(fd)


def is_bare(files: Files, dat: Path) -> bool:
    """Whether a .dat file is there that holds no record and was never vacuumed: a volume that nobody has written to, or
    what upstream's servers once made beside a .vif of shards. Raises OSError.
    """
    facts = files.facts(dat)
    if facts is None or facts.size_bytes > SUPER_BLOCK_BYTES:
        return False
    block = super_block_of(files, dat) if facts.size_bytes == SUPER_BLOCK_BYTES else None
    return block is None or not block.compaction_revision


def is_stub_of_shards(files: Files, paths: VolumePaths, info: VolumeInfo | None = None) -> bool:
    """Whether the .dat is no volume, for it is bare and the .vif says that the volume is erasure-coded. Raises OSError.

    `info` is the content of the .vif in the data directory, if the caller has just read it.

    Upstream removes such a .dat, and one that a vacuum has emptied too, which here is a volume.
    Source: weed/storage/disk_location.go (removeEmptyEcDatStub).
    """
    if info is None or info.ec_shard_config is not None or paths.index_dir != paths.data_dir:
        return is_bare(files, paths.file(".dat")) and is_coded(files, paths)
    return False
