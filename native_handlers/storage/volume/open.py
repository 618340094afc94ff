"""Opens the files of a volume, makes its index, and sets right what a crash left.

What is repaired, and only on a volume that takes writes: a partial row at the end of .idx is cut; rows lost at its
head are restored; records at the end of .dat that .idx does not name are entered (a lost .idx is the same, with
nothing named); an unfinished record at the very end of .dat is cut, if no whole record lies in what would go. None
of those was acknowledged, for an append is acknowledged after both files were written. Whatever else is wrong makes
the volume read-only with a reason. Each of these leaves a finding.

Upstream never cuts: where records follow the last indexed one it makes the volume read-only. Its other reasons for
read-only are kept. Source: weed/storage/volume_loading.go, volume_checking.go, volume_super_block.go.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from native_handlers.format.errors import FormatError
from native_handlers.format.idx import row_bytes
from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.format.super_block import SUPER_BLOCK_BYTES, SuperBlock, parse_super_block, super_block_size
from native_handlers.format.types import SUPPORTED_VERSIONS, align_up
from native_handlers.format.vif import VolumeInfo
from native_handlers.storage.catch_up import CatchUp
from native_handlers.storage.dat_scan import OpenDat
from native_handlers.storage.errors import (
    NewVersionUnsupported,
    OffsetWidthMismatch,
    RemoteTierUnsupported,
    VolumeLoadFailed,
)
from native_handlers.storage.files import SharedFile, replace_file
from native_handlers.storage.idx_head import restore_idx_head
from native_handlers.storage.index_build import BuiltIndex, build_index
from native_handlers.storage.last_record import check_last_record
from native_handlers.storage.report import Finding, FindingKind
from native_handlers.storage.torn_rows import drop_torn_rows
from native_handlers.storage.volume_info_file import LoadedInfo, load_volume_info, save_volume_info

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.files import FileFacts, Files
    from native_handlers.storage.needle_index import NeedleIndex
    from native_handlers.storage.volume_paths import VolumePaths
    from native_handlers.storage.volume_share import VolumeShare


_CLOCK_SLACK_S = 2
"""File times are of a coarser clock than the session's."""
_MAX_NAMED = 100


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """How to open a volume.

    Args:
        create: the super block of a new volume; None opens existing files only.
        force_repair: repair although the .vif says read-only, for the volume is about to be made writable.
        forced_reason: makes the volume read-only whatever its files say.
        cut_since_s: the machine went down in a session that started then; what was not synced since may be torn.
    """

    files: Files
    paths: VolumePaths
    offset_width_bytes: int
    now_s: int
    create: SuperBlock | None = None
    preallocate_bytes: int = 0
    force_repair: bool = False
    forced_reason: str | None = None
    cut_since_s: int | None = None


@dataclass(slots=True)
class Opened:
    """A volume's open files and what is known of them. Replaced as a whole when the volume is opened anew.

    `damage` is why the files as they are take no writes; None when they do. `is_writable` says how they were opened.
    What is in .dat before `doubtful_end_bytes` may not be on disk, and a sync would not tell: one has failed.
    """

    paths: VolumePaths
    info: VolumeInfo
    dat: SharedFile
    idx: SharedFile
    super_block: SuperBlock
    index: NeedleIndex
    dat_end_bytes: int
    idx_end_bytes: int
    last_append_at_ns: int
    modified_at_s: int
    is_writable: bool
    damage: str | None
    doubtful_end_bytes: int = 0
    last_modified_s: int = 0
    """The latest last-modified time of a needle, for volumes with a TTL: it starts as the time of the file."""
    share: VolumeShare | None = None
    """What ties it to other processes; None while this process has it for itself."""
    files_generation: int = 0
    """Which of the files that the volume had since it was shared."""

    def release(self) -> None:
        self.dat.release()
        self.idx.release()


def open_volume(request: OpenRequest, findings: list[Finding]) -> Opened:
    """The volume, open; what was out of the ordinary is appended to `findings`, on failure too.

    Raises:
        OffsetWidthMismatch: the .vif names another width than `request` does.
        NewVersionUnsupported: there are no files, and none were made.
        VolumeLoadFailed: the files cannot be served. They are as they were, or repaired up to the failure.
    """
    try:
        return _Opening(request, findings).run()
    except (OSError, FormatError) as error:
        raise VolumeLoadFailed(request.paths.base, str(error)) from error


class _Opening:
    def __init__(self, request: OpenRequest, findings: list[Finding]) -> None:
        self._request = request
        self._files = request.files
        self._paths = request.paths
        self._width = request.offset_width_bytes
        self._findings = findings
        self._damage = request.forced_reason
        self._idx: SharedFile | None = None
        self._idx_is_writable = True

    @property
    def _base(self) -> Path:
        return self._paths.base

    def _note(self, kind: FindingKind, detail: str) -> None:
        self._findings.append(Finding(kind, self._base, detail))

    def _make_read_only(self, why: str) -> None:
        self._damage = self._damage or why
        self._note(FindingKind.MADE_READ_ONLY, why)

    def run(self) -> Opened:
        loaded = self._load_info()
        self._check_info(loaded.info)
        if loaded.error is not None:
            self._note(FindingKind.VIF_UNREADABLE, str(loaded.error))
        dat, dat_facts = self._open_dat()
        try:
            super_block = self._load_super_block(dat, dat_facts.size_bytes, loaded.info)
            self._idx = self._open_idx(dat_facts, super_block)
            opened = self._load_index(dat, dat_facts, super_block, loaded.info)
        except BaseException:
            dat.release()
            if self._idx is not None:
                self._idx.release()
            raise
        if not loaded.is_present:
            self._write_first_info(opened)
        return opened

    def _load_info(self) -> LoadedInfo:
        loaded = load_volume_info(self._files, self._paths.file(".vif"))
        info = loaded.info
        is_other_volumes = self._request.create is not None and self._files.facts(self._paths.file(".dat")) is None
        if is_other_volumes and loaded.error is None and not info.files and info.ec_shard_config is None:
            # A volume of this name was being deleted when the server went down: what it was says nothing of this one.
            return LoadedInfo(VolumeInfo(), is_present=False)
        return loaded

    def _check_info(self, info: VolumeInfo) -> None:
        if info.bytes_offset not in (0, self._width):
            raise OffsetWidthMismatch(self._paths.file(".vif"), info.bytes_offset, self._width)
        if info.files:
            raise RemoteTierUnsupported(self._base, info.files[0].backend_name, info.files[0].key)

    def _open_dat(self) -> tuple[SharedFile, FileFacts]:
        path = self._paths.file(".dat")
        facts = self._files.facts(path)
        if facts is None:
            if self._request.create is None:
                raise VolumeLoadFailed(self._base, f"volume data file {path} does not exist")
            return self._create_dat(self._request.create)
        if not facts.is_readable_by_owner:
            raise VolumeLoadFailed(self._base, f"cannot read Volume Data file {path}")
        if not facts.is_writable_by_owner:
            self._make_read_only(f"{path} has no write permission")
        flags = os.O_RDWR if facts.is_writable_by_owner else os.O_RDONLY
        dat = SharedFile.open(self._files, path, flags)
        return dat, replace(self._files.facts_of(dat.fd), is_writable_by_owner=facts.is_writable_by_owner)

    def _check_new_version(self, block: SuperBlock) -> None:
        """Raises NewVersionUnsupported. Where files are there already, theirs counts, as upstream has it."""
        if block.version not in SUPPORTED_VERSIONS:
            raise NewVersionUnsupported(block.version)

    def _create_dat(self, block: SuperBlock) -> tuple[SharedFile, FileFacts]:
        self._check_new_version(block)
        index_path = self._paths.file(".idx")
        stale = self._files.facts(index_path)
        if stale is not None and stale.size_bytes:
            why = f"{index_path} exists without its .dat file; remove it, or bring the .dat file back"
            raise VolumeLoadFailed(self._base, why)
        dat = SharedFile.open(self._files, self._paths.file(".dat"), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        if self._request.preallocate_bytes > 0:
            try:
                self._files.allocate(dat.fd, self._request.preallocate_bytes)
            except OSError as error:
                self._note(FindingKind.NOT_PREALLOCATED, str(error))
        return dat, self._files.facts_of(dat.fd)

    def _load_super_block(self, dat: SharedFile, size_bytes: int, info: VolumeInfo) -> SuperBlock:
        if size_bytes < SUPER_BLOCK_BYTES or self._is_unwritten(dat, size_bytes):
            # A new volume may find what a crash left of its first 8 bytes.
            if self._request.create is None:
                raise VolumeLoadFailed(self._base, f"volume {self._base}.dat not initialized: it has no super block")
            self._check_new_version(self._request.create)
            self._files.write(dat.fd, [self._request.create.encode()], 0)
            self._files.sync(dat.fd)
            self._files.sync_directory(self._paths.data_dir)
            return self._request.create
        head = self._files.read(dat.fd, SUPER_BLOCK_BYTES, 0)
        super_block = parse_super_block(self._files.read(dat.fd, super_block_size(head), 0))
        if info.replication:
            # The .vif outranks the super block: VolumeConfigure writes only there.
            super_block = replace(super_block, replica_placement=ReplicaPlacement.parse(info.replication))
        return super_block

    def _is_unwritten(self, dat: SharedFile, size_bytes: int) -> bool:
        """Whether a power cut left a super block's length and not its bytes."""
        return size_bytes == SUPER_BLOCK_BYTES and not any(self._files.read(dat.fd, SUPER_BLOCK_BYTES, 0))

    def _open_idx(self, dat_facts: FileFacts, super_block: SuperBlock) -> SharedFile:
        beside = self._paths.beside_data()
        if self._files.facts(beside.file(".idx")) is not None:
            self._paths = beside
        path = self._paths.file(".idx")
        facts = self._files.facts(path)
        if facts is None:
            if dat_facts.size_bytes > super_block.size_bytes:
                self._note(FindingKind.IDX_LOST, f"{path} does not exist")
            idx = SharedFile.open(self._files, path, os.O_RDWR | os.O_CREAT)
            self._files.sync_directory(path.parent)
            return idx
        self._idx_is_writable = facts.is_writable_by_owner
        can_write = facts.is_writable_by_owner and dat_facts.is_writable_by_owner
        if not facts.is_writable_by_owner:
            self._make_read_only(f"{path} has no write permission")
        return SharedFile.open(self._files, path, os.O_RDWR if can_write else os.O_RDONLY)

    def _load_index(self, dat: SharedFile, facts: FileFacts, super_block: SuperBlock, info: VolumeInfo) -> Opened:
        assert self._idx is not None
        is_writable = facts.is_writable_by_owner and self._idx_is_writable
        size_bytes = self._files.facts_of(dat.fd).size_bytes
        rows = self._files.read(self._idx.fd, self._files.facts_of(self._idx.fd).size_bytes, 0)
        is_lost = not rows and size_bytes > super_block.size_bytes
        # A mark does not put on disk what was written before it, so a power cut tears marked volumes too.
        is_repaired = is_lost or not info.read_only or self._request.force_repair or self._may_be_torn(facts)
        may_repair = is_writable and self._damage is None and is_repaired
        if is_lost and not may_repair:
            raise VolumeLoadFailed(self._base, f"{self._idx.path} is empty, and may not be rebuilt: {self._damage}")
        rows = self._whole_rows(self._idx, rows, may_repair=may_repair)
        if may_repair:
            records = OpenDat(self._files, dat.fd, super_block.version, super_block.size_bytes, size_bytes, self._width)
            if self._may_be_torn(facts):
                rows = self._drop_torn(records, self._idx, rows)
            rows = self._restore_head(records, self._idx, rows)
        built = build_index(rows, self._width, super_block.version)
        catch_up = CatchUp(
            self._files, dat, self._idx, built.index, super_block.version, self._width, size_bytes, len(rows)
        )
        self._reconcile(catch_up, built, super_block, may_repair=may_repair)
        return Opened(
            paths=self._paths,
            info=replace(info, version=super_block.version, bytes_offset=self._width),
            dat=dat,
            idx=self._idx,
            super_block=super_block,
            index=built.index,
            # As upstream, an append starts at a multiple of 8 even if the file was left at another length.
            dat_end_bytes=align_up(catch_up.dat_size_bytes),
            idx_end_bytes=catch_up.idx_end_bytes,
            last_append_at_ns=catch_up.append_at_ns,
            modified_at_s=facts.modified_at_s,
            last_modified_s=facts.modified_at_s,
            is_writable=is_writable,
            damage=self._damage,
        )

    def _whole_rows(self, idx: SharedFile, rows: bytes, *, may_repair: bool) -> bytes:
        excess = len(rows) % row_bytes(self._width)
        if not excess:
            return rows
        if not may_repair:
            self._make_read_only(f"index file's size is {len(rows)} bytes, maybe corrupted")
            return rows[:-excess]
        self._files.truncate(idx.fd, len(rows) - excess)
        self._files.sync(idx.fd)
        self._note(FindingKind.IDX_ROW_CUT, f"{excess} bytes")
        return rows[:-excess]

    def _may_be_torn(self, facts: FileFacts) -> bool:
        """Whether the volume was written to in a session that the machine did not survive."""
        since_s = self._request.cut_since_s
        return since_s is not None and facts.modified_at_s >= since_s - _CLOCK_SLACK_S

    def _drop_torn(self, dat: OpenDat, idx: SharedFile, rows: bytes) -> bytes:
        left = drop_torn_rows(dat, rows)
        if left.dropped:
            self._replace_idx(idx, left.rows)
            named = ", ".join(f"{needle_id:x}" for needle_id in left.needle_ids[:_MAX_NAMED])
            self._note(FindingKind.TORN_ROWS_DROPPED, f"{left.dropped} rows, needles {named or 'unknown'}")
        return left.rows

    def _replace_idx(self, old: SharedFile, rows: bytes) -> None:
        replace_file(self._files, old.path, rows)
        self._idx = SharedFile.open(self._files, old.path, os.O_RDWR)
        old.release()

    def _restore_head(self, dat: OpenDat, idx: SharedFile, rows: bytes) -> bytes:
        restored = restore_idx_head(dat, rows)
        if restored is rows:
            return rows
        self._replace_idx(idx, restored)
        self._note(FindingKind.IDX_HEAD_REPAIRED, f"{(len(restored) - len(rows)) // row_bytes(self._width)} rows")
        return restored

    def _reconcile(self, catch_up: CatchUp, built: BuiltIndex, super_block: SuperBlock, *, may_repair: bool) -> None:
        """Compares what the rows say with what .dat holds."""
        size_bytes = catch_up.dat_size_bytes
        if built.max_end_bytes > size_bytes:
            self._make_read_only(f"idx references end={built.max_end_bytes} but .dat is {size_bytes} bytes")
        end_bytes = super_block.size_bytes
        if built.last_row is not None:
            version, width = super_block.version, self._width
            last = check_last_record(self._files, catch_up.dat.fd, built.last_row, version, size_bytes, width)
            end_bytes, catch_up.append_at_ns = last.end_bytes, last.append_at_ns
            if last.problem is not None:
                self._make_read_only(last.problem)
        if end_bytes < size_bytes and self._damage is None:
            self._catch_up(catch_up, end_bytes, may_repair=may_repair)

    def _catch_up(self, catch_up: CatchUp, start_bytes: int, *, may_repair: bool) -> None:
        if not may_repair:
            self._damage = f"{catch_up.dat_size_bytes - start_bytes} bytes of .dat are not in .idx"
            self._note(FindingKind.NOT_REPAIRED, self._damage)
            return
        salvage = self._paths.file(".cut") if self._request.cut_since_s is not None else None
        catch_up.run(start_bytes, salvage=salvage)
        if catch_up.entered:
            self._note(FindingKind.IDX_BEHIND, f"{catch_up.entered} rows entered")
        if catch_up.cut_bytes:
            where = f"{catch_up.cut_bytes} bytes at {catch_up.dat_size_bytes}"
            self._note(FindingKind.DAT_TAIL_CUT, f"{where}, kept in {salvage}" if catch_up.is_salvaged else where)
        if catch_up.problem is not None:
            self._make_read_only(catch_up.problem)

    def _write_first_info(self, opened: Opened) -> None:
        path = self._paths.file(".vif")
        try:
            opened.info = save_volume_info(self._files, path, opened.info, opened.super_block.ttl, self._request.now_s)
        except OSError as error:
            self._note(FindingKind.VIF_NOT_WRITTEN, str(error))
