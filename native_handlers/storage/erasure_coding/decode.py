"""Writes a .dat from data shards. Source: weed/storage/erasure_coding/ec_decoder.go (WriteDatFile)."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.storage.erasure_coding.encode import PIECE_BYTES
from native_handlers.storage.erasure_coding.errors import DecodeFailed, EcRefused
from native_handlers.storage.erasure_coding.layout import LARGE_BLOCK_BYTES, Interval, Layout
from native_handlers.storage.erasure_coding.parallel import in_parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
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


def check_replaceable(
    ec: EcVolumeSet, volume: EcVolume, shard_fds: Sequence[int], layout: Layout, *, must_be_there: bool
) -> None:
    """Checks the .dat files of the volume's name on this server, before a decoding replaces the one beside the shards.
    A .dat without a record is a stub, and may be replaced.

    Args:
        must_be_there: an open volume without a .dat beside the shards keeps its data elsewhere.

    Raises:
        EcRefused: one has what the shards do not hold, or is on another disk: then two disks would have the volume.
        OSError.
    """
    name = volume.place.name + ".dat"
    here = volume.place.data_dir / name
    for path in (location.path / name for location in ec.locations if not location.is_unavailable):
        facts = ec.files.facts(path)
        if facts is None and not (must_be_there and path == here):
            continue
        if facts is not None and facts.size_bytes <= SUPER_BLOCK_BYTES:
            continue
        if facts is None or path != here or not _is_held(ec.files, path, facts.size_bytes, shard_fds, layout):
            raise EcRefused(
                f"volume {volume.id} is here as a regular volume, and {path} is not what its shards were made of;"
                " delete that volume, or move its files away, before the shards are decoded"
            )


def _is_held(files: Files, path: Path, dat_bytes: int, shard_fds: Sequence[int], layout: Layout) -> bool:
    """Whether the shards hold every byte of a .dat."""
    fd = files.open(path, os.O_RDONLY)
    try:
        in_parallel(_parts(layout, dat_bytes), partial(_make_comparer, files, shard_fds, fd))
    except (_Different, DecodeFailed):
        return False
    finally:
        files.close(fd)
    return True


class _Different(Exception):
    """A part of the .dat is not that of the shards."""


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
        files.write(dat_fd, [_read(files, shard_fds, part[1], buffer)], part[0])

    return work


def _make_comparer(files: Files, shard_fds: Sequence[int], dat_fd: int) -> Callable[[tuple[int, Interval]], None]:
    buffer, other = memoryview(bytearray(PIECE_BYTES)), memoryview(bytearray(PIECE_BYTES))

    def work(part: tuple[int, Interval]) -> None:
        wanted = _read(files, shard_fds, part[1], buffer)
        found = other[: len(wanted)]
        if files.read_into(dat_fd, found, part[0]) < len(found) or bytes(found) != wanted:
            raise _Different

    return work


def _read(files: Files, shard_fds: Sequence[int], interval: Interval, buffer: memoryview) -> memoryview:
    shard, offset, length = interval
    view = buffer[:length]
    if files.read_into(shard_fds[shard], view, offset) < length:
        raise DecodeFailed(f"shard {shard} ends before {offset + length} bytes")
    return view
