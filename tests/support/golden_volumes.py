"""Volumes whose bytes never change, and the SHA-256 of the shards that Go's server makes of them.

`golden_shards.json` has the hashes, by volume and by the extension of the file. They are Go's: tests/differential makes
them anew where there is a `weed`, and shows them when they differ.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from native_handlers.format.crc import crc32c
from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle, encode_needle
from native_handlers.format.super_block import SuperBlock
from native_handlers.format.types import CURRENT_VERSION

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
HASHES = json.loads(Path(__file__).with_name("golden_shards.json").read_text())
_EMPTY_BYTES = len(encode_needle(Needle(data=b""), CURRENT_VERSION))
_NEEDLE_BYTES = 700_000
_START_NS = 1_700_000_000 * 10**9


class _Volume:
    def __init__(self) -> None:
        self.dat = bytearray(SuperBlock().encode())
        self.idx = bytearray()

    def append(self, needle_id: int, record_bytes: int) -> None:
        """Appends a needle whose record has that length; one without data is a deletion."""
        offset = len(self.dat)
        needle = Needle(needle_id=needle_id, cookie=0x12345678, append_at_ns=_START_NS + offset)
        if record_bytes > _EMPTY_BYTES:
            # Beside the data there are header (16), length (4), flags (1), checksum and time (12), and padding.
            count = record_bytes - 33 - (1 + offset // 8 % 6)
            needle.data = hashlib.shake_128(offset.to_bytes(8, "big")).digest(count)
            needle.checksum = crc32c(needle.data)
        record = encode_needle(needle, CURRENT_VERSION)
        assert len(record) == record_bytes, (len(record), record_bytes)
        self.dat += record
        self.idx += encode_entry(needle_id, offset // 8, needle.size or -1, 4)


def write_golden_volume(directory: Path, volume_id: int, name: str) -> None:
    """Writes .dat and .idx of a volume: needles in another order than that of their ids, one that is overwritten, and
    one that is deleted.
    """
    volume, end = _Volume(), DAT_BYTES[name]
    step = max(min(_NEEDLE_BYTES, end // 12 // 8 * 8), 40)
    number = 0
    while len(volume.dat) + 2 * step + _EMPTY_BYTES < end:
        number += 1
        volume.append(number * 7919 % 101 + 1, step + number * 8 % 128)
        if number == 4:
            volume.append(2 * 7919 % 101 + 1, _EMPTY_BYTES)
            volume.append(3 * 7919 % 101 + 1, 128)
    if len(volume.dat) < end:
        volume.append(200, end - len(volume.dat))
    assert len(volume.dat) == end
    (directory / f"{volume_id}.dat").write_bytes(volume.dat)
    (directory / f"{volume_id}.idx").write_bytes(volume.idx)


def hashes_of(directory: Path, volume_id: int) -> dict[str, str]:
    """The SHA-256 of each file of the volume and its shards, by extension."""
    return {
        extension: hashlib.sha256((directory / f"{volume_id}{extension}").read_bytes()).hexdigest()
        for extension in EXTENSIONS
    }
