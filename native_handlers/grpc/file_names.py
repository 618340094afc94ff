"""What a peer may say of a file. CopyFile and ReceiveFile are open to every peer, and what they name becomes a path:
these two checks are all that keeps it within the data directories.

Source: weed/server/volume_grpc_copy.go (checkVolumeFileExtension, checkVolumeCollection).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from native_handlers.grpc.context import RpcFailure

if TYPE_CHECKING:
    from pathlib import Path

_EXTENSION = re.compile(r"\.[0-9A-Za-z]+", re.ASCII)
_NOT_IN_COLLECTION = frozenset("/\\\0")
"""Upstream leaves the zero byte to the system, which takes no name with one."""
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
    """Raises RpcFailure unless `extension` is a dot with letters and digits behind it."""
    if not _EXTENSION.fullmatch(extension):
        raise RpcFailure(f"invalid file extension {quoted(extension)}")


def check_collection(collection: str) -> None:
    """Raises RpcFailure unless `collection` is one part of a path. Its name may have dots and dashes."""
    if collection in {".", ".."} or not _NOT_IN_COLLECTION.isdisjoint(collection):
        raise RpcFailure(f"invalid collection {quoted(collection)}")


def quoted(text: str) -> str:
    """`text` as Go's ``%q`` shows it."""
    return f'"{"".join(map(_escaped, text))}"'


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
    """What Go says of a failed file operation: ``open /data/7.dat: no such file or directory``."""
    reason = error.strerror or str(error)
    return f"{operation} {path}: {reason[:1].lower()}{reason[1:]}"
