"""The file name extensions that this server or Go's gives a meaning, and those that other servers may send here.

At the next start, files with such extensions decide what is loaded, replaced or removed. So of these, only the
extensions that a protocol sends are accepted from another server.

Source: weed/storage/erasure_coding/shard_distribution.go (sendShardFileToDestination), ec_encoder.go (ToExt),
weed/server/volume_grpc_erasure_coding.go (adoptStagedVolume), weed/storage/volume.go (removeVolumeFiles).
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DATA_SHARDS = 10
"""So many shards of erasure coding take the room of one volume."""
MAX_SHARDS = 32
"""Upstream has shard files ``.ec00`` to ``.ec31``."""
SHARD_EXTENSIONS = tuple(f".ec{shard:02d}" for shard in range(MAX_SHARDS))
EC_INDEX_DESCRIPTORS = 2
"""An open erasure-coded volume holds its .ecx and its .ecj on each disk, beside the shards that are open there."""
CODED_EXTENSIONS = frozenset((*SHARD_EXTENSIONS, ".ecx", ".ecj", ".ecsum", ".vif"))
"""The files of an erasure-coded volume. It shares `.vif` with the regular volume of its id."""
VOLUME_EXTENSIONS = (".dat", ".idx", ".vif")
"""The files of a regular volume."""
SCRATCH = ".tmprecv"
"""The only file without a meaning that may be sent here, beside an open volume. No program of upstream sends one; its
test suite sends this one."""
STAGED = ".copying"
"""The end of the file names of a volume that is not here yet; VolumeEcShardsToVolume makes a volume of such files."""
NOTE = ".note"
"""The extension of the mark that Go's server leaves beside a volume while it copies that volume."""
RECEIVING = ".receiving"
"""The end of the name of an incomplete file. No volume's file has such a name, so `sweep_unfinished` may remove it."""
ARRIVING = ".arriving"
"""The end of the file names of a volume that is being copied here."""
ARRIVED = ".arrived"
"""The extension of the record that a copy is complete; see `arrival`."""
SHARDS_ARRIVED = ".ecarrived"
"""The extension of the record that copied shards replace those of another coding; see `shard_arrival`."""
ASIDE = ".aside"
"""The end of the name of a file that was moved aside. No server loads, replaces or removes such a file."""
_UPSTREAM = frozenset((NOTE, ".cpd", ".cpx", ".cpc", ".ldb", ".cpldb", ".rdb", ".sdx", STAGED, ".tmp"))
_OURS = frozenset((".cut", RECEIVING, ARRIVING, ARRIVED, SHARDS_ARRIVED, ASIDE))
RESERVED_EXTENSIONS = frozenset((*VOLUME_EXTENSIONS, *CODED_EXTENSIONS, *_UPSTREAM, *_OURS))
_receiving = itertools.count(1)
_ANY_SHARD = re.compile(r"\.ec[0-9]+", re.ASCII)


def receiving_path(target: Path) -> Path:
    """The path under which a file is written until it is complete and is renamed to `target`. Each call gives another
    path.
    """
    return target.with_name(f"{target.name}.{next(_receiving)}{RECEIVING}")


def is_reserved(extension: str) -> bool:
    """Whether a file with that extension beside a volume has a meaning for a server. Case does not count."""
    lower = extension.lower()
    return lower in RESERVED_EXTENSIONS or _ANY_SHARD.fullmatch(lower) is not None


def in_use_text(volume_id: int, extension: str) -> str:
    """The error text for a file of a mounted volume."""
    return f"volume {volume_id} is mounted and works with its {extension}; unmount before ReceiveFile"


def other_collection_file_text(volume_id: int, found: str, wanted: str) -> str:
    """The error text for a volume, while a disk has files of that id in another collection. `found` says which."""
    return f"{found}; there cannot be a volume {volume_id} of collection {wanted!r} too"


def other_collection_text(volume_id: int, mounted: str, wanted: str) -> str:
    """The error text for a volume, while a volume of that id in another collection is open here."""
    here = f"volume {volume_id} of collection {mounted!r} is mounted here"
    return f"{here}; there cannot be one of collection {wanted!r} too"
