"""Checks of file names in requests. Any client may call CopyFile and ReceiveFile, and their names become paths. Only
these checks keep a path within the data directories, and a sent file from being taken for another volume's file.

Source: weed/server/volume_grpc_copy.go (checkVolumeFileExtension, checkVolumeCollection).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.status_text import shortened
from native_handlers.storage.model.file_kinds import (
    CODED_EXTENSIONS,
    MAX_SHARDS,
    SCRATCH,
    VOLUME_EXTENSIONS,
    other_collection_text,
)

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.pb.volume_server_pb2 import ReceiveFileInfo, VolumeEcShardsCopyRequest

_EXTENSION = re.compile(r"\.[0-9A-Za-z]+", re.ASCII)
_NOT_IN_COLLECTION = frozenset("/\\\0")
"""Upstream leaves the zero byte to the system, which refuses names with one."""
_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def check_extension(extension: str) -> None:
    """Raises RpcFailure unless `extension` is a dot followed by letters and digits."""
    if not _EXTENSION.fullmatch(extension):
        raise RpcFailure(f"invalid file extension {quoted(extension)}")


def check_collection(collection: str) -> None:
    """Raises RpcFailure unless `collection` is one part of a path. Its name may have dots and dashes."""
    if collection in {".", ".."} or not _NOT_IN_COLLECTION.isdisjoint(collection):
        raise RpcFailure(f"invalid collection {quoted(collection)}")


def check_sent_file(info: ReceiveFileInfo) -> None:
    """Raises RpcFailure for a file that is sent here under a name that the protocol does not use.

    Wilful difference: upstream accepts any extension. So a stranger could send files without end, under ever new names,
    or files that have a meaning at the next start.
    """
    check_extension(info.ext)
    check_collection(info.collection)
    if info.is_ec_volume:
        if info.ext not in CODED_EXTENSIONS:
            known = ".ec00 to .ec31, .ecx, .ecj, .ecsum and .vif"
            raise RpcFailure(f"invalid file extension {quoted(info.ext)}: an erasure-coded volume has {known}")
    elif info.ext not in {*VOLUME_EXTENSIONS, SCRATCH}:
        raise RpcFailure(f"invalid file extension {quoted(info.ext)}: a volume is sent as .dat, .idx and .vif")


def check_copied_shards(request: VolumeEcShardsCopyRequest, mounted: str | None) -> None:
    """Raises RpcFailure for files of shards that would be fetched under a name that the protocol does not use.

    Args:
        mounted: the collection of the volume of that id that is mounted here; None where there is none.
    """
    check_collection(request.collection)
    for shard_id in request.shard_ids:
        if shard_id >= MAX_SHARDS:
            raise RpcFailure(f"VolumeEcShardsCopy volume {request.volume_id}: there is no shard {shard_id}")
    if mounted is not None and mounted != request.collection:
        raise RpcFailure(other_collection_text(request.volume_id, mounted, request.collection))


def quoted(text: str) -> str:
    """The beginning of `text` in the form of Go's ``%q``: each character costs a step."""
    return f'"{"".join(map(_escaped, shortened(text)))}"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def os_error_text(operation: str, path: Path | str, error: OSError) -> str:
    """The text of Go for a failed file operation: ``open /data/7.dat: no such file or directory``."""
    reason = error.strerror or str(error)
    return f"{operation} {path}: {reason[:1].lower()}{reason[1:]}"
