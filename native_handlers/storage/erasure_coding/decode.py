"""Writes a .dat from data shards. Source: weed/storage/erasure_coding/ec_decoder.go (WriteDatFile)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from native_handlers.storage.erasure_coding.encode import PIECE_BYTES
from native_handlers.storage.erasure_coding.errors import DecodeFailed
from native_handlers.storage.erasure_coding.layout import LARGE_BLOCK_BYTES, Interval, Layout
from native_handlers.storage.erasure_coding.parallel import in_parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from native_handlers.storage.system.files import Files


def layout_for_decode(name: str, dat_bytes: int, encoded_bytes: int, shard_bytes: int, data_shards: int) -> Layout:
    """The layout of the blocks of a volume, of which `dat_bytes` are wanted.

    Args:
        encoded_bytes: the length of the .dat when it was coded, which determines the layout; 0 where it is not known.
            Fewer bytes may be wanted now, because the last needles may be deleted.

    Raises:
        DecodeFailed: the layout is ambiguous, or there are fewer bytes than are wanted.
    """
    if encoded_bytes <= 0:
        unclear_from = (shard_bytes // LARGE_BLOCK_BYTES - 1) * LARGE_BLOCK_BYTES * data_shards
        if shard_bytes % LARGE_BLOCK_BYTES == 0 and dat_bytes > unclear_from:
            raise DecodeFailed(
                f"shard size {shard_bytes} of {name} does not identify the block layout;"
                " re-encode to record the dat size in .vif"
            )
        encoded_bytes = data_shards * shard_bytes
    if dat_bytes > encoded_bytes:
        raise DecodeFailed(f"dat file size {dat_bytes} exceeds encoded dat file size {encoded_bytes}")
    return Layout.of_dat(encoded_bytes, data_shards)


def write_dat(files: Files, shard_fds: Sequence[int], dat_fd: int, dat_bytes: int, layout: Layout) -> None:
    """Writes the first `dat_bytes` of the volume to an open file.

    Raises:
        DecodeFailed: a shard is too short.
        OSError: the written bytes are useless.
    """
    in_parallel(_parts(layout, dat_bytes), partial(_make_worker, files, shard_fds, dat_fd))


def _parts(layout: Layout, dat_bytes: int) -> Iterator[tuple[int, Interval]]:
    """The position of each part in the .dat, and its interval in the shards."""
    for start in range(0, dat_bytes, PIECE_BYTES):
        at = start
        for interval in layout.locate(start, min(PIECE_BYTES, dat_bytes - start)):
            yield at, interval
            at += interval.length_bytes


def _make_worker(files: Files, shard_fds: Sequence[int], dat_fd: int) -> Callable[[tuple[int, Interval]], None]:
    buffer = memoryview(bytearray(PIECE_BYTES))

    def work(part: tuple[int, Interval]) -> None:
        at, (shard, offset, length) = part
        view = buffer[:length]
        if files.read_into(shard_fds[shard], view, offset) < length:
            raise DecodeFailed(f"shard {shard} ends before {offset + length} bytes")
        files.write(dat_fd, [view], at)

    return work
