"""Opens the files of a volume, builds its index, and repairs the traces of a crash.

Repairs happen only on a volume that takes writes. A partial row at the end of .idx is cut. Rows lost at its head are
restored. Records at the end of .dat without a row in .idx are entered (a lost .idx is the same case, without any row).
An incomplete record at the very end of .dat is cut, if the bytes to be cut hold no whole record. None of these was
acknowledged, because an append is acknowledged after both files were written. Every other fault makes the volume
read-only with a reason. Each of these leaves a finding.

Upstream never cuts: where records follow the last indexed one it makes the volume read-only. Its other reasons for
read-only are kept. Source: weed/storage/volume_loading.go, volume_checking.go, volume_super_block.go.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.format.errors import FormatError
from native_handlers.format.idx import row_bytes
from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.format.super_block import SUPER_BLOCK_BYTES, SuperBlock, parse_super_block, super_block_size
from native_handlers.format.types import OFFSET_WIDTHS_BYTES, SUPPORTED_VERSIONS, VERSION_3, align_up
from native_handlers.format.vif import VolumeInfo
from native_handlers.storage.disk.room import is_full
from native_handlers.storage.index.build import build_index
from native_handlers.storage.model.errors import (
    NewVersionUnsupported,
    OffsetWidthMismatch,
    RemoteTierUnsupported,
    VolumeLoadFailed,
)
from native_handlers.storage.model.report import Finding, FindingKind
from native_handlers.storage.remote.tiers import TierFailed
from native_handlers.storage.system.files import SharedFile, replace_file
from native_handlers.storage.volume.index_place import with_index_found
from native_handlers.storage.volume.info_file import LoadedInfo, load_volume_info, save_volume_info
from native_handlers.storage.volume.recovery import CatchUp, check_end, drop_torn_rows, restore_idx_head
from native_handlers.storage.volume.scan import OpenDat
from native_handlers.storage.volume.soundness import foreign_index
from native_handlers.storage.volume.state import NOTHING_SEEN, OpenRequest, SeenFiles, VolumeState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from native_handlers.storage.index.small import BuiltIndex
    from native_handlers.storage.remote.tier_files import TieredFiles
    from native_handlers.storage.system.files import FileFacts


_CLOCK_SLACK_S = 2
"""File times come from a coarser clock than the session's times."""
_MAX_NAMED = 100


def open_volume(request: OpenRequest, findings: list[Finding], seen: SeenFiles = NOTHING_SEEN) -> VolumeState:
    """Opens the volume. Appends findings to `findings`, on failure too.

    `seen` are the facts that the caller has just read: a start reads each file once.

    Raises:
        OffsetWidthMismatch: the .vif names another width than `request` does.
        NewVersionUnsupported: there are no files, and none were made.
        VolumeLoadFailed: the files cannot be served. They are unchanged, or repaired up to the failure.
    """
    try:
        return _Opening(request, findings, seen).run()
    except (OSError, FormatError, TierFailed) as error:
        raise VolumeLoadFailed(request.paths.base, str(error)) from error


class _Opening:
    def __init__(self, request: OpenRequest, findings: list[Finding], seen: SeenFiles) -> None:
        self._request = request
        self._seen = seen
        self._files = request.files
        self._paths = request.paths
        self._width = request.offset_width_bytes
        self._findings = findings
        self._damage = request.forced_reason
        self._idx: SharedFile | None = None
        self._idx_is_writable = True
        self._awaits_room = False
        self._is_torn = False
        # Directories in which files were made: their names are to be on disk before the volume is open.
        self._made_in: set[Path] = set()

    def _note(self, kind: FindingKind, detail: str) -> None:
        self._findings.append(Finding(kind, self._paths.base, detail))

    def _make_read_only(self, why: str) -> None:
        self._damage = self._damage or why
        self._note(FindingKind.MADE_READ_ONLY, why)

    def _put_off(self, why: str) -> None:
        """Leaves the needed repair undone until there is room: the volume is served read-only meanwhile."""
        self._awaits_room = True
        self._make_read_only(why)

    def run(self) -> VolumeState:
        loaded = self._load_info()
        self._check_info(loaded.info)
        if loaded.error is not None:
            self._note(FindingKind.VIF_UNREADABLE, str(loaded.error))
        if loaded.info.files:
            return self._open_tiered(loaded.info)
        dat, dat_facts = self._open_dat()
        try:
            super_block = self._load_super_block(dat, dat_facts.size_bytes, loaded.info)
            self._idx = self._open_idx(dat_facts, super_block)
            opened = self._load_index(dat, dat_facts, super_block, loaded.info)
            if not loaded.is_present:
                self._write_first_info(opened)
            for directory in self._made_in:
                self._files.sync_directory(directory)
        except BaseException:
            dat.release()
            if self._idx is not None:
                self._idx.release()
            raise
        return opened

    def _load_info(self) -> LoadedInfo:
        loaded = self._seen.info or load_volume_info(self._files, self._paths.text(".vif"))
        info = loaded.info
        is_other_volumes = self._request.create is not None and self._files.facts(self._paths.file(".dat")) is None
        if is_other_volumes and loaded.error is None and not info.files and info.ec_shard_config is None:
            # A volume of this name was being deleted when the server went down: its .vif says nothing of the new
            # volume.
            return LoadedInfo(VolumeInfo(), is_present=False)
        return loaded

    def _check_info(self, info: VolumeInfo) -> None:
        if info.bytes_offset not in {0, *OFFSET_WIDTHS_BYTES}:
            # Upstream's server does not start then. But such a volume can belong to no server, and is no reason to stop
            # this one.
            raise VolumeLoadFailed(
                self._paths.base, f"its .vif says {info.bytes_offset}-byte offsets, which there are none of"
            )
        if info.bytes_offset not in (0, self._width):
            raise OffsetWidthMismatch(self._paths.file(".vif"), info.bytes_offset, self._width)
        if info.files and self._request.tiers is None:
            raise RemoteTierUnsupported(self._paths.base, info.files[0].backend_name, info.files[0].key)

    def _open_tiered(self, info: VolumeInfo) -> VolumeState:
        """Opens a volume whose .dat is in a tier. As upstream, .dat is not examined: that would fetch much of it.

        Where the tier cannot be reached, the volume is open all the same, and reads fail until it can. Source:
        weed/storage/volume_loading.go (load), weed/storage/volume_tier.go (loadRemoteFileLocked).
        """
        assert self._request.tiers is not None
        file = info.files[0]
        path = self._paths.file(".dat")
        dat = SharedFile(self._files, path, self._request.tiers.open_remote(file))
        try:
            super_block = self._tiered_super_block(dat, info, self._request.tiers)
            self._idx = idx = self._open_tiered_idx()
            rows = self._files.read(idx.fd, self._files.facts_of(idx.fd).size_bytes, 0)
            rows = self._whole_rows(idx, rows, may_repair=self._damage is None)
            built = build_index(rows, self._width, super_block.version)
        except BaseException:
            dat.release()
            raise
        return VolumeState(
            paths=self._paths,
            info=_completed(info, super_block.version, self._width),
            dat=dat,
            idx=idx,
            super_block=super_block,
            index=built.index,
            dat_end_bytes=file.file_size,
            idx_end_bytes=len(rows),
            last_append_at_ns=0,
            modified_at_s=file.modified_time,
            last_modified_s=file.modified_time or self._request.now_s,
            is_writable=True,
            damage=self._damage,
            is_synced=not self._findings,
            is_tiered=True,
        )

    def _tiered_super_block(self, dat: SharedFile, info: VolumeInfo, tiers: TieredFiles) -> SuperBlock:
        if self._request.uploaded_super_block is not None:
            return with_placement(self._request.uploaded_super_block, info)

        def read(length_bytes: int) -> bytes:
            # A tier that hangs must not hold up the start of a server.
            return tiers.read_head(dat.fd, length_bytes, is_hurried=not self._request.must_reach_tier)

        try:
            if self._files.facts_of(dat.fd).size_bytes < SUPER_BLOCK_BYTES:
                raise self._not_initialized()
            return _parse_head(read(SUPER_BLOCK_BYTES), read, info)
        except (OSError, FormatError) as error:
            self._note(FindingKind.TIER_UNREACHABLE, str(error))
        return with_placement(SuperBlock(version=info.version or VERSION_3), info)

    def _open_tiered_idx(self) -> SharedFile:
        """Raises FileNotFoundError where there is no .idx: without it the records in the tier cannot be found."""
        self._paths = with_index_found(self._files, self._paths)
        return SharedFile.open(self._files, self._paths.file(".idx"), os.O_RDWR)

    def _open_dat(self) -> tuple[SharedFile, FileFacts]:
        path = self._paths.text(".dat")
        facts = self._seen.dat or self._files.facts(path)
        if facts is None:
            if self._request.create is None:
                raise VolumeLoadFailed(self._paths.base, f"volume data file {path} does not exist")
            return self._create_dat(self._request.create)
        if not facts.is_readable_by_owner:
            raise VolumeLoadFailed(self._paths.base, f"cannot read Volume Data file {path}")
        if not facts.is_writable_by_owner:
            self._make_read_only(f"{path} has no write permission")
        flags = os.O_RDWR if facts.is_writable_by_owner else os.O_RDONLY
        return SharedFile.open(self._files, path, flags), facts

    def _check_new_version(self, block: SuperBlock) -> None:
        """Raises NewVersionUnsupported. Where files exist already, their version counts, as in upstream."""
        if block.version not in SUPPORTED_VERSIONS:
            raise NewVersionUnsupported(block.version)

    def _create_dat(self, block: SuperBlock) -> tuple[SharedFile, FileFacts]:
        self._check_new_version(block)
        index_path = self._paths.file(".idx")
        stale = self._files.facts(index_path)
        if stale is not None and stale.size_bytes:
            why = f"{index_path} exists without its .dat file; remove it, or bring the .dat file back"
            raise VolumeLoadFailed(self._paths.base, why)
        dat = SharedFile.open(self._files, self._paths.file(".dat"), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        if self._request.preallocate_bytes > 0:
            try:
                self._files.allocate(dat.fd, self._request.preallocate_bytes)
            except OSError as error:
                self._note(FindingKind.NOT_PREALLOCATED, str(error))
        return dat, self._files.facts_of(dat.fd)

    def _load_super_block(self, dat: SharedFile, size_bytes: int, info: VolumeInfo) -> SuperBlock:
        head = self._files.read(dat.fd, SUPER_BLOCK_BYTES, 0) if size_bytes >= SUPER_BLOCK_BYTES else b""
        # A power cut may leave a super block's length and not its bytes.
        if not head or (size_bytes == SUPER_BLOCK_BYTES and not any(head)):
            # A new volume may find what a crash left of its first 8 bytes.
            if self._request.create is None:
                raise self._not_initialized()
            self._check_new_version(self._request.create)
            self._files.write(dat.fd, [self._request.create.encode()], 0)
            self._files.sync(dat.fd)
            self._made_in.add(self._paths.data_dir)
            return self._request.create
        return _parse_head(head, lambda length: self._files.read(dat.fd, length, 0), info)

    def _not_initialized(self) -> VolumeLoadFailed:
        return VolumeLoadFailed(
            self._paths.base, f"volume {self._paths.base}.dat not initialized: it has no super block"
        )

    def _open_idx(self, dat_facts: FileFacts, super_block: SuperBlock) -> SharedFile:
        beside = self._paths.beside_data()
        for paths in (beside,) if beside is self._paths else (beside, self._paths):
            idx = self._open_idx_at(paths.text(".idx"), is_dat_writable=dat_facts.is_writable_by_owner)
            if idx is not None:
                self._paths = paths
                return idx
        path = self._paths.file(".idx")
        if dat_facts.size_bytes > super_block.size_bytes:
            self._note(FindingKind.IDX_LOST, f"{path} does not exist")
        idx = SharedFile(self._files, path, self._request.files_with_reserve.open(path, os.O_RDWR | os.O_CREAT))
        self._made_in.add(path.parent)
        return idx

    def _open_idx_at(self, path: str, *, is_dat_writable: bool) -> SharedFile | None:
        """None where there is no such file."""
        try:
            # Its mode bits are not looked at, as upstream has it: the system decides.
            return SharedFile.open(self._files, path, os.O_RDWR if is_dat_writable else os.O_RDONLY)
        except FileNotFoundError:
            return None
        except PermissionError:
            if not is_dat_writable:
                raise
            # Upstream does not load the volume then.
            idx = SharedFile.open(self._files, path, os.O_RDONLY)
            self._idx_is_writable = False
            self._make_read_only(f"{path} may not be written to")
            return idx

    def _load_index(self, dat: SharedFile, facts: FileFacts, super_block: SuperBlock, info: VolumeInfo) -> VolumeState:
        assert self._idx is not None
        is_writable = facts.is_writable_by_owner and self._idx_is_writable
        # The super block of a new volume was written after the facts were read.
        size_bytes = max(facts.size_bytes, super_block.size_bytes)
        idx_facts = self._files.facts_of(self._idx.fd)
        rows = self._files.read(self._idx.fd, idx_facts.size_bytes, 0) if idx_facts.size_bytes else b""
        is_lost = not rows and size_bytes > super_block.size_bytes
        foreign = self._why_foreign(dat, facts, super_block, rows)
        # A read-only mark does not sync earlier writes, so a power cut tears marked volumes too.
        self._is_torn = self._may_be_torn(facts)
        is_repaired = is_lost or not info.read_only or self._request.force_repair or self._is_torn
        may_repair = is_writable and self._damage is None and is_repaired and foreign is None
        if is_lost and not may_repair:
            raise VolumeLoadFailed(
                self._paths.base, f"{self._idx.path} is empty, and may not be rebuilt: {self._damage}"
            )
        rows = self._whole_rows(self._idx, rows, may_repair=may_repair)
        records = OpenDat(self._files, dat.fd, super_block.version, super_block.size_bytes, size_bytes, self._width)
        if may_repair:
            if self._is_torn:
                rows = self._drop_torn(records, self._idx, rows)
            rows = self._restore_head(records, self._idx, rows)
            may_repair = not self._awaits_room
        built = build_index(rows, self._width, super_block.version)
        files = self._request.files_with_reserve
        catch_up = CatchUp(files, dat, self._idx, built.index, super_block.version, self._width, size_bytes, len(rows))
        self._reconcile(catch_up, built, records, may_repair=may_repair)
        if foreign is not None and self._damage is None:
            self._make_read_only(foreign)
        return VolumeState(
            paths=self._paths,
            info=_completed(info, super_block.version, self._width),
            dat=dat,
            idx=self._idx,
            super_block=super_block,
            index=built.index,
            # As upstream, an append starts at a multiple of 8 even if the file ends elsewhere.
            dat_end_bytes=align_up(catch_up.dat_size_bytes),
            idx_end_bytes=catch_up.idx_end_bytes,
            last_append_at_ns=catch_up.append_at_ns,
            modified_at_s=facts.modified_at_s,
            last_modified_s=facts.modified_at_s,
            is_writable=is_writable,
            damage=self._damage,
            awaits_room=self._awaits_room,
            is_synced=not self._findings and self._is_long_written(facts) and self._is_long_written(idx_facts),
        )

    def _is_long_written(self, facts: FileFacts) -> bool:
        """Whether the last writer has synced the file, or the kernel has written it back long ago.

        The time of the last change of the file counts, not that of its content: programs that restore files set the
        content's time back, and their writes may not be on disk yet.
        """
        if self._request.written_back_after_s is None:
            return False
        known_since_s = self._request.now_s - self._request.written_back_after_s
        if self._request.unsynced_since_s is not None:
            known_since_s = min(known_since_s, self._request.unsynced_since_s - _CLOCK_SLACK_S)
        return self._request.create is None and facts.changed_at_s < known_since_s

    def _why_foreign(self, dat: SharedFile, facts: FileFacts, super_block: SuperBlock, rows: bytes) -> str | None:
        """The reason why .idx does not belong to this .dat, so that neither may be repaired by the other; None where it
        does.

        Raises VolumeLoadFailed for rows of another offset width: such a volume cannot be served.
        """
        foreign = foreign_index(self._files, dat.fd, rows, super_block.version, facts.size_bytes, self._width)
        if foreign is None:
            return None
        if foreign.is_other_width:
            raise VolumeLoadFailed(self._paths.base, foreign.why)
        # A power cut may leave rows of lost records; in a new volume all of them may be lost.
        return None if self._may_be_torn(facts) else foreign.why

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
        """Whether the volume was written to in a session that ended with a crash of the machine."""
        since_s = self._request.cut_since_s
        return since_s is not None and facts.modified_at_s >= since_s - _CLOCK_SLACK_S

    def _drop_torn(self, dat: OpenDat, idx: SharedFile, rows: bytes) -> bytes:
        left = drop_torn_rows(dat, rows)
        if left.dropped and self._replace_idx(idx, left.rows):
            named = ", ".join(f"{needle_id:x}" for needle_id in left.needle_ids[:_MAX_NAMED])
            self._note(FindingKind.TORN_ROWS_DROPPED, f"{left.dropped} rows, needles {named or 'unknown'}")
        return left.rows

    def _replace_idx(self, old: SharedFile, rows: bytes) -> bool:
        """Replaces .idx by `rows`. Returns whether there was room."""
        try:
            replace_file(self._request.files_with_reserve, old.path, rows)
        except OSError as error:
            if not is_full(error):
                raise
            self._put_off(f"there is no room to write {old.path} anew")
            return False
        self._idx = SharedFile.open(self._files, old.path, os.O_RDWR)
        old.release()
        return True

    def _restore_head(self, dat: OpenDat, idx: SharedFile, rows: bytes) -> bytes:
        restored = rows if self._awaits_room else restore_idx_head(dat, rows)
        if restored is rows or not self._replace_idx(idx, restored):
            return restored
        self._note(FindingKind.IDX_HEAD_REPAIRED, f"{(len(restored) - len(rows)) // row_bytes(self._width)} rows")
        return restored

    def _reconcile(self, catch_up: CatchUp, built: BuiltIndex, dat: OpenDat, *, may_repair: bool) -> None:
        """Compares the rows with the content of .dat."""
        end_bytes, size_bytes = dat.start_bytes, dat.size_bytes
        if built.max_end_bytes > size_bytes:
            self._make_read_only(f"idx references end={built.max_end_bytes} but .dat is {size_bytes} bytes")
        last = check_end(self._files, dat, built)
        if last is not None:
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
        salvage = self._paths.file(".cut") if self._is_torn else None
        catch_up.run(start_bytes, salvage=salvage)
        if catch_up.entered:
            self._note(FindingKind.IDX_BEHIND, f"{catch_up.entered} rows entered")
        if catch_up.cut_bytes:
            where = f"{catch_up.cut_bytes} bytes at {catch_up.dat_size_bytes}"
            self._note(FindingKind.DAT_TAIL_CUT, f"{where}, kept in {salvage}" if catch_up.is_salvaged else where)
        if catch_up.lacks_room_for:
            self._put_off(f"there is no room for {catch_up.lacks_room_for}")
        if catch_up.problem is not None:
            self._make_read_only(catch_up.problem)

    def _write_first_info(self, opened: VolumeState) -> None:
        path = self._paths.file(".vif")
        try:
            info = save_volume_info(self._files, path, opened.info, opened.super_block.ttl, self._request.now_s)
        except OSError as error:
            self._note(FindingKind.VIF_NOT_WRITTEN, str(error))
        else:
            opened.saved_info(info)
            # Replacing the .vif has put the names of its directory on disk.
            self._made_in.discard(path.parent)


def _parse_head(head: bytes, read: Callable[[int], bytes], info: VolumeInfo) -> SuperBlock:
    """The super block that begins with `head`; `read` reads as many bytes of the file as it is told."""
    length = super_block_size(head)
    return with_placement(parse_super_block(head if length == len(head) else read(length)), info)


def with_placement(super_block: SuperBlock, info: VolumeInfo) -> SuperBlock:
    """The .vif takes precedence over the super block: VolumeConfigure writes only the .vif."""
    if not info.replication:
        return super_block
    return replace(super_block, replica_placement=ReplicaPlacement.parse(info.replication))


def _completed(info: VolumeInfo, version: int, offset_width_bytes: int) -> VolumeInfo:
    """`info` with version and width set. Returns `info` itself where both are set already, so that volumes with the
    same .vif share it.
    """
    if (info.version, info.bytes_offset) == (version, offset_width_bytes):
        return info
    return replace(info, version=version, bytes_offset=offset_width_bytes)
