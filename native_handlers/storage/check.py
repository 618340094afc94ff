"""Examines the volumes of a directory without changing anything: every record, every index row, every .vif.

Run it on a directory to which no process writes: in a live directory, the record being appended looks incomplete.
Source of the index rules: weed/storage/idx/check.go, volume_checking.go.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from dataclasses import asdict, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from native_handlers.arrays import np
from native_handlers.format.errors import BadVolumeName, FormatError
from native_handlers.format.idx import iter_entries, row_bytes
from native_handlers.format.needle import actual_size
from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.format.types import (
    VERSION_2,
    ByteOffset,
    align_up,
    max_volume_size_bytes,
    to_bytes_offset,
    to_stored,
)
from native_handlers.format.volume_name import parse_volume_name
from native_handlers.records import dataclass
from native_handlers.storage.directory.arrival import BadArrivalRecord, read_arrival_record
from native_handlers.storage.directory.scan import find_offset_width
from native_handlers.storage.directory.unfinished import is_unfinished
from native_handlers.storage.directory.unfinished_copy import judge_note
from native_handlers.storage.directory.vacuum_recovery import why_not_finished, why_not_undone
from native_handlers.storage.disk.session_mark import SessionMark
from native_handlers.storage.erasure_coding.loading import judge_shards
from native_handlers.storage.erasure_coding.shard_arrival import BadShardRecord, read_shard_arrival
from native_handlers.storage.model.file_kinds import ARRIVED, ARRIVING, ASIDE, NOTE, SHARDS_ARRIVED, STAGED
from native_handlers.storage.system.files import OS_FILES, SharedFile, read_file
from native_handlers.storage.volume.dat_head import is_stub_of_shards, read_super_block
from native_handlers.storage.volume.index_place import with_index_found
from native_handlers.storage.volume.info_file import load_volume_info, may_name_object
from native_handlers.storage.volume.paths import VolumePaths
from native_handlers.storage.volume.recovery import restore_idx_head
from native_handlers.storage.volume.scan import DatScan, OpenDat, ScanEnd
from native_handlers.storage.volume.soundness import foreign_index, fullest_first

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.format.types import StoredOffset
    from native_handlers.format.vif import VolumeInfo
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.info_file import LoadedInfo

_MAX_PROBLEMS = 100
"""Problems listed of each kind and volume; the others are only counted."""


@dataclass(slots=True)
class VolumeCheck:
    """The results for one volume. `notes` do not make it unhealthy. `not_examined` names what was not looked at, or
    with what it was not compared: of a volume whose data is in a remote tier.
    """

    base: Path
    version: int = 0
    record_count: int = 0
    row_count: int = 0
    dat_bytes: int = 0
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    not_examined: list[str] = field(default_factory=list)

    @property
    def is_healthy(self) -> bool:
        return not self.problem_count

    def add(self, problem: str) -> None:
        self.problem_count += 1
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)

    def as_data(self) -> dict[str, Any]:
        """The fields as values for JSON."""
        return {**asdict(self), "base": str(self.base), "is_healthy": self.is_healthy}

    def __str__(self) -> str:
        verdict = "ok" if self.is_healthy else f"{self.problem_count} problems"
        if self.not_examined:
            verdict += " in what was examined"
        facts = (
            f"version {self.version}, {self.record_count} records, {self.row_count} index rows, {self.dat_bytes} bytes"
        )
        lines = [f"{self.base}: {verdict} ({facts})", *(f"  {problem}" for problem in self.problems)]
        unsaid = self.problem_count - len(self.problems)
        if unsaid:
            lines.append(f"  and {unsaid} more")
        lines += [f"  not examined: {what}" for what in self.not_examined]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@dataclass(frozen=True, slots=True)
class Report:
    """The results for a directory. As text it has a paragraph for each volume."""

    volumes: tuple[VolumeCheck, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_healthy(self) -> bool:
        return all(volume.is_healthy for volume in self.volumes)

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        volumes = [volume.as_data() for volume in self.volumes]
        return {"is_healthy": self.is_healthy, "volumes": volumes, "notes": list(self.notes)}

    def __str__(self) -> str:
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([*notes, *(map(str, self.volumes) if self.volumes else ["no volumes"])])


def _nobody(_count_bytes: int) -> None:
    """Ignores the progress."""


def check_directory(
    path: Path,
    *,
    index_path: Path | None = None,
    offset_width_bytes: int | None = None,
    files: Files = OS_FILES,
    is_wanted: Callable[[str, int], bool] = lambda _collection, _volume_id: True,
    passed: Callable[[int], object] = _nobody,
) -> Report:
    """Checks every volume in `path`.

    Args:
        is_wanted: by collection and volume id; others are not looked at.
        passed: told how many bytes of .dat files have been read since the last call.
        index_path: where -dir.idx points; None is `path`.
        offset_width_bytes: None takes what the .vif files say, else 4.

    Raises:
        OSError: the directory cannot be listed. Files that cannot be read are problems of their volume.
    """
    width = offset_width_bytes or find_offset_width(files, [path])
    names = {os.path.splitext(name)[0] for name in files.list_directory(path) if name.endswith(SIGN_EXTENSIONS)}
    checks = []
    by_id: dict[int, list[VolumePaths]] = {}
    for name in sorted(names):
        try:
            collection, volume_id = parse_volume_name(name)
        except BadVolumeName:
            continue
        if not is_wanted(collection, volume_id):
            continue
        paths = VolumePaths(path, index_path or path, collection, volume_id)
        check = _VolumeChecker(files, paths, width, passed).run()
        if check is not None:
            checks.append(check)
            by_id.setdefault(volume_id, []).append(paths)
    _add_taken_ids(files, checks, by_id)
    return Report(tuple(checks), directory_notes(files, path))


def _add_taken_ids(files: Files, checks: list[VolumeCheck], by_id: dict[int, list[VolumePaths]]) -> None:
    """Adds a problem to all but one of the volumes of an id: they are not opened."""
    check_of = {check.base: check for check in checks}
    for volume_id, places in by_id.items():
        with_data = [paths for paths in places if files.facts(paths.file(".dat")) is not None]
        in_order = fullest_first(files, with_data)
        for paths in in_order[1:]:
            why = f"volume {volume_id} is here twice; {in_order[0].name} is opened if it can be"
            check_of[paths.base].add(why)


class _Records:
    """The records of a .dat file, as sorted columns."""

    def __init__(self) -> None:
        self.offsets, self.ids, self.sizes = array("Q"), array("Q"), array("q")

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, offset: int, needle_id: int, size: int) -> None:
        self.offsets.append(offset)
        self.ids.append(needle_id)
        self.sizes.append(size)

    def find(self, offset: int) -> tuple[int, int] | None:
        """Id and size of the record that starts at `offset`, or None."""
        index = int(np.searchsorted(np.frombuffer(self.offsets, np.uint64), np.uint64(offset)))
        if index == len(self.offsets) or self.offsets[index] != offset:
            return None
        return self.ids[index], self.sizes[index]


class _VolumeChecker:
    def __init__(self, files: Files, paths: VolumePaths, width: int, passed: Callable[[int], object]) -> None:
        self._files, self._width, self._passed = files, width, passed
        self._place, self._paths = paths, with_index_found(files, paths)
        self._check = VolumeCheck(paths.base)

    def run(self) -> VolumeCheck | None:
        """The results, or None for files that are no volume: files of erasure coding, strays."""
        try:
            loaded = self._load_info()
            info = loaded.info
            signs = find_signs(self._files, self._paths, info, self._width)
            self._check.notes += signs.notes
            for problem in signs.problems:
                self._check.add(problem)
            self._check_shards()
            facts = self._files.facts(self._paths.file(".dat"))
            if info.files:
                self._check_tiered(info, is_kept_here=facts is not None)
            if facts is None or is_stub_of_shards(self._files, self._paths):
                is_elsewhere = bool(info.files) or may_name_object(self._files, self._place, loaded)
                return self._check if signs.problems or is_elsewhere else None
            mode = mode_problem(self._files, self._paths.file(".dat"))
            if mode is not None:
                self._check.add(mode)
            dat = SharedFile.open(self._files, self._paths.file(".dat"), os.O_RDONLY)
            try:
                self._check_data(dat)
            finally:
                dat.release()
        except (OSError, FormatError) as error:
            self._check.add(str(error))
        return self._check

    def _check_shards(self) -> None:
        # The index of shards may lie in the index directory, while that of the volume lies beside its data.
        fate = judge_shards(self._files, self._place, self._width)
        if fate is not None and fate.why_kept:
            self._check.add(f"its shards stay, for its .dat may be no whole volume ({fate.why_kept})")
        elif fate is not None:
            self._note("its shards are not whole; the next start removes them")

    def _load_info(self) -> LoadedInfo:
        loaded = load_volume_info(self._files, self._paths.file(".vif"))
        if loaded.error is not None:
            self._check.add(f".vif cannot be parsed: {loaded.error}")
        width = loaded.info.bytes_offset
        if width not in (0, self._width):
            self._check.add(f".vif says {width}-byte offsets, the check runs with {self._width}-byte ones")
        return loaded

    def _check_tiered(self, info: VolumeInfo, *, is_kept_here: bool) -> None:
        """Checks of a volume in a remote tier what can be checked without the object, and says what was not. Where its
        .dat was kept here, the rows are compared with that.
        """
        data = info.files[0]
        self._check.not_examined.append(f"its data in remote storage {data.backend_name} as {data.key}")
        if is_kept_here:
            return
        if _exists(self._files, self._paths.sidecars(".ecx")):
            return
        rows = self._read_rows()
        self._check.version, self._check.dat_bytes = info.version, data.file_size
        version = info.version or VERSION_2
        for number, entry in enumerate(iter_entries(rows, self._width), 1):
            size = max(entry.size, 0)
            if not entry.offset and entry.size >= 0:
                self._check.add(f".idx row {number}: needle {entry.needle_id:x} has no offset")
            elif entry.offset and to_bytes_offset(entry.offset) + actual_size(size, version) > data.file_size > 0:
                where = f"needle {entry.needle_id:x} of size {size} at {to_bytes_offset(entry.offset)}"
                self._check.add(f".idx row {number}: {where} ends behind the {data.file_size} bytes of its data")
        self._check.not_examined.append(f"whether its {self._check.row_count} index rows lead to their records there")

    def _check_data(self, dat: SharedFile) -> None:
        size = self._check.dat_bytes = self._files.facts_of(dat.fd).size_bytes
        block = read_super_block(self._files, dat.fd)
        self._check.version = block.version
        rows = self._read_rows()
        foreign = foreign_index(self._files, dat.fd, rows, block.version, size, self._width)
        if foreign is not None:
            self._check.add(foreign.why)
        head = restore_idx_head(OpenDat(self._files, dat.fd, block.version, block.size_bytes, size, self._width), rows)
        if head is not rows:
            lost = (len(head) - len(rows)) // row_bytes(self._width)
            self._check.add(
                f".idx: {lost} rows at its head were overwritten by deletions; the next start restores them"
            )
        starts = sorted({entry.offset for entry in iter_entries(rows, self._width)})
        records = self._scan(dat, block, size, starts)
        self._check_rows(rows, records, block.version)

    def _read_rows(self) -> bytes:
        rows = read_file(self._files, self._paths.file(".idx"))
        if rows is None:
            self._check.add(".idx does not exist")
            return b""
        excess = len(rows) % row_bytes(self._width)
        if excess:
            self._check.add(f".idx ends with {excess} bytes of a row")
        self._check.row_count = len(rows) // row_bytes(self._width)
        return rows[: len(rows) - excess]

    def _scan(self, dat: SharedFile, block: SuperBlock, size: int, starts: list[StoredOffset]) -> _Records:
        """Scans every record of .dat. Where there is none, goes on at the next place in an index row."""
        records = _Records()
        position = block.size_bytes
        while position < size:
            scan = DatScan(self._files, dat.fd, block.version, position, size)
            for record in scan:
                records.add(record.offset_bytes, record.header.needle_id, record.header.size)
                self._passed(record.end_bytes - record.offset_bytes)
            if scan.result is ScanEnd.COMPLETE:
                break
            following = bisect_right(starts, to_stored(scan.stopped_at_bytes))
            position = to_bytes_offset(starts[following]) if following < len(starts) else size
            position = min(position, size)
            self._check.add(f".dat: {scan.why}; {position - scan.stopped_at_bytes} bytes skipped")
        self._check.record_count = len(records)
        return records

    def _note(self, note: str) -> None:
        if len(self._check.notes) < _MAX_PROBLEMS:
            self._check.notes.append(note)

    def _check_rows(self, rows: bytes, records: _Records, version: int) -> None:
        @cache
        def named() -> set[tuple[int, StoredOffset]]:
            return {(entry.needle_id, entry.offset) for entry in iter_entries(rows, self._width)}

        last_end = 0
        for number, entry in enumerate(iter_entries(rows, self._width), 1):
            if not entry.offset:
                if entry.size >= 0:
                    self._check.add(f".idx row {number}: needle {entry.needle_id:x} has no offset")
                continue
            offset, size = to_bytes_offset(entry.offset), max(entry.size, 0)
            # Old servers let 4-byte offsets wrap around: the record may be one whole addressable range further on.
            beyond = offset + max_volume_size_bytes(4)
            if self._width == 4 and records.find(beyond) == (entry.needle_id, size) != records.find(offset):
                offset = ByteOffset(beyond)
            last_end = max(last_end, offset + actual_size(size, version))
            found = records.find(offset)
            if found == (entry.needle_id, size):
                continue
            if found is not None and found[1] == size and (found[0], entry.offset) not in named():
                what = f"needle {found[0]:x}, as WriteNeedleBlob may store it"
                self._note(f".idx row {number}: needle {entry.needle_id:x} is a record that carries the id of {what}")
            else:
                there = "no record" if found is None else f"needle {found[0]:x} of size {found[1]}"
                expected = f"needle {entry.needle_id:x} of size {size}"
                self._check.add(f".idx row {number}: {expected} should be at {offset}, there is {there}")
        behind = sum(offset >= align_up(last_end) for offset in records.offsets) if last_end else len(records)
        if behind:
            self._check.add(f".idx is behind: {behind} records after the last one that it names")


# ---- Files beside a volume's .dat and .idx that tell of interrupted work, and what the next start does about it.
#
# The checks change nothing. They are the counterpart of the findings that a start makes of the same signs: `arrival`,
# `vacuum_recovery`, `unfinished_copy`, `DiskLocation.load`, `volume/open`.

SIGN_EXTENSIONS = (".dat", ".idx", ".vif", NOTE, ".cpd", ".cpx", ".cpc", ARRIVED, SHARDS_ARRIVED)
"""A file with any of these extensions in the data directory belongs to a volume."""


class Signs(NamedTuple):
    """`problems` need an action, if only a start of the server; `notes` are for information."""

    problems: list[str]
    notes: list[str]


def find_signs(files: Files, paths: VolumePaths, info: VolumeInfo, offset_width_bytes: int) -> Signs:
    """Finds the signs of interrupted work. Raises OSError when a directory cannot be read."""
    notes = []
    problems = [*_arrival_problems(files, paths), *_vacuum_problems(files, paths, offset_width_bytes)]
    if files.facts(paths.file(NOTE)) is not None:
        verdict = judge_note(files, paths, offset_width_bytes)
        problems.append(f"{verdict.means.value} ({verdict.why})" if verdict.why else verdict.means.value)
    if files.facts(paths.file(".cut")) is not None:
        notes.append(".cut holds records that were cut off after the machine went down")
    if _exists(files, paths.sidecars(".ecx")):
        notes.append("erasure coding shards lie beside it; it is served read-only")
    if info.replication:
        try:
            ReplicaPlacement.parse(info.replication)
        except FormatError as error:
            problems.append(f".vif: {error}; it is not loaded")
    return Signs(problems, notes)


def _arrival_problems(files: Files, paths: VolumePaths) -> list[str]:
    if files.facts(paths.file(SHARDS_ARRIVED)) is not None:
        own = (paths.data_dir, paths.index_dir)
        try:
            read_shard_arrival(files, paths.file(SHARDS_ARRIVED), own, [own])
        except BadShardRecord as doubt:
            return [f".ecarrived does not fit ({doubt}); the next start moves it aside"]
        return ["shards of it have arrived whole (.ecarrived); the next start gives them their places"]
    if files.facts(paths.file(ARRIVED)) is None:
        return []
    try:
        read_arrival_record(files, paths, [(paths.data_dir, paths.index_dir)])
    except BadArrivalRecord as doubt:
        return [f".arrived does not fit ({doubt}); the next start moves it aside"]
    return ["a copy of it has arrived whole (.arrived); the next start gives it its place"]


def _vacuum_problems(files: Files, paths: VolumePaths, offset_width_bytes: int) -> list[str]:
    if files.facts(paths.file(".cpc")) is not None:
        decided = "a vacuum was interrupted after it was decided on (.cpc)"
        why = why_not_finished(files, paths, offset_width_bytes)
        if why is None:
            return [f"{decided}; the next start finishes it"]
        return [f"{decided}, and its files do not fit ({why}); the next start moves them aside"]
    if _exists(files, [*paths.sidecars(".cpd"), *paths.sidecars(".cpx")]):
        why = why_not_undone(files, paths)
        done = "the next start undoes it" if why is None else why
        return [f"a vacuum was interrupted (.cpd, .cpx); {done}"]
    return []


def mode_problem(files: Files, dat: Path) -> str | None:
    """The problem of .dat's permissions, or None. As in upstream, the owner's bits count, as they do for opening."""
    facts = files.facts(dat)
    if facts is None or (facts.is_readable_by_owner and facts.is_writable_by_owner):
        return None
    if not facts.is_readable_by_owner:
        return ".dat has no read permission; it is not loaded"
    return ".dat has no write permission; it is served read-only"


def directory_notes(files: Files, directory: Path) -> tuple[str, ...]:
    """Notes about the directory. Raises OSError when the session mark cannot be read, or the directory cannot be
    listed.
    """
    notes = []
    if SessionMark(files, directory).cut_since_s is not None:
        notes.append(
            "the machine went down while this directory was served; the next start examines what was written last"
        )
    names = set(files.list_directory(directory))
    return (*notes, *filter(None, (_stray_note(name, names) for name in sorted(names))))


def _stray_note(name: str, names: set[str]) -> str:
    """Says why a file belongs to no volume and is never loaded; "" for any other file."""
    base = os.path.splitext(name.removesuffix(ARRIVING))[0]
    if name.endswith(ARRIVING) and base + ARRIVED in names:
        return ""
    if is_unfinished(name) and name.endswith(STAGED):
        return f"{name} is of a volume that was to come; the next start removes it"
    if is_unfinished(name):
        return f"{name} was not received whole; the next start removes it"
    if name.endswith(ASIDE):
        return f"{name} was moved aside; remove it, or give it back its name"
    return ""


def _exists(files: Files, paths: list[Path]) -> bool:
    return any(files.facts(path) is not None for path in paths)
