"""The .ecsum file: a CRC-32C for each 16 MiB of each shard, which shows silent damage of a shard.

The file is optional. A missing one, or one of another ratio, proves nothing; a damaged one is not trusted. Source:
weed/storage/erasure_coding/ec_bitrot.go.
"""

from __future__ import annotations

import os
import struct
from enum import Enum
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from native_handlers.arrays import np
from native_handlers.format.crc import crc32c
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.layout import Ratio
from native_handlers.storage.system.files import read_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from native_handlers.storage.erasure_coding.crc_sums import Sums
    from native_handlers.storage.system.files import Files

BLOCK_BYTES = 16 << 20
MAX_BLOCK_BYTES = 64 << 20
_MIN_BLOCK_BYTES = 1 << 20
_HEAD = struct.Struct(">IHII")
_MAGIC = 0x45435355
_VERSION = 1


class BadChecksumFile(Exception):
    """An .ecsum file cannot be trusted; the text has the reason."""


class Protection(Enum):
    """Whether a volume's checksums are there and can be trusted."""

    OFF = "there are none"
    ON = "there are some"
    INVALID = "they cannot be believed"


@dataclass(frozen=True, slots=True)
class ShardSums:
    """The length of one shard, and the checksum of each of its blocks."""

    covered_bytes: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Checksums:
    """The content of an .ecsum file, by shard id, with every shard of the ratio."""

    ratio: Ratio
    shards: tuple[ShardSums, ...]
    block_bytes: int = BLOCK_BYTES


def checksums_of(ratio: Ratio, shard_bytes: int, sums: Sums, block_bytes: int = BLOCK_BYTES) -> Checksums:
    """The checksums of shards of `shard_bytes` whose blocks have the checksums ``sums[shard, block]``."""
    rows = (ShardSums(shard_bytes, tuple(int(value) for value in row)) for row in sums)
    return Checksums(ratio, tuple(rows), block_bytes)


def encode_checksums(checksums: Checksums, encode_uuid: bytes | None = None) -> bytes:
    """Encodes the file. `encode_uuid` None makes a new id, which tells two encodings of a volume apart."""
    ratio = checksums.ratio
    message = pb.EcBitrotProtection(
        algorithm=pb.CHECKSUM_CRC32C,
        block_size=checksums.block_bytes,
        ec_shard_config=pb.EcShardConfig(data_shards=ratio.data, parity_shards=ratio.parity),
        shards=[
            pb.EcShardChecksums(
                shard_id=shard_id,
                covered_size=shard.covered_bytes,
                block_crc32c=np.array(shard.blocks, "<u4").tobytes(),
            )
            for shard_id, shard in enumerate(checksums.shards)
        ],
        encode_uuid=os.urandom(16) if encode_uuid is None else encode_uuid,
    )
    payload = message.SerializeToString(deterministic=True)
    return _HEAD.pack(_MAGIC, _VERSION, len(payload), crc32c(payload)) + payload


def load_checksums(files: Files, paths: Iterable[Path], ratio: Ratio) -> tuple[Protection, Checksums | None]:
    """Loads the first existing file among `paths`, for a volume of this ratio.

    Raises OSError when a file is there and cannot be read.
    """
    for path in paths:
        content = read_file(files, path)
        if content is None:
            continue
        try:
            found = parse_checksums(content)
            if found is None or found.ratio != ratio:
                return Protection.OFF, None
        except BadChecksumFile:
            return Protection.INVALID, None
        return Protection.ON, found
    return Protection.OFF, None


def parse_checksums(content: bytes) -> Checksums | None:
    """Parses the content of a file. Returns None for a file of another generation than this server makes.

    Raises:
        BadChecksumFile: the file is damaged or incomplete.
    """
    if len(content) < _HEAD.size:
        raise BadChecksumFile(f"{len(content)} bytes are too few")
    magic, version, length, checksum = _HEAD.unpack_from(content)
    payload = content[_HEAD.size :]
    if magic != _MAGIC or version != _VERSION:
        raise BadChecksumFile(f"the head says {magic:#x}, version {version}")
    if length != len(payload) or checksum != crc32c(payload):
        raise BadChecksumFile("length or checksum do not fit the content")
    try:
        message = pb.EcBitrotProtection.FromString(payload)
    except DecodeError as error:
        raise BadChecksumFile(str(error)) from error
    if message.generation or not message.HasField("ec_shard_config"):
        return None
    ratio = Ratio(message.ec_shard_config.data_shards, message.ec_shard_config.parity_shards)
    _check(message, ratio)
    rows = sorted(message.shards, key=lambda row: row.shard_id)
    shards = (ShardSums(row.covered_size, _sums_in(row.block_crc32c)) for row in rows)
    return Checksums(ratio, tuple(shards), message.block_size)


def _check(message: pb.EcBitrotProtection, ratio: Ratio) -> None:
    size = message.block_size
    if message.algorithm != pb.CHECKSUM_CRC32C:
        raise BadChecksumFile(f"algorithm {message.algorithm} is unknown")
    if not _MIN_BLOCK_BYTES <= size <= MAX_BLOCK_BYTES or size & (size - 1):
        raise BadChecksumFile(f"blocks of {size} bytes")
    if not ratio.is_valid or sorted(row.shard_id for row in message.shards) != list(range(ratio.total)):
        raise BadChecksumFile(f"its shards are not those of {ratio}")
    for row in message.shards:
        if row.covered_size <= 0 or len(row.block_crc32c) != 4 * -(-row.covered_size // size):
            raise BadChecksumFile(f"{len(row.block_crc32c)} bytes of checksums for shard {row.shard_id}")


def _sums_in(packed: bytes) -> tuple[int, ...]:
    return tuple(int(value) for value in np.frombuffer(packed, "<u4"))


def differing_blocks(shard: ShardSums, size_bytes: int, found: Sequence[int]) -> list[int]:
    """The numbers of a shard's blocks whose checksums differ; all of them where the shard has another length."""
    if size_bytes != shard.covered_bytes:
        return list(range(len(shard.blocks)))
    return [number for number, (one, other) in enumerate(zip(shard.blocks, found, strict=True)) if one != other]
