"""Examines the volumes of a directory without changing anything: every record, every index row, every .vif.

Run it on a directory that nobody writes to: in a live one, the record being appended looks unfinished.
Source of the index rules: weed/storage/idx/check.go, volume_checking.go.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from native_handlers.format.errors import BadVolumeName, FormatError
from native_handlers.format.idx import iter_entries, row_bytes
from native_handlers.format.needle import actual_size
from native_handlers.format.super_block import SUPER_BLOCK_BYTES, parse_super_block, super_block_size
from native_handlers.format.types import align_up, to_bytes_offset, to_stored
from native_handlers.format.volume_name import parse_volume_name
from native_handlers.storage.check_signs import SIGN_EXTENSIONS, directory_notes, find_signs, mode_problem
from native_handlers.storage.dat_scan import DatScan, ScanEnd
from native_handlers.storage.files import OS_FILES, SharedFile, read_file
from native_handlers.storage.idx_head import restore_idx_head
from native_handlers.storage.offset_width import find_offset_width
from native_handlers.storage.volume_info_file import load_volume_info
from native_handlers.storage.volume_paths import VolumePaths

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.format.types import StoredOffset
    from native_handlers.format.vif import VolumeInfo
    from native_handlers.storage.files import Files

_MAX_PROBLEMS = 100
"""Of each kind and volume; the rest is only counted."""


@dataclass(slots=True)
class VolumeCheck:
    """What was found of one volume. `skipped_bytes` of .dat belong to no record; `notes` make it no less healthy."""

    base: Path
    version: int = 0
    record_count: int = 0
    row_count: int = 0
    dat_bytes: int = 0
    skipped_bytes: int = 0
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_healthy(self) -> bool:
        return not self.problem_count

    def add(self, problem: str) -> None:
        self.problem_count += 1
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)

    def __str__(self) -> str:
        verdict = "ok" if self.is_healthy else f"{self.problem_count} problems"
        facts = (
            f"version {self.version}, {self.record_count} records, {self.row_count} index rows, {self.dat_bytes} bytes"
        )
        lines = [f"{self.base}: {verdict} ({facts})", *(f"  {problem}" for problem in self.problems)]
        unsaid = self.problem_count - len(self.problems)
        if unsaid:
            lines.append(f"  and {unsaid} more")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in a directory. As text it is for people, a paragraph a volume."""

    volumes: tuple[VolumeCheck, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_healthy(self) -> bool:
        return all(volume.is_healthy for volume in self.volumes)

    def __str__(self) -> str:
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([*notes, *(map(str, self.volumes) if self.volumes else ["no volumes"])])


def check_directory(
    path: Path, *, index_path: Path | None = None, offset_width_bytes: int | None = None, files: Files = OS_FILES
) -> Report:
    """Checks every volume in `path`.

    Args:
        index_path: where -dir.idx points; None is `path`.
        offset_width_bytes: None takes what the .vif files say, else 4.

    Raises:
        OSError: the directory cannot be listed. Files that cannot be read are problems of their volume.
    """
    width = offset_width_bytes or find_offset_width(files, [path])
    names = {os.path.splitext(name)[0] for name in files.list_directory(path) if name.endswith(SIGN_EXTENSIONS)}
    checks = []
    for name in sorted(names):
        try:
            collection, volume_id = parse_volume_name(name)
        except BadVolumeName:
            continue
        paths = VolumePaths(path, index_path or path, collection, volume_id)
        check = _VolumeChecker(files, paths, width).run()
        if check is not None:
            checks.append(check)
    return Report(tuple(checks), directory_notes(files, path))


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
        """Id and size of the record that starts at `offset`."""
        index = int(np.searchsorted(np.frombuffer(self.offsets, np.uint64), np.uint64(offset)))
        if index == len(self.offsets) or self.offsets[index] != offset:
            return None
        return self.ids[index], self.sizes[index]


class _VolumeChecker:
    def __init__(self, files: Files, paths: VolumePaths, width: int) -> None:
        self._files, self._width = files, width
        beside = paths.beside_data()
        self._paths = beside if files.facts(beside.file(".idx")) is not None else paths
        self._check = VolumeCheck(paths.base)

    def run(self) -> VolumeCheck | None:
        """What was found, or None for files that are no volume: what erasure coding leaves, strays."""
        try:
            info = self._check_info()
            signs = find_signs(self._files, self._paths, info)
            self._check.notes += signs.notes
            for problem in signs.problems:
                self._check.add(problem)
            facts = self._files.facts(self._paths.file(".dat"))
            if facts is None or (info.ec_shard_config is not None and facts.size_bytes <= SUPER_BLOCK_BYTES):
                return self._check if signs.problems or info.files else None
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

    def _check_info(self) -> VolumeInfo:
        loaded = load_volume_info(self._files, self._paths.file(".vif"))
        if loaded.error is not None:
            self._check.add(f".vif cannot be parsed: {loaded.error}")
        width = loaded.info.bytes_offset
        if width not in (0, self._width):
            self._check.add(f".vif says {width}-byte offsets, the check runs with {self._width}-byte ones")
        return loaded.info

    def _check_data(self, dat: SharedFile) -> None:
        size = self._check.dat_bytes = self._files.facts_of(dat.fd).size_bytes
        head = self._files.read(dat.fd, SUPER_BLOCK_BYTES, 0)
        block = parse_super_block(self._files.read(dat.fd, super_block_size(head), 0))
        self._check.version = block.version
        rows = self._read_rows()
        head = restore_idx_head(
            self._files, dat.fd, rows, version=block.version, start_bytes=block.size_bytes, dat_size_bytes=size,
            width=self._width,
        )  # fmt: skip
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
        """Every record of .dat. Where there is none, goes on at the next place that an index row names."""
        records = _Records()
        position = block.size_bytes
        while position < size:
            scan = DatScan(self._files, dat.fd, block.version, position, size)
            for record in scan:
                records.add(record.offset_bytes, record.header.needle_id, record.header.size)
            if scan.result is ScanEnd.COMPLETE:
                break
            following = bisect_right(starts, to_stored(scan.stopped_at_bytes))
            position = to_bytes_offset(starts[following]) if following < len(starts) else size
            position = min(position, size)
            skipped = position - scan.stopped_at_bytes
            self._check.skipped_bytes += skipped
            self._check.add(f".dat: {scan.why}; {skipped} bytes skipped")
        self._check.record_count = len(records)
        return records

    def _check_rows(self, rows: bytes, records: _Records, version: int) -> None:
        last_end = 0
        for number, entry in enumerate(iter_entries(rows, self._width), 1):
            if not entry.offset:
                if entry.size >= 0:
                    self._check.add(f".idx row {number}: needle {entry.needle_id:x} has no offset")
                continue
            offset, size = to_bytes_offset(entry.offset), max(entry.size, 0)
            last_end = max(last_end, offset + actual_size(size, version))
            found = records.find(offset)
            if found != (entry.needle_id, size):
                there = "no record" if found is None else f"needle {found[0]:x} of size {found[1]}"
                expected = f"needle {entry.needle_id:x} of size {size}"
                self._check.add(f".idx row {number}: {expected} should be at {offset}, there is {there}")
        behind = sum(offset >= align_up(last_end) for offset in records.offsets) if last_end else len(records)
        if behind:
            self._check.add(f".idx is behind: {behind} records after the last one that it names")
