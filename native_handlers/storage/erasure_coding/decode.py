"""Writes a .dat from data shards.

Source: weed/storage/erasure_coding/ec_decoder.go (WriteDatFile).
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle, encode_needle, parse_needle_header
from native_handlers.format.types import (
    CHECKSUM_BYTES,
    MAX_APPEND_AT_NS,
    NEEDLE_HEADER_BYTES,
    TIMESTAMP_BYTES,
    TOMBSTONE_SIZE,
    VERSION_3,
)
from native_handlers.storage.erasure_coding.encode import PIECE_BYTES
from native_handlers.storage.erasure_coding.errors import DecodeFailed
from native_handlers.storage.erasure_coding.layout import LARGE_BLOCK_BYTES, Interval, Layout
from native_handlers.storage.erasure_coding.parallel import in_parallel
from native_handlers.storage.volume.row_place import row_offset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.storage.erasure_coding.live_records import LiveRecords, Run
    from native_handlers.storage.system.files import Files


def layout_for_decode(name: str, dat_bytes: int, encoded_bytes: int, shard_bytes: int, data_shards: int) -> Layout:
    """The layout of the blocks of a volume, of which `dat_bytes` are wanted.

    Args:
        encoded_bytes: the length of the .dat when it was coded, which determines the layout; 0 where it is not known.
            Fewer bytes may be wanted now, because the last needles may be deleted.

    Raises:
        DecodeFailed: the layout is ambiguous, shards of that length do not have it, or there are fewer bytes than are
            wanted.
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
    layout = Layout.of_dat(encoded_bytes, data_shards)
    # Upstream takes the length before it codes, and writes of the meantime may have made the shards longer.
    longest = (layout.large_rows + 1) * layout.large_block_bytes
    if not layout.shard_bytes(encoded_bytes) <= shard_bytes <= longest:
        raise DecodeFailed(
            f"shard size {shard_bytes} of {name} does not fit the dat file size {encoded_bytes} in .vif;"
            " correct the .vif, or rebuild the shard"
        )
    return layout


def write_dat(files: Files, shard_fds: Sequence[int], dat_fd: int, runs: Iterable[Run], layout: Layout) -> None:
    """Writes parts of the volume to an open file.

    Raises:
        DecodeFailed: a shard is too short.
        OSError: the written bytes are useless.
    """
    in_parallel(parts_of(layout, runs), partial(_make_worker, files, shard_fds, dat_fd))


def append_deletions(
    files: Files, dat_fd: int, live: LiveRecords, gone: NDArray[np.uint64], block: SuperBlock, width: int
) -> bytes:
    """Appends the deletions of live needles to a .dat with the live records, as a volume does. Returns their rows.

    Raises OSError.
    """
    at_ns = _last_append_at_ns(files, dat_fd, live) if block.version == VERSION_3 else 0
    records, rows, end_bytes = [], [], live.dat_bytes
    for needle_id, place in live.find(gone):
        at_ns = min(max(time.time_ns(), at_ns + 1), MAX_APPEND_AT_NS)
        cookie = parse_needle_header(files.read(dat_fd, NEEDLE_HEADER_BYTES, place)).cookie
        deletion = Needle(needle_id=needle_id, cookie=cookie, append_at_ns=at_ns)
        records.append(encode_needle(deletion, block.version))
        rows.append(encode_entry(needle_id, row_offset(end_bytes, width), TOMBSTONE_SIZE, width))
        end_bytes += len(records[-1])
    files.write(dat_fd, [b"".join(records)], live.dat_bytes)
    return b"".join(rows)


def _last_append_at_ns(files: Files, dat_fd: int, live: LiveRecords) -> int:
    start = live.last_target_bytes
    size = parse_needle_header(files.read(dat_fd, NEEDLE_HEADER_BYTES, start)).size
    at = start + NEEDLE_HEADER_BYTES + max(size, 0) + CHECKSUM_BYTES
    return int.from_bytes(files.read(dat_fd, TIMESTAMP_BYTES, at), "big")


def parts_of(layout: Layout, runs: Iterable[Run]) -> Iterator[tuple[int, Interval]]:
    """The position of each part in the .dat, and its interval in the shards."""
    for run in runs:
        for done in range(0, run.length_bytes, PIECE_BYTES):
            at = run.target_bytes + done
            for interval in layout.locate(run.start_bytes + done, min(PIECE_BYTES, run.length_bytes - done)):
                yield at, interval
                at += interval.length_bytes


def _make_worker(files: Files, shard_fds: Sequence[int], dat_fd: int) -> Callable[[tuple[int, Interval]], None]:
    buffer = memoryview(bytearray(PIECE_BYTES))

    def work(part: tuple[int, Interval]) -> None:
        files.write(dat_fd, [read_part(files, shard_fds, part[1], buffer)], part[0])

    return work


def read_part(files: Files, shard_fds: Sequence[int], interval: Interval, buffer: memoryview) -> memoryview:
    """Reads an interval into the beginning of `buffer`. Raises OSError; DecodeFailed where the shard ends before."""
    shard, offset, length = interval
    view = buffer[:length]
    if files.read_into(shard_fds[shard], view, offset) < length:
        raise DecodeFailed(f"shard {shard} ends before {offset + length} bytes")
    return view
