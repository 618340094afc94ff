"""The mapping from bytes of a volume to bytes of shards.

The .dat is cut into rows. A row has one block for each data shard, in order. Rows of large blocks come first, as long
as a whole such row fits. Rows of small blocks hold the rest; the last one is filled up with zeros. All shards of a
volume have the same length.

Source: weed/storage/erasure_coding/ec_encoder.go (encodeDatFile), ec_locate.go, ec_context.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.idx import row_bytes
from native_handlers.format.needle import actual_size
from native_handlers.format.types import VERSION_1, max_volume_size_bytes
from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.index_files import ID_BYTES
from native_handlers.storage.model.file_kinds import MAX_SHARDS

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE_BLOCK_BYTES = 1 << 30
SMALL_BLOCK_BYTES = 1 << 20
MAX_CHECKSUMS_BYTES = 1 << 24
SHORTEST_RECORD_BYTES = actual_size(0, VERSION_1)
"""The room that a row of an index has at least in a volume."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """The numbers of data shards and parity shards of a volume. Shard ids below `data` are data shards."""

    data: int = 10
    parity: int = 4

    @property
    def total(self) -> int:
        return self.data + self.parity

    @property
    def is_valid(self) -> bool:
        """Whether the ratio is usable: at least one shard of each kind, and at most 32 in all."""
        return self.data > 0 and self.parity > 0 and self.total <= MAX_SHARDS

    def __str__(self) -> str:
        return f"{self.data}+{self.parity} (total: {self.total})"


DEFAULT_RATIO = Ratio()


class Interval(NamedTuple):
    """A range of bytes within one block."""

    shard_id: int
    offset_bytes: int
    length_bytes: int

    def part(self, start_bytes: int, length_bytes: int | None = None) -> Interval:
        """The part of the range from `start_bytes` of it on: all of the rest, or at most `length_bytes`."""
        rest = self.length_bytes - start_bytes
        length = rest if length_bytes is None else min(rest, length_bytes)
        return Interval(self.shard_id, self.offset_bytes + start_bytes, length)


class Row(NamedTuple):
    """A row of blocks: its beginning in the .dat and in each shard, and the length of each block."""

    dat_offset_bytes: int
    shard_offset_bytes: int
    block_bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of one volume.

    Args:
        data_shards: see `Ratio`.
        large_rows: how many rows of large blocks come first.
    """

    data_shards: int
    large_rows: int
    large_block_bytes: int = LARGE_BLOCK_BYTES
    small_block_bytes: int = SMALL_BLOCK_BYTES

    @classmethod
    def of_dat(
        cls, dat_bytes: int, data_shards: int, large: int = LARGE_BLOCK_BYTES, small: int = SMALL_BLOCK_BYTES
    ) -> Layout:
        """The layout of a volume whose .dat had `dat_bytes` when it was coded."""
        return cls(data_shards, dat_bytes // (large * data_shards), large, small)

    @classmethod
    def of_shard(
        cls, shard_bytes: int, data_shards: int, large: int = LARGE_BLOCK_BYTES, small: int = SMALL_BLOCK_BYTES
    ) -> Layout:
        """The layout where only the length of a shard is known.

        A multiple of a large block may come from large rows alone, or from one large row less and small rows in its
        place. As upstream, the second is assumed.
        """
        return cls(data_shards, max(shard_bytes - 1, 0) // large, large, small)

    @property
    def large_row_bytes(self) -> int:
        return self.large_block_bytes * self.data_shards

    def locate(self, offset_bytes: int, length_bytes: int) -> Iterator[Interval]:
        """The intervals of a range of the .dat, in order."""
        end = offset_bytes + length_bytes
        large_end = self.large_rows * self.large_row_bytes
        while offset_bytes < end:
            is_large = offset_bytes < large_end
            block = self.large_block_bytes if is_large else self.small_block_bytes
            index, within = divmod(offset_bytes if is_large else offset_bytes - large_end, block)
            row, shard_id = divmod(index, self.data_shards)
            base = 0 if is_large else self.large_rows * self.large_block_bytes
            length = min(block - within, end - offset_bytes)
            yield Interval(shard_id, base + row * block + within, length)
            offset_bytes += length

    def rows(self, dat_bytes: int) -> Iterator[Row]:
        """The rows of a .dat of that length, in order."""
        dat_offset = shard_offset = 0
        for block, is_large in ((self.large_block_bytes, True), (self.small_block_bytes, False)):
            while dat_offset < dat_bytes and (not is_large or shard_offset < self.large_rows * block):
                yield Row(dat_offset, shard_offset, block)
                dat_offset += block * self.data_shards
                shard_offset += block

    def shard_bytes(self, dat_bytes: int) -> int:
        """The length of each shard of a .dat of that length."""
        rest = max(dat_bytes - self.large_rows * self.large_row_bytes, 0)
        small_rows = -(-rest // (self.small_block_bytes * self.data_shards))
        return self.large_rows * self.large_block_bytes + small_rows * self.small_block_bytes


def most_shard_bytes(dat_bytes: int, data_shards: int) -> int:
    """The greatest length of a shard with the same large blocks as those of a .dat of `dat_bytes`. Upstream notes that
    length before it makes the shards, so they may be longer.
    """
    return (Layout.of_dat(dat_bytes, data_shards).large_rows + 1) * LARGE_BLOCK_BYTES


def most_bytes_of(extension: str, offset_width_bytes: int) -> int:
    """The greatest length of a shard, an .ecx, an .ecj or an .ecsum of whatever volume."""
    volume_bytes = max_volume_size_bytes(offset_width_bytes)
    most_rows = volume_bytes // SHORTEST_RECORD_BYTES
    match extension:
        case ".ecx":
            return most_rows * row_bytes(offset_width_bytes)
        case ".ecj":
            return most_rows * ID_BYTES
        case ".ecsum":
            return MAX_CHECKSUMS_BYTES
        case _:
            return most_shard_bytes(volume_bytes, 1)


def shard_bytes_of(dat_bytes: int, data_shards: int) -> int:
    """The length of each shard of a volume whose .dat has `dat_bytes`."""
    return Layout.of_dat(dat_bytes, data_shards).shard_bytes(dat_bytes)
