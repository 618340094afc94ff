"""Base names of volume files: ``7`` or ``pictures_7``. Source: weed/storage/disk_location.go, volume.go."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadCollection, BadFileId, BadVolumeName
from native_handlers.format.fid import parse_volume_id

if TYPE_CHECKING:
    from native_handlers.format.types import VolumeId

_NOT_IN_COLLECTION = frozenset("/\0")
_CACHED_CHARS = 256
"""The longest collection whose name is cached. No file has a longer one, but a gRPC call may name one of megabytes."""


def format_volume_name(collection: str, volume_id: int) -> str:
    """The base name, without extension. The default collection has no prefix.

    The path of every volume file is made with this function, so no collection that a client names leads out of a data
    directory. Wilful difference: upstream lets AllocateVolume make files elsewhere.

    Raises:
        BadCollection: `collection` has a slash or a zero byte. All other characters are harmless before an underscore.
    """
    return _cached(collection, volume_id) if len(collection) <= _CACHED_CHARS else _format(collection, volume_id)


def _format(collection: str, volume_id: int) -> str:
    if not _NOT_IN_COLLECTION.isdisjoint(collection):
        raise BadCollection(collection)
    return f"{collection}_{volume_id}" if collection else str(volume_id)


_cached = lru_cache(maxsize=256)(_format)


def parse_volume_name(name: str) -> tuple[str, VolumeId]:
    """Splits a base name at its last underscore into collection and volume id.

    Raises:
        BadVolumeName: the part of the id is not a decimal number.
    """
    underscore = name.rfind("_")
    collection, id_text = (name[:underscore], name[underscore + 1 :]) if underscore > 0 else ("", name)
    try:
        return collection, parse_volume_id(id_text)
    except BadFileId as error:
        raise BadVolumeName(name) from error
