"""The record with which copied files of an erasure-coded volume replace those of another coding. A crash leaves the
files of the one coding or those of the other.

1. The copied files are whole and on disk, under names that a start removes (`7.ec03.1.receiving`).
2. The record `7.ecarrived` is put on disk. It names the files that wait, each with its size, and the files that go.
3. The files of the other coding go, first its index. The waiting files get their names, the index last. The record
   goes.

An operation that fails before the first file has gone takes the decision back. One that fails later leaves the record
and what waits. A start that finds the record repeats step 3, from wherever it was interrupted, and so does the next
operation on the volume, before anything else (`EcVolumeSet.finish_first`): so a record that could not be removed
changes nothing that comes later. The record counts only where each of its files is there, under either name, with its
size. Inodes are not compared: files that were restored from a backup have others. A record that does not fit is moved
aside together with what waits, and no other file is touched.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadVolumeName
from native_handlers.format.volume_name import parse_volume_name
from native_handlers.records import dataclass
from native_handlers.storage.disk.aside import move_aside
from native_handlers.storage.erasure_coding.files_on_disk import remove_paths
from native_handlers.storage.model.file_kinds import RECEIVING, SHARDS_ARRIVED
from native_handlers.storage.model.report import Finding, FindingKind
from native_handlers.storage.system.files import read_file, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from native_handlers.storage.directory.arrival import Directories
    from native_handlers.storage.system.files import Files

_log = logging.getLogger(__name__)
_DATA, _INDEX = "data", "index"
"""In a record: the directories of the disk itself, which may have other names at the next start."""


class BadShardRecord(Exception):
    """The text of an `.ecarrived` file is no record, or does not fit the files."""


class ReplacementUnfinished(OSError):
    """The decision was made, and not all of it is carried out: `recover_shard_arrivals` does the rest. Until then the
    record and the waiting files must stay, and no other operation may change the volume's files.
    """


@dataclass(frozen=True, slots=True)
class WaitingShardFile:
    """A file under its waiting name, with its size."""

    target: Path
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ShardArrival:
    """The decision that the waiting files replace others.

    Args:
        waiting: in the order in which they get their names.
        removes: the files that go before, in that order.
    """

    waiting: tuple[WaitingShardFile, ...]
    removes: tuple[Path, ...]

    def encode(self, own: Directories) -> bytes:
        """The text of a record on the disk with the directories `own`."""

        def place(path: Path) -> list[str]:
            sides = {own[1]: _INDEX, own[0]: _DATA}
            return [sides.get(path.parent, str(path.parent)), path.name]

        waiting = [[*place(one.target), one.path.name, one.size_bytes] for one in self.waiting]
        removes = [place(one) for one in self.removes]
        return json.dumps({"ecarrived": 1, "waiting": waiting, "removes": removes}).encode()


def parse_shard_arrival(text: bytes, name: str, own: Directories, all_of: Sequence[Directories]) -> ShardArrival:
    """Parses the record of the volume with that name. Places outside of `all_of` are left out.

    Raises BadShardRecord.
    """
    known = {str(directory): directory for pair in all_of for directory in pair} | {_DATA: own[0], _INDEX: own[1]}

    def of_volume(file_name: object) -> str:
        if not isinstance(file_name, str) or not file_name.startswith(name + ".") or "/" in file_name:
            raise BadShardRecord(f"it names {file_name!r}")
        return file_name

    try:
        parsed = json.loads(text)
        if parsed["ecarrived"] != 1:
            raise BadShardRecord(f"it is of an unknown kind, {parsed['ecarrived']!r}")
        waiting = []
        for side, target, waiting_name, size_bytes in parsed["waiting"]:
            path = known[side] / of_volume(waiting_name)
            if not waiting_name.endswith(RECEIVING):
                raise BadShardRecord(f"it names {waiting_name!r}")
            waiting.append(WaitingShardFile(known[side] / of_volume(target), path, int(size_bytes)))
        removes = [known[side] / of_volume(file_name) for side, file_name in parsed["removes"] if side in known]
    except (ValueError, KeyError, TypeError) as error:
        raise BadShardRecord(f"it cannot be parsed: {error!r}") from error
    if not waiting:
        raise BadShardRecord("it names no files")
    return ShardArrival(tuple(waiting), tuple(removes))


def replace_coding(
    files: Files, record: Path, own: Directories, waiting: Sequence[tuple[Path, Path]], removes: Sequence[Path]
) -> None:
    """Does steps 2 and 3.

    Args:
        record: the path of the record.
        waiting: target and waiting name of each file, in the order in which they get their names.

    Raises:
        ReplacementUnfinished: the new files count, and do not have all of their names.
        OSError: there is no record, and no other file has changed. The caller removes the waiting files.
    """
    named = []
    for target, path in waiting:
        facts = files.facts(path)
        if facts is None:
            raise FileNotFoundError(f"{path} is gone")
        named.append(WaitingShardFile(target, path, facts.size_bytes))
    present = tuple(path for path in removes if files.facts(path) is not None)
    arrival = ShardArrival(tuple(named), present)
    try:
        for directory in {path.parent for _, path in waiting}:
            files.sync_directory(directory)
        replace_file(files, record, arrival.encode(own))
        _finish_arrival(files, record, arrival)
    except OSError as error:
        if not _take_back(files, record, arrival):
            text = f"{error.strerror}; the files that were copied wait, and get their names before the next change here"
            raise ReplacementUnfinished(error.errno, text, error.filename) from error
        raise


def _take_back(files: Files, record: Path, arrival: ShardArrival) -> bool:
    """Removes the record, durably, where no file has changed yet. Returns whether there is none."""
    try:
        if any(files.facts(path) is None for path in (*arrival.removes, *(one.path for one in arrival.waiting))):
            return False
        for left in (record, record.with_name(record.name + ".tmp")):
            files.unlink(left)
        files.sync_directory(record.parent)
    except OSError as error:
        _log.warning("%s is not taken back: %s", record, error)
        return False
    return True


def _finish_arrival(files: Files, record: Path, arrival: ShardArrival) -> None:
    pending = [one for one in arrival.waiting if files.facts(one.path) is not None]
    if len(pending) == len(arrival.waiting):
        # No file has its name before all that go are gone.
        remove_paths(files, arrival.removes)
    for one in pending:
        files.rename(one.path, one.target)
    for directory in dict.fromkeys(one.target.parent for one in arrival.waiting):
        files.sync_directory(directory)
    files.unlink(record)
    files.sync_directory(record.parent)


def recover_shard_arrivals(
    files: Files, own: Directories, all_of: Sequence[Directories], is_wanted: Callable[[int], bool]
) -> list[Finding]:
    """Finishes the decided replacements of a disk, before shards are opened and before waiting files are removed.

    Raises OSError: a directory cannot be read or changed; the next call does the rest.
    """
    findings = []
    for file_name in sorted(one for one in files.list_directory(own[0]) if one.endswith(SHARDS_ARRIVED)):
        name, record = file_name.removesuffix(SHARDS_ARRIVED), own[0] / file_name
        try:
            if not is_wanted(parse_volume_name(name)[1]):
                continue
        except BadVolumeName:
            continue
        try:
            arrival = read_shard_arrival(files, record, own, all_of)
        except BadShardRecord as doubt:
            findings.append(_put_aside(files, record, own, str(doubt)))
            continue
        _finish_arrival(files, record, arrival)
        findings.append(Finding(FindingKind.ARRIVAL_FINISHED, own[0] / name, f"{file_name} was still there"))
    return findings


def read_shard_arrival(files: Files, record: Path, own: Directories, all_of: Sequence[Directories]) -> ShardArrival:
    """Reads the record of the disk with the directories `own`, and checks that it fits the files. Changes nothing.

    Raises BadShardRecord and OSError.
    """
    try:
        text = read_file(files, record) or b""
    except IsADirectoryError as error:
        raise BadShardRecord("it is a directory") from error
    arrival = parse_shard_arrival(text, record.name.removesuffix(SHARDS_ARRIVED), own, all_of)
    for one in arrival.waiting:
        facts = files.facts(one.path) or files.facts(one.target)
        if facts is None:
            raise BadShardRecord(f"there is no {one.target.name}")
        if facts.size_bytes != one.size_bytes:
            raise BadShardRecord(
                f"its {one.target.name} has {one.size_bytes} bytes, that which is there {facts.size_bytes}"
            )
    return arrival


def _put_aside(files: Files, record: Path, own: Directories, doubt: str) -> Finding:
    """Moves aside what waits, and the record last: after a crash between them the next start finds the record."""
    name = record.name.removesuffix(SHARDS_ARRIVED)
    moved = []
    for directory in dict.fromkeys((own[1], own[0])):
        names = files.list_directory(directory)
        waiting = sorted(one for one in names if one.startswith(name + ".") and one.endswith(RECEIVING))
        moved += [move_aside(files, directory / one) for one in waiting]
        files.sync_directory(directory)
    moved.append(move_aside(files, record))
    files.sync_directory(record.parent)
    return Finding(FindingKind.ARRIVAL_DOUBTFUL, record.with_name(name), f"{doubt}; {', '.join(moved)}")
