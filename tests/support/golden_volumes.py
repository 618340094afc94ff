"""Volumes whose bytes never change, and the SHA-256 of the shards that Go's server makes of them.

`golden_shards.json` has the hashes, by volume and by the extension of the file. They are Go's: tests/differential makes
them anew where there is a `weed`, and shows them when they differ. Of `LARGE_ROWS`, whose shards take 15 GiB, they
are hashes of the checksums of each shard's blocks.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from native_handlers.format.crc import crc32c
from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle, encode_needle
from native_handlers.format.super_block import SuperBlock
from native_handlers.format.types import CURRENT_VERSION

if TYPE_CHECKING:
    from native_handlers.storage.erasure_coding.bitrot import Checksums

ROW_BYTES = 10 << 20
"""The bytes of a .dat in one row of small blocks."""
DAT_BYTES = {
    "empty": 8,
    "small": 8 + 1000 * 64,
    "below_a_row": ROW_BYTES - 8,
    "a_row": ROW_BYTES,
    "above_a_row": ROW_BYTES + 8,
    "rows": 25 * (1 << 20) + 4096,
}
"""The length of the .dat of each volume."""
EXTENSIONS = (".dat", ".idx", ".ecx", *(f".ec{shard:02d}" for shard in range(14)))
LARGE_ROWS = "large_rows"
"""A volume of one row of blocks of 1 GiB and three rows of small blocks, with needles around each block's end."""
LARGE_ROWS_DAT_BYTES = (10 << 30) + 25 * (1 << 20) + 4096
_KEPT = json.loads(Path(__file__).with_name("golden_shards.json").read_text())
HASHES = {name: hashes for name, hashes in _KEPT.items() if name != LARGE_ROWS}
LARGE_ROWS_HASHES = _KEPT[LARGE_ROWS]
_EMPTY_BYTES = len(encode_needle(Needle(data=b""), CURRENT_VERSION))
_NEEDLE_BYTES = 700_000
_START_NS = 1_700_000_000 * 10**9


class _Volume:
    """The files of a volume that are being written. What no record fills is a hole."""

    def __init__(self, directory: Path, volume_id: int) -> None:
        self._dat, self._idx = ((directory / f"{volume_id}{extension}").open("wb") for extension in (".dat", ".idx"))
        self.end_bytes = self._dat.write(SuperBlock().encode())

    def append(self, needle_id: int, record_bytes: int) -> None:
        """Appends a needle whose record has that length; one without data is a deletion."""
        offset = self.end_bytes
        needle = Needle(needle_id=needle_id, cookie=0x12345678, append_at_ns=_START_NS + offset)
        if record_bytes > _EMPTY_BYTES:
            # Beside the data there are header (16), length (4), flags (1), checksum and time (12), and padding.
            count = record_bytes - 33 - (1 + offset // 8 % 6)
            needle.data = hashlib.shake_128(offset.to_bytes(8, "big")).digest(count)
            needle.checksum = crc32c(needle.data)
        record = encode_needle(needle, CURRENT_VERSION)
        assert len(record) == record_bytes, (len(record), record_bytes)
        self._dat.seek(offset)
        self.end_bytes += self._dat.write(record)
        self._idx.write(encode_entry(needle_id, offset // 8, needle.size or -1, 4))

    def skip_to(self, end_bytes: int) -> None:
        self.end_bytes = end_bytes

    def close(self) -> None:
        self._dat.close()
        self._idx.close()


def write_golden_volume(directory: Path, volume_id: int, name: str) -> None:
    """Writes .dat and .idx of a volume: needles in another order than that of their ids, one that is overwritten, and
    one that is deleted.
    """
    volume, end = _Volume(directory, volume_id), DAT_BYTES[name]
    step = max(min(_NEEDLE_BYTES, end // 12 // 8 * 8), 40)
    number = 0
    while volume.end_bytes + 2 * step + _EMPTY_BYTES < end:
        number += 1
        volume.append(number * 7919 % 101 + 1, step + number * 8 % 128)
        if number == 4:
            volume.append(2 * 7919 % 101 + 1, _EMPTY_BYTES)
            volume.append(3 * 7919 % 101 + 1, 128)
    if volume.end_bytes < end:
        volume.append(200, end - volume.end_bytes)
    assert volume.end_bytes == end
    volume.close()


def write_large_rows_volume(directory: Path, volume_id: int) -> None:
    """Writes .dat and .idx of the volume `LARGE_ROWS`. The .dat takes few blocks of the disk."""
    volume = _Volume(directory, volume_id)
    volume.append(1, 4096)
    for number in range(1, 11):
        volume.skip_to((number << 30) - 65536)
        volume.append(number + 1, 131072)
    volume.append(12, LARGE_ROWS_DAT_BYTES - volume.end_bytes)
    volume.close()


def hashes_of_checksums(checksums: Checksums) -> dict[str, str]:
    """The SHA-256 of the checksums of each shard, by extension."""
    return {
        f".ec{shard_id:02d}": hashlib.sha256(json.dumps([shard.covered_bytes, *shard.blocks]).encode()).hexdigest()
        for shard_id, shard in enumerate(checksums.shards)
    }


def hashes_of(directory: Path, volume_id: int) -> dict[str, str]:
    """The SHA-256 of each file of the volume and its shards, by extension."""
    return {
        extension: hashlib.sha256((directory / f"{volume_id}{extension}").read_bytes()).hexdigest()
        for extension in EXTENSIONS
    }
