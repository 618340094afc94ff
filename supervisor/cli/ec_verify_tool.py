"""`weed-volume-py ec-verify DIR...`: compares shards with each other, and with the .ecsum where there is one."""

from __future__ import annotations

import json
from dataclasses import field
from typing import TYPE_CHECKING, Any

from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.bitrot import Protection, differing_blocks, load_checksums
from native_handlers.storage.erasure_coding.errors import VerifyFailed
from native_handlers.storage.erasure_coding.rebuild import ShardFiles
from native_handlers.storage.erasure_coding.shard_sets import find_shard_sets, ratio_of_set
from native_handlers.storage.erasure_coding.verify import are_equal, verify
from native_handlers.storage.system.files import OS_FILES
from supervisor.cli.tool_arguments import EXIT_HEALTHY, EXIT_PROBLEMS, complain, progress

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.erasure_coding.bitrot import Checksums
    from native_handlers.storage.erasure_coding.layout import Ratio
    from native_handlers.storage.erasure_coding.shard_sets import ShardSet
    from native_handlers.storage.erasure_coding.verify import Verdict
    from supervisor.cli.tool_arguments import ToolArguments


@dataclass(slots=True)
class Verified:
    """The findings for one volume. `bad_shards` are the shards that are known to be wrong."""

    name: str
    data_shards: int = 0
    parity_shards: int = 0
    missing: list[int] = field(default_factory=list)
    bad_shards: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        """The findings as JSON data."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        verdict = (
            f"bad shards: {_listed(self.bad_shards)}" if self.bad_shards else "problems" if self.problems else "ok"
        )
        here = f"{self.data_shards}+{self.parity_shards} shards"
        missing = f", missing {_listed(self.missing)}" if self.missing else ""
        lines = [f"{self.name}: {verdict} ({here}{missing})", *(f"  {problem}" for problem in self.problems)]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def run_ec_verify(arguments: ToolArguments) -> int:
    """Returns 0 when all shards fit, 1 when a shard does not fit or cannot be verified. Changes no file."""
    try:
        sets = find_shard_sets(OS_FILES, arguments.directories)
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}")
        return EXIT_PROBLEMS
    found = [_verify(one) for one in sets if arguments.is_wanted(one.collection, one.volume_id)]
    is_well = not any(one.problems for one in found)
    whole: dict[str, Any] = {"volumes": [one.as_data() for one in found]}
    if arguments.named and not found:
        is_well, whole["problem"] = False, f"no shards: {arguments.not_found()}"
        complain(whole["problem"])
    if arguments.as_json:
        print(json.dumps({"is_well": is_well, **whole}, indent=2))
    else:
        print("\n".join(map(str, found)) or "no shards")
    return EXIT_HEALTHY if is_well else EXIT_PROBLEMS


def _verify(one: ShardSet) -> Verified:
    verified = Verified(one.name)
    if one.empty:
        verified.notes.append(f"empty shard files, which count as missing: {_listed(list(one.empty))}")
    try:
        ratio = ratio_of_set(OS_FILES, one)
        verified.data_shards, verified.parity_shards = ratio.data, ratio.parity
        protection, checksums = load_checksums(OS_FILES, one.sidecars(".ecsum"), ratio)
        if not one.files.present:
            verified.missing = list(range(ratio.total))
            verified.problems.append("no shard has content, so nothing can be verified")
            return verified
        _tell_unknown(verified, one, ratio)
        if protection is Protection.INVALID:
            verified.problems.append("its .ecsum cannot be believed")
        elif checksums is None:
            verified.notes.append("there is no .ecsum; a rebuild makes one")
        verified.missing = _verify_files(verified, one.name, one.files, ratio, checksums)
        for shard, path, size in one.copies:
            if shard < ratio.total:
                _verify_copy(verified, one, ratio, checksums, (shard, path, size))
    except OSError as error:
        verified.problems.append(f"{error.filename or one.name}: {error.strerror}")
    except VerifyFailed as error:
        verified.problems.append(str(error))
    return verified


def _tell_unknown(verified: Verified, one: ShardSet, ratio: Ratio) -> None:
    """Names the shards that no volume of this ratio has."""
    paths = [*((shard, path) for shard, (path, _) in one.files.present.items()), *(copy[:2] for copy in one.copies)]
    verified.problems.extend(
        f"shard {shard}: {path} is not verified, for the volume has the shards 0 to {ratio.total - 1}"
        for shard, path in sorted(paths)
        if shard >= ratio.total
    )


def _verify_files(
    verified: Verified, name: str, shards: ShardFiles, ratio: Ratio, checksums: Checksums | None
) -> list[int]:
    """Adds what is wrong with one file of each shard. Returns the missing shards. Raises VerifyFailed, OSError."""
    total_bytes = max(size for _, size in shards.present.values())
    with progress(f"ec-verify {name}", total_bytes) as passed:
        verdict = verify(OS_FILES, shards, ratio, passed, 0 if checksums is None else checksums.block_bytes)
    _judge(verified, verdict, ratio)
    if checksums is not None:
        _compare_checksums(verified, verdict, checksums)
    return verdict.missing


def _compare_checksums(verified: Verified, verdict: Verdict, checksums: Checksums) -> None:
    for shard, sums in verdict.block_sums.items():
        differing = differing_blocks(checksums.shards[shard], verdict.shard_bytes, sums)
        if differing:
            verified.problems.append(f"shard {shard}: blocks {_listed(differing)} differ from the .ecsum")
            if shard not in verdict.wrong_bytes and verdict.is_sound:
                verified.notes.append(f"shard {shard} fits the others: the .ecsum may be of another coding")


def _verify_copy(
    verified: Verified, one: ShardSet, ratio: Ratio, checksums: Checksums | None, copy: tuple[int, Path, int]
) -> None:
    """Verifies a second file of a shard: only where the first one has other content has it to be compared with the
    other shards. Raises VerifyFailed, OSError.
    """
    shard, path, size = copy
    first, _ = one.files.present[shard]
    with progress(f"ec-verify {path}", size) as passed:
        if are_equal(OS_FILES, first, path, passed):
            return
    second = Verified(one.name)
    present = {**one.files.present, shard: (path, size)}
    _verify_files(second, one.name, ShardFiles(one.files.base, present, one.files.places), ratio, checksums)
    verdict = second.problems if shard in second.bad_shards else ["it fits the other shards"]
    verified.problems.append(f"shard {shard}: {path} differs from {first}")
    verified.problems.extend(f"with {path}: {text}" for text in verdict)
    verified.bad_shards = sorted({*verified.bad_shards, *second.bad_shards})


def _judge(verified: Verified, verdict: Verdict, ratio: Ratio) -> None:
    for shard, size in sorted(verdict.other_lengths.items()):
        verified.problems.append(f"shard {shard}: {size} bytes long, the others have {verdict.shard_bytes}")
    for shard, count in sorted(verdict.wrong_bytes.items()):
        where = verdict.first_wrong[shard]
        verified.problems.append(f"shard {shard}: {count} bytes do not fit the other shards, the first at {where}")
    if verdict.undecided_bytes:
        verified.problems.append(
            f"at {verdict.undecided_bytes} places shards do not fit, and which are wrong cannot be told"
        )
    verified.bad_shards = sorted({*verdict.wrong_bytes, *verdict.other_lengths})
    if len(verdict.missing) > ratio.parity:
        verified.problems.append("fewer shards are here than the volume has data shards")


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
