"""Rebuilds lost or damaged shards from the others.

Source: weed/storage/erasure_coding/ec_encoder.go (generateMissingEcFiles, rebuildEcFiles).
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.format.crc import crc32c
from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.bitrot import BLOCK_BYTES, Protection, differing_blocks
from native_handlers.storage.erasure_coding.encode import PIECE_BYTES, PieceSums, piece_buffers, write_piece
from native_handlers.storage.erasure_coding.errors import RebuildFailed
from native_handlers.storage.erasure_coding.galois import recovery_matrix
from native_handlers.storage.erasure_coding.kernel import multiply, multiply_and_sum
from native_handlers.storage.erasure_coding.parallel import check_wanted, in_parallel
from native_handlers.storage.erasure_coding.staged import StagedFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from native_handlers.storage.erasure_coding.bitrot import Checksums
    from native_handlers.storage.erasure_coding.crc_sums import Sums
    from native_handlers.storage.erasure_coding.layout import Ratio
    from native_handlers.storage.system.files import Files


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """The shard files of one volume on this server.

    Args:
        base: the name of the volume in errors.
        present: the file of each shard that is here, and its length; an empty file does not count.
        places: the path for the file of each shard that is missing or damaged.
    """

    base: Path
    present: Mapping[int, tuple[Path, int]]
    places: Mapping[int, Path]


def rebuild(
    files: Files,
    shards: ShardFiles,
    ratio: Ratio,
    protection: Protection = Protection.OFF,
    checksums: Checksums | None = None,
    *,
    ignores_checksums: bool = False,
) -> list[int]:
    """Writes the missing shards, and those whose checksums differ. Returns their ids.

    A shard gets its name only when it is complete and on disk. A damaged one stays until it is replaced.

    Raises:
        RebuildFailed, OSError: no shard was changed, unless OSError came during the renames.
    """
    if protection is Protection.INVALID and not ignores_checksums:
        raise RebuildFailed(
            f"bitrot sidecar for {shards.base} is malformed/unverifiable; refusing to rebuild"
            " (pass unsafeIgnoreSidecar to override)"
        )
    present = {shard: path for shard, (path, _) in sorted(shards.present.items()) if shard < ratio.total}
    trusted = None if ignores_checksums else checksums
    excluded: set[int] = set()
    while True:
        used = {shard: path for shard, path in present.items() if shard not in excluded}
        wanted = [shard for shard in range(ratio.total) if shard not in used]
        _check_enough(shards, ratio, len(used), wanted)
        sizes = {shard: shards.present[shard][1] for shard in used}
        damaged = _damaged_lengths(sizes, trusted)
        if not damaged and not wanted and trusted is None:
            return []
        if not damaged:
            _check_lengths(sizes)
            damaged = _rebuild(files, shards, ratio, used, wanted, trusted)
            if not damaged:
                return wanted
        excluded |= damaged
        _check_plausible(shards, ratio, len(present), len(excluded))


def _check_enough(shards: ShardFiles, ratio: Ratio, count: int, wanted: Sequence[int]) -> None:
    if count < ratio.data:
        missing = " ".join(map(str, wanted))
        raise RebuildFailed(
            f"not enough shards to rebuild {shards.base}: found {count} shards, need at least {ratio.data}"
            f" (data shards), missing shards: [{missing}]"
        )


def _check_lengths(sizes: Mapping[int, int]) -> None:
    expected = next(iter(sizes.values()))
    for shard, size in sizes.items():
        if size != expected:
            raise RebuildFailed(
                f"rebuildEcFiles: ec rebuild: input shard {shard} size {size} != {expected} (truncated input?)"
            )


def _damaged_lengths(sizes: Mapping[int, int], checksums: Checksums | None) -> set[int]:
    if checksums is None:
        return set()
    return {shard for shard, size in sizes.items() if size != checksums.shards[shard].covered_bytes}


def _check_plausible(shards: ShardFiles, ratio: Ratio, present: int, damaged: int) -> None:
    """A few shards may be damaged. Where most do not fit, the checksums are of another encoding, and prove nothing."""
    if damaged > ratio.parity:
        raise RebuildFailed(
            f"bitrot sidecar suspect for {shards.base}: {damaged}/{present} present shards mismatch"
            f" (> parity {ratio.parity}); refusing to rebuild (pass unsafeIgnoreSidecar to override)"
        )
    if present - damaged < ratio.data:
        raise RebuildFailed(
            f"bitrot: only {present - damaged} verified-good shards for {shards.base}, need {ratio.data} data shards;"
            " sidecar may be stale (pass unsafeIgnoreSidecar to override)"
        )


def _rebuild(
    files: Files,
    shards: ShardFiles,
    ratio: Ratio,
    used: Mapping[int, Path],
    wanted: Sequence[int],
    checksums: Checksums | None,
) -> set[int]:
    """Returns the shards among `used` that turn out to be damaged. Where there are none, publishes the `wanted`
    ones.
    """
    shard_bytes = shards.present[next(iter(used))][1]
    # With checksums all shards are read, because they tell which ones are sound; else as many as are needed.
    read = list(used) if checksums is not None else list(used)[: ratio.data]
    block_bytes = BLOCK_BYTES if checksums is None else checksums.block_bytes
    targets = {shard: shards.places[shard] for shard in wanted}
    with ExitStack() as opened:
        inputs = []
        for shard in read:
            inputs.append(files.open(used[shard], os.O_RDONLY))
            opened.callback(files.close, inputs[-1])
        staged = opened.enter_context(StagedFiles(files, targets.values()))
        outputs = [staged.descriptor(target) for target in targets.values()]
        sums = PieceSums(len(read) + len(wanted), shard_bytes) if checksums is not None else None
        matrix = recovery_matrix(ratio.data, ratio.total, tuple(read[: ratio.data]), tuple(wanted))
        make = partial(_make_worker, files, inputs, outputs, matrix, shard_bytes, sums)
        in_parallel(range(0, shard_bytes, PIECE_BYTES), make)
        if sums is not None and checksums is not None:
            found = dict(zip([*read, *wanted], sums.blocks(block_bytes), strict=True))
            damaged = {shard for shard in read if _differs(checksums, shard, shard_bytes, found)}
            if damaged:
                return damaged
            for shard in wanted:
                _check_regenerated(shards, checksums, shard, shard_bytes, found)
        check_wanted()
        staged.publish()
    return set()


def _differs(checksums: Checksums, shard: int, shard_bytes: int, found: Mapping[int, Sums]) -> list[int]:
    return differing_blocks(checksums.shards[shard], shard_bytes, [int(one) for one in found[shard]])


def _check_regenerated(
    shards: ShardFiles, checksums: Checksums, shard: int, shard_bytes: int, found: Mapping[int, Sums]
) -> None:
    """Coding has one result. Where it does not fit, the checksums are of another encoding."""
    differing = _differs(checksums, shard, shard_bytes, found)
    if differing:
        raise RebuildFailed(
            f"bitrot: regenerated shard {shard} for {shards.base} does not match sidecar ({len(differing)} blocks"
            " differ); sidecar likely stale — aborting (pass unsafeIgnoreSidecar to override)"
        )


def _make_worker(
    files: Files,
    inputs: Sequence[int],
    outputs: Sequence[int],
    matrix: tuple[bytes, ...],
    shard_bytes: int,
    sums: PieceSums | None,
) -> Callable[[int], None]:
    buffers = piece_buffers(len(inputs) + len(outputs))
    count = len(matrix[0]) if matrix else 0

    def work(offset: int) -> None:
        length = min(PIECE_BYTES, shard_bytes - offset)
        arrays = [row[:length] for row in buffers]
        views = [array.data for array in arrays]
        for number, fd in enumerate(inputs):
            got = files.read_into(fd, views[number], offset)
            if got < length:
                raise RebuildFailed(f"rebuildEcFiles: ec rebuild short read shard at {offset}: got {got} want {length}")
        given, made = arrays[: len(inputs)], arrays[len(inputs) :]
        if sums is None:
            multiply(matrix, given[:count], made)
        else:
            computed = multiply_and_sum(matrix, given[:count], made) if made else []
            # Shards that are there and that nothing is computed from.
            others = [crc32c(array.data) for array in given[count if made else 0 :]]
            sums.note(offset, [*computed[:count], *others, *computed[count:]])
        for number, fd in enumerate(outputs):
            write_piece(files, fd, arrays[len(inputs) + number], offset)

    return work
