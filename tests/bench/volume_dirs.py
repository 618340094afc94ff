"""Directories of many small volumes, written file by file without a server: 20,000 of them take some seconds."""

import os
import tempfile
import time
from pathlib import Path

from native_handlers.format.needle import Needle
from native_handlers.storage.directory.location import LocationConfig
from native_handlers.storage.store import StoreConfig, open_store

NEEDLE_ID = 1
COOKIE = 0x637037D6
WRITTEN_AT_S = int(time.time()) - 86400
"""Most volumes of a server were written to long ago."""
_NEEDLES = 3
_EVERY_NTH_IN_COLLECTION = 10
_EXTENSIONS = (".dat", ".idx", ".vif")


def file_id(volume_id):
    """Of a small file that each volume with an odd id has."""
    return f"{volume_id},{NEEDLE_ID:x}{COOKIE:08x}"


def make_volumes(directory, first_id, count):
    """Makes `count` volumes from `first_id` on: those with an odd id hold some needles, the others none.

    No file holds the id of its volume, so all are copies of two that a store has made.
    """
    directory = Path(directory)
    full, empty = _templates()
    for volume_id in range(first_id, first_id + count):
        collection = "" if volume_id % _EVERY_NTH_IN_COLLECTION else "pictures_"
        for extension, data in (full if volume_id % 2 else empty).items():
            _write(f"{directory}/{collection}{volume_id}{extension}", data)


def _write(path, data):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, data)
        os.utime(descriptor, (WRITTEN_AT_S, WRITTEN_AT_S))
    finally:
        os.close(descriptor)


def _templates():
    """extension -> content, of a volume with needles and of one without."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        store = open_store(StoreConfig((LocationConfig(path, path, 2),)))
        try:
            for volume_id in (1, 2):
                store.allocate_volume(volume_id)
            for number in range(_NEEDLES):
                store.get_volume(1).write(Needle(needle_id=NEEDLE_ID + number, cookie=COOKIE, data=b"content" * 20))
        finally:
            store.close()
        return tuple(
            {extension: (path / f"{volume_id}{extension}").read_bytes() for extension in _EXTENSIONS}
            for volume_id in (1, 2)
        )
